"""Hostile pickles: a table of what they call, by which instruction, and where in a checkpoint."""

import contextlib
import importlib
import io
import os
import pickle
import struct
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
import torch

from xgradcam.errors import XGradCamError
from xgradcam.models.checkpoints import read_state_dicts
from xgradcam.models.unpickling import Inert, InertUnpickler

# What a pickle calls, and its arguments; each makes the file CANARY.
CANARY = "canary"
CODE = f"__import__('pathlib').Path('{CANARY}').touch()"
MKDIR = f"cos\nmkdir\n(V{CANARY}\ntR.".encode()
# Of a file as torch wrote it before 2020: the magic number, the version, the machine.
HEAD = b"".join(
    pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
)
FUNCTIONS = {
    "os.mkdir": [CANARY],
    "posix.mkdir": [CANARY],
    "os.system": [f"mkdir {CANARY}"],
    "subprocess.getoutput": [f"mkdir {CANARY}"],
    "builtins.exec": [CODE],
    "builtins.eval": [CODE],
    "__builtin__.eval": [CODE],
    "runpy.run_path": ["script.py"],
    "cProfile.run": [CODE],
    "timeit.timeit": ["pass", CODE],
    "importlib.import_module": ["hostile_module"],
    "pickle.loads": [MKDIR],
    "torch.storage._load_from_bytes": [HEAD + MKDIR],
    "xgradcam.models.user_code.build_own": ["script.py:model", None],
    "numpy.testing._private.utils.runstring": [CODE, {}],
    "numpy.memmap": [CANARY, "uint8", "w+", 0, 1],
    "logging.FileHandler": [CANARY],
}
# Of these, making an object without calling it is enough.
CLASSES = ("numpy.memmap",)


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def value_of(argument):
    if isinstance(argument, bytes):
        return b"B" + struct.pack("<I", len(argument)) + argument
    if isinstance(argument, str):
        return text(argument)
    if isinstance(argument, int):
        return b"K" + bytes([argument])
    return b"N" if argument is None else b"}"


def by_name(name):
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def by_stack(name):
    module, _, attribute = name.rpartition(".")
    return text(module) + text(attribute) + b"\x93"


def tuple_of(arguments):
    return b"(" + b"".join(map(value_of, arguments)) + b"t"


# Instructions that call: the pickle of (name, arguments), without its end.
ROUTES = {
    "REDUCE": lambda name, arguments: by_name(name) + tuple_of(arguments) + b"R",
    "STACK_GLOBAL": lambda name, arguments: by_stack(name) + tuple_of(arguments) + b"R",
    "NEWOBJ": lambda name, arguments: by_name(name) + tuple_of(arguments) + b"\x81",
    "NEWOBJ_EX": lambda name, arguments: by_name(name) + tuple_of(arguments) + b"}\x92",
    "OBJ": lambda name, arguments: b"(" + by_name(name) + b"".join(map(value_of, arguments)) + b"o",
    "INST": lambda name, arguments: b"(" + b"".join(map(value_of, arguments)) + b"i" + by_name(name)[1:],
    "getattr": lambda name, arguments: (
        by_name("builtins.getattr")
        + by_name("importlib.import_module")
        + text(name.rpartition(".")[0])
        + b"\x85R"
        + text(name.rpartition(".")[2])
        + b"\x86R"
        + tuple_of(arguments)
        + b"R"
    ),
    "memo": lambda name, arguments: by_name(name) + b"q\x010h\x01" + tuple_of(arguments) + b"R",
    "partial": lambda name, arguments: (
        by_name("functools.partial") + b"(" + by_name(name) + tuple_of(arguments)[1:] + b"R)R"
    ),
    # An object whose state says what `__setstate__` is, and then gets a state.
    "BUILD": lambda name, arguments: (
        by_name("types.SimpleNamespace")
        + b")R}"
        + text("__setstate__")
        + by_name(name)
        + b"sb"
        + value_of(arguments[0])
        + b"b"
    ),
    "tensor": lambda name, arguments: (
        by_name("torch._tensor._rebuild_from_type_v2")
        + b"("
        + by_name(name)
        + by_name("torch.Tensor")
        + tuple_of(arguments)
        + b"}tR"
    ),
}
# Places in a checkpoint: the pickle with the one of an object in it.
PLACES = {
    "itself": lambda made: made,
    "value": lambda made: b"}" + text("state_dict") + made + b"s",
    "key": lambda made: b"}" + made + b"K\x01s",
    "list": lambda made: b"(" + made + b"l",
    "set": lambda made: b"\x8f(" + made + b"\x90",
    "state": lambda made: by_name("collections.OrderedDict") + b")R" + made + b"b",
    "filled": lambda made: made + text("key") + b"K\x01s",
    "appended": lambda made: made + b"K\x01a",
    "parameter": lambda made: (
        b"}"
        + text("weight")
        + by_name("torch._utils._rebuild_parameter")
        + b"("
        + made
        + b"\x89"
        + by_name("collections.OrderedDict")
        + b")RtRs"
    ),
    "storage": lambda made: b"(" + text("storage") + made + text("0") + text("cpu") + b"K\x01tQ",
    "class": lambda made: b"(" + text("module") + made + text("file.py") + text("source") + b"tQ",
    "called": lambda made: made + b")R",
}
# Protocols 0 and 1 have no header.
HEADERS = [b"", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"]
FORMATS = ["zip", "legacy", "plain"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with files that make the canary when they are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("script.py", "hostile_module.py"):
        (tmp_path / name).write_text(CODE)
    return tmp_path


def write(path, content, kind):
    """A checkpoint with this pickle in it."""
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", content)
            archive.writestr("archive/byteorder", "little")
            archive.writestr("archive/version", "3\n")
            archive.writestr("archive/data/0", bytes(64))
    elif kind == "legacy":
        Path(path).write_bytes(HEAD + content + pickle.dumps([], protocol=2))
    else:
        Path(path).write_bytes(content)


def canary_was_made():
    """True once, if the canary is there; it is removed."""
    path = Path(CANARY)
    if path.is_dir():
        path.rmdir()
    elif path.exists():
        path.unlink()
    else:
        return False
    return True


def outcome(path):
    """`read`, or `refused` in one line; anything else is raised."""
    try:
        states = read_state_dicts(Path(path))
    except XGradCamError as error:
        return "refused" if "\n" not in str(error) else "refused in several lines"
    assert all(isinstance(key, str) for state in states.values() for key in state)
    return "read"


@pytest.mark.parametrize("route", ROUTES)
def test_python_would_run_what_is_refused_here(folder, route):
    """The table is live: by each route, Python's own unpickler makes the canary."""
    names = CLASSES if route.startswith("NEWOBJ") else ["os.mkdir"]
    for name in names:
        arguments = FUNCTIONS[name]
        try:
            pickle.loads(b"\x80\x04" + ROUTES[route](name, arguments) + b".")
        except AttributeError:  # of what the function returned, which is no tensor
            assert route == "tensor"
        assert canary_was_made(), name


@pytest.mark.parametrize("name", FUNCTIONS)
def test_python_would_run_every_function_of_the_table(folder, name, capfd):
    importlib.invalidate_caches()
    # What is made is no checkpoint, and the script has no model.
    with contextlib.suppress(XGradCamError, RuntimeError, EOFError):
        pickle.loads(b"\x80\x02" + ROUTES["REDUCE"](name, FUNCTIONS[name]) + b".")
    assert canary_was_made()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("route", ROUTES)
def test_no_pickle_runs_code(folder, route, kind):
    outcomes = Counter()
    for name, arguments in FUNCTIONS.items():
        for place in PLACES.values():
            for header in HEADERS if name == "os.mkdir" else HEADERS[-1:]:
                write("a.pth", header + place(ROUTES[route](name, arguments)) + b".", kind)
                outcomes[outcome("a.pth")] += 1
                assert not canary_was_made()
    assert outcomes == {"refused": (len(FUNCTIONS) - 1 + len(HEADERS)) * len(PLACES)}
    assert sorted(os.listdir()) == ["a.pth", "hostile_module.py", "script.py"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "content",
    [
        b"\x82\x01)R.",  # EXT1, EXT2, EXT4: a registered number for a class
        b"\x83\x01\x00)R.",
        b"\x84\x01\x00\x00\x00)R.",
        text(CODE) + b"Q.",
        b"P" + CODE.encode() + b"\n.",
        b"\x97.",
        b"C\x01a\x98.",
    ],
)
def test_what_refers_to_something_outside_is_refused(folder, content, kind):
    write("a.pth", b"\x80\x05" + content, kind)
    assert outcome("a.pth") == "refused"
    assert not canary_was_made()


def storage(length, kind="torch.FloatStorage", key="0"):
    return b"(" + text("storage") + by_name(kind) + text(key) + text("cpu") + number(length) + b"tQ"


def number(value):
    data = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + data


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(length, offset, size, stride):
    return (
        by_name("torch._utils._rebuild_tensor_v2")
        + b"("
        + storage(length)
        + number(offset)
        + numbers(size)
        + numbers(stride)
        + b"\x89}tR"
    )


def nested_pairs(depth):
    """A tuple of twice the tuple of twice ..., whose hash takes 2 ** depth steps, as a key."""
    return b"})" + b"q\x000h\x00h\x00\x86" * depth + b"K\x01s"


def nested_dictionaries(depth):
    names = ("state_dict", "model_state_dict", "model")
    content = {"depth": 18}
    for _ in range(depth):
        content = dict.fromkeys(names, content)
    return pickle.dumps(content, protocol=2)[2:-1]


def nested_lists(depth, of=list):
    content = {"depth": 18}
    for _ in range(depth):
        content = [content] * 3 if of is list else of(range(3), content)
    return pickle.dumps(content, protocol=2)[2:-1]


def shared_modules(depth):
    """A module of twice the module of twice ...: 2 ** depth tensors by name."""

    def module(state):
        return by_name("hostile.Module") + b")\x81" + state + b"b"

    parameters = b"}" + text("_parameters") + b"}" + text("w") + tensor(16, 0, [4], [1]) + b"ss"
    parts = b"}" + text("_modules") + b"}" + text("a") + b"h\x00s" + text("b") + b"h\x00ss"
    return module(parameters) + b"q\x00" + (b"0" + module(parts) + b"q\x00") * depth


def many_wrappers(depth):
    """Parameters of parameters of ..., each of them under a name of its own."""
    wrapped = b"".join(
        b"0"
        + by_name("torch.nn.parameter.Parameter")
        + b"h\x00\x85Rq\x00"
        + b"h\x01"
        + text(str(index))
        + b"h\x00s"
        for index in range(depth)
    )
    return b"}q\x01" + b"0K\x01q\x00" + wrapped


BOMBS = {
    "hash of nested pairs": b"\x80\x02" + nested_pairs(50) + b".",
    "set of nested pairs": b"\x80\x04\x8f" + nested_pairs(50)[1:-3] + b"\x94\x85\x90.",
    "nested thrice": b"\x80\x02" + nested_dictionaries(14) + b".",
    "lists nested thrice": b"\x80\x02" + nested_lists(14) + b".",
    "models under integers nested thrice": b"\x80\x02" + nested_lists(14, dict.fromkeys) + b".",
    "many models": b"\x80\x02](" + b"}" * 300_000 + b"e.",
    "shared modules": b"\x80\x02" + shared_modules(20) + b".",
    "shared modules without end": b"\x80\x02" + shared_modules(1000) + b".",
    "deep dictionaries": b"\x80\x02}" + (text("state_dict") + b"}") * 50_000 + b"s" * 50_000 + b".",
    "deep lists": b"\x80\x02" + b"]" * 300_001 + b"a" * 300_000 + b".",
    "itself": b"\x80\x02}q\x00" + text("model") + b"h\x00s.",
    "wrappers": b"\x80\x02" + many_wrappers(20_000) + b"0h\x01.",
    "long memo": b"\x80\x02K\x01r\xff\xff\xff\xff.",
    "long text": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"a.",
    "long bytes": b"\x80\x05\x96" + struct.pack("<Q", 2**33) + b"a.",
    "called with a length": b"\x80\x02" + by_name("builtins.bytearray") + number(2**33) + b"\x85R.",
    "tensor of a length": b"\x80\x02" + by_name("torch.FloatTensor") + number(2**33) + b"\x85R.",
    "keys of the same hash": b"\x80\x02}("
    + b"".join(b"\x8a\x10" + ((2**61 - 1) * key).to_bytes(16, "little") + b"N" for key in range(1, 60_000))
    + b"u.",
}


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_small_file_takes_little_time_and_memory(folder, bomb, kind):
    write("a.pth", BOMBS[bomb], kind)
    assert Path("a.pth").stat().st_size < 2_500_000
    # From here on, the peak is counted anew.
    Path("/proc/self/clear_refs").write_text("5")
    before, started = peak_memory(), time.process_time()
    assert outcome("a.pth") == "refused"
    assert time.process_time() - started < 2
    assert peak_memory() - before < 200e6


def peak_memory():
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return 1024 * int(line.split()[1])


@pytest.mark.parametrize("kind", ["zip", "legacy"])
@pytest.mark.parametrize("length", [-1, 17, 2**20, 2**40, 2**62, 2**70])
def test_a_storage_is_never_larger_than_the_file(folder, length, kind):
    content = storage(length) if kind == "zip" else storage(length).replace(b"tQ", b"NtQ")
    write("a.pth", b"\x80\x02}" + text("weight") + content + b"s.", kind)
    if kind == "legacy" and length == 17:
        length = Path("a.pth").stat().st_size
        write("a.pth", b"\x80\x02}" + text("weight") + storage(length).replace(b"tQ", b"NtQ") + b"s.", kind)
    reason = (
        "not a checkpoint" if length < 0 else rf"damaged\? \(fewer than the {length} numbers of storage 0\)"
    )
    with pytest.raises(XGradCamError, match=rf"^cannot read weights a\.pth: {reason}"):
        read_state_dicts(Path("a.pth"))


def test_the_tensor_of_these_tests_is_read_where_it_is_right(folder):
    write("a.pth", b"\x80\x02}" + text("weight") + tensor(16, 4, [2, 3], [4, 1]) + b"s.", "zip")
    (state,) = read_state_dicts(Path("a.pth")).values()
    assert torch.equal(state["weight"], torch.zeros(2, 3))


def test_objects_are_records():
    content = pickle.dumps({"path": Path("a"), "sizes": {1, 2}, "complex": 1j, "n": [1, (2.5, None, "x")]}, 4)
    loaded = InertUnpickler(io.BytesIO(content)).load()
    assert list(loaded) == ["path", "sizes", "complex", "n"]
    assert loaded["n"] == [1, (2.5, None, "x")]
    path, sizes, number_ = loaded["path"], loaded["sizes"], loaded["complex"]
    assert all(type(record) is Inert for record in (path, sizes, number_))
    assert path.name.endswith("PosixPath")
    assert path.arguments == ("a",)
    assert sizes.elements == [1, 2]
    assert (number_.name, number_.arguments) == ("builtins.complex", (0.0, 1.0))
