"""The journal of a run."""

import json
from pathlib import Path

import pytest

from xgradcam.errors import XGradCamError
from xgradcam.runs.journal import Journal
from xgradcam.runs.sources import Source, state_of


def test_what_another_photograph_is_said_to_have_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in "ab":
        Path(f"photos/{name}.jpg").write_text("photograph")
    sources = [Source("photos/a.jpg", "a"), Source("photos/b.jpg", "cat")]
    record = {"files": {"grad-cam": "cat_1.jpg"}}
    for name in ("a_1.jpg", "cat_1.jpg"):
        Path(name).touch()
    lines = [
        {},
        {"image": "photos/a.jpg", "stem": "cat", **state_of("photos/a.jpg"), "records": [record]},
        {"image": "photos/b.jpg", "stem": "cat", "bytes": 0, "modified": 0, "records": [record]},
        {
            "image": "photos/a.jpg", "stem": "a", **state_of("photos/a.jpg"),
            "records": [{"files": {"grad-cam": "a_1.jpg"}}],
        },
    ]  # fmt: skip
    Path("xgrad-cam.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with Journal(Path(), {}, sources, resume=True) as journal:
        assert journal.done == {"photos/a.jpg": lines[3]["records"]}
    assert Path("cat_1.jpg").exists()
    assert Path("a_1.jpg").exists()
    left = [json.loads(line) for line in Path("xgrad-cam.jsonl").read_text().splitlines()]
    assert left == [lines[0], lines[2], lines[3]]


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """Three photographs, each with a result."""
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        Path(f"{name}.jpg").write_text("photograph")
        Path(f"{name}_1_cam.jpg").write_text("map")
    return [Source(f"{name}.jpg", name) for name in "abc"]


def records_of(source):
    return [{"image": source.path, "files": {"grad-cam": f"{source.stem}_1_cam.jpg"}}]


def test_what_was_added_is_complete_for_the_next_run_and_in_the_order_of_the_photographs(sources):
    with Journal(Path(), {"classes": [1]}, sources, resume=False) as journal:
        for source in (sources[2], sources[0]):
            journal.add(source, state_of(source.path), records_of(source))
        assert journal.records() == [*records_of(sources[0]), *records_of(sources[2])]
    with Path("xgrad-cam.jsonl").open("a") as file:
        file.write('{"image": "b.jpg", "rec')
    with Journal(Path(), {"classes": [1]}, sources, resume=True) as journal:
        assert journal.done == {source.path: records_of(source) for source in (sources[2], sources[0])}
    with Journal(Path(), {"classes": [1]}, sources, resume=False) as journal:
        assert journal.done == {}


def test_what_changed_or_has_no_file_is_not_complete(sources):
    with Journal(Path(), {}, sources, resume=False) as journal:
        for source in sources:
            journal.add(source, state_of(source.path), records_of(source))
    Path("a.jpg").write_text("another photograph")
    Path("b_1_cam.jpg").unlink()
    with Journal(Path(), {}, sources, resume=True) as journal:
        assert journal.done.keys() == {"c.jpg"}


def test_a_run_of_other_settings_does_not_go_on(sources):
    with Journal(Path(), {"classes": [1], "photographs": ["a.jpg"]}, sources, resume=False) as journal:
        journal.add(sources[0], state_of("a.jpg"), records_of(sources[0]))
    before = Path("xgrad-cam.jsonl").read_bytes()
    with pytest.raises(XGradCamError, match=r"cannot go on .*: it had other settings for classes"):
        Journal(Path(), {"classes": [2], "photographs": ["a.jpg"]}, sources, resume=True)
    Journal(Path(), {"classes": [1], "photographs": ["a.jpg", "b.jpg"]}, sources, resume=True)
    # One that is recorded only where it is said is missed where it is not.
    with pytest.raises(XGradCamError, match="it had other settings for classes"):
        Journal(Path(), {"photographs": ["a.jpg"]}, sources, resume=True)
    assert Path("xgrad-cam.jsonl").read_bytes() == before
