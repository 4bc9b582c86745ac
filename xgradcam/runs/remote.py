"""Files behind URLs: of HTTP, and of the file systems that fsspec knows, such as s3:// and gs://."""

import os
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote, urlsplit
from urllib.request import url2pathname

from xgradcam.errors import XGradCamError, first_line
from xgradcam.files import open_regular
from xgradcam.pictures.formats import SUFFIXES

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.")
HTTP = re.compile(r"https?://", re.IGNORECASE)
FILE = re.compile(r"file://(localhost(?=/))?", re.IGNORECASE)
# Endings of files, of which nobody needs to ask whether they are folders.
FILES = SUFFIXES | {".npy", ".tar", ".parquet", ".pq"}
# Seconds without an answer after which a server is given up.
PATIENCE = 30.0
# Signs of a URL that stay as they are.
SIGNS = "%/:=&?~#+!$,;'@()*[]"


def is_url(place: str) -> bool:
    """True for a URL, unless there is a file of that name."""
    return URL.match(place) is not None and not os.path.lexists(place)


def local_path(place: str) -> str:
    """The path that a file:// URL means; any other place as it is."""
    if not FILE.match(place) or not is_url(place):
        return place
    return url2pathname(FILE.sub("", place))


def path_of(url: str) -> str:
    """The path in a URL, as people read it; of HTTP without what is asked of the server."""
    return unquote(urlsplit(url).path) if HTTP.match(url) else url.partition("://")[2]


def name_of(url: str) -> str:
    """The last part of the path in a URL."""
    return path_of(url).rpartition("/")[2].replace("\0", "_")


def read_range(place: str, start: int, size: int) -> bytes:
    """At most `size` bytes of a file or a URL's from `start` on; XGradCamError where they cannot be read."""
    if not is_url(place):
        with opened(place) as file:
            file.seek(start)
            return file.read(size)
    if HTTP.match(place) and not start:
        return _downloaded(place, size)
    with reading(place):
        system, path = _system(place)
        return cast(bytes, system.cat_file(path, start=start, end=start + size))


@contextmanager
def opened(place: str) -> Iterator[BinaryIO]:
    """An open file, or a URL's, that can be read at any place; XGradCamError where it cannot."""
    if is_url(place):
        with reading(place):
            system, path = _system(place)
            file = system.open(path, "rb")
        with file:
            yield file
        return
    with reading(place):
        file = open_regular(place)
    with file:
        yield file


def remote_files(url: str) -> list[str]:
    """The URLs of the files that a URL means: a pattern, a folder with its photographs, or a file."""
    if HTTP.match(url):
        return [url]
    with reading(url):
        system, path = _system(url)
        if any(sign in path for sign in "*?["):
            found = [one for one in sorted(system.glob(path)) if system.isfile(one)]
        elif os.path.splitext(path)[1].lower() in FILES or not system.isdir(path):
            return [url]
        else:
            found = [one for one in sorted(system.find(path)) if os.path.splitext(one)[1].lower() in SUFFIXES]
        shown = [one for one in found if not one.rpartition("/")[2].startswith(".")]
        return [system.unstrip_protocol(one) for one in shown]


@contextmanager
def reading(place: str) -> Iterator[None]:
    """Tell any error of reading a file or a URL, of whichever library, in a line."""
    try:
        yield
    except XGradCamError:
        raise
    except FileNotFoundError:
        raise XGradCamError(f"no such file: {place}") from None
    except OSError as error:
        raise XGradCamError(f"cannot read {place}: {error.strerror or first_line(error)}") from None
    except Exception as error:  # each library has errors of its own
        raise XGradCamError(f"cannot read {place}: {first_line(error)}") from None


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    from fsspec.core import url_to_fs

    found: tuple[Any, str] = url_to_fs(url)
    return found


def _downloaded(url: str, size: int) -> bytes:
    """At most `size` bytes by HTTP, for which fsspec needs further packages."""
    request = urllib.request.Request(quote(url, safe=SIGNS), headers={"User-Agent": "xgradcam"})
    with reading(url), urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        content: bytes = answer.read(size)
        length = answer.headers.get("Content-Length", "")
    if length.isdigit() and len(content) < min(int(length), size):
        raise XGradCamError(f"cannot read {url}: the connection broke off")
    return content
