from torchvision.models import VGG16_Weights

from xgradcam.labels import imagenet_labels, label_of


def test_labels_carry_wordnet_ids_in_the_order_of_torchvisions_classes():
    labels = imagenet_labels()
    assert len(labels) == len(set(labels)) == 1000
    ids = [label.split(" ", 1)[0] for label in labels]
    # Only a sorted list of WordNet ids is ImageNet's order.
    assert ids == sorted(ids)
    differing = [
        (label, category)
        for label, category in zip(labels, VGG16_Weights.DEFAULT.meta["categories"], strict=True)
        if category not in label.split(" ", 1)[1].split(", ")
    ]
    # torchvision renames the second of two classes that share a word.
    assert differing == [
        ("n02012849 crane", "crane bird"),
        ("n03710721 maillot, tank suit", "maillot tank suit"),
    ]


def test_names_as_in_the_original_scripts():
    labels = imagenet_labels()
    assert labels[159] == "n02087394 Rhodesian ridgeback"
    assert labels[967] == "n07920052 espresso"
    assert labels[285] == "n02124075 Egyptian cat"


def test_an_unknown_class_has_its_number():
    assert label_of(None, 7) == "class 7"
    assert label_of(["cat"], 1) == "class 1"
    assert label_of(["cat"], 0) == "cat"
