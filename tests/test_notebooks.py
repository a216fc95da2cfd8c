"""The notebooks of the documentation run in Jupyter, as they are, and show what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


class Reader(nbclient.NotebookClient):
    """A reader of a notebook, who keeps what each cell showed while it ran, in order."""

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "update_display_data":
            self.__dict__.setdefault("redrawn", []).append((cell_index, msg["content"]["data"]["text/html"]))
        return super().process_message(msg, cell, cell_index)


def test_there_is_a_notebook() -> None:
    assert [path.name for path in NOTEBOOKS] == ["first.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in cells] == [([], None)] * len(cells)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_is(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    reader = Reader(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    reader.execute()
    outputs = [[dict(each.get("data", {})) for each in cell.get("outputs", [])] for cell in notebook.cells]
    trained, tables, frame, chart, balanced, stopped = (
        next(outputs[i] for i, cell in enumerate(notebook.cells) if cell.source.endswith(text))
        for text in ("result = fedrl.run(experiment)", "result", '"seconds"]].mean()', ".plot()", "\nsteps", ".max())")
    )
    # One output, redrawn while rounds end in other threads, with the last state at the end.
    assert len(trained) == 1
    pages = [html for _, html in reader.__dict__["redrawn"]]
    assert len({html for html in pages if "seed 0, round " in html}) >= 3
    assert trained[0]["text/html"] == pages[-1]
    assert trained[0]["text/html"].count("return ") == 2
    assert "independent" in tables[0]["text/html"]
    assert "run folder" in tables[0]["text/html"]
    assert "<table" in frame[0]["text/html"]
    assert {"federated", "independent"} <= {line["name"] for line in chart[0]["application/vnd.plotly.v1+json"]["data"]}
    assert int(balanced[0]["text/plain"]) > 50
    assert 1 <= int(stopped[0]["text/plain"]) < 20
