"""Train and measure the models for one GPU in one command.

    python res/make/models.py --into runs/models --minutes 40 15

1. Train base from scratch on training tasks, some of them with changed rules.
2. Train joint from base, also on the demonstrations of the evaluation tasks.
3. Generate N views of every evaluation task with each, and N samples of the plain view.
4. Print the table of each.

Every step resumes, and is skipped once it is done. The defaults are meant for one hour of an
H200-class GPU. To rehearse on a CPU, in minutes:

    python res/make/models.py --into runs/rehearsal --minutes 1 1 --width 64 --layers 2 --heads 1 \\
        --context 512 --batch-tokens 2048 --workers 0 --predictions 2 --no-compile
"""

import argparse
import subprocess
import sys
from pathlib import Path


def run(tool: str, *arguments: object) -> None:
    """Run another command of this folder in a process, which frees its memory at the end."""
    command = [sys.executable, f"res/make/{tool}.py", *map(str, arguments)]
    print("$", " ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", default="runs/models", type=Path)
    parser.add_argument("--minutes", default=[40, 15], nargs=2, type=float, help="of each training")
    parser.add_argument("--pairs", help="a .jsonl.gz of extra pairs of training tasks")
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--width", default=512, type=int)
    parser.add_argument("--layers", default=9, type=int, help="9 of width 512: 55.5 MiB")
    parser.add_argument("--heads", default=8, type=int)
    parser.add_argument("--context", default=4096, type=int, help="tokens of a training example")
    parser.add_argument("--batch-tokens", default=65536, type=int)
    parser.add_argument("--workers", default=12, type=int, help="processes that make examples")
    parser.add_argument("--compile", default=True, action=argparse.BooleanOptionalAction)
    parser.add_argument("--predictions", default=32, type=int)
    parser.add_argument("--engine", default="transformers", choices=["vllm", "transformers"])
    args = parser.parse_args()
    # Some with changed rules: too few rules keep a model from solving unseen tasks.
    training = ["arc-agi-1/training=0.4:0.5", "arc-agi-2/training=0.3:0.3"]
    training += [f"{args.pairs}=0.3:0.2"] if args.pairs else []
    common = ["--max-tokens", args.context, "--batch-tokens", args.batch_tokens]
    common += ["--workers", args.workers, "--window", 4096, *["--compile"] * args.compile]
    shape = ["--width", args.width, "--layers", args.layers, "--heads", args.heads]
    base, joint = args.into / "base", args.into / "joint"
    begun = ["--held-out", 30, "--mixture", *training, *shape, *common]
    gone_on = ["--model", base, "--answer", f"{args.tasks}=2.0", "--mixture", *training, *common]
    # Half the base model's rate, which is known to be stable: this model has less to learn.
    gone_on += ["--muon-lr", 0.01, "--adamw-lr", 2e-3, "--decay", 0.8]
    for folder, minutes, arguments in [
        (base, args.minutes[0], begun),
        (joint, args.minutes[1], gone_on),
    ]:
        if not (folder / "config.json").exists():  # written at the end
            run("train", "--into", folder, "--minutes", minutes, *arguments)
        dumps = args.into / "dumps" / folder.name
        asked = ["--model", folder, "--tasks", args.tasks, "--predictions", args.predictions]
        asked += ["--engine", args.engine, "--only", "t0.00", "plain-t0.50"]
        # All tasks: prompts that do not fit the context are stored with that status.
        run("sweep", *asked, "--max-tokens", 10**6, "--into", dumps / "0-all")
        run("results", "--dumps", dumps, "--tasks", args.tasks)


if __name__ == "__main__":
    main()
