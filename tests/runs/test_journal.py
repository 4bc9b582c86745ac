"""The journal of a run."""

import json
from pathlib import Path

from xgradcam.runs.journal import Journal
from xgradcam.runs.sources import Source, state_of


def test_what_another_photograph_is_said_to_have_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in "ab":
        Path(f"photos/{name}.jpg").write_text("photograph")
    sources = [Source("photos/a.jpg", Path("a")), Source("photos/b.jpg", Path("cat"))]
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
