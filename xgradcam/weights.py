"""Weights: read a file without running its code, fetch torchvision's, fit them to a model."""

import http.client
import pickle
import re
import socket
import threading
import urllib.error
import urllib.request
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from xgradcam.errors import XGradCamError

CONNECT_SECONDS = 6.0
NESTED_UNDER = ("state_dict", "model_state_dict", "model")
# Of DataParallel, of torch.compile, and of the one inside the other.
WRAPPERS = ("module.", "_orig_mod.", "module.")

Report = Callable[[str], None]


class WeightsUnavailableError(XGradCamError):
    """Weights that are neither cached nor reachable."""


def read_state_dict(path: Path) -> Mapping[str, Tensor]:
    """The named tensors in a checkpoint (`.pth`, `.safetensors`, ...), mapped into memory where that can be.

    A state dict nested under `state_dict`, `model_state_dict`, `model`, or any other name if it is the only
    one, is found; the prefixes of DataParallel, `module.`, and of torch.compile, `_orig_mod.`, are removed.
    Only tensors are read: a pickle that would run code is refused with XGradCamError.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise XGradCamError(f"cannot read weights {path}: {error.strerror}") from None
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for key in NESTED_UNDER:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    tensors = _tensors_in(loaded)
    if not tensors:
        nested = {key: value for key, value in _items(loaded) if _tensors_in(value)}
        if len(nested) != 1:
            names = f"; there is: {', '.join(map(str, loaded))}" if isinstance(loaded, Mapping) else ""
            raise XGradCamError(
                f"no state dict in {path}{names}: save one with torch.save(model.state_dict(), ...)"
            )
        (loaded,) = nested.values()
        tensors = _tensors_in(loaded)
    for prefix in WRAPPERS:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    state = OrderedDict(tensors)
    # Keeps the versions by which modules read checkpoints of older layouts.
    state._metadata = getattr(loaded, "_metadata", None)  # type: ignore[attr-defined]
    return state


def _items(loaded: Any) -> Iterable[tuple[Any, Any]]:
    return loaded.items() if isinstance(loaded, Mapping) else ()


def _tensors_in(loaded: Any) -> dict[str, Tensor]:
    return {key: value for key, value in _items(loaded) if isinstance(key, str) and isinstance(value, Tensor)}


def fit(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Give the tensors of `state` to the model, without a copy where the number type is the model's.

    If all their names begin with one more name, as where the model was a part of what was saved, it is left
    out: `model.` of Lightning's checkpoints.
    Raises XGradCamError that names the keys which are missing, unknown, or of another shape.
    """
    wanted = model.state_dict()
    state = _in_the_models_terms(_unwrapped(state, wanted), wanted)
    problems = [
        *_named("missing", (key for key in wanted if key not in state)),
        *_named("unknown", (key for key in state if key not in wanted)),
        *_named(
            "of another shape",
            (
                f"{key} {tuple(state[key].shape)}, the model's is {tuple(wanted[key].shape)}"
                for key in wanted
                if key in state and state[key].shape != wanted[key].shape
            ),
        ),
    ]
    if problems:
        raise XGradCamError(
            f"weights of {source} do not fit this {type(model).__name__}: {'; '.join(problems)}"
        )
    model.load_state_dict(state, assign=True)


def cached_file(url: str) -> Path:
    """Where torch hub keeps, or would keep, the file of this URL."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def fetch(url: str, size: str, report: Report) -> Path:
    """The file of this URL from torch hub's cache, downloaded into it first if need be, with a progress bar.

    The download is checked against the hash in its name and appears in the cache whole or not at all.
    Raises WeightsUnavailableError where it cannot be had; a dead connection ends within 15 seconds.
    """
    path = cached_file(url)
    try:
        if path.exists():
            return path
    except OSError as error:
        raise WeightsUnavailableError(f"the cache {path.parent}: {error.strerror}") from None
    require_reachable(url)
    report(f"downloading {url} ({size}) to {path}")
    digest = torch.hub.HASH_REGEX.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _socket_timeout(CONNECT_SECONDS):
            torch.hub.download_url_to_file(url, str(path), digest.group(1) if digest else None)
    except RuntimeError as error:
        raise WeightsUnavailableError(f"the download of {url} is broken or cut short: {error}") from None
    except OSError as error:
        raise WeightsUnavailableError(f"the download of {url} failed: {_reason(error)}") from None
    return path


def require_reachable(url: str) -> None:
    """Raise WeightsUnavailableError unless `url` answers within `CONNECT_SECONDS`, name look-up and all."""
    outcome: list[Exception | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "xgradcam"})
        try:
            with urllib.request.urlopen(request, timeout=CONNECT_SECONDS):
                outcome.append(None)
        except urllib.error.HTTPError:
            # It answers; whether it has the file is seen when that is asked for.
            outcome.append(None)
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome.append(error)

    # A name look-up knows no timeout and a host may have many addresses: only a thread can be left behind.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS + 1)
    host = urlparse(url).netloc
    if not outcome:
        raise WeightsUnavailableError(f"{host} does not answer")
    if outcome[0] is not None:
        raise WeightsUnavailableError(f"{host}: {_reason(outcome[0])}")


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise XGradCamError(f"cannot read weights {path}: {error}") from None


def _read_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # torch warns of other pickle protocols; what it cannot read, it refuses.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if re.search("Unsupported (global|class)|GLOBAL ", str(error)):
            raise XGradCamError(
                f"refused to read {path}: it holds more than tensors, and reading that could run code; "
                "save a state dict: torch.save(model.state_dict(), ...)"
            ) from None
        raise XGradCamError(f"cannot read weights {path}: not a checkpoint, or a damaged one") from None
    # A damaged file makes torch raise many kinds of error.
    except Exception as error:
        first_line = (str(error) or type(error).__name__).splitlines()[0]
        if "TorchScript" in first_line:
            raise XGradCamError(
                f"refused to read {path}: a TorchScript archive, which holds code; save a state dict: "
                "torch.save(model.state_dict(), ...)"
            ) from None
        raise XGradCamError(f"cannot read weights {path}: damaged? ({first_line})") from None


def _unwrapped(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state without a first name that all of its tensors share and none of the model's has."""
    first, dot, _ = next(iter(state), "").partition(".")
    prefix = first + dot
    if not dot or not all(key.startswith(prefix) for key in state):
        return state
    if any(key.startswith(prefix) for key in wanted):
        return state
    return OrderedDict((key.removeprefix(prefix), value) for key, value in state.items())


def _in_the_models_terms(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The state with the names, number types and counters of today's model; old checkpoints lack some."""
    fitted: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in state.items():
        # torchvision's DenseNets were saved with a dot that module names may no longer have.
        key = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12]\.)", r"\1\2", key)
        fitted[key] = value.to(wanted[key].dtype) if key in wanted else value
    for key in wanted:
        if key.endswith("num_batches_tracked"):
            fitted.setdefault(key, torch.tensor(0))
    fitted._metadata = getattr(state, "_metadata", None) or getattr(wanted, "_metadata", None)  # type: ignore[attr-defined]
    return fitted


def _named(what: str, keys: Iterable[str]) -> Iterator[str]:
    listed = list(keys)
    if listed:
        more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
        yield f"{what}: {', '.join(listed[:3])}{more}"


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)
