"""Draw the README's picture: a task, and below it the candidates of its first test output.

    python res/make/gallery.py --predictions demo/predictions.jsonl --tasks demo/tasks.json \\
        --task c8b7cc0f
"""

import argparse
import io

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from arc_airv.plots.grids import plot_candidates, plot_task
from arc_airv.records import read_predictions
from arc_airv.tasks import load_tasks
from arc_airv.vote.rank import rank_candidates


def pixels(figure: Figure) -> np.ndarray:
    """Return the figure as an image of shape (height, width, 3), cropped to its content."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    buffer.seek(0)
    return plt.imread(buffer)[:, :, :3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--predictions", default="demo/predictions.jsonl")
    parser.add_argument("--tasks", default="demo/tasks.json")
    parser.add_argument("--task", required=True)
    parser.add_argument("--candidates", default=8, type=int)
    parser.add_argument("--into", default="res/gallery.png")
    args = parser.parse_args()
    task = load_tasks(args.tasks)[args.task]
    ranked = rank_candidates(read_predictions(args.predictions))
    images = [
        pixels(plot_task(task)),
        pixels(plot_candidates(ranked, task, 0, n=args.candidates)),
    ]
    width = max(image.shape[1] for image in images)
    rows = [
        np.pad(image, ((0, 12), (0, width - image.shape[1]), (0, 0)), constant_values=1)
        for image in images
    ]
    plt.imsave(args.into, np.vstack(rows))
    print(args.into)


if __name__ == "__main__":
    main()
