"""Photographs in the columns of a data set."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.support import TINY, noise
from xgradcam import ExplainBatch, XGradCamError, explain_dataset
from xgradcam.cli.xgrad_cam import main
from xgradcam.pictures.photograph import read_image


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """The bytes of eight photographs, and the maps that the command makes of them."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(TINY)
    noise("photos", 8)
    assert main(["--image-path", "photos", "--save-maps", "--quiet", "--output-dir", "out", "--model",
                 "net.py:Tiny", "--input-size", "32"]) == 0  # fmt: skip
    maps = {path.name[:4]: dict(np.load(path)) for path in Path("out").glob("*.npz")}
    paths = [f"photos/{index:04}.png" for index in range(8)]
    return {"path": paths, "bytes": [Path(path).read_bytes() for path in paths]}, maps


def explainer(column="bytes", **options):
    return ExplainBatch(column, model="net.py:Tiny", size=32, **options)


def test_a_batch_has_the_maps_and_numbers_of_the_command(photographs):
    batch, maps = photographs
    work = pickle.loads(pickle.dumps(explainer()))
    found = work(batch)
    assert found["path"] == batch["path"]
    for index, path in enumerate(batch["path"]):
        one = maps[path[7:11]]
        for method in ("grad-cam", "xgrad-cam"):
            np.testing.assert_array_equal(found[method][index], one[method])
        assert found["class_index"][index] == one["class_index"]
        assert np.float32(found["score"][index]) == one["scores"].max()
        assert found["class_name"][index] == f"class {one['class_index']}"
    assert list(found["problem"]) == [""] * 8
    assert found["xgrad-cam"].dtype == np.float32
    # Used or not, it pickles as its arguments.
    again = pickle.loads(pickle.dumps(work))(batch)
    np.testing.assert_array_equal(again["xgrad-cam"], found["xgrad-cam"])
    arrays = {"path": batch["path"], "image": [read_image(path) for path in batch["path"]]}
    np.testing.assert_array_equal(explainer("image")(arrays)["xgrad-cam"], found["xgrad-cam"])
    structs = {"path": batch["path"], "image": [{"bytes": one, "path": None} for one in batch["bytes"]]}
    np.testing.assert_array_equal(explainer("image")(structs)["xgrad-cam"], found["xgrad-cam"])
    empty = explainer("image")({"path": ["a"], "image": [{"bytes": None, "path": "a"}]})
    assert "neither the bytes of an image" in empty["problem"][0]


def test_a_row_that_cannot_be_explained_says_why_and_the_others_are(photographs):
    batch, _ = photographs
    wrong = [b"no picture", None, np.zeros((4, 4), np.uint8), "photos/0000.png"]
    found = explainer(target=1)({"path": batch["path"], "bytes": [*wrong, *batch["bytes"][4:]]})
    assert list(found["class_index"]) == [-1] * 4 + [1] * 4
    assert np.isnan(found["grad-cam"][:4]).all()
    assert np.isfinite(found["grad-cam"][4:]).all()
    for index, words in enumerate(("not an image", "None", r"uint8", "neither the bytes of an image")):
        assert words in found["problem"][index]
    nothing = explainer()({"path": ["a"], "bytes": [b""]})
    assert nothing["grad-cam"].shape == (1, 16, 16)
    assert explainer()({"path": [], "bytes": []}) == {"path": []}


def test_frames_of_pandas_are_explained_as_for_spark(photographs):
    pandas = pytest.importorskip("pandas")
    batch, _ = photographs
    work = explainer()
    found = work(pandas.DataFrame(batch).to_dict("list"))
    frame = pandas.DataFrame({name: list(values) for name, values in found.items()})
    assert list(frame["path"]) == batch["path"]
    np.testing.assert_array_equal(frame["xgrad-cam"][3], work(batch)["xgrad-cam"][3])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": 3}, "the model is 3: give a name of load_classifier"),
        ({"methods": "grad-kam"}, "did you mean 'grad-cam'"),
        ({"colormap": "jet"}, "no argument colormap of explaining a data set"),
        ({"methods": "complete-cam", "augment": True}, "augmentation"),
        ({"workers": 0}, "the number of workers is 0"),
    ],
)
def test_wrong_arguments_are_told_before_a_worker_starts(arguments, words):
    pytest.importorskip("ray")
    with pytest.raises(XGradCamError, match=words):
        explain_dataset(None, **arguments)


def test_a_column_that_is_not_there_is_named(photographs):
    with pytest.raises(XGradCamError, match="no column 'image' in the data set: it has 'path', 'bytes'"):
        explainer("image")(photographs[0])
