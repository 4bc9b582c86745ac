"""Checks that run while mkdocs builds the site: see `hooks` in mkdocs.yml."""

import re
from typing import Any

from mkdocs.exceptions import PluginError

LOADED = re.compile(r'<(?:script|img|iframe|link)\b[^>]*?\b(?:src|href)="?(https?:)?//[^>]*>')


def on_post_page(output: str, page: Any, **_: object) -> str:
    """Stop where a page would load a script, a font, a style or a picture from elsewhere."""
    if found := LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads something from elsewhere: {found.group()}")
    return output
