"""The command as a user runs it."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import xgradcam
from tests.cli.support import BUNDLED, OFFLINE, ROOT
from tests.support import (
    MEASURED_COMMAND,
    default_interrupts,
)
from xgradcam.cli.xgrad_cam import main
from xgradcam.pictures.photograph import read_image, stretch


def command(*arguments, **options):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def written():
    return sorted(name for name in os.listdir() if name != "cache")


def test_the_main_job_prints_the_originals_lines_and_writes_their_two_pictures(both, capsys):
    assert main(["--image-path", str(both), "--target-index", "967", *BUNDLED]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "Using CPU for computation"
    assert lines[1] == "class of interest:  n07920052 espresso"
    assert lines[-1] == "wrote cam.jpg, X_cam.jpg and complete-cam.jpg, in the current folder"
    assert written() == ["X_cam.jpg", "cam.jpg", "complete-cam.jpg"]
    assert err == ""
    for name in ("cam.jpg", "X_cam.jpg"):
        assert cv2.imread(name).shape == (224, 224, 3)


def test_the_class_is_where_the_network_finds_it(both):
    """The cat is in the left part of the photograph, the cup in the right."""
    photograph = read_image(both)
    classifier = xgradcam.load_classifier("efficientnet-lite0")
    centres = {}
    for target in (285, 967):
        explanation = xgradcam.explain(classifier.module, classifier.inputs(photograph), "bn2", target)
        heatmap = explanation.heatmap("xgrad-cam", (224, 224))[0]
        centres[target] = float((heatmap.sum(0) * torch.arange(224)).sum() / heatmap.sum() / 224)
    assert centres[285] < 0.45
    assert centres[967] > 0.65


def test_the_pictures_are_the_overlays_of_the_heatmaps(both):
    main(["--image-path", str(both), "--target-index", "285", "--target-layer", "blocks.6.0.bn1", *BUNDLED])
    classifier = xgradcam.load_classifier("efficientnet-lite0")
    photograph = read_image(both)
    explanation = xgradcam.explain(classifier.module, classifier.inputs(photograph), "blocks.6.0.bn1", 285)
    pictures = []
    for method, name in (("grad-cam", "cam.jpg"), ("xgrad-cam", "X_cam.jpg")):
        heatmap = explanation.heatmap(method, (224, 224))[0].numpy()
        expected = xgradcam.overlay_heatmap(stretch(photograph, (224, 224)), heatmap)
        pictures.append(read_image(name))
        assert np.abs(pictures[-1].astype(int) - expected).mean() < 3
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 3


def test_the_default_class_is_the_highest_score(both, capsys):
    main(["--image-path", str(both), *BUNDLED])
    first = capsys.readouterr().out
    main(["--image-path", str(both), "--target-index", "-1", *BUNDLED])
    assert capsys.readouterr().out == first
    assert "class of interest:  n02123159 tiger cat" in first
    assert "rank 1 of 1000" in first


def test_the_same_command_gives_the_same_files(both):
    contents = []
    for folder in ("a", "b/c/d"):
        assert main(["--image-path", str(both), "--output-dir", folder, *BUNDLED]) == 0
        contents.append([Path(folder, name).read_bytes() for name in ("cam.jpg", "X_cam.jpg")])
    assert contents[0] == contents[1]


def test_a_layer_before_the_end_and_signed_activations(both, capsys):
    assert main(["--image-path", str(both), "--target-layer", "conv_head", *BUNDLED]) == 0
    out, err = capsys.readouterr()
    assert "layer conv_head" in out
    assert "signed activations:" in err
    assert "of 1280 channels" in err


def test_the_note_of_no_positive_evidence_and_its_picture_is_the_photograph(both, capsys):
    """Grad-CAM finds nothing for the cat at this layer, XGrad-CAM does."""
    assert (
        main(
            ["--image-path", str(both), "--target-index", "285", "--target-layer", "blocks.6.0.bn2", *BUNDLED]
        )
        == 0
    )
    notes = capsys.readouterr().err.splitlines()
    assert len(notes) == 1
    assert "no positive evidence: the grad-cam map" in notes[0]
    seen = stretch(read_image(both), (224, 224))
    assert np.abs(read_image("cam.jpg").astype(int) - seen).mean() < 3
    assert np.abs(read_image("X_cam.jpg").astype(int) - seen).mean() > 10


def test_a_signed_picture_without_positive_evidence_is_not_called_the_photograph(both, capsys):
    options = [
        "--target-index",
        "285",
        "--target-layer",
        "blocks.6.0.bn2",
        "--method",
        "grad-cam",
        "--signed",
    ]
    assert main([str(both), *options, *BUNDLED]) == 0
    assert "; its picture shows the evidence against\n" in capsys.readouterr().err
    colours = read_image("cam.jpg").astype(int)
    assert (colours[..., 2] - colours[..., 0]).max() > 60
    assert (colours[..., 0] - colours[..., 2]).max() < 30


def test_list_layers_marks_the_default(capsys):
    assert main(["--list-layers", *BUNDLED]) == 0
    rows = capsys.readouterr().out.splitlines()
    marked = [row for row in rows if row.endswith("<- default")]
    assert len(marked) == 1
    assert marked[0].split()[:8] == ["bn2", "NormAct", "1", "x", "1280", "x", "7", "x"]
    assert any(row.startswith("(model)") for row in rows)
    assert written() == []


def test_a_vision_transformer_is_explained_by_its_tokens(both, capsys):
    model = ("--model", "timm/vit_tiny_patch16_224", "--weights", "none")
    assert main(["--list-layers", *model]) == 0
    assert "blocks.11.norm1  " in next(
        row for row in capsys.readouterr().out.splitlines() if "default" in row
    )
    assert main(["--image-path", str(both), *model]) == 0
    out, err = capsys.readouterr()
    assert "layer blocks.11.norm1" in out
    assert "signed activations" in err
    assert written() == ["X_cam.jpg", "cam.jpg"]


def test_list_layers_of_a_network_without_maps_has_no_default(capsys, monkeypatch):
    from xgradcam.models import load as models

    monkeypatch.setattr(models, "_bundled", lambda _request: flat_classifier())
    assert main(["--list-layers", *BUNDLED]) == 0
    out, err = capsys.readouterr()
    assert "default" not in out
    assert "no default layer: no layer gives feature maps" in err


def flat_classifier():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1000))
    return xgradcam.Classifier("flat", network, (2, 2), (0.5,) * 3, (0.5,) * 3, None)


@pytest.mark.slow
def test_without_network_the_default_model_gives_way_to_the_bundled_one(both):
    run = command(
        "-m", "xgradcam", "--image-path", both, "--target-index", 967, cwd=Path.cwd(), env=pythonpath()
    )
    assert run.returncode == 0
    assert run.stdout.splitlines()[1] == "class of interest:  n07920052 espresso"
    assert "model efficientnet-lite0" in run.stdout
    fallback = [line for line in run.stderr.splitlines() if "bundled" in line]
    assert len(fallback) == 1
    assert fallback[0].startswith("xgrad-cam: VGG-16's weights are not available (")
    assert "Traceback" not in run.stderr
    assert written() == ["X_cam.jpg", "cam.jpg", "complete-cam.jpg"]


def test_a_model_that_was_asked_for_is_an_error_without_its_weights(both, capsys):
    assert main(["--image-path", str(both), "--model", "vgg16"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("xgrad-cam: error: the weights of vgg16 are not available (")
    assert "--weights" in err
    assert err.count("\n") == 1
    assert written() == []


def pythonpath():
    return {**os.environ, **OFFLINE, "PYTHONPATH": str(ROOT)}


@pytest.mark.slow
def test_the_script_of_a_clone_runs_from_anywhere_without_the_package_installed(both):
    clone = Path("clone")
    for folder in ("xgradcam", "scripts"):
        shutil.copytree(ROOT / folder, clone / folder)
    run = command(
        "-I",
        clone / "scripts" / "XGrad-CAM.py",
        "--image-path",
        both,
        "--target-index",
        967,
        "--use-cuda",
        *BUNDLED,
    )
    assert run.returncode == 0, run.stderr
    assert "class of interest:  n07920052 espresso" in run.stdout
    if not torch.cuda.is_available():
        assert "xgrad-cam: no CUDA device here; falling back to the CPU" in run.stderr
        assert run.stdout.startswith("Using CPU for computation")


def test_help_is_quick_and_shows_an_example():
    run = command("-X", "importtime", "-m", "xgradcam", "--help", env={**pythonpath(), "COLUMNS": "100"})
    assert run.returncode == 0
    assert "  xgrad-cam photo.jpg --target espresso --panel\n" in run.stdout
    imported = {line.rsplit("|", 1)[-1].strip() for line in run.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "numpy", "cv2", "torchvision", "timm"}


def test_version():
    run = command("-m", "xgradcam", "--version", env=pythonpath())
    assert run.stdout == f"xgrad-cam {xgradcam.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "which photograph? as in: xgrad-cam photo.jpg"),
        (
            ["--image-path", "x.jpg", "--batch-size", "many"],
            "invalid int value: 'many' is no number, nor auto",
        ),
        (["--image-path", "x.jpg", "--colour"], "no option --colour; did you mean --colormap?"),
        (["--image-path", "x.jpg", "--use-cuda", "--device", "cpu"], "not allowed with"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("xgrad-cam: error: ")
    assert message in err
    assert err.count("\n") == 1


def test_bad_input_is_one_line_with_the_remedy_and_writes_nothing(both, capsys):
    Path("empty.jpg").touch()
    Path("text.jpg").write_text("text")
    Path("cut.jpg").write_bytes(both.read_bytes()[:40_000])
    Path("file").touch()
    Path("no-photographs").mkdir()
    good = ["--image-path", str(both)]
    before = written()
    for arguments, message in (
        (["--image-path", "missing.jpg"], "no such image: missing.jpg"),
        (["--image-path", "no-photographs"], "no photographs in the folder no-photographs"),
        (["--image-path", "empty.jpg"], "the file is empty"),
        (["--image-path", "text.jpg"], "not an image: text.jpg"),
        (["--image-path", "cut.jpg"], "cannot decode image cut.jpg"),
        (["--image-path", "x" * 300 + ".jpg"], "cannot read image x"),
        ([*good, "--target-index", "1000"], "no class 1000: this model's classes are 0 to 999"),
        ([*good, "--target-index", "-2"], "no class -2: this model's classes are 0 to 999"),
        ([*good, "--target-layer", "bn3"], "no layer 'bn3' in this EfficientNetLite0; did you mean 'bn"),
        (
            [*good, "--target-layer", "classifier"],
            "layer 'classifier': shape (1, 1000) is neither feature maps",
        ),
        ([*good, "--output-dir", "file/below"], "cannot make the folder file/below"),
        ([*good, "--output-dir", "/proc/nothing"], "the folder /proc"),
        ([*good, "--weights", "missing.pth"], "cannot read weights missing.pth: No such file"),
        ([*good, "--weights", "text.jpg"], "cannot read weights text.jpg"),
        ([*good, "--device", "toaster"], "no device 'toaster': take auto, cpu, cuda, cuda:N or mps"),
        ([*good, "--device", "cuda:99"], "no device 'cuda:99' here; there is: cpu"),
        ([*good, "--model", "vgg61"], "no model 'vgg61'; did you mean"),
        ([*good, "--mean", "123", "117", "104"], "the mean has a value outside of 0 to 1: divide"),
        ([*good, "--std", "58", "57", "57"], "the std has a value that is not above 0 and up to 1: divide"),
        ([*good, "--target-index", "top0"], "top0 has no class: top1 is the class of the highest"),
    ):
        model = [] if "--model" in arguments else BUNDLED
        assert main([*arguments, *model]) == 2, arguments
        err = capsys.readouterr().err
        assert err.startswith("xgrad-cam: error: "), err
        assert message in err
        assert err.count("\n") == 1, err
        assert written() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(both, capsys):
    Path("locked").mkdir(mode=0o555)
    assert main(["--image-path", str(both), "--output-dir", "locked", *BUNDLED]) == 2
    assert "cannot write to the folder locked" in capsys.readouterr().err


def test_unusual_photographs_work(capsys):
    cat = Image.fromarray(read_image(ROOT / "examples" / "cat.jpg"))
    pictures = {
        "one-pixel.png": cat.crop((0, 0, 1, 1)),
        "grey.png": cat.convert("L"),
        "alpha.png": cat.convert("RGBA"),
        "palette.gif": cat.quantize(32),
        "deep.png": Image.fromarray(np.asarray(cat.convert("L"), np.uint16) << 8),
        "cmyk.jpg": cat.convert("CMYK"),
        "Katze 猫.png": cat,
        "-dash.png": cat,
    }
    made = {}
    for name, picture in pictures.items():
        picture.save(name)
        options = ["--target-index", "285", "--output-dir", f"out-{name}", *BUNDLED]
        assert main([f"--image-path={name}", *options]) == 0, name
        made[name] = read_image(Path(f"out-{name}", "X_cam.jpg"))
        assert made[name].shape == (224, 224, 3)
        plain = stretch(np.asarray(picture.convert("RGB")), (224, 224))
        assert name == "deep.png" or np.abs(made[name].astype(int) - plain).mean() > 10, name
    for same in ("alpha.png", "-dash.png"):
        assert np.array_equal(made[same], made["Katze 猫.png"])
    assert np.array_equal(made["deep.png"], made["grey.png"])
    assert not np.array_equal(made["grey.png"], made["Katze 猫.png"])
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak memory is read from /proc")
@pytest.mark.parametrize(("side", "code"), [(20_000, 2), (10_000, 0)])
def test_a_gigantic_photograph_is_refused_and_one_at_the_limit_works_within_two_gigabytes(side, code):
    # Of one bit a pixel where its size alone matters: three bytes of 400 million take long to write.
    Image.new("1" if code else "RGB", (side, side)).save("large.png")
    started = time.monotonic()
    run = command("-c", MEASURED_COMMAND, "--image-path", "large.png", *BUNDLED, env=pythonpath())
    assert run.returncode == code
    assert ("image too large: large.png" in run.stderr) == (code == 2)
    assert run.stderr.count("\n") == (code == 2)
    assert time.monotonic() - started < 60
    assert int(run.stdout.splitlines()[-1]) < 2e9


@pytest.mark.slow
def test_output_to_a_closed_pipe_and_an_interrupt_end_quietly(both):
    run = subprocess.run(
        f"{sys.executable} -m xgradcam --list-layers --model efficientnet-lite0 | head -1",
        shell=True, capture_output=True, text=True, env=pythonpath(), check=False,
    )  # fmt: skip
    assert run.stdout.startswith("input")
    assert run.stderr == ""
    process = subprocess.Popen(
        [sys.executable, "-m", "xgradcam", "--image-path", str(both), *BUNDLED],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=pythonpath(),
        preexec_fn=default_interrupts,
    )  # fmt: skip
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "xgrad-cam: interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(("where", "code"), [("> /dev/full", 2), (">&-", 0), ("> /dev/null", 0)])
def test_output_that_goes_nowhere_is_no_traceback(where, code):
    run = subprocess.run(
        f"{sys.executable} -m xgradcam --list-layers --model efficientnet-lite0 {where}",
        shell=True, capture_output=True, text=True, env=pythonpath(), check=False,
    )  # fmt: skip
    assert run.returncode == code
    assert "Traceback" not in run.stderr
    assert run.stderr.count("\n") == (code != 0)


def test_a_line_break_in_a_name_does_not_break_the_error(capsys):
    assert main(["--image-path", "a\nb.jpg", *BUNDLED]) == 2
    assert capsys.readouterr().err == "xgrad-cam: error: no such image: a\\nb.jpg\n"


def test_a_harmful_checkpoint_does_not_run(both, capsys):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, ("it-ran",)

    torch.save({"state_dict": Harmful()}, "harmful.pth")
    assert main(["--image-path", str(both), "--model", "resnet18", "--weights", "harmful.pth"]) == 2
    assert "no state dict in harmful.pth; there is: state_dict: save" in capsys.readouterr().err
    assert not Path("it-ran").exists()


def test_own_weights_change_the_answer(both, capsys):
    state = xgradcam.load_classifier("efficientnet-lite0").module.state_dict()
    state = {key: value.clone() for key, value in state.items()}
    state["classifier.bias"][0] += 1000
    buffer = io.BytesIO()
    torch.save(state, buffer)
    Path("own.pth").write_bytes(buffer.getvalue())
    assert main(["--image-path", str(both), *BUNDLED, "--weights", "own.pth"]) == 0
    assert "class of interest:  n01440764 tench, Tinca tinca" in capsys.readouterr().out
