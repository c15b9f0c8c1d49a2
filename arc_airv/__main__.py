"""The command ``arc-airv``: generate, evaluate, submit, show (each is the core of its
notebook) and check-gpu.

Imports a library when a subcommand needs it, so that ``--help`` answers at once.
"""

import argparse
import ast
import functools
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import arc_airv


def generate(args: argparse.Namespace) -> None:
    """Ask a model about every test output under many augmentations, into a store."""
    from arc_airv.engines import Sampling, adapter_options, make_engine
    from arc_airv.engines.adapters import find_adapters
    from arc_airv.engines.model_folder import adapter_rank
    from arc_airv.infer import generate_predictions, options_for_tasks
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
    options, adapters = dict(args.option), None
    if args.adapters is not None:
        adapters = find_adapters(args.adapters, tasks)
        rank = max(map(adapter_rank, set(adapters.values())))
        options = {**adapter_options(args.engine, rank), **options}
    asked = {"sampling": sampling, "prompt_format": args.format, "adapters": adapters}
    options = options_for_tasks(args.engine, args.model, options, tasks, **asked)
    engine = make_engine(args.engine, args.model, options)
    summary = generate_predictions(
        tasks,
        engine,
        n_predictions=args.predictions,
        seed=args.seed,
        store=args.store,
        drop_demonstrations=args.drop_demonstrations,
        deadline=deadline,
        progress=sys.stderr.isatty(),
        **asked,
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
    tables = [read_stores([store], tasks=challenges.tasks) for store in stores]
    warn_of_copies(tables)
    predictions = pd.concat(tables)
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
    """Write a page that browses every prediction of one store, or compares several."""
    from arc_airv.metrics import read_results
    from arc_airv.plots import browse
    from arc_airv.tasks import load_tasks

    tasks = load_tasks(args.tasks, solutions=args.solutions)
    results = {store: read_results(store, tasks) for store in dict.fromkeys(args.stores)}
    page = browse(
        results,
        tasks,
        title=f"Predictions of {' and '.join(results)}",
        metric=args.metric,
        worst_first=args.worst_first,
        **_ranking(args),
    )
    page.save(args.into)
    for store, result in results.items():
        print(f"{store}: {result.notes[0]}")
    print(f"{args.into}: {len(page.html) / 1e6:.1f} MB, to be opened in any browser")


def check_gpu(args: argparse.Namespace) -> None:
    """Say what this machine's GPUs do with this library, with a table at the end."""
    from arc_airv.training.check_gpu import check_gpu

    rows = check_gpu(args.model, toy=args.toy or None)
    print("", "| check | result | verdict |", "|---|---|---|", sep="\n")
    for row in rows:
        print("|", " | ".join(row), "|")
    faults = [what for what, _, verdict in rows if verdict != "ok"]
    if faults:
        raise RuntimeError(f"not as it should be: {', '.join(faults)}")


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
    """Make the parser of the command and its subcommands."""
    parser = argparse.ArgumentParser(prog="arc-airv", description=arc_airv.__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"arc_airv {arc_airv.__version__}")
    # The longest option stands on the line of its help.
    wide_enough = functools.partial(argparse.HelpFormatter, max_help_position=26)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def begin(run: Callable[[argparse.Namespace], None]) -> Callable[..., Any]:
        text = run.__doc__
        name = run.__name__.replace("_", "-")
        command = commands.add_parser(
            name, help=text, description=text, formatter_class=wide_enough
        )
        command.set_defaults(run=run)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return command.add_argument

    def add(run: Callable[[argparse.Namespace], None]) -> Callable[..., Any]:
        option = begin(run)
        data = "a data set (arc-agi-1/evaluation), file or folder"
        option("--tasks", required=True, metavar="NAME", help=data)
        return option

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
    option("--format", type=_format, metavar="FILE", help="a prompt_format.json, or its JSON")
    text = "a LoRA adapter, or a folder of one a task"
    option("--adapters", metavar="DIR", help=text)
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
    option("stores", nargs="+", metavar="STORE", help="one, or several: the last against the first")
    option("--into", default="pool.html", metavar="FILE", help="default: %(default)s")
    option("--metric", default="correct_pixels", metavar="NAME", help="sort by, at first")
    option("--worst-first", action="store_true", default=True, help="the default")
    option("--best-first", dest="worst_first", action="store_false")
    option("--solutions", **solutions)
    ranking(option)
    option = begin(check_gpu)
    option("model", nargs="?", metavar="MODEL", help="a small model; default: random weights")
    option("--toy", action="store_true", help="at toy size, as on a machine without a GPU")
    return parser


def _number(kind: type, least: float) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        number = kind(text)
        if not least <= number < float("inf"):
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {text}")
        return number

    return read


_count, _minutes = _number(int, 1), _number(float, 0)


def _format(text: str) -> dict[str, Any]:
    """The content of a prompt_format.json, from its path or as it is."""
    from arc_airv.storage import unique_fields

    read = functools.partial(json.loads, object_pairs_hook=unique_fields)
    try:
        with open(text, encoding="utf-8") as file:
            return read(file.read())
    except OSError:
        pass
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None
    try:
        return read(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"is neither a file nor JSON: {text!r}") from None


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
