"""The command ``arc-airv``: generate, evaluate, submit, show; each is the core of its notebook.

Imports a library when a subcommand needs it, so that ``--help`` answers at once.
"""

import argparse
import ast
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import arc_airv


def generate(args: argparse.Namespace) -> None:
    """Ask a model about every test output under many augmentations, into a store."""
    from arc_airv.engines import Sampling, make_engine
    from arc_airv.infer import generate_predictions
    from arc_airv.metrics import status_table
    from arc_airv.metrics.tables import align
    from arc_airv.records import read_predictions
    from arc_airv.tasks import load_tasks, outputs_of

    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    if not args.debug:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    deadline = None if args.minutes is None else time.time() + 60 * args.minutes
    sampling = Sampling(n=args.samples, temperature=args.temperature)
    tasks = dict(list(load_tasks(args.tasks).items())[: args.limit])
    print(
        f"{args.model}: {args.predictions} predictions of each of {len(outputs_of(tasks))} test "
        f"outputs, {len(tasks)} tasks of {args.tasks}, into {args.store}",
        flush=True,
    )
    engine = make_engine(args.engine, args.model, dict(args.option))
    summary = generate_predictions(
        tasks,
        engine,
        n_predictions=args.predictions,
        seed=args.seed,
        store=args.store,
        sampling=sampling,
        drop_demonstrations=args.drop_demonstrations,
        deadline=deadline,
        progress=sys.stderr.isatty(),
    )
    print(
        f"{summary.stopped}: {summary.n_stored} of {summary.n_asked} predictions are stored, "
        f"{summary.n_new} of them new, in {summary.seconds:.0f} s"
    )
    if not summary.n_stored:
        raise RuntimeError("the deadline came before the first prediction")
    predictions = read_predictions(args.store)
    print(align(status_table(predictions[predictions["task_id"].isin(tasks)])))


def evaluate(args: argparse.Namespace) -> None:
    """Print every metric of a store with its interval."""
    from arc_airv.metrics import describe_outputs, metric_table, read_results
    from arc_airv.metrics.tables import align, format_metrics
    from arc_airv.tasks import AVERAGES, load_tasks

    results = read_results(args.store, load_tasks(args.tasks, solutions=args.solutions))
    outputs = describe_outputs(results.predictions, results.tasks, **_ranking(args))
    table = metric_table(outputs, average=args.average)
    print(*results.notes, _ranked_by(args), sep="\n")
    print(f"Each value is the {AVERAGES[args.average]}.", end="\n\n")
    print(align(format_metrics(table)))


def submit(args: argparse.Namespace) -> None:
    """Vote over one or several stores and write the submission of a challenges file."""
    import pandas as pd

    from arc_airv.records import read_stores, warn_of_copies
    from arc_airv.submission import (
        build_submission,
        count_answered,
        score_submission,
        validate_submission,
        write_submission,
    )
    from arc_airv.tasks import AVERAGES, has_hidden, load_tasks, read_challenges
    from arc_airv.vote import rank_candidates, select_attempts

    challenges = read_challenges(args.tasks)
    for fault in challenges.faults.values():
        warnings.warn(f"{fault}: it is answered [[0]]", stacklevel=2)
    for store in args.stores:
        os.stat(store)
    stores = dict.fromkeys(map(os.path.realpath, args.stores))
    runs = [read_stores([store], tasks=challenges.tasks) for store in stores]
    warn_of_copies(runs)
    predictions = pd.concat(runs)
    if predictions.empty:
        raise ValueError(f"no prediction in {', '.join(args.stores)} is for a task of {args.tasks}")
    ranked = rank_candidates(predictions, tasks=challenges.tasks, **_ranking(args))
    attempts = select_attempts(ranked, challenges.tasks)
    write_submission(build_submission(attempts, challenges.all), args.into)
    answered = count_answered(validate_submission(args.into, challenges.all))
    print(f"{args.into} is valid: {answered}, by {len(predictions):,} predictions")
    known = challenges.all
    if args.solutions:
        known = load_tasks(args.tasks, solutions=args.solutions)
    if has_hidden(known):
        print("Solutions are hidden: no score.")
    else:
        print(f"score {score_submission(args.into, known):.1%}, {AVERAGES['task']}")


def show(args: argparse.Namespace) -> None:
    """Write the tasks of a store with their candidates, sorted by a metric, as one HTML file."""
    import matplotlib

    matplotlib.use("Agg")
    from arc_airv.infer.views import progress_bar
    from arc_airv.metrics import describe_outputs, metric_table, read_results, sort_tasks
    from arc_airv.plots import plot_gallery, write_gallery
    from arc_airv.tasks import AVERAGES, load_tasks
    from arc_airv.vote import rank_candidates

    results = read_results(args.store, load_tasks(args.tasks, solutions=args.solutions))
    outputs = describe_outputs(results.predictions, results.tasks, **_ranking(args))
    order = sort_tasks(outputs, args.metric, worst_first=args.worst_first)[: args.n_tasks]
    ranked = rank_candidates(results.predictions, tasks=results.tasks, **_ranking(args))
    first = "worst" if args.worst_first else "best"
    sorting = f"{len(order)} tasks, {first} {order.columns[0]} first."
    with progress_bar(len(order), 0, sys.stderr.isatty(), unit="task") as bar:

        def counted(gallery: Iterable[Any]) -> Iterator[Any]:
            for item in gallery:
                yield item
                bar.update(1)

        write_gallery(
            args.into,
            counted(plot_gallery(order, results.tasks, ranked, n=args.candidates)),
            title=f"Predictions of {args.store}",
            notes=[
                *results.notes,
                _ranked_by(args),
                f"Each value is the {AVERAGES['task']}.",
                sorting,
            ],
            table=metric_table(outputs),
        )
    print(f"{args.into}: {sorting}")


def _ranking(args: argparse.Namespace) -> dict[str, Any]:
    """Options of `rank_candidates`, the same for each subcommand that ranks."""
    from arc_airv.vote import METHODS

    usable = [name for name, selector in METHODS.items() if not selector.needs_scores]
    if args.method not in usable:
        raise ValueError(f"--method must be one of {', '.join(usable)}, got {args.method!r}")
    return {"method": args.method, "filters": [name for name in args.filter if name != "none"]}


def _ranked_by(args: argparse.Namespace) -> str:
    return f"Candidates are ranked by {args.method}, filters: {', '.join(args.filter)}."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, by default with the arguments of the process; return its exit code.

    0: fine. 1: the run failed, or stopped with nothing. 2: a caller's mistake. 130: interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # an id or a path may hold what cannot be encoded
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    args = make_parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: _say("warning", message)
            args.run(args)
    except KeyboardInterrupt:
        kept = f" {args.store} keeps what is finished: the same command goes on."
        _say("interrupted", kept if args.run is generate else "")
        return 130
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        if args.debug:
            raise
        _say("error", error)
        return 2 if isinstance(error, (ValueError, FileNotFoundError)) else 1
    return 0


def _say(kind: str, what: Any) -> None:
    print(f"arc-airv: {kind}:", *str(what).split(), file=sys.stderr)


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command and its four subcommands."""
    parser = argparse.ArgumentParser(prog="arc-airv", description=arc_airv.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"arc_airv {arc_airv.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Callable[[argparse.Namespace], None]) -> Callable[..., Any]:
        text = run.__doc__
        command = commands.add_parser(run.__name__, help=text, description=text)
        command.set_defaults(run=run)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        data = "a data set (arc-agi-1/evaluation), challenges file or folder"
        command.add_argument("--tasks", required=True, metavar="NAME", help=data)
        return command.add_argument

    store = {"metavar": "STORE", "help": "predictions, as generate leaves them"}
    solutions = {"metavar": "FILE", "help": "Kaggle solutions, where --tasks holds none"}

    def ranking(option: Callable[..., Any]) -> None:
        text = "rank by votes (the default), logprob, cells, ..."
        option("--method", default="votes", metavar="NAME", help=text)
        names = {"type": lambda text: text.split(","), "default": ["copy"]}
        text = "put last: copy (the default), shape, colors, or none"
        option("--filter", metavar="NAME,...", help=text, **names)

    option = add(generate)
    option("model", metavar="MODEL", help="a Hugging Face model folder")
    option("--store", default="predictions.jsonl", metavar="FILE", help="default: %(default)s")
    option("--predictions", type=_count, default=8, metavar="N", help="of each output; default: 8")
    option("--limit", type=_count, metavar="N", help="ask only the first N tasks")
    option("--minutes", type=_minutes, metavar="N", help="stop cleanly after so long")
    option("--seed", type=int, default=0, metavar="N", help="default: 0")
    option("--temperature", type=float, default=0.0, metavar="T", help="default: 0, greedy")
    option("--samples", type=_count, default=1, metavar="N", help="of each view; default: 1")
    option("--drop-demonstrations", action="store_true", help="to make long prompts fit")
    option("--engine", default="auto", metavar="NAME", help="auto (default), vllm, transformers")
    example = "of the engine, such as gpu_memory_utilization=0.9"
    pairs = {"type": _option, "nargs": "+", "action": "extend", "default": []}
    option("--option", metavar="NAME=VALUE", help=example, **pairs)

    option = add(evaluate)
    option("store", **store)
    option("--solutions", **solutions)
    ranking(option)
    option(
        "--average",
        choices=("task", "output", "all"),
        default="task",
        help="default: task, as Kaggle does",
    )

    option = add(submit)
    option(
        "stores", nargs="+", metavar="STORE", help="of one run or of several: their votes add up"
    )
    option("--into", default="submission.json", metavar="FILE", help="default: %(default)s")
    option("--solutions", **solutions)
    ranking(option)
    option = add(show)
    option("store", **store)
    option("--into", default="gallery.html", metavar="FILE", help="default: %(default)s")
    option("--metric", default="correct_pixels", metavar="NAME", help="default: %(default)s")
    option("--worst-first", action="store_true", default=True, help="the default")
    option("--best-first", dest="worst_first", action="store_false")
    option("--n-tasks", type=_count, default=24, metavar="N", help="default: 24")
    option("--candidates", type=_count, default=8, metavar="N", help="of each output; default: 8")
    option("--solutions", **solutions)
    ranking(option)
    return parser


def _number(kind: type, least: float) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        number = kind(text)
        if not least <= number < float("inf"):
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return number

    return read


_count, _minutes = _number(int, 1), _number(float, 0)


def _option(text: str) -> tuple[str, Any]:
    """NAME=VALUE; the value in JSON or Python, or else a string."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    for read in (json.loads, ast.literal_eval):
        try:
            return name, read(value)
        except (ValueError, SyntaxError):
            pass
    return name, value


if __name__ == "__main__":
    sys.exit(main())
