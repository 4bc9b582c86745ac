"""--truth as a user runs it: mistakes explained, recorded and counted."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import xgradcam
from tests.cli.support import OWN, tree
from tests.support import noise
from xgradcam.cli.xgrad_cam import main
from xgradcam.pictures.photograph import read_image

pytestmark = pytest.mark.usefixtures("own_models")
NAMES = ["tabby cat", "dog", "crane", "cup"]


@pytest.fixture
def predicted():
    """Six photographs of noise; path -> the scores of the small model."""
    noise("photos", 6)
    tiny = xgradcam.load_classifier("tiny.py:Tiny", size=(32, 32))
    with torch.no_grad():
        return {
            str(path): tiny.module(tiny.inputs(read_image(path)))[0]
            for path in sorted(Path("photos").iterdir())
        }


@pytest.fixture
def table(predicted):
    """A table by which the first four photographs are right and the fifth is wrong; the last has no line."""
    paths = sorted(predicted)
    best = {path: int(scores.argmax()) for path, scores in predicted.items()}
    true = {path: best[path] for path in paths[:4]} | {paths[4]: (best[paths[4]] + 1) % 4}
    Path("labels.csv").write_text(
        "".join(["file,class\n", *(f"{path},{one}\n" for path, one in true.items())])
    )
    return true


def arguments(*more):
    return ["--image-path", "photos", "--truth", "labels.csv", "--output-dir", "out", *OWN, *more]


def records_in(folder="out"):
    lines = [json.loads(line) for line in Path(folder, "xgrad-cam.jsonl").read_text().splitlines()]
    return [record for line in lines[1:] for record in line["records"]]


def test_mistakes_have_three_records_and_the_others_one(predicted, table, capsys):
    assert main(arguments("--save-maps")) == 0
    out, err = capsys.readouterr()
    paths = sorted(predicted)
    wrong = paths[4]
    best, true = int(predicted[wrong].argmax()), table[wrong]
    records = records_in()
    assert [(one["image"], one.get("role")) for one in records] == [
        *((path, "predicted") for path in paths[:4]),
        *((wrong, role) for role in ("predicted", "true", "contrast")),
        (paths[5], None),
    ]
    for one in records[:-1]:
        scores = predicted[one["image"]]
        at = int(scores.argmax())
        assert one["truth"] == {"index": table[one["image"]], "name": f"class {table[one['image']]}"}
        probability = pytest.approx(float(scores.softmax(0)[at]), rel=1e-4)
        assert one["prediction"] == {"index": at, "name": f"class {at}", "probability": probability}
    assert "truth" not in records[-1]
    assert "prediction" not in records[-1]
    _, of_true, contrast = records[4:7]
    assert of_true["class_index"] == true
    difference = float(predicted[wrong][best] - predicted[wrong][true])
    assert contrast["score"] == pytest.approx(difference, rel=1e-4)
    assert contrast["what"] == "contrast"
    assert contrast["score_of"] == f"contrast:{true}"
    assert contrast["interest"] == f"class {best} in contrast to class {true}"
    assert contrast["class_index"] == best
    stem = Path(wrong).stem
    assert contrast["files"] == {
        "grad-cam": f"{stem}_{best}-less-{true}_cam.jpg", "xgrad-cam": f"{stem}_{best}-less-{true}_X_cam.jpg"
    }  # fmt: skip
    maps = [np.load(f"out/{stem}_{part}_maps.npz") for part in (best, true, f"{best}-less-{true}")]
    np.testing.assert_allclose(maps[0]["xgrad-cam"] - maps[1]["xgrad-cam"], maps[2]["xgrad-cam"], atol=1e-6)
    assert f"{wrong}: class {best} (class {best})" in out
    assert f"; wrong: true is class {true}\n" in out
    assert out.count("; right\n") == 4
    assert f"{wrong}: contrast: class {best} in contrast to class {true}, score" in out
    assert "xgrad-cam: correct: 4 of 5 (80.0%)\n" in err
    assert f"most frequent mistakes: class {true} taken for class {best} (1)\n" in err
    assert "1 photograph without a line in labels.csv, such as photos/0005.png" in err


def test_the_files_of_the_predicted_class_are_those_of_a_run_without_truth(predicted, table):
    assert main(arguments("--save-maps")) == 0
    assert main(["--image-path", "photos", "--save-maps", "--output-dir", "plain", *OWN]) == 0
    ours, plain = tree("out"), tree("plain")
    del ours["xgrad-cam.jsonl"], plain["xgrad-cam.jsonl"]
    assert {name: ours[name] for name in plain} == plain
    assert len(ours) == len(plain) + 2 * 3


@pytest.mark.parametrize(
    "more",
    [
        ["--panel", "--html", "--guided", "--axioms"],
        ["--target-layer", "features.0", "features.1", "--panel", "--method", "all"],
        ["--augment", "--batch-size", "1"],
        ["--precision", "bf16"],
    ],
)
def test_all_other_options_work_and_every_file_is_in_the_journal(table, more):
    assert main(arguments("--save-maps", *more)) == 0
    records = records_in()
    named = {name for one in records for name in (*one["files"].values(), *one.get("guided", {}).values())}
    named |= {
        one[key] for one in records for key in ("panel", "maps", "photograph", "page_maps") if key in one
    }
    made = {name for name in tree("out") if name not in ("xgrad-cam.jsonl", "index.html")}
    assert made == named
    assert sum("-less-" in name for name in made) > 2


def test_a_panel_of_a_contrast_shows_predicted_true_and_contrast(table):
    assert main(arguments("--panel", "--method", "grad-cam", "xgrad-cam", "layer-cam")) == 0
    predicted, _, contrast = (read_image(f"out/{one['panel']}") for one in records_in()[4:7])
    # The photograph and three maps each.
    assert predicted.shape == contrast.shape
    assert not np.array_equal(predicted, contrast)


@pytest.mark.parametrize("layers", [["features.1"], ["features.1", "features.2"]])
def test_a_signed_panel_of_a_contrast_shows_both_signs(table, layers):
    run = arguments("--panel", "--signed", "--format", "png", "--method", "xgrad-cam")
    assert main([*run, "--target-layer", *layers]) == 0
    records = [one for one in records_in() if one.get("role")]
    contrasts = [one for one in records if one["role"] == "contrast"]
    assert len(contrasts) == (1 if len(layers) == 1 else 3)

    def strengths(picture):
        """The strongest red, and the strongest blue."""
        redness = picture[:, :, 0].astype(int) - picture[:, :, 2]
        return redness.max(), -redness.min()

    shown = []
    for contrast in contrasts:
        of_both = [
            one for one in records if (one["image"], one["layer"]) == (contrast["image"], contrast["layer"])
        ]
        # The photograph, then the predicted class, the true one and the contrast, each as in its own picture.
        quarters = np.array_split(read_image(f"out/{contrast['panel']}"), 4, axis=1)[1:]
        for quarter, one in zip(quarters, of_both, strict=True):
            own = strengths(read_image(f"out/{one['files']['xgrad-cam']}"))
            assert strengths(quarter) == pytest.approx(own, abs=60)
            shown.append(own)
    assert max(blue for _, blue in shown) > 120


def test_classes_that_are_asked_for_are_explained_and_judged(predicted, table, capsys):
    assert main(arguments("--target-index", "2", "top1")) == 0
    out, err = capsys.readouterr()
    records = records_in()
    expected = [len({2, int(scores.argmax())}) for scores in predicted.values()]
    assert len(records) == sum(expected)
    assert not any("role" in one for one in records)
    assert sum("truth" in one for one in records) == sum(expected[:5])
    assert "correct: 4 of 5 (80.0%)" in err
    assert "; wrong: true is" in out
    assert not any("-less-" in name for name in tree("out"))


def test_an_only_photograph_is_judged_too(predicted, table, capsys):
    wrong = sorted(predicted)[4]
    assert main(["--image-path", wrong, "--truth", "labels.csv", "--output-dir", "out", *OWN]) == 0
    out, err = capsys.readouterr()
    best, true = int(predicted[wrong].argmax()), table[wrong]
    assert f"\nwrong: true is class {true}\n" in out
    assert f"contrast of interest:  class {best} in contrast to class {true}\n" in out
    assert Path(f"out/0004_{best}-less-{true}_X_cam.jpg").exists()
    assert "correct" not in err
    # With a class that is asked for, an only photograph has the originals' names.
    assert (
        main(
            [
                "--image-path",
                wrong,
                "--truth",
                "labels.csv",
                "--target-index",
                "1",
                "--output-dir",
                "one",
                *OWN,
            ]
        )
        == 0
    )
    assert sorted(tree("one")) == ["X_cam.jpg", "cam.jpg"]


def test_folders_name_the_classes_by_labels_too(predicted, capsys):
    Path("names.txt").write_text("\n".join(NAMES))
    for path, scores in predicted.items():
        folder = Path("sorted", NAMES[int(scores.argmax())].replace(" ", "_"))
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    options = ["--image-path", "sorted", "--truth", "folder", "--labels", "names.txt", "--json", *OWN]
    assert main([*options, "--output-dir", "out"]) == 0
    out, err = capsys.readouterr()
    records = [json.loads(line) for line in out.splitlines()]
    assert {one["truth"]["name"] for one in records} == {one["class_name"] for one in records}
    assert "correct: 6 of 6 (100.0%)" in err
    assert "mistakes" not in err
    Path("sorted/cat").mkdir()
    shutil.copy("photos/0000.png", "sorted/cat")
    assert main([*options, "--output-dir", "other"]) == 2
    problem = "the folder 'cat' names no class by its index, id or whole name; did you mean 0 (tabby cat)?"
    assert capsys.readouterr().err.endswith(f"xgrad-cam: error: {problem}\n")
    assert not Path("other").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--score", "contrast:1"], "--truth is about classes, and this explains contrast:1: leave it out"),
        (
            ["--truth", "none.csv"],
            "--truth none.csv is no file: give the word folder, or a table of file and class",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(table, more, message, capsys):
    assert main(arguments(*more)) == 2
    assert message in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_model_of_one_output_cannot_be_wrong(predicted, capsys):
    code = Path("tiny.py").read_text().replace("16 * 16, 4)", "16 * 16, 1)")
    Path("single.py").write_text(code)
    Path("labels.csv").write_text("photos/0000.png,0\n")
    assert (
        main([*arguments()[:-4], "--model", "single.py:Tiny", "--input-size", "32", "--score", "class"]) == 2
    )
    assert "has one output, which alone is never wrong" in capsys.readouterr().err


def test_the_table_is_not_written_over(predicted, capsys):
    Path("out").mkdir()
    Path("out/xgrad-cam.jsonl").write_text("photos/0000.png,0\n")
    assert (
        main(["--image-path", "photos", "--truth", "out/xgrad-cam.jsonl", "--output-dir", "out", *OWN]) == 2
    )
    assert Path("out/xgrad-cam.jsonl").read_text() == "photos/0000.png,0\n"


def test_resume_goes_on_with_the_same_table_only(table, capsys):
    assert main(arguments()) == 0
    whole = tree("out")
    capsys.readouterr()
    for name in [name for name in whole if "-less-" in name]:
        Path("out", name).unlink()
    Path("labels.csv").touch()
    assert main(arguments("--resume")) == 0
    # The photograph that was explained anew has the last line of the journal.
    again = tree("out")
    assert sorted(again.pop("xgrad-cam.jsonl").splitlines()) == sorted(
        whole.pop("xgrad-cam.jsonl").splitlines()
    )
    assert again == whole
    assert "correct: 4 of 5 (80.0%)" in capsys.readouterr().err
    text = Path("labels.csv").read_text()
    Path("labels.csv").write_text(f"{text}photos/0005.png,1\n")
    assert main(arguments("--resume")) == 2
    assert "had other settings for truth" in capsys.readouterr().err
    without = ["--image-path", "photos", "--output-dir", "out", "--resume", *OWN]
    assert main(without) == 2
    assert "had other settings for truth" in capsys.readouterr().err


def test_a_record_whose_truth_is_damaged_is_made_anew(table):
    assert main(arguments()) == 0
    whole = tree("out")
    journal = Path("out/xgrad-cam.jsonl")
    journal.write_text(journal.read_text().replace('"truth": {"index"', '"truth": {"x"', 2))
    assert main(arguments("--resume")) == 0
    assert sorted(tree("out")) == sorted(whole)
    assert '"truth": {"x"' not in journal.read_text()


def test_processes_that_share_a_run_write_what_one_writes(table, capsys):
    options = arguments("--save-maps", "--html", "--batch-size", "2")
    assert main(options) == 0
    whole = tree("out")
    shutil.rmtree("out")
    capsys.readouterr()
    for share in ("1/2", "2/2"):
        assert main([*options, "--shard", share]) == 0
    assert tree("out") == whole
    err = capsys.readouterr().err
    assert sorted(line for line in err.splitlines() if "correct" in line) == [
        "xgrad-cam: correct: 2 of 2 (100.0%)", "xgrad-cam: correct: 2 of 3 (66.7%)",
    ]  # fmt: skip


def test_failed_photographs_are_not_judged(table, capsys):
    Path("photos/0001.png").write_text("no picture")
    assert main(arguments()) == 1
    assert "correct: 3 of 4 (75.0%)" in capsys.readouterr().err


@pytest.fixture
def packed(table):
    """The photographs and classes of the table in a tar and in a Parquet table."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with tarfile.open("a.tar", "w") as made:
        for path in sorted(Path("photos").iterdir()):
            members = {path.name: path.read_bytes()}
            if (true := table.get(str(path))) is not None:
                members[f"{path.stem}.cls"] = str(true).encode()
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    paths = sorted(Path("photos").iterdir())
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    labels = pa.array([table.get(str(path)) for path in paths], pa.int64())
    parquet.write_table(pa.table({"image": images, "label": labels}), "t.parquet")


@pytest.mark.parametrize(("place", "truth"), [("a.tar", "cls"), ("t.parquet", "label")])
def test_labels_of_archives_and_tables_tell_the_same_as_a_table_of_files(packed, capsys, place, truth):
    assert main(arguments("--save-maps")) == 0
    capsys.readouterr()
    run = [place, "--truth", truth, "--output-dir", "held", *OWN, "--save-maps"]
    assert main(run) == 0
    out, err = capsys.readouterr()
    held, loose = records_in("held"), records_in()
    for one, other in zip(held, loose, strict=True):
        for key in ("role", "truth", "prediction", "score", "class_index"):
            assert one.get(key) == other.get(key)
    assert tree("held").keys() == tree("out").keys()
    assert "wrong: true is" in out
    assert "correct: 4 of 5 (80.0%)" in err
    assert "note: 1 photograph without a label" in err
    # What the run was told is in its record.
    assert main([*run, "--resume"]) == 0
    capsys.readouterr()
    assert main([place, "--truth", "folder", "--output-dir", "held", *OWN, "--save-maps", "--resume"]) == 2


def test_a_name_of_labels_needs_something_that_has_them(table, capsys):
    assert main(["photos", "--truth", "cls", *OWN]) == 2
    assert capsys.readouterr().err == (
        "xgrad-cam: error: --truth cls is no file: give the word folder, or a table of file and class; "
        "labels of such a name are in tars and Parquet tables, of which none is given\n"
    )
