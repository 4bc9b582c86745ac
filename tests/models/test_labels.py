import pytest
from torchvision.models import VGG16_Weights

from xgradcam.errors import XGradCamError
from xgradcam.models.labels import class_named, imagenet_labels, label_of, read_labels


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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "cat\n\n dog \nbird"),
        ("a.txt", "\ufeffcat\r\ndog\r\nbird\r\n"),
        ("a.json", '["cat", "dog", "bird"]'),
        ("a.json", '{"0": "cat", "2": "bird", "1": "dog"}'),
    ],
)
def test_labels_of_a_file(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert read_labels(tmp_path / name) == ("cat", "dog", "bird")


def test_labels_of_keras_pairs(tmp_path):
    (tmp_path / "a.json").write_text('{"0": ["n01440764", "tench"], "1": ["n01443537", "goldfish"]}')
    assert read_labels(tmp_path / "a.json") == ("n01440764 tench", "n01443537 goldfish")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "cannot read labels"),
        ("a.json", "3", "neither a list of names"),
        ("a.json", '{"1": "cat"}', "the keys are not the indices 0 to 0"),
        ("a.txt", None, "No such file"),
        ("a.txt", b"\xff\xfe\xff", "cannot read labels"),
    ],
)
def test_labels_that_cannot_be_read(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(XGradCamError, match=message):
        read_labels(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("espresso", 967),
        ("Espresso", 967),
        ("n07920052 espresso", 967),
        ("n02124075", 285),
        ("tabby cat", 281),
        ("egyptian", 285),
        ("ridgeback", 159),
        ("tank suit", 639),
    ],
)
def test_classes_by_name(name, index):
    assert class_named(imagenet_labels(), name) == index


def test_a_name_of_more_than_one_class_lists_them():
    with pytest.raises(
        XGradCamError, match=r"'crane' may be class 134 \(n02012849 crane\), 517 \(n03126707 crane\): "
    ):
        class_named(imagenet_labels(), "crane")
    with pytest.raises(XGradCamError, match=r"'terrier' may be class .* and \d+ more: give the index"):
        class_named(imagenet_labels(), "terrier")


@pytest.mark.parametrize("name", ["no such thing", "", "  "])
def test_a_name_of_no_class(name):
    with pytest.raises(XGradCamError, match="no class is named"):
        class_named(imagenet_labels(), name)


def test_names_that_are_not_known():
    with pytest.raises(XGradCamError, match="not known"):
        class_named(None, "cat")
