"""Names of results: told apart, and free of files that no run has made."""

import io
import os
import shutil
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.runs.support import LAYERS, run_of
from tests.support import EXAMPLES
from xgradcam.errors import XGradCamError
from xgradcam.files import KeptFiles
from xgradcam.pictures.photograph import encode_jpeg
from xgradcam.runs.outputs import Outputs, is_own
from xgradcam.runs.run import TopClasses
from xgradcam.runs.sources import Source


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("out/below").mkdir(parents=True)


def outputs_of(net, layers=LAYERS[1:], classes=(1,), stems=("cat", "below/dog"), explaining=None, **writing):
    sources = [Source(f"photos/{stem}.jpg", stem) for stem in stems]
    return Outputs(run_of(net, classes, sources, layers, explaining, Path("out"), **writing))


def write(name):
    Path("out", name).write_text("precious")


TAKEN = ("cat_1_cam.jpg", "cat_1_X_cam.jpg", "below/dog_1_cam.jpg")
FREE = (
    "cat_2_cam.jpg", "cat_1_layer-cam.jpg", "cat_1_maps.npz", "cat_1_panel.jpg", "cat_1_gb.jpg", "index.html",
    "cat_photograph.jpg", "cat_1_cam.jpg.txt", "acat_1_cam.jpg", "cat_cam.jpg", "dog_1_cam.jpg", "cam.jpg",
)  # fmt: skip


@pytest.mark.parametrize("name", TAKEN)
def test_a_file_that_no_run_has_made_is_in_the_way(net, name):
    write(name)
    outputs = outputs_of(net)
    with pytest.raises(XGradCamError, match=rf"^out/{name} is there already, and not by xgrad-cam"):
        outputs.require_free(())
    outputs.require_free({name})


@pytest.mark.parametrize("name", FREE)
def test_a_file_of_another_name_is_not(net, name):
    write(name)
    outputs_of(net).require_free(())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cat_3_cam.jpg", {"classes": (1, TopClasses(2))}),
        ("cat_3_cam.jpg", {"classes": (None,)}),
        ("cat_1_panel.jpg", {"panel": True}),
        ("cat_1_maps.npz", {"save_maps": True}),
        ("cat_1_gb.jpg", {"explaining": {"guided": True}}),
        ("cat_1_X_cam_gb.jpg", {"explaining": {"guided": True}}),
        ("cat_1_layer-cam.jpg", {"explaining": {"methods": ["layer-cam"]}}),
        ("cat_photograph.jpg", {"page": True}),
        ("cat_maps.js", {"page": True}),
        ("index.html", {"page": True}),
        ("cat_1_fused_cam.jpg", {"layers": LAYERS}),
        ("cat_1_features.4_maps.npz", {"layers": LAYERS, "save_maps": True}),
    ],
)
def test_each_option_takes_the_names_of_its_files(net, name, options):
    write(name)
    with pytest.raises(XGradCamError, match=f"out/{name} is there already"):
        outputs_of(net, **options).require_free(())


def test_links_that_lead_nowhere_are_in_the_way_and_folders_are_told_of_later(net):
    Path("out/cat_1_cam.jpg").mkdir()
    outputs_of(net).require_free(())
    os.symlink("nowhere", "out/cat_1_X_cam.jpg")
    with pytest.raises(XGradCamError, match=r"X_cam\.jpg is there already"):
        outputs_of(net).require_free(())


@pytest.mark.parametrize("make", [os.rename, os.link, os.symlink])
def test_what_a_run_reads_is_never_written_over(net, make):
    Path("weights.pth").write_text("weights")
    make(Path("weights.pth").resolve(), "out/below/dog_1_cam.jpg")
    kept = KeptFiles(["out/below/dog_1_cam.jpg"])
    for known in ((), {"below/dog_1_cam.jpg"}):
        with pytest.raises(
            XGradCamError, match=r"dog_1_cam\.jpg would be written over a file that this run reads"
        ):
            outputs_of(net, kept=kept).require_free(known)
    # The picture of an earlier run as a photograph of this one, which may have another class.
    outputs_of(net, classes=(None,), kept=kept).require_free({"below/dog_1_cam.jpg"})


def test_for_one_photograph_names_of_the_originals_are_written_anew_and_others_if_they_are_own(net):
    outputs = outputs_of(
        net, stems=("cat",), original_names=True, save_maps=True, panel=True,
        explaining={"methods": ["grad-cam", "xgrad-cam", "layer-cam"]},
    )  # fmt: skip
    for name in ("cam.jpg", "X_cam.jpg", "cat_1_cam.jpg", "gb.jpg"):
        write(name)
    outputs.require_free(())
    for name in ("maps.npz", "panel.jpg", "layer-cam.jpg"):
        write(name)
        with pytest.raises(XGradCamError, match=f"out/{name} is there already"):
            outputs.require_free(())
        Path("out", name).unlink()
    picture = encode_jpeg(np.zeros((300, 20, 3), np.uint8))
    for name in ("panel.jpg", "layer-cam.jpg"):
        Path("out", name).write_bytes(picture)
    np.savez("out/maps.npz", scores=np.zeros(3), class_index=1, cam=np.zeros((2, 2)))
    outputs.require_free(())


def test_pictures_and_maps_of_others_are_not_own():
    Image.new("RGB", (8, 8)).save("a.jpg")
    np.savez("a.npz", mine=np.zeros(3))
    np.savez("c.npz", scores=np.zeros(3), class_index=1, mine=np.zeros(3))
    np.savez("d.npz", scores=np.zeros(3), class_index=1)
    Path("b.npz").write_bytes(b"PK\3\4 broken")
    Path("a.html").write_text("<html>")
    Path("a.js").write_text("alert()")
    os.mkfifo("b.jpg")
    names = ("a.jpg", "a.npz", "b.npz", "c.npz", "d.npz", "a.html", "a.js", "b.jpg", "none.jpg")
    assert not any(map(is_own, map(Path, names)))


def test_pictures_of_opencv_and_changed_ones_of_ours_are_not_own(net):
    pixels = np.full((30, 20, 3), 200, np.uint8)
    ours = encode_jpeg(pixels)
    Path("out/panel.jpg").write_bytes(ours)
    assert is_own(Path("out/panel.jpg"))
    outputs = outputs_of(net, stems=("cat",), original_names=True, panel=True)
    outputs.require_free(())

    def written_by_opencv():
        for quality in (90, 95):
            cv2.imwrite("out/panel.jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, quality))
            yield

    def changed():
        with Image.open(io.BytesIO(ours)) as picture:
            ImageDraw.Draw(picture).line((0, 0, 9, 9), "black")
            picture.save("out/panel.jpg", quality="keep")
        yield
        Path("out/panel.jpg").write_bytes(ours[:-1])
        yield
        Path("out/panel.jpg").write_bytes(ours + b"more")
        yield

    for _ in chain(written_by_opencv(), changed()):
        with pytest.raises(XGradCamError, match=r"out/panel\.jpg is there already, and not by xgrad-cam"):
            outputs.require_free(())


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (("features", "fused"), r"layer 'fused' and of the fused map"),
        (("a b", "a-b"), r"layer 'a-b' and of layer 'a b'"),
        (("a/b", "c", "a:b"), r"layer 'a:b' and of layer 'a/b'"),
    ],
)
def test_layers_of_one_name_are_refused_with_both(net, layers, said):
    with pytest.raises(XGradCamError, match=f"the files of {said} would have the same names"):
        outputs_of(net, layers=layers)
    outputs_of(net, layers=layers[:1])


def test_layers_that_differ_in_case_are_refused_only_where_the_folder_ignores_it(net, monkeypatch):
    layers = ("Conv", "conv", "Fused")
    outputs_of(net, layers=layers)
    monkeypatch.setattr("xgradcam.runs.outputs._ignores_case", lambda _folder: True)
    with pytest.raises(XGradCamError, match="layer 'conv' and of layer 'Conv'"):
        outputs_of(net, layers=layers)
    with pytest.raises(XGradCamError, match="layer 'Fused' and of the fused map"):
        outputs_of(net, layers=("conv", "Fused"))


def test_a_folder_ignores_case_if_its_other_spelling_is_the_same(monkeypatch):
    from xgradcam.runs.outputs import _ignores_case

    assert not _ignores_case(Path("out"))
    assert not _ignores_case(Path("new/folder"))
    os.symlink("out", "OUT")
    assert _ignores_case(Path("out"))
    assert _ignores_case(Path("out/new"))


def test_a_class_and_a_layer_that_read_as_a_part_of_another_photographs_name_are_refused(net):
    layers = ("conv", "1_conv", "x_2_conv")
    with pytest.raises(XGradCamError, match=r"photos/cat\.jpg and of photos/cat_5\.jpg would have the same"):
        outputs_of(net, layers, (None,), ("cat", "cat_5"))
    with pytest.raises(
        XGradCamError, match=r"photos/cat\.jpg and of photos/cat_5_x\.jpg would have the same"
    ):
        outputs_of(net, layers, (5, 2), ("cat", "cat_5_x"))
    # Each of these can be told from the others.
    outputs_of(net, layers, (1,), ("cat", "cat_5"))
    outputs_of(net, layers[::2], (None,), ("cat", "cat_5"))
    outputs_of(net, ("conv", "layer1_conv"), (None,), ("cat", "cat_5"))


@pytest.mark.parametrize("stem", ["../cat", "a/../../cat", "/tmp/cat"])
def test_results_outside_of_the_folder_are_refused(net, stem):
    with pytest.raises(XGradCamError, match=r"\.jpg would lie outside of the folder"):
        outputs_of(net, stems=(stem,))


def test_names_that_a_run_can_have_made(net):
    outputs = outputs_of(net, LAYERS, panel=True)
    for name in ("cat_7_fused_cam.jpg", "cat_1_features.4_panel.jpg", "cat_photograph.jpg", "cat_maps.js"):
        assert outputs.is_result(name, "cat")
    for name in (
        "cat.jpg",
        "cat_7_cam.jpg",
        "cat_x_fused_cam.jpg",
        "cat_7_notes.txt",
        "dog_7_fused_cam.jpg",
        "",
    ):
        assert not outputs.is_result(name, "cat")


def test_examples_are_photographs(net):
    # They are compressed as results are: only the record tells them apart.
    shutil.copy(EXAMPLES / "cat.jpg", "out/cat_1_cam.jpg")
    with pytest.raises(XGradCamError, match=r"cat_1_cam\.jpg is there already"):
        outputs_of(net).require_free(())
