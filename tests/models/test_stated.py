import pytest

from xgradcam import XGradCamError, imagenet_labels
from xgradcam.models.stated import class_stated

NAMES = ("ant", "big dog", "n02123045 tabby, tabby cat", "door", "Café", "bullfrog", "crane", "crane", "9")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("3", 3),
        ("003", 3),
        ("9", 8),  # too high for an index
        ("10", None),
        ("2023", None),  # a year, where there are nine classes
        ("9" * 30, None),
        ("big_dog", 1),
        ("Big-Dog", 1),
        ("big dog", 1),
        ("ANT", 0),
        ("cafe", 4),
        ("n02123045", 2),
        ("tabby", 2),
        ("tabby_cat", 2),
        ("n02123045 tabby, tabby cat", 2),
        # Parts of names, and what has none.
        ("dog", None),
        ("big", None),
        ("cat", None),
        ("frog", None),
        ("an", None),
        ("doors", None),
        ("n0212304", None),
        ("n00000000", None),
        ("photos", None),
        ("val", None),
        ("-1", None),
        ("+3", None),
        ("3.0", None),
        ("²", None),
        ("", None),
        (".", None),
        ("..", None),
    ],
)
def test_a_folder_may_be_named_by_index_id_or_whole_name(name, expected):
    assert class_stated(name, NAMES) == expected
    assert class_stated(name, NAMES, len(NAMES)) == expected


def test_more_classes_than_names_have_an_index_all_the_same():
    assert class_stated("10", NAMES, 11) == 10
    assert class_stated("11", NAMES, 11) is None


@pytest.mark.parametrize(
    ("name", "names", "message"),
    [
        ("crane", NAMES, "the folder 'crane' may be class 6 (crane), 7 (crane): call it by the index"),
        (
            "10",
            [str(index) if index != 2 else "10" for index in range(12)],
            "the folder '10' is an index, and the name of class 2 (10), 10 (10): call it 02 for the name",
        ),
        (
            "1",
            ["1", "0"],
            "the folder '1' is an index, and the name of class 0 (1): call it 00 for the name, 01 for the",
        ),
    ],
)
def test_a_folder_that_may_be_several_classes_is_refused(name, names, message):
    with pytest.raises(XGradCamError) as error:
        class_stated(name, names)
    assert str(error.value).startswith(message)


def test_a_leading_zero_makes_an_index_of_a_folder():
    assert [class_stated(name, ["1", "0"]) for name in ("00", "01")] == [0, 1]


def test_a_folder_may_be_named_by_wordnet_id():
    assert class_stated("n02124075", imagenet_labels()) == 285
    assert class_stated("n00000000", imagenet_labels()) is None
    assert class_stated("cat", imagenet_labels()) is None


def test_without_labels_only_an_index_is_a_class():
    assert class_stated("2023", None) == 2023
    assert class_stated("2023", None, 1000) is None
    assert class_stated("ant", None) is None
