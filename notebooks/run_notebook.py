"""Run a notebook with other parameters and save it with its outputs, as .ipynb and HTML.

    python notebooks/run_notebook.py notebooks/01_generate_predictions.ipynb --into demo N_TASKS=4

Each NAME=VALUE is a Python literal (or else a string), set after the cell tagged "parameters". The
command prints each section as it starts, and every half minute what it last printed. The output of
the kernel and its child processes, which end with this one, goes to <notebook>.log, which an
exception names.
"""

import argparse
import ast
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

from arc_airv.engines.lifetime import tie_children

HEARTBEAT = 30.0  # seconds


def run_notebook(path: str | Path, into: str | Path, **parameters: Any) -> Path:
    """Execute a notebook in the current folder and return the path of its HTML page."""
    path, into = Path(path), Path(into)
    notebook = nbformat.read(path, as_version=4)
    tagged = [i for i, c in enumerate(notebook.cells) if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path}: must have one cell tagged 'parameters', has {len(tagged)}")
    source = notebook.cells[tagged[0]].source
    unknown = [name for name in parameters if f"{name} =" not in source]
    if unknown:
        raise ValueError(f"{path}: has no parameter {unknown}")
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    cell = nbformat.v4.new_code_cell("\n".join(["# Set from outside:", *lines]))
    notebook.cells.insert(tagged[0] + 1, cell)
    into.mkdir(parents=True, exist_ok=True)
    log = into / f"{path.stem}.log"
    with open(log, "wb") as file, _progress(notebook.cells) as on_cell_start, tie_children():
        client = NotebookClient(
            notebook,
            timeout=3600,
            resources={"metadata": {"path": "."}},
            on_cell_start=on_cell_start,
        )
        try:
            client.execute(stdout=file, stderr=file)
        except Exception as error:
            tail = log.read_text(errors="replace").splitlines()[-20:]
            error.add_note("\n".join([f"{log} ends:", *tail]))
            raise
        finally:  # so that a failed notebook shows where it failed
            nbformat.write(notebook, into / path.name)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    html = into / f"{path.stem}.html"
    html.write_text(page)
    return html


@contextmanager
def _progress(cells: list[Any]) -> Iterator[Any]:
    """Print the heading of the running cell at once, and its last line of output as a heartbeat.

    Yields the function to call with the number of each cell as it starts.
    """
    start, over, heading, running = time.monotonic(), threading.Event(), "", {}

    def say(text: str) -> None:
        print(f"{time.monotonic() - start:5.0f} s  {text}", flush=True)

    def on_cell_start(cell: Any, cell_index: int) -> None:
        nonlocal heading, running
        running = cell
        above = [c.source for c in cells[:cell_index] if c.cell_type == "markdown"]
        titles = [text.splitlines()[0].strip("# ") for text in above if text.startswith("#")]
        if titles and titles[-1] != heading:
            heading = titles[-1]
            say(heading)

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            text = "".join(output.get("text", "") for output in running.get("outputs", []))
            lines = re.split(r"[\r\n]+", text.strip())
            # An engine's own processes print under their ids.
            last = next((line for line in lines[::-1] if "pid=" not in line), "")
            say(f"... {heading}" + (f": {last}" if last else ""))

    threading.Thread(target=beat, daemon=True).start()
    try:
        yield on_cell_start
    finally:
        over.set()


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook")
    parser.add_argument("--into", default="runs")
    parser.add_argument("parameters", nargs="*", metavar="NAME=VALUE")
    args = parser.parse_intermixed_args()
    given = dict(text.split("=", 1) for text in args.parameters)
    print(run_notebook(args.notebook, args.into, **{k: _literal(v) for k, v in given.items()}))


if __name__ == "__main__":
    main()
