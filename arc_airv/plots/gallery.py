"""The gallery: tasks in an order, each with its candidates, as figures; metrics as a table."""

from collections.abc import Iterator
from html import escape

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from arc_airv.metrics.tables import format_metrics
from arc_airv.plots.grids import plot_task
from arc_airv.tasks import Task

TABLE_STYLE = """<style>
.metrics td, .metrics th { text-align: left; padding: 2px 14px 2px 4px }
.metrics td:nth-child(2) { min-width: 9em }
</style>"""


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
