"""Ask the shipped model every ARC-AGI-1 evaluation task: the dumps that the results come from.

    python res/make/dumps.py                    # hours of two cores; resumes where it was stopped

Smaller tasks get more views, since they cost less and more of them are solved. The baseline, as
many samples of the plain task, covers the smallest. A task that exceeds the model's context is
asked with fewer demonstrations.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from evaluate import tasks_between
from sweep import run_one

from arc_airv.engines import make_engine
from arc_airv.tasks import load_tasks

# Its test pair is in the training data of `small`, in other colours (see the card): the task is not
# asked, and counts as wrong.
SEEN = "50a16a69"


@dataclass(frozen=True)
class Dump:
    """Hold what the tasks of a range of sizes are asked.

    Attributes
    ----------
    folder : str
        Below res/dumps.
    runs : tuple of str
        Names of `sweep.runs`.
    n : int
        Predictions of each test output.
    above, up_to : int
        Tokens of the longest question with its answer.
    """

    folder: str
    runs: tuple[str, ...]
    n: int
    above: int
    up_to: int


DUMPS = (
    Dump("1024", ("t0.00", "plain-t0.50"), 32, 0, 1024),
    Dump("9400", ("t0.00-shortened",), 2, 4096, 10**6),
    Dump("2048", ("t0.00",), 16, 1024, 2048),
    Dump("4096", ("t0.00",), 8, 2048, 4096),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="res/small")
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--into", default="res/dumps", type=Path)
    args = parser.parse_args()
    engine, tasks = make_engine(args.engine, args.model, {}), load_tasks(args.tasks)
    tasks.pop(SEEN, None)
    for dump in DUMPS:
        fitting = tasks_between(tasks, engine, dump.above, dump.up_to)
        for name in dump.runs:
            run_one(name, fitting, engine, dump.n, args.into / dump.folder)


if __name__ == "__main__":
    main()
