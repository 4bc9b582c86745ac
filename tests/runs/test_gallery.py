import json
import math
import os
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest

from tests.runs.page_support import HOSTILE, record
from xgradcam import XGradCamError
from xgradcam.runs.gallery import SCRIPTS, relative_url, write_gallery


class Page(HTMLParser):
    """A page taken apart: the tags, the title, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.inside = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id", tag)

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        self.texts[self.inside] = self.texts.get(self.inside, "") + data

    @property
    def records(self):
        return json.loads(self.texts["records"])


def written(folder, records, title="Run"):
    return Page(write_gallery(folder, records, title).read_text(encoding="utf-8"))


def test_hostile_names_come_back_as_they_were(tmp_path):
    records = [record(name, class_name=name, notes=[name], model=name, layer=name) for name in HOSTILE]
    page = written(tmp_path, records)
    plain = written(tmp_path, [record()])
    for found, sent in zip(page.records, records, strict=True):
        for key in ("image", "class_name", "notes", "model", "layer", "score", "probability", "rank"):
            assert found[key] == sent[key]
    assert page.tags == plain.tags


def test_the_data_are_all_there_in_their_order(tmp_path):
    records = [record(f"{n}.jpg", conservation_error={"xgrad-cam": n / 7}) for n in range(20)]
    assert written(tmp_path, iter(records)).records == records


@pytest.mark.parametrize("title", HOSTILE)
def test_a_title_is_text(tmp_path, title):
    page = written(tmp_path, [record()], title)
    assert page.tags == written(tmp_path, [record()]).tags
    assert page.texts["title"] == page.texts["h1"] == title


@pytest.mark.parametrize("name", [*HOSTILE, os.fsdecode(b"caf\xe9"), "folder/..a/b c.jpg", "https"])
def test_urls_lead_to_the_files(tmp_path, name):
    name = name.replace("/", "_") if name.startswith("<") else name
    for path in (tmp_path / name, tmp_path / f"map of {name}", tmp_path / f"maps of {name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"picture")
    sent = record(photograph=name, page_maps=f"maps of {name}", files={"grad-cam": f"map of {name}"})
    (found,) = written(tmp_path, [sent]).records
    for url in (found["photograph"], found["page_maps"], found["files"]["grad-cam"]):
        assert url.isascii()
        assert not set(url) & set("?#:\\\"'<> &")
        assert Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + unquote_to_bytes(url))).is_file()


def test_a_url_is_the_path_percent_encoded():
    assert relative_url("maps/50% #1.jpg") == "maps/50%25%20%231.jpg"
    assert relative_url(os.fsdecode(b"\xff.jpg")) == "%FF.jpg"


def test_a_name_that_is_no_unicode_is_written(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    assert written(tmp_path, [record(name)], title=name).records[0]["image"] == name


def test_numbers_that_are_none_are_null(tmp_path):
    sent = record(score=math.nan, probability=math.inf, conservation_error={"xgrad-cam": -math.inf})
    (found,) = written(tmp_path, [sent]).records
    assert (found["score"], found["probability"], found["conservation_error"]) == (
        None,
        None,
        {"xgrad-cam": None},
    )


def test_the_page_needs_nothing_but_the_pictures(tmp_path):
    text = write_gallery(tmp_path, [record()], "Run").read_text(encoding="utf-8")
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text
    for tag, attrs in page.tags:
        assert "src" not in attrs
        assert attrs.get("href", "data:,") == "data:,"
        assert not any(name.startswith("on") for name in attrs), tag


@pytest.mark.parametrize("name", ["theme.css", "page.css", *(f"{name}.js" for name in SCRIPTS)])
def test_the_parts_may_stand_in_html(name):
    part = (files("xgradcam.runs") / "page" / name).read_text(encoding="utf-8")
    assert "</" not in part
    assert "<!--" not in part
    assert "innerHTML" not in part


def test_the_page_is_written_whole_or_not_at_all(tmp_path):
    page = write_gallery(tmp_path, [record()], "Old")
    assert page == tmp_path / "index.html"
    before = page.read_bytes()

    def interrupted():
        yield record()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_gallery(tmp_path, interrupted(), "New")
    assert page.read_bytes() == before
    assert os.listdir(tmp_path) == ["index.html"]
    with pytest.raises(XGradCamError, match=r"cannot write .*index.html"):
        write_gallery(tmp_path / "gone", [record()], "Run")


def test_ids_that_labels_and_scripts_name_are_there_once(tmp_path):
    tags = written(tmp_path, [record()]).tags
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in tags:
        named = [*attrs.get("for", "").split(), *attrs.get("aria-labelledby", "").split()]
        assert set(named) <= set(ids)
