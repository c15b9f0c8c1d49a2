"""Run a notebook with other parameters, and save it with its outputs: as .ipynb and as HTML.

    python notebooks/run_notebook.py notebooks/01_generate_predictions.ipynb --into demo N_TASKS=4

Each NAME=VALUE is a Python literal (or else a string), set after the cell tagged "parameters".
"""

import argparse
import ast
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter


def run_notebook(path: str | Path, into: str | Path, **parameters: Any) -> Path:
    """Execute a notebook in the current folder; returns the path of the HTML page."""
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
    client = NotebookClient(notebook, timeout=3600, resources={"metadata": {"path": "."}})
    try:
        client.execute()
    finally:  # a notebook that failed shows where
        nbformat.write(notebook, into / path.name)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    html = into / f"{path.stem}.html"
    html.write_text(page)
    return html


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
