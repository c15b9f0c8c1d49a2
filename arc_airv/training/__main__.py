"""The command of training: prepare a folder, train from it on a leased machine, join its weights.

python -m arc_airv.training prepare FOLDER [--pairs FILE] [--model FOLDER] [--set NAME=VALUE]
python -m arc_airv.training lease --minutes 13 --run RUN --into OUT
python -m arc_airv.training join OUT MODEL
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def prepare(args: argparse.Namespace) -> int:
    """Write a folder with all that a bare machine needs to train a model."""
    from arc_airv.training.prepare import Recipe, prepare

    recipe = Recipe.load(Path(args.recipe)) if args.recipe else Recipe()
    recipe = recipe.changed(dict(args.set))
    manifest = prepare(
        args.folder, recipe, pairs=args.pairs, model=args.model, n_tasks=args.n_tasks
    )
    size, n = manifest["bytes"] / 2**20, len(manifest["files"])
    print(f"{args.folder}: {n} files, {size:.1f} MiB")
    return 0


def lease(args: argparse.Namespace) -> int:
    """Train from a prepared folder until the minutes are over."""
    from arc_airv.training.lease import FACTS, lease

    done = lease(
        args.prepared,
        args.run_folder,
        args.into,
        minutes=args.minutes,
        left=args.left,
        wait=args.wait,
        device=args.device,
        reserve=args.reserve,
    )
    facts = Path(args.into) / FACTS
    kept = json.loads(facts.read_text())["last"] if facts.exists() else "nothing yet"
    print(f"{'done' if done else 'goes on'}; {args.into} holds {kept}")
    return 0


def join(args: argparse.Namespace) -> int:
    """Make a model folder of what a lease has left."""
    from arc_airv.training.lease import join

    facts = join(args.into, args.folder)
    print(f"{args.folder}: {facts['parameters']:,} parameters, {facts['last']}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0: fine, 1: it failed, 2: a caller's mistake."""
    parser = argparse.ArgumentParser(prog="python -m arc_airv.training")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(run: Any) -> Any:
        command = commands.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        command.set_defaults(run=run)
        return command.add_argument

    option = add(prepare)
    option("folder")
    option("--pairs", metavar="FILE", help="further pairs of training tasks, .jsonl.gz")
    option("--model", metavar="FOLDER", help="to go on from, as an earlier lease left it")
    option("--recipe", metavar="FILE", help="JSON; by default that of arc_airv.training.prepare")
    text = "of the recipe, such as width=64; values are JSON"
    option("--set", metavar="NAME=VALUE", nargs="+", type=_option, default=[], help=text)
    option("--n-tasks", type=int, metavar="N", help="of each source, for a rehearsal")
    option = add(lease)
    option("--prepared", default=".", metavar="FOLDER", help="by default this one")
    option("--run", dest="run_folder", required=True, metavar="FOLDER", help="survives a call")
    option("--into", required=True, metavar="FOLDER", help="gets weights, log and facts")
    option("--minutes", type=float, metavar="N", help="until the end of a new run")
    option("--left", type=float, metavar="S", help="move the end: seconds from now")
    option("--wait", type=float, metavar="S", help="return after so many seconds")
    option("--device", help="by default cuda where there is one")
    option("--reserve", type=float, default=20.0, metavar="S", help="for the end; default: 20")
    option = add(join)
    option("into", metavar="OUT")
    option("folder", metavar="MODEL")
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"arc_airv.training: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name, json.loads(value)


if __name__ == "__main__":
    sys.exit(main())
