import pytest
from torchvision.models import VGG16_Weights

from xgradcam.errors import XGradCamError
from xgradcam.models.labels import class_named, classes_called, imagenet_labels, label_of


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


ANIMALS = (
    "n01440764 tench, Tinca tinca",
    "bullfrog, Rana catesbeiana",
    "tabby cat",
    "ram, tup",
    "instant ramen",
    "computer program",
    "ox",
    "red fox",
    "crane",
    "crane, bird",
    "Café au lait",
    "cafe noir",
    "jack-o'-lantern",
    "St. Bernard",
    "C",
    "C++",
    "C#",
    "a.b*c",
    "great_white-shark",
    "partridge",
    "ruffed grouse, partridge",
    "10",
    "mobile phone",
    "Straße",
    "三毛猫",
    "ΣΊΣΥΦΟΣ",
)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("tench", 0),
        ("Tinca tinca", 0),
        ("TINCA_TINCA", 0),
        ("tench, Tinca tinca", 0),
        ("n01440764", 0),
        ("n01440764 tench, Tinca tinca", 0),
        ("N01440764", 0),
        ("bullfrog", 1),
        ("Rana catesbeiana", 1),
        ("tabby cat", 2),
        ("  Tabby-CAT ", 2),
        ("tabby   cat", 2),
        ("ram", 3),
        ("tup", 3),
        ("instant ramen", 4),
        ("ox", 6),
        ("crane", 8),
        ("crane, bird", 9),
        ("Crane_Bird", 9),
        ("bird", 9),
        ("café au lait", 10),
        ("cafe au lait", 10),
        ("Cafe\u0301 au lait", 10),
        ("jack o lantern", 12),
        ("jack-o-lantern", 12),
        ("St Bernard", 13),
        ("st. bernard", 13),
        ("c", 14),
        ("C++", 15),
        ("c#", 16),
        ("a.b*c", 17),
        ("Great White Shark", 18),
        ("partridge", 19),
        ("ruffed grouse", 20),
        ("10", 21),
        ("STRASSE", 23),
        ("三毛猫", 24),
        ("σίσυφος", 25),
    ],
)
def test_a_whole_name_is_found_in_every_way_of_writing_it(name, label):
    assert class_named(ANIMALS, name) == label
    assert label in classes_called(ANIMALS, name)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cat", 2),  # not a bullfrog, whose Latin name begins with it
        ("tabby", 2),
        ("fox", 7),
        ("ramen", 4),
        ("program", 5),
        ("red", 7),
        ("noir", 11),
        ("au", 10),
        ("lait", 10),
        ("Bernard", 13),
        ("b*c", 17),
        ("white shark", 18),
        ("grouse", 20),
        ("phone", 22),
        ("comp", 5),  # the beginning of a word
        ("catesb", 1),
        ("mobil", 22),
        ("gram", 5),  # a part of a word
        ("毛猫", 24),
        ("n0144", 0),
    ],
)
def test_parts_of_names_are_found_and_said(name, label):
    said = []
    assert class_named(ANIMALS, name, said.append) == label
    assert said == [f"taking class {label} ({ANIMALS[label]}) for {name!r}, a part of its name"]
    assert classes_called(ANIMALS, name) == []


@pytest.mark.parametrize(
    ("name", "label"), [("Bull frog", 1), ("bull-frog", 1), ("tabbycat", 2), ("tinca_tin ca", 0)]
)
def test_words_written_together_or_apart_are_found_last_and_said(name, label):
    said = []
    assert class_named(ANIMALS, name, said.append) == label
    assert said == [f"taking class {label} ({ANIMALS[label]}) for {name!r}, with other spaces"]
    with pytest.raises(XGradCamError, match=r"'to day' may be class 0 \(today\), 1 \(tod ay\)"):
        class_named(["today", "tod ay"], "to day")


@pytest.mark.parametrize(
    ("names", "wanted", "index"),
    [
        (("bullfrog", "tabby cat"), "cat", 1),  # no part of a word before a whole one
        (("bobcat", "caterpillar"), "cat", 1),  # the beginning of a word before its end
        (("wild cat", "cat"), "cat", 1),
        (("tabby, cat", "cat"), "cat", 1),  # a name before a synonym
        (("cat", "cat, wild cat"), "cat", 0),  # the label as it is written
        (("ramen", "program", "ram"), "ram", 2),
        (("fox", "ox cart"), "ox", 1),
        (("cat_1", "cat_11"), "cat 1", 0),
        (("résumé", "resume"), "resume", 1),
        (("résumé", "resume"), "Résumé", 0),
    ],
)
def test_the_order_in_which_names_are_looked_for(names, wanted, index):
    assert class_named(names, wanted) == index


def test_a_name_that_another_class_has_too_is_said():
    said = []
    assert class_named(imagenet_labels(), "partridge", said.append) == 86
    assert said == [
        "taking class 86 (n01807496 partridge) for 'partridge', "
        "and not 82 (n01797886 ruffed grouse, partridge, Bonasa umbellus)"
    ]
    assert classes_called(imagenet_labels(), "partridge") == [82, 86]


@pytest.mark.parametrize(
    ("names", "wanted", "listed"),
    [
        (("crane", "crane"), "crane", "0 (crane), 1 (crane)"),
        (("n00000001 maillot", "n00000002 maillot, tank suit"), "maillot", "0 (n00000001 maillot), 1 ("),
        (("tabby cat", "tiger cat", "bullfrog"), "cat", "0 (tabby cat), 1 (tiger cat): give the index"),
        (("catfish", "caterpillar"), "cat", "0 (catfish), 1 (caterpillar)"),
        (("bobcat", "wildcat"), "cat", "0 (bobcat), 1 (wildcat)"),
        (("a, x", "b, x"), "x", "0 (a, x), 1 (b, x)"),
        (("resumé", "résume"), "resume", "0 (resumé), 1 (résume)"),
    ],
)
def test_equals_are_listed(names, wanted, listed):
    with pytest.raises(XGradCamError) as error:
        class_named(names, wanted)
    assert f"{wanted!r} may be class {listed}" in str(error.value)


@pytest.mark.parametrize(
    "name", ["no such thing", "", "  ", "_", "..", ".*", "[", "(", "\\", "n99999999", "++", "-1x", "\n"]
)
def test_a_name_of_no_class(name):
    with pytest.raises(XGradCamError, match="no class is named"):
        class_named(ANIMALS, name)
    assert classes_called(ANIMALS, name) == []


def test_a_name_that_is_nearly_one_gets_a_hint():
    with pytest.raises(XGradCamError, match="no class is named 'bulfrog'; did you mean 'bullfrog'"):
        class_named(ANIMALS, "bulfrog")


def test_names_of_imagenet_find_their_class_or_list_it():
    labels = imagenet_labels()
    for index, label in list(enumerate(labels))[::9]:
        wordnet_id, names = label.split(" ", 1)
        assert class_named(labels, wordnet_id) == class_named(labels, label) == index
        for name in names.split(", "):
            assert index in classes_called(labels, name.upper().replace(" ", "_"))
            if classes_called(labels, name) == [index]:
                assert class_named(labels, name) == index


def test_names_that_are_not_known():
    with pytest.raises(XGradCamError, match="not known"):
        class_named(None, "cat")
    assert classes_called(None, "cat") == []
