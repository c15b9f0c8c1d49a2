"""The gallery: tasks in an order, each with its candidates, as figures and as one HTML file."""

import base64
import io
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from arc_airv.metrics.tables import format_metrics
from arc_airv.plots.grids import plot_task
from arc_airv.storage import write_atomically
from arc_airv.tasks import Task

TABLE_STYLE = """<style>
.metrics td, .metrics th { text-align: left; padding: 2px 14px 2px 4px }
.metrics td:nth-child(2) { min-width: 9em }
</style>"""
DPI = 144  # of a picture, half as much again as that of a page
PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 56rem; margin: 2rem auto;
  padding: 0 1rem }}
h2 {{ font-size: 1.1rem; margin: 2.5rem 0 0 }}
p {{ margin: 0 0 .5rem }}
img {{ max-width: 100%; height: auto }}
</style>
<h1>{title}</h1>
{body}
</html>"""


def plot_gallery(
    order: pd.DataFrame, tasks: dict[str, Task], ranked: pd.DataFrame, *, n: int = 8
) -> Iterator[tuple[str, str, Figure]]:
    """Draw tasks in the order of `arc_airv.metrics.sort_tasks`, or its first rows, with candidates.

    Yields
    ------
    task_id, caption : str
        The caption holds the metrics of the task, "correct_pixels 43% · pass_n 100%".
    figure : Figure
        As of `plot_task`. Closed when the next one is asked for.
    """
    for task_id, metrics in order.iterrows():
        caption = " · ".join(f"{name} {value:.0%}" for name, value in metrics.items())
        figure = plot_task(tasks[task_id], ranked=ranked, n=n)
        yield task_id, caption, figure
        plt.close(figure)


def write_gallery(
    path: str | Path,
    gallery: Iterable[tuple[str, str, Figure]],
    *,
    title: str,
    notes: Iterable[str] = (),
    table: pd.DataFrame | None = None,
) -> Path:
    """Write what `plot_gallery` yields as one HTML file that needs no network and runs no script.

    The `notes`, which are sentences, and the `table`, an `arc_airv.metrics.metric_table`, are at
    the head of the page.
    """
    parts = [f"<p>{escape(note)}</p>" for note in notes]
    parts += [] if table is None else [metrics_html(table)]
    for task_id, caption, figure in gallery:
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI)
        picture = base64.b64encode(file.getvalue()).decode()
        width, name = f"{figure.get_figwidth() * 96:.0f}", escape(task_id)
        image = f'<img width="{width}" alt="{name}" src="data:image/png;base64,{picture}">'
        parts.append(f"<h2>{name}</h2>\n<p>{escape(caption)}</p>\n{image}")
    page = PAGE.format(title=escape(title), body="\n".join(parts))
    # An id may hold what UTF-8 cannot (a lone surrogate).
    write_atomically(path, page.encode("ascii", "xmlcharrefreplace").decode())
    return Path(path)


def metrics_html(table: pd.DataFrame) -> str:
    """Write a `arc_airv.metrics.metric_table` as an HTML table with a bar for each mean."""
    texts = format_metrics(table)
    rows = [[f"<th>{escape(name)}</th>" for name in texts]]
    for value, (metric, mean, *others) in zip(table["value"], texts.itertuples(index=False)):
        filled = f"{100 * value if value > 0 else 0:.1f}%"  # NaN is not
        bar = f"linear-gradient(to right, #BCD0E5 {filled}, transparent {filled})"
        rows.append([f"<td>{escape(metric)}</td>", f'<td style="background: {bar}">{mean}</td>'])
        rows[-1] += [f"<td>{escape(text)}</td>" for text in others]
    body = "\n".join("<tr>" + "".join(row) + "</tr>" for row in rows)
    return f'{TABLE_STYLE}\n<table class="metrics">\n{body}\n</table>'
