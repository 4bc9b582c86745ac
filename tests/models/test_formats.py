"""Files that are no checkpoints: each is named for what it is, whatever its name says."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xgradcam.errors import XGradCamError
from xgradcam.models.checkpoints import read_state_dicts

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
FILES = {
    "Git LFS": (POINTER, "a pointer of Git's large-file storage: fetch the file: git lfs pull"),
    "HTML": (b"<!DOCTYPE html>\n<html>", "a web page, such as that of a login or an error: download the f"),
    "HTML, spaced": (b"\xef\xbb\xbf\r\n  <HTML lang='en'>", "a web page"),
    "XML": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "XML text, such as a server's"),
    "XML without a head": (b"<Error><Code>AccessDenied", "XML text, such as a server's error"),
    "JSON": (b'{"error": "Repository not found"}', "JSON text, such as a server's error"),
    "JSON list": (b'[{"error": 1}]', "JSON text, such as a server's error"),
    "text": (b"Not Found", "a text file: download the file itself"),
    "Python": ("# Überschrift\nimport torch\n".encode(), "a text file"),
    "Keras": (
        b"\x89HDF\r\n\x1a\n" + bytes(600),
        "an HDF5 file, as Keras writes it: give the PyTorch network's",
    ),
    "gzip": (gzip.compress(bytes(100)), "compressed by gzip: unpack it first"),
    "bzip2": (bz2.compress(bytes(100)), "compressed by bzip2: unpack it first"),
    "xz": (lzma.compress(bytes(100)), "compressed by xz: unpack it first"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "compressed by zstd: unpack it first"),
    "GGUF": (b"GGUF\x03" + bytes(50), "a GGUF file"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(50), "a TensorFlow Lite model"),
    "TensorFlow's index": (
        bytes(100) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb",
        "the index of a TensorFlow check",
    ),
    "TensorFlow's list": (b'model_checkpoint_path: "model.ckpt-5"', "the index of TensorFlow's checkpoints"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(50), "a JPEG image"),
    "empty": (b"", "an empty file: download the file itself"),
    "zeros": (bytes(5000), "nothing but zeros, as an interrupted download leaves them"),
}


def refused(path):
    with pytest.raises(XGradCamError) as caught:
        read_state_dicts(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 600
    return message


@pytest.mark.parametrize(
    "name", ["a.pth", "A.PTH", "a.safetensors", "pytorch_model.bin", "a.ckpt", "weights"]
)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_named_for_what_it_is(tmp_path, kind, name):
    content, reason = FILES[kind]
    path = tmp_path / name
    path.write_bytes(content)
    assert refused(path).startswith(f"cannot read weights {path}: {reason}")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_pointer_with_a_byte_order_mark_is_one(tmp_path, encoding):
    path = tmp_path / "a.pth"
    path.write_bytes(POINTER.decode().encode(encoding))
    assert "a pointer of Git's large-file storage: fetch the file: git lfs pull" in refused(path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a.onnx", "an ONNX model"),
        ("a.ONNX", "an ONNX model"),
        ("saved_model.pb", "a TensorFlow graph"),
        ("model.ckpt.data-00000-of-00001", "a part of a TensorFlow checkpoint"),
        ("flax_model.msgpack", "weights of Flax"),
        ("__0_0.distcp", "a part of a distributed checkpoint: give its folder to torch's dcp_to_torch first"),
        ("a.pth", "not a checkpoint, or a damaged one; save a state dict"),
    ],
)
def test_formats_without_a_mark_go_by_their_name_once_they_cannot_be_read(tmp_path, name, reason):
    path = tmp_path / name
    path.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x05\xff\xfe" + bytes(range(256)))
    assert refused(path).startswith(f"cannot read weights {path}: {reason}")
    torch.save({"weight": torch.ones(2)}, path)
    assert list(read_state_dicts(path)) == [""]


def archive_of(path, *names, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name in names:
            archive.writestr(name, b"12345")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["config.json", "metadata.json", "model.weights.h5"], "a Keras model: give the PyTorch network's"),
        (["a/code/x.py", "a/constants.pkl", "a/data.pkl"], "a TorchScript archive, which holds code: save a"),
        (["a/data/weights/w", "a/archive_format"], r"a program of torch\.export, which holds code: save a"),
        (["a/.data/python_version", "a/m.pkl"], r"a package of torch\.package, which holds code"),
        (["model.pth", "labels.txt"], r"a zip archive of other files \(model\.pth, labels\.txt\): unpack it"),
        (["run/1/data.pkl"], r"a zip archive of other files \(run/1/data\.pkl\)"),
        ([], r"a zip archive of other files \(none\)"),
    ],
)
def test_zip_archives_are_named_by_what_is_in_them(tmp_path, names, reason):
    archive_of(tmp_path / "a.safetensors", *names)
    with pytest.raises(XGradCamError, match=rf"^refused to read \S*a\.safetensors: {reason}"):
        read_state_dicts(tmp_path / "a.safetensors")


def test_arrays_of_numpy_are_named(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    np.savez_compressed(tmp_path / "a.npz", weight=np.ones(3))
    assert "a.npy: a NumPy array: save a state dict" in refused(tmp_path / "a.npy")
    assert "a.npz: NumPy arrays (.npz): save a state dict" in refused(tmp_path / "a.npz")


@pytest.mark.filterwarnings("ignore")
def test_what_torch_exports_is_named(tmp_path):
    network = nn.Linear(2, 3)
    torch.export.save(torch.export.export(network, (torch.ones(1, 2),)), tmp_path / "a.pt2")
    assert "a.pt2: a program of torch.export, which holds code" in refused(tmp_path / "a.pt2")
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:  # as PyTorch 2.6 wrote it
        for name in ("serialized_exported_program.json", "serialized_state_dict.pt", "version"):
            archive.writestr(name, b"1")
    assert "old.pt2: a program of torch.export, which holds code" in refused(tmp_path / "old.pt2")


def test_a_tar_of_files_is_to_be_unpacked_and_one_in_name_only_is_read(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        entry = tarfile.TarInfo("model.pth")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"12345"))
    assert "a.tar: a tar archive: unpack it, or, if torch wrote it before 2018" in refused(tmp_path / "a.tar")
    torch.save({"weight": torch.ones(2)}, tmp_path / "model_best.pth.tar")
    assert list(read_state_dicts(tmp_path / "model_best.pth.tar")) == [""]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([], "a folder: give the file in it"),
        (["config.json", "model.safetensors", "pytorch_model.bin"],
         "a folder: give the file in it, model.safetensors"),
        (["config.json", "model.safetensors.index.json"],
         "a folder: give the file in it, model.safetensors.index.json"),
        (["best.ckpt", "last.CKPT", "notes.txt"],
         "a folder: give the file in it, best.ckpt, last.CKPT"),
        ([".metadata", "__0_0.distcp"],
         "a distributed checkpoint: make a file of it: python -m torch.distributed.checkpoint.format_utils "
         "dcp_to_torch {} weights.pth"),
        (["saved_model.pb"], "a TensorFlow SavedModel: give the PyTorch network's weights"),
        (["data.pkl", "version"], "an unpacked checkpoint: give the file as torch.save wrote it"),
        (["zero_to_fp32.py", "latest"], "a checkpoint of DeepSpeed: make a file of it by zero_to_fp32.py"),
    ],
)  # fmt: skip
def test_a_folder_names_the_file_to_give(tmp_path, files, reason):
    for name in files:
        (tmp_path / name).touch()
    assert refused(tmp_path).startswith(f"cannot read weights {tmp_path}: {reason.format(tmp_path)}")


def test_an_address_is_to_be_downloaded(tmp_path):
    for address in ("http://example.org/w.pth", "https://example.org/w.pth", "hf://a/b"):
        assert refused(Path(address)).endswith("No such file or directory: download it, and give the file")
    assert refused(tmp_path / "none.pth").endswith("none.pth: No such file or directory")
    with pytest.raises(XGradCamError, match=r"embedded null (byte|character)"):
        read_state_dicts(tmp_path / "a\0b")


def test_an_index_without_a_map_is_only_json(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"weight_map": None}))
    assert "a.json: JSON text" in refused(tmp_path / "a.json")
    (tmp_path / "a.json").write_text(json.dumps({"weight_map": {"a": 3}}))
    assert refused(tmp_path / "a.json").endswith("the weight_map is no map from tensors to files")
