"""Measure the gain of test-time fine-tuning, jointly and per task.

    python res/make/ttft.py --model res/small --max-tokens 512 --minutes 10 --into runs/ttft

Both learn only from the demonstrations of these tasks, for the same number of minutes. The command
skips what exists already. On a CPU, use --engine transformers: vLLM is slow to switch between many
adapters.
"""

import argparse
from pathlib import Path

from arc_airv.engines import TransformersEngine, adapter_options, make_engine
from arc_airv.infer.generate import generate_predictions
from arc_airv.studies.runs import compare_runs
from arc_airv.tasks import load_tasks, tasks_that_fit
from arc_airv.training.train import TrainConfig
from arc_airv.training.ttft import finetune_joint, finetune_per_task

SHOWN = ["accuracy", "random_2", "vote_1", "vote_2", "pass_n", "gain", "low", "high"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="res/small")
    parser.add_argument("--tasks", default="arc-agi-1/evaluation")
    parser.add_argument("--max-tokens", default=512, type=int)
    parser.add_argument("--minutes", default=10.0, type=float, help="minutes of each fine-tuning")
    parser.add_argument("--predictions", default=16, type=int)
    parser.add_argument("--adamw-lr", default=1e-3, type=float)
    parser.add_argument("--rank", default=16, type=int)
    parser.add_argument("--engine", default="vllm", choices=["vllm", "transformers"])
    parser.add_argument("--only", nargs="*", default=["before", "joint", "per-task"])
    parser.add_argument("--into", default="runs/ttft", type=Path)
    args = parser.parse_args()
    counter = TransformersEngine(args.model)
    measure = counter.prompt_format.measure
    tasks = load_tasks(args.tasks)
    tasks = tasks_that_fit(tasks, args.max_tokens, lambda task: measure(task, counter))
    config = TrainConfig(
        seconds=60 * args.minutes, muon_lr=None, adamw_lr=args.adamw_lr, warmup=0.1
    )
    stores = {name: args.into / f"{name}.jsonl" for name in args.only}
    for name, store in stores.items():
        model, adapters, options = args.model, None, {}
        if name == "joint":
            model = args.into / "joint"
            finetune_joint(args.model, tasks, config, model, max_tokens=args.max_tokens)
        elif name == "per-task":
            adapters = finetune_per_task(
                args.model,
                tasks,
                config,
                args.into / "adapters",
                max_tokens=args.max_tokens,
                rank=args.rank,
            )
            options = adapter_options(args.engine, args.rank)
        engine = make_engine(args.engine, str(model), options)
        generate_predictions(
            tasks,
            engine,
            n_predictions=args.predictions,
            seed=0,
            store=store,
            adapters=adapters,
        )
        engine.close()
    table = compare_runs(stores, tasks)[SHOWN]
    print(f"\n{len(tasks)} tasks, {args.minutes:g} minutes of each fine-tuning, {args.model}")
    print((100 * table).round(1).to_string())


if __name__ == "__main__":
    main()
