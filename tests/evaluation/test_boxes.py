import json
from pathlib import Path

import pytest
import torch

from xgradcam import XGradCamError
from xgradcam.evaluation.boxes import Box, read_boxes, region_of
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


def test_voc_counts_from_one_and_its_edges_are_inside(tmp_path):
    Path(tmp_path, "dog.xml").write_text(VOC)
    boxes = read_boxes(tmp_path / "dog.xml")
    assert boxes == {"dog.jpg": [Box("dog", 0, 10, 20, 30.5), Box("cat", 4, 4, 5, 5)]}
    Path(tmp_path, "b.xml").write_text("<annotation/>")
    assert read_boxes(tmp_path) == {**boxes, "b.jpg": []}


def test_coco_has_corner_and_size(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(COCO))
    assert read_boxes(path) == {"dog.jpg": [Box("dog", 0, 10, 20, 30.5)], "cup.jpg": [Box("", 1, 2, 4, 6)]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", "<annotation>", "no annotation of PASCAL VOC"),
        ("a.xml", "<a><object><bndbox><xmin>1</xmin></bndbox></object></a>", "has no ymin, xmax, ymax"),
        ("a.xml", VOC.replace("30.5", "low"), "could not convert"),
        ("a.xml", '<!DOCTYPE a [<!ENTITY b "bb">]><a>&b;</a>', "declares a document type"),
        ("a.json", "[]", "no annotation of COCO"),
        ("a.json", "{", "no annotation of COCO"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}', "KeyError 1"),
        ("a.json", '{"images": [], "annotations": [{"bbox": 3}]}', "no annotation of COCO"),
        ("a.txt", "", r"COCO \.json, a VOC \.xml or a folder"),
    ],
)
def test_what_is_no_annotation_is_told(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(XGradCamError, match=message) as error:
        read_boxes(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_and_a_folder_without_any(tmp_path):
    with pytest.raises(XGradCamError, match="cannot read"):
        read_boxes(tmp_path / "none.json")
    with pytest.raises(XGradCamError, match="no XML files"):
        read_boxes(tmp_path)


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
