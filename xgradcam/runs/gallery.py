"""The page of a run: every map over its photograph, in one HTML file that opens from disk.

Its parts lie in `page/`: the style, and the script in one file for each subject, all put into the page.
"""

import base64
import html
import json
import math
import os
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path, PurePath
from string import Template
from typing import Any
from urllib.parse import quote

from xgradcam.cam.methods import METHODS
from xgradcam.figures.drawing import IN_UNITS_OF_THE_SCORE
from xgradcam.files import write_files
from xgradcam.pictures.paint import DEFAULT_STYLE, Style, colours_of

PAGE = "index.html"
# The script's files, in an order in which each finds what it needs at once.
SCRIPTS = (
    *("records", "maps", "colours", "pictures", "truth", "cards", "filters", "choices", "large", "keys"),
    *("address", "export", "main"),
)
# Colour maps of the page; the first four are even in lightness and safe for colour-blind readers.
COLORMAPS = ("inferno", "viridis", "cividis", "magma", "turbo", "jet", "bone")
# Percents that colours cover, unless the run was told; and a signed map's full colours over that.
OPACITY, COVER = 60, 1.5
# Keys of a record that the page does not need.
LEFT_OUT = ("written",)


def write_gallery(
    folder: Path, records: Iterable[Mapping[str, Any]], title: str, style: Style = DEFAULT_STYLE
) -> Path:
    """Write `index.html` beside the pictures of a run, whole or not at all, and return its path.

    records: one for each photograph and class, as in the run's JSON; `photograph` and `files` are paths
    relative to the folder. style: of the run's pictures, in whose colours the page begins. The page holds its
    style, script and data, and loads nothing but the pictures.
    Raises XGradCamError where it cannot be written.
    """
    page = folder / PAGE
    write_files({page: render_page(records, title, style).encode("utf-8", "replace")})
    return page


def render_page(records: Iterable[Mapping[str, Any]], title: str, style: Style = DEFAULT_STYLE) -> str:
    """The page as HTML text."""
    named = [] if style.named is None else [style.named]
    lines = ",\n".join(_script_json(_with_urls(record)) for record in records)
    return Template(page_part("page.html")).substitute(
        title=html.escape(title),
        style=page_part("theme.css") + page_part("page.css"),
        methods=_script_json(
            {
                name: {"title": method.title, "logit": name in IN_UNITS_OF_THE_SCORE}
                for name, method in METHODS.items()
            }
        ),
        colours=_script_json(
            {
                name: base64.b64encode(colours_of(name).tobytes()).decode()
                for name in dict.fromkeys((*COLORMAPS, *named))
            }
        ),
        look=_script_json(look_at_first(style)),
        records=f"[\n{lines}\n]",
        script="\n".join(page_part(f"{name}.js") for name in SCRIPTS),
    )


def look_at_first(style: Style) -> dict[str, Any]:
    """The colours that the page begins in: those of a style, as far as it names any.

    table: of signed maps, None for blue and red.
    """
    opacity = OPACITY
    if style.alpha is not None:
        opacity = round(100 * style.alpha / (COVER if style.signed else 1))
    return {
        "colours": style.named or COLORMAPS[0],
        "opacity": opacity,
        "signed": style.signed,
        "table": style.named if style.signed else None,
    }


def relative_url(path: str) -> str:
    """A path relative to the page as a URL: `50% #1.jpg` -> `50%25%20%231.jpg`; it need not be UTF-8."""
    return quote(os.fsencode(PurePath(path).as_posix()))


def _with_urls(record: Mapping[str, Any]) -> dict[str, Any]:
    urls = {method: relative_url(path) for method, path in record["files"].items()}
    found = {key: relative_url(record[key]) for key in ("photograph", "page_maps") if key in record}
    return {**{key: value for key, value in record.items() if key not in LEFT_OUT}, **found, "files": urls}


def _script_json(value: object) -> str:
    """JSON that is safe inside <script>: ASCII, no `<`, which could begin `</script>`, and no NaN."""
    return json.dumps(_finite(value), allow_nan=False).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    """The value with None in place of NaN and infinities, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def page_part(name: str) -> str:
    """The text of a file of the page: its HTML, styles and scripts."""
    return (files("xgradcam.runs") / "page" / name).read_text(encoding="utf-8")
