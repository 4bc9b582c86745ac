"""The files of one photograph, and the records that name them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.runs.support import LAYERS, run_of
from xgradcam.cam.explanation import fuse
from xgradcam.errors import XGradCamError
from xgradcam.pictures.paint import draw
from xgradcam.pictures.photograph import encode_jpeg
from xgradcam.runs.page_maps import PagePictures, facts_of_page, maps_script, page_pictures
from xgradcam.runs.results import files_of, stem_of, write_results
from xgradcam.runs.sources import Source

PHOTOGRAPH = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
CAT = Source("photos/cat.jpg", "below/cat")


@pytest.fixture
def written(net, tmp_path):
    """Records of the photograph's results, of two that are explained; options: of `run_of`."""

    def write(**options):
        run = run_of(net.float(), classes=(1,), folder=tmp_path, **options)
        inputs = torch.cat([run.inputs(PHOTOGRAPH[::-1].copy()), run.inputs(PHOTOGRAPH)])
        explained = run.explain(inputs)
        return run, explained, write_results(run, CAT, run.canvas(PHOTOGRAPH), explained, 1)

    return write


def names_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_pictures_and_numbers_are_those_of_the_photograph_asked_for(written, tmp_path):
    run, ((explanation,),), (record,) = written(layers=LAYERS[1:], original_names=True)
    assert names_in(tmp_path) == ["X_cam.jpg", "cam.jpg"]
    for method, name in (("grad-cam", "cam.jpg"), ("xgrad-cam", "X_cam.jpg")):
        picture = draw(
            run.canvas(PHOTOGRAPH),
            lambda size, m=method: explanation.heatmap(m, size)[1].numpy(),
            run.framing,
        )
        assert (tmp_path / name).read_bytes() == encode_jpeg(picture)
    logits = explanation.logits[1]
    assert record["files"] == {"grad-cam": "cam.jpg", "xgrad-cam": "X_cam.jpg"}
    assert record["written"] == [str(tmp_path / name) for name in ("cam.jpg", "X_cam.jpg")]
    assert (record["image"], record["model"], record["layer"]) == ("photos/cat.jpg", "tiny", LAYERS[1])
    assert (record["class_index"], record["class_name"], record["classes"]) == (1, "class 1", 5)
    assert record["score"] == pytest.approx(float(logits[1]))
    assert record["probability"] == pytest.approx(float(logits.softmax(0)[1]))
    assert record["rank"] == 1 + sum(float(other) > float(logits[1]) for other in logits)
    assert record["notes"] == list(explanation.notes[1])
    for method, error in record["conservation_error"].items():
        total = float(explanation.maps[method][1].double().sum())
        assert error == pytest.approx(abs(total - record["score"]) / abs(record["score"]), rel=1e-4)
    assert json.loads(json.dumps(record)) == record


def test_several_layers_have_files_each_and_the_maps_fused(written, tmp_path):
    run, explained, records = written(save_maps=True, panel=True, page=True)
    assert [record["layer"] for record in records] == [*LAYERS, " + ".join(LAYERS)]
    parts = [*LAYERS, "fused"]
    expected = [f"below/cat_1_{part}_{stem}.jpg" for part in parts for stem in ("X_cam", "cam", "panel")]
    expected += [f"below/cat_1_{layer}_maps.npz" for layer in LAYERS] + ["below/cat_photograph.jpg"]
    expected += ["below/cat_maps.js"]
    assert names_in(tmp_path) == sorted(expected)
    assert sorted({name for record in records for name in files_of(record)}) == sorted(expected)
    assert (tmp_path / "below/cat_photograph.jpg").read_bytes() == encode_jpeg(PHOTOGRAPH)
    for layer, (explanation,) in zip(LAYERS, explained, strict=True):
        with np.load(tmp_path / f"below/cat_1_{layer}_maps.npz") as maps:
            assert np.array_equal(maps["xgrad-cam"], explanation.maps["xgrad-cam"][1])
            assert np.array_equal(maps["scores"], explanation.logits[1])
            assert maps["class_index"] == 1

    def fused(size):
        return fuse([explanation.heatmap("grad-cam", size) for (explanation,) in explained])[1].numpy()

    picture = draw(run.canvas(PHOTOGRAPH), fused, run.framing, run.writing.style.as_in_the_original())
    assert (tmp_path / "below/cat_1_fused_cam.jpg").read_bytes() == encode_jpeg(picture)
    assert "conservation_error" in records[0]
    assert "conservation_error" not in records[2]


def test_the_page_needs_two_files_of_a_photograph(written, tmp_path):
    run, explained, records = written(page=True, pictures=False)
    assert names_in(tmp_path) == ["below/cat_maps.js", "below/cat_photograph.jpg"]
    samples = [explanation.sample(1) for (explanation,) in explained]
    small = page_pictures(run.canvas(PHOTOGRAPH)).small
    views = [[samples[0]], [samples[1]], samples]
    script = maps_script(views, None, run.framing, PHOTOGRAPH.shape[:2], small)
    assert (tmp_path / "below/cat_maps.js").read_bytes() == script
    for record, view in zip(records, views, strict=True):
        assert (record["photograph"], record["page_maps"]) == (
            "below/cat_photograph.jpg",
            "below/cat_maps.js",
        )
        assert files_of(record) == [record["photograph"], record["page_maps"]]
        assert record["written"] == [str(tmp_path / "below/cat_maps.js")]
        assert (record["files"], record["methods"]) == ({}, ["grad-cam", "xgrad-cam"])
        assert record.get("disagreement") == facts_of_page(view).get("disagreement")


def test_pictures_of_the_photograph_as_it_was_read_are_taken(written, tmp_path):
    run, explained, _ = written(layers=LAYERS[1:])
    run = replace(run, layers=LAYERS[1:], writing=replace(run.writing, page=True))
    for name in names_in(tmp_path):
        (tmp_path / name).unlink()
    pictures = PagePictures(encode_jpeg(PHOTOGRAPH[:5]), b"small")
    (record,) = write_results(run, CAT, PHOTOGRAPH, explained, 0, page=pictures)
    assert (tmp_path / record["photograph"]).read_bytes() == pictures.large
    assert b'"c21hbGw="' in (tmp_path / record["page_maps"]).read_bytes()


def test_a_photograph_is_never_written_over(written, tmp_path, net):
    run, explained, _ = written(layers=LAYERS[1:], original_names=True)
    (tmp_path / "cam.jpg").write_text("photograph")
    with pytest.raises(XGradCamError, match=r"cam\.jpg would be written over the photograph"):
        write_results(run, replace(CAT, path=str(tmp_path / "cam.jpg")), PHOTOGRAPH, explained, 0)
    assert (tmp_path / "cam.jpg").read_text() == "photograph"


def test_a_score_of_0_has_no_relative_error_in_json(written, net):
    with torch.no_grad():
        net.classifier[2].weight[1] = net.classifier[2].bias[1] = 0
    _, _, (record,) = written(layers=LAYERS[1:])
    assert record["score"] == 0
    assert record["conservation_error"] == {"grad-cam": None, "xgrad-cam": None}


def test_the_stems_of_the_originals_are_theirs_alone():
    assert [stem_of(method) for method in ("grad-cam", "xgrad-cam", "cam", "layer-cam")] == [
        "cam", "X_cam", "linear-cam", "layer-cam",
    ]  # fmt: skip
