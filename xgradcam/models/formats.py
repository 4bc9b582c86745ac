"""Files that are no checkpoints of a PyTorch network: each is recognised by its content and named."""

import codecs
from collections.abc import Iterable
from pathlib import Path

from xgradcam.errors import listed

TORCH = "give the PyTorch network's weights, as .pth or .safetensors"
SAVE = "save a state dict: torch.save(model.state_dict(), ...)"
AGAIN = "download the file itself"
CUT = f"an incomplete download or copy? {AGAIN}"
UNPACK = "unpack it first"
# Bytes at the start of a file that are enough to recognise it.
HEAD = 512
# Where the bytes are, the bytes, what the file is, and the remedy.
MAGIC = (
    (0, b"version https://git-lfs", "a pointer of Git's large-file storage", "fetch the file: git lfs pull"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes it", TORCH),
    (0, b"\x93NUMPY", "a NumPy array", SAVE),
    (0, b"\x1f\x8b", "compressed by gzip", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed by zstd", UNPACK),
    (0, b"\xfd7zXZ\0", "compressed by xz", UNPACK),
    (0, b"BZh", "compressed by bzip2", UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed by lz4", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (0, b"GGUF", "a GGUF file, as llama.cpp reads it", TORCH),
    (4, b"TFL3", "a TensorFlow Lite model", TORCH),
    (0, b"\x12\x01\0\0\0\0\0\0", "parameters of MXNet", TORCH),
    (0, b"\0\0\0\0\x02\0\0\0\x05\0\0\0", "weights of Darknet", TORCH),
    (0, b"%PDF", "a PDF document", AGAIN),
    (0, b"\xff\xd8\xff", "a JPEG image", AGAIN),
    (0, b"\x89PNG", "a PNG image", AGAIN),
    (0, b"\x7fELF", "a compiled program or library", TORCH),
)
# In text, where case and space before do not count.
TEXTS = (
    (b"<!doctype html", "a web page, such as that of a login or an error", AGAIN),
    (b"<html", "a web page, such as that of a login or an error", AGAIN),
    (b"<?xml", "XML text, such as a server's error", AGAIN),
    (b"<error", "XML text, such as a server's error", AGAIN),
    (b"model_checkpoint_path:", "the index of TensorFlow's checkpoints", TORCH),
)
# Formats without bytes of their own, by the end of the file's name.
ENDINGS = {
    ".onnx": ("an ONNX model", TORCH),
    ".pb": ("a TensorFlow graph", TORCH),
    ".meta": ("a TensorFlow graph", TORCH),
    ".msgpack": ("weights of Flax", TORCH),
    ".caffemodel": ("a Caffe model", TORCH),
    ".mlmodel": ("a Core ML model", TORCH),
    ".pdparams": ("weights of PaddlePaddle", TORCH),
    ".distcp": ("a part of a distributed checkpoint", "give its folder to torch's dcp_to_torch first"),
}
# The last bytes of a table of LevelDB, which TensorFlow's index files are.
LEVELDB = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"
# Members of zip archives, by the end of their names.
MEMBERS = (
    ("/constants.pkl", "a TorchScript archive, which holds code", SAVE),
    ("/archive_format", "a program of torch.export, which holds code", SAVE),
    (
        "serialized_exported_program.json",
        "a program of torch.export, which holds code",
        SAVE,
    ),  # of torch < 2.8
    ("model.weights.h5", "a Keras model", TORCH),
    (".npy", "NumPy arrays (.npz)", SAVE),
    ("/.data/python_version", "a package of torch.package, which holds code", SAVE),
)
# Files that show what a folder is; a file of weights in it is the remedy.
IN_FOLDERS = (
    (
        ".metadata",
        "a distributed checkpoint",
        "make a file of it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch {} weights.pth",
    ),
    ("saved_model.pb", "a TensorFlow SavedModel", TORCH),
    ("zero_to_fp32.py", "a checkpoint of DeepSpeed", "make a file of it by zero_to_fp32.py in it"),
    ("data.pkl", "an unpacked checkpoint", "give the file as torch.save wrote it"),
)
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ENDS_OF_WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")


def foreign(head: bytes, tail: bytes) -> str:
    """The format of a file that begins and ends so, and the remedy; '' if it may be a checkpoint."""
    if not head:
        return f"an empty file: {AGAIN}"
    if not head.strip(b"\0"):
        return f"nothing but zeros, as an interrupted download leaves them: {AGAIN}"
    text = _without_mark(head)
    for start, magic, kind, remedy in MAGIC:
        if head[start:].startswith(magic) or (start == 0 and text.startswith(magic)):
            return f"{kind}: {remedy}"
    text = text.lstrip().lower()
    for begin, kind, remedy in TEXTS:
        if text.startswith(begin):
            return f"{kind}: {remedy}"
    return f"the index of a TensorFlow checkpoint: {TORCH}" if tail.endswith(LEVELDB) else ""


def _without_mark(head: bytes) -> bytes:
    """The head of a text without its byte-order mark, in UTF-8; other heads as they are."""
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return head[: len(head) // 2 * 2].decode("utf-16", errors="replace").encode()
    return head.removeprefix(codecs.BOM_UTF8)


def foreign_archive(names: Iterable[str]) -> str:
    """The same for a zip archive with members of these names."""
    names = list(names)
    for end, kind, remedy in MEMBERS:
        if any(name.endswith(end) for name in names):
            return f"{kind}: {remedy}"
    if any(name.count("/") == 1 and name.endswith("/data.pkl") for name in names):
        return ""
    return f"a zip archive of other files ({listed(names, 3) or 'none'}): {UNPACK}"


def unreadable(head: bytes, path: Path) -> str:
    """The most that can be said of a file that torch cannot read."""
    kind, remedy = ENDINGS.get(path.suffix.lower(), ("", ""))
    if ".data-" in path.suffix:
        kind, remedy = "a part of a TensorFlow checkpoint", TORCH
    if kind:
        return f"{kind}: {remedy}"
    if head.lstrip()[:1] in (b"{", b"["):
        return f"JSON text, such as a server's error: {AGAIN}"
    text = head.decode("utf-8", errors="replace")[:-4]
    if text and all(letter.isprintable() or letter.isspace() for letter in text) and "\ufffd" not in text:
        return f"a text file: {AGAIN}"
    return f"not a checkpoint, or a damaged one; {SAVE}"


def folder(path: Path) -> str:
    """A folder's kind, and the file in it to give instead."""
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return f"a folder that cannot be listed: {error.strerror}"
    for name, kind, remedy in IN_FOLDERS:
        if name in names:
            return f"{kind}: {remedy.format(path)}"
    found = [name for name in WEIGHTS if name in names]
    found = found[:1] or [name for name in names if name.lower().endswith(ENDS_OF_WEIGHTS)]
    there = listed(found, 3)
    return f"a folder: give the file in it{there and f', {there}'}"
