"""Download torchvision's weights into torch hub's cache."""

import http.client
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch

from xgradcam.errors import WeightsUnavailableError

CONNECT_SECONDS = 6.0

Report = Callable[[str], None]


def cached_file(url: str) -> Path:
    """Path of this URL's file in torch hub's cache, be it there or not."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name


def fetch(url: str, size: str, report: Report) -> Path:
    """Path of this URL's file in torch hub's cache; it is downloaded first if it is not there.

    size: for `report`, which is called with a line when the download starts. torch shows a progress bar.
    The download is checked against the hash in its name, and appears in the cache whole or not at all.
    Raises WeightsUnavailableError if it fails. A dead connection is given up within 15 seconds.
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
    """Raise WeightsUnavailableError unless `url` answers within `CONNECT_SECONDS`, name look-up included."""
    outcome: list[Exception | None] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "xgradcam"})
        try:
            with urllib.request.urlopen(request, timeout=CONNECT_SECONDS):
                outcome.append(None)
        except urllib.error.HTTPError:
            # The server answers. If it lacks the file, the download will say so.
            outcome.append(None)
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome.append(error)

    # A name look-up takes no timeout, and a host may have many addresses. A thread can be abandoned.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS + 1)
    host = urlparse(url).netloc
    if not outcome:
        raise WeightsUnavailableError(f"{host} does not answer")
    if outcome[0] is not None:
        raise WeightsUnavailableError(f"{host}: {_reason(outcome[0])}")


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """The default timeout of new sockets, within the block."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: Exception) -> str:
    """Why a connection failed, in the system's words."""
    reason = getattr(error, "reason", None) or error
    return str(getattr(reason, "strerror", None) or reason or type(reason).__name__)
