"""Files of weights: their content decides, shards are read, and a later change of a file changes nothing."""

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xgradcam.cli.xgrad_cam import main
from xgradcam.errors import XGradCamError
from xgradcam.models import reading
from xgradcam.models.checkpoints import read_checkpoint, read_state_dicts
from xgradcam.models.load import load_classifier

ROOT = Path(__file__).resolve().parents[2]
STATE = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor([7.0, 8.0])}
WRITERS = {
    "zip": lambda state, path: torch.save(state, path),
    "legacy": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "safetensors": lambda state, path: save_file(state, path),
}


def only_state_in(path):
    (state,) = read_state_dicts(path).values()
    return state


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "name", ["a.pth", "a.safetensors", "A.SAFETENSORS", "model.bin", "a.ckpt", "a.json", "weights", "a.zip"]
)
def test_the_content_decides_not_the_name(tmp_path, kind, name):
    WRITERS[kind](STATE, tmp_path / "written")
    (tmp_path / "written").rename(tmp_path / name)
    assert_same(only_state_in(tmp_path / name), STATE)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("change", ["rewritten", "truncated", "removed", "a pipe", "a folder"])
def test_weights_stay_as_they_were_read(tmp_path, kind, change):
    path = tmp_path / "w"
    state = {"weight": torch.rand(500, 700, generator=torch.Generator().manual_seed(0))}
    WRITERS[kind](state, path)
    found = only_state_in(path)
    if change == "rewritten":
        content = path.read_bytes()
        with path.open("r+b") as file:  # the same file: what is mapped from it changes
            file.write(bytes(len(content)))
    elif change == "truncated":
        os.truncate(path, 0)
    else:
        path.unlink()
        if change == "a pipe":
            os.mkfifo(path)
        elif change == "a folder":
            path.mkdir()
    assert torch.equal(found["weight"], state["weight"])


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("change", ["longer", "touched", "shorter"])
def test_a_change_while_the_file_is_read_is_refused(tmp_path, monkeypatch, kind, change):
    path = tmp_path / "w"
    WRITERS[kind](STATE, path)

    def changing(read):
        def changed(*arguments, **options):
            result = read(*arguments, **options)
            if change == "touched":
                os.utime(path, ns=(0, 0))
            else:
                os.truncate(path, path.stat().st_size + (5 if change == "longer" else -5))
            return result

        return changed

    monkeypatch.setattr(torch, "load", changing(torch.load))
    monkeypatch.setattr(reading, "read_safetensors", changing(reading.read_safetensors))
    with pytest.raises(
        XGradCamError, match=r"^cannot read weights \S*/w: the file changed while it was read"
    ):
        read_state_dicts(path)


OWN = """
from torch import nn
class Net(nn.Sequential):
    def __init__(self):
        pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), *pooled)
"""


def test_a_run_after_a_change_of_the_weights_is_another_run(tmp_path, monkeypatch, capsys):
    """Also where the file changed between its reading and the record of the run."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    photographs = [str(ROOT / "examples" / name) for name in ("cat.jpg", "cat-and-coffee.jpg")]
    loaded = load_classifier("own.py:Net", "none")
    torch.save(loaded.module.state_dict(), "w.pth")
    options = ["--image-path", *photographs, "--model", "own.py:Net", "--weights", "w.pth"]
    options += ["--input-size", "32", "--output-dir", "out"]
    from xgradcam.cli import setup

    read, changed = setup.open_classifier, []

    def opened(*arguments, **named):
        classifier = read(*arguments, **named)
        if not changed:
            changed.append(True)
            torch.save({key: tensor + 1 for key, tensor in loaded.module.state_dict().items()}, "w.pth")
        return classifier

    monkeypatch.setattr("xgradcam.cli.xgrad_cam.open_classifier", opened)
    assert main(options) == 0
    capsys.readouterr()
    assert main([*options, "--resume"]) == 2
    assert "it had other settings for files" in capsys.readouterr().err


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    script = (
        "import sys; from pathlib import Path; from xgradcam.models.checkpoints import read_state_dicts\n"
        "from xgradcam.errors import XGradCamError\n"
        "for path in sys.argv[1:]:\n"
        "    try: read_state_dicts(Path(path))\n"
        "    except XGradCamError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "w.pth"), "/dev/zero", "/dev/null"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [line.split(":")[0] for line in run.stdout.splitlines()] == ["not a regular file"] * 3


def sharded(folder, write, end):
    folder.mkdir(exist_ok=True)
    names = [f"model-0000{index}-of-00002.{end}" for index in (1, 2)]
    for name, key in zip(names, STATE, strict=True):
        write({key: STATE[key], "extra": torch.zeros(1)}, folder / name)
    index = folder / f"model.{end}.index.json"
    index.write_text(
        json.dumps({"metadata": {"total_size": 32}, "weight_map": dict(zip(STATE, names, strict=True))})
    )
    return index, names


@pytest.mark.parametrize("kind", WRITERS)
def test_shards_are_read_by_their_index(tmp_path, kind):
    index, names = sharded(tmp_path, WRITERS[kind], "safetensors" if kind == "safetensors" else "bin")
    checkpoint = read_checkpoint(index)
    assert_same(checkpoint.states[""], STATE)
    assert [file.path.name for file in checkpoint.files] == [index.name, *names]
    assert [file.bytes for file in checkpoint.files] == [
        file.path.stat().st_size for file in checkpoint.files
    ]
    index.write_bytes(b"\n" + index.read_bytes())
    assert_same(only_state_in(index), STATE)
    network = load_classifier(f"{own_linear(tmp_path)}:build", index)
    assert torch.equal(network.module.weight, STATE["weight"])
    assert len(network.weights.files) == 3


def own_linear(folder):
    (folder / "linear.py").write_text("from torch import nn\ndef build(): return nn.Linear(3, 2)\n")
    return folder / "linear.py"


def test_missing_shards_and_tensors_are_named(tmp_path):
    index, names = sharded(tmp_path, WRITERS["safetensors"], "safetensors")
    (tmp_path / names[1]).rename(tmp_path / "elsewhere")
    with pytest.raises(XGradCamError, match=rf"of 2 shards there is no {names[1]} beside it$"):
        read_state_dicts(index)
    save_file({"other": torch.ones(1)}, tmp_path / names[1])
    with pytest.raises(XGradCamError, match=r"index\.json: its shards have no bias$"):
        read_state_dicts(index)
    (tmp_path / names[1]).write_text("<html>")
    with pytest.raises(XGradCamError, match=rf"{names[1]}: a web page"):
        read_state_dicts(index)
    (tmp_path / names[1]).unlink()
    os.mkfifo(tmp_path / names[1])
    with pytest.raises(XGradCamError, match=r"^not a regular file"):
        read_state_dicts(index)


@pytest.mark.parametrize(
    "name", ["../secret", "a/../../secret", "/etc/passwd", "", ".", "C:\\secret", "..\\secret", "c:secret"]
)
def test_shards_outside_of_the_folder_are_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    save_file(STATE, tmp_path / "secret")
    index = tmp_path / "in" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(STATE, name)}))
    with pytest.raises(XGradCamError, match=r"index\.json: (it names .*, which is not in its folder$|)"):
        read_state_dicts(index)
    save_file(STATE, tmp_path / "in" / "shard")
    (tmp_path / "in" / "parts").mkdir()
    (tmp_path / "in" / "parts" / "link").symlink_to("../shard")  # as the Hub's cache has them
    index.write_text(json.dumps({"weight_map": dict.fromkeys(STATE, "parts/link")}))
    assert_same(only_state_in(index), STATE)


def test_members_of_an_archive_that_overlap_are_refused(tmp_path):
    """Each would be read into memory of its own: 50 times the file."""
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(100_000))
        first = archive.infolist()[1]
        for index in range(1, 50):
            copy = zipfile.ZipInfo(f"a/data/{index}")
            for name in ("file_size", "compress_size", "CRC", "header_offset"):
                setattr(copy, name, getattr(first, name))
            archive.filelist.append(copy)
    with pytest.raises(XGradCamError, match=r"a\.pth: a damaged archive: download the file itself"):
        read_state_dicts(tmp_path / "a.pth")


def test_storages_of_an_old_file_are_together_no_larger_than_the_file(tmp_path):
    from tests.models.test_unpickling import by_name, numbers, number, text, write  # noqa: I001

    def tensor(key):
        storage = b"(" + text("storage") + by_name("torch.FloatStorage") + text(key) + text("cpu")
        return (
            by_name("torch._utils._rebuild_tensor_v2")
            + b"(" + storage + number(100) + b"NtQ" + number(0) + numbers([2]) + numbers([1]) + b"\x89}tR"
        )  # fmt: skip

    pickled = b"\x80\x02}" + b"".join(text(str(key)) + tensor(str(key)) + b"s" for key in range(20)) + b"."
    write(tmp_path / "a.pth", pickled, "legacy")
    assert 400 < (tmp_path / "a.pth").stat().st_size < 20 * 400
    with pytest.raises(XGradCamError, match=r"damaged\? \(fewer than the 100 numbers of storage \d+\)"):
        read_state_dicts(tmp_path / "a.pth")


def test_hostile_content_of_safetensors_with_a_pickle_is_not_run(tmp_path):
    """A file that is both: the length of a header, then JSON; torch is never asked."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "a.pth").write_bytes(struct.pack("<Q", len(header)) + header + b"cos\n")
    assert list(only_state_in(tmp_path / "a.pth")) == ["a"]


def test_nothing_is_mapped_from_the_file(tmp_path):
    network = nn.Linear(300, 300)
    torch.save(network.state_dict(), tmp_path / "mapped.pth")
    state = only_state_in(tmp_path / "mapped.pth")
    assert "mapped.pth" not in Path("/proc/self/maps").read_text()
    assert torch.equal(state["weight"], network.weight)


@pytest.mark.parametrize("kind", WRITERS)
def test_weights_are_on_the_cpu_whatever_the_default_device(tmp_path, kind):
    WRITERS[kind](STATE, tmp_path / "w")
    with torch.device("meta"):
        found = only_state_in(tmp_path / "w")
    assert_same(found, STATE)
