"""`examples/tutorial.ipynb` runs from its first cell to its last, and is kept without outputs."""

import base64
import json
import os
import re
import shutil
import warnings
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[1] / "examples" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def cells():
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def test_the_notebook_is_kept_without_outputs(cells):
    # Outputs would be a hundred times its size, and change with every run.
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert NOTEBOOK.stat().st_size < 20_000


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(tmp_path, monkeypatch):
    if not os.environ.get("CI"):  # there it has to run
        for package in ("nbformat", "nbclient", "ipykernel"):
            pytest.importorskip(package)
    import nbclient
    import nbformat

    for photograph in NOTEBOOK.parent.glob("*.jpg"):
        shutil.copy(photograph, tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the kernel's own sockets
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        client = nbclient.NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}
        )
        client.execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output for output in outputs if "data" in output]
    pictures = [output.data["image/png"] for output in shown if "image/png" in output.data]
    assert len(pictures) == 4
    for picture in pictures:
        assert base64.b64decode(picture).startswith(b"\x89PNG")
    pages = [output.data["text/html"] for output in shown if "text/html" in output.data]
    assert any("espresso" in page and "conservation error" in page for page in pages)
    assert any("Eq. 5 holds" in page for page in pages)
    texts = "".join(output.text for output in outputs if output.output_type == "stream")
    assert re.search(r"complete-cam +0\.000", texts)
    assert "in the features: -3% of the score" in texts
    assert {"espresso.pdf", "methods.svg", "evaluation-axioms.pdf"} <= set(texts.split())
    tables = [output.data["text/markdown"] for output in shown if "text/markdown" in output.data]
    assert "| complete-cam |" in tables[0]
    assert not any(output.output_type == "error" for output in outputs)
    assert "Warning" not in texts
