import json
import os
from pathlib import Path, PurePosixPath

import pytest
import torch

from xgradcam import XGradCamError
from xgradcam.evaluation.boxes import Annotation, Box, read_annotations, read_coco, read_voc, region_of
from xgradcam.pictures.framing import Framing

STRETCHED = Framing((20, 20))
VOC = """<annotation><filename>dog.jpg</filename>
<object><name>dog</name><bndbox><xmin>1</xmin><ymin>11</ymin><xmax>20</xmax><ymax>30.5</ymax></bndbox></object>
<object><name>cat</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>
</annotation>"""
COCO = {
    "images": [{"id": 7, "file_name": "dog.jpg"}, {"id": 8, "file_name": "cup.jpg"}],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [0, 10, 20, 20.5]},
        {"image_id": 8, "category_id": 9, "bbox": [1, 2, 3, 4]},
    ],
}


def annotation(name, *boxes, size=None):
    return Annotation(PurePosixPath(name), boxes, size)


def test_voc_counts_from_one_and_its_edges_are_inside(tmp_path):
    Path(tmp_path, "dog.xml").write_text(VOC)
    expected = annotation("dog.jpg", Box("dog", 0, 10, 20, 30.5), Box("cat", 4, 4, 5, 5))
    assert read_annotations(tmp_path / "dog.xml") == [expected]
    Path(tmp_path, "b.xml").write_text("<annotation/>")
    assert read_annotations(tmp_path) == [annotation("b.jpg"), expected]


def test_coco_has_corner_and_size(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(COCO))
    assert read_annotations(path) == [
        annotation("dog.jpg", Box("dog", 0, 10, 20, 30.5)),
        annotation("cup.jpg", Box("", 1, 2, 4, 6)),
    ]


def test_annotations_of_images_that_are_not_listed_are_counted_and_said(tmp_path):
    path, said = tmp_path / "a.json", []
    path.write_text(json.dumps(COCO | {"images": COCO["images"][:1]}))
    assert read_annotations(path, said.append) == [annotation("dog.jpg", Box("dog", 0, 10, 20, 30.5))]
    problem = "1 of 2 annotations are of images that are not listed, such as image_id 8: they are passed over"
    assert said == [f"{path}: {problem}"]


@pytest.mark.parametrize(
    ("place", "inside", "name"),
    [
        ("cat.xml", "", "cat.jpg"),
        ("cat.v2.xml", "", "cat.v2.jpg"),
        ("cat.xml", "<filename>dog.png</filename>", "dog.png"),
        ("cat.xml", "<filename> dog.JPEG </filename>", "dog.JPEG"),
        ("cat.xml", "<filename>n01440764_7</filename>", "n01440764_7.jpg"),
        ("a/cat.xml", "", "a/cat.jpg"),
        ("a/b/cat.xml", "<filename>dog.jpg</filename>", "a/b/dog.jpg"),
        ("a/cat.xml", "<filename>c/dog.jpg</filename>", "c/dog.jpg"),
        ("a/cat.xml", "<filename>/home/me/c/dog.jpg</filename>", "c/dog.jpg"),
        ("cat.xml", "<filename>C:\\me\\c\\dog.jpg</filename>", "c/dog.jpg"),
        ("cat.xml", "<filename>c\\dog.jpg</filename>", "c/dog.jpg"),
    ],
)
def test_the_name_of_an_annotated_photograph(tmp_path, place, inside, name):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{inside}</annotation>")
    assert read_annotations(tmp_path) == [annotation(name)]


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [("640", "480", (640, 480)), ("0", "0", None), ("", "", None), ("640", "", None), ("inf", "2", None)],
)
def test_the_size_of_an_annotated_photograph(tmp_path, width, height, size):
    inside = f"<size><width>{width}</width><height>{height}</height></size>"
    Path(tmp_path, "cat.xml").write_text(f"<annotation>{inside}</annotation>")
    assert read_voc(tmp_path / "cat.xml") == annotation("cat.jpg", size=size)
    image = {"id": 1, "file_name": "cat.jpg", "width": width or None, "height": height or None}
    Path(tmp_path, "coco.json").write_text(json.dumps({"images": [image], "annotations": []}))
    assert read_coco(tmp_path / "coco.json") == [annotation("cat.jpg", size=size)]


@pytest.mark.parametrize(
    ("box", "shows"),
    [
        ((0, 0, 80, 40), True),
        ((-5, -5, 1, 1), True),
        ((79.5, 39.5, 500, 500), True),
        ((10, 10, 10, 20), False),  # no area
        ((10, 10, 20, 10), False),
        ((20, 10, 10, 20), False),  # right before left
        ((80, 0, 90, 40), False),  # beyond the edge
        ((-10, 0, 0, 40), False),
        ((0, 40, 80, 41), False),
        ((float("nan"), 0, 80, 40), False),
        ((0, 0, float("inf"), 40), False),
        ((float("-inf"), 0, 80, 40), False),
    ],
)
def test_a_box_shows_what_of_it_lies_in_the_picture(box, shows):
    assert Box("", *box).shows((40, 80)) == shows


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_of_boxes_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "boxes.json")
    with pytest.raises(XGradCamError, match="not a regular file"):
        read_annotations(tmp_path / "boxes.json")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", "<annotation>", "no annotation of PASCAL VOC"),
        ("a.xml", "<a><object><bndbox><xmin>1</xmin></bndbox></object></a>", "has no ymin, xmax, ymax"),
        ("a.xml", VOC.replace("30.5", "low"), "could not convert"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>', "declares a document type"),
        ("a.json", "[]", "no annotation of COCO"),
        ("a.json", "{", "no annotation of COCO"),
        (
            "a.json",
            '{"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}',
            "1 of 1 annotations are of images that are not listed, such as image_id 1: give the file with",
        ),
        (
            "a.json",
            '{"images": [], "annotations": [{"bbox": 3}]}',
            r"annotations\[0\] has no image_id: add it",
        ),
        ("a.json", '{"images": [{"id": 1}], "annotations": []}', r"images\[0\] has no file_name: add it"),
        ("a.json", '{"images": [3], "annotations": []}', r"images\[0\] has no id, file_name"),
        ("a.json", '{"images": []}', "it has no list 'annotations': give a file of instances"),
        (
            "a.json",
            '{"images": [], "annotations": [], "categories": [{}]}',
            r"categories\[0\] has no id, name",
        ),
        (
            "a.json",
            json.dumps({**COCO, "annotations": [{"image_id": 7, "bbox": [1, 2]}]}),
            r"the bbox of annotations\[0\] is \[1, 2\]: give \[left, top, width, height\]",
        ),
        ("a.json", '{"images": [{"id": 1, "file_name": ""}], "annotations": []}', "no annotation of COCO"),
        ("a.xml", "<a><filename>..</filename><size><width>x</width></size></a>", "could not convert"),
        ("a.txt", "", r"COCO \.json, a VOC \.xml or a folder"),
    ],
)
def test_what_is_no_annotation_is_told(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(XGradCamError, match=message) as error:
        read_annotations(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_and_a_folder_without_any(tmp_path):
    with pytest.raises(XGradCamError, match="cannot read"):
        read_annotations(tmp_path / "none.json")
    with pytest.raises(XGradCamError, match="no XML files"):
        read_annotations(tmp_path)


def test_a_region_is_stretched_with_the_photograph():
    region = region_of([Box("", 20, 10, 40, 20)], (40, 80), STRETCHED)
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[5:10, 5:10] = True
    assert torch.equal(region, expected)
    two = region_of([Box("", 0, 0, 80, 2), Box("", 79.9, 39.9, 80, 40)], (40, 80), STRETCHED)
    assert two[0].all()
    assert two[19, 19]
    assert int(two.sum()) == 21
    assert not region_of([], (40, 80), STRETCHED).any()


def test_a_box_beyond_the_edges_is_cut_and_a_tiny_one_has_its_pixel():
    assert region_of([Box("", -50, -50, 500, 500)], (40, 80), STRETCHED).all()
    tiny = region_of([Box("", 41, 21, 41.5, 21.5)], (40, 80), STRETCHED)
    assert tiny.nonzero().tolist() == [[10, 10]]


def test_a_region_is_cropped_with_the_photograph():
    """A photograph of 40 x 80 becomes 24 x 48, of which rows 2 to 22, columns 14 to 34 are seen."""
    cropped = Framing((20, 20), resize=24)
    seen = cropped.window((40, 80))
    region = region_of([Box("", 40, 0, 80, 20)], (40, 80), cropped)
    expected = torch.zeros(20, 20, dtype=torch.bool)
    expected[:10, 10:] = True
    assert torch.equal(region, expected)
    exact = Box("", seen.left, seen.top, seen.right, seen.bottom)
    assert region_of([exact], (40, 80), cropped).all()
    for outside in (Box("", 0, 0, 20, 40), Box("", 70, 0, 70.1, 40), Box("", 1, 1, 1.1, 1.1)):
        assert not region_of([outside], (40, 80), cropped).any()
