"""Compare options of the format and of training at equal tokens, on held-back test pairs.

    python res/make/options.py --into runs/options --tokens 1e6 --seeds 3

A hundred training tasks stand for evaluation tasks: their demonstrations are learnt, their test
pairs are held back and asked. No evaluation task is used. You can stop the command at any time: it
resumes. It prints the table of what is finished, and writes it to --into: of each option the nats a
cell of the held-back answers (less is better), the share of exact greedy answers, and the change of
the nats against the first option with the 95% interval over the tasks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from arc_airv.engines import TransformersEngine
from arc_airv.storage import check_same
from arc_airv.tasks import Task, load_tasks
from arc_airv.training.examples import ExampleStream, Source, all_pairs, demonstrations
from arc_airv.training.heldout import HeldOut
from arc_airv.training.sources import without_tasks
from arc_airv.training.tiny import (
    build_model,
    build_tokenizer,
    factor_embeddings,
    tiny_prompt_format,
)
from arc_airv.training.train import TrainConfig, train

OPTIONS: dict[str, dict[str, Any]] = {
    "as small": {},
    "task ids": {"task_ids": True, "n_pairs": (1, 6)},
    "rows": {"rows": True},
    "rows, task ids": {"rows": True, "task_ids": True, "n_pairs": (1, 6)},
    "dropout 0.1": {"dropout": 0.1},
    "80 views": {"n_views": 80},
    "decay 0.2": {"decay": 0.2},
}
N_HELD_BACK = 100


def pick_tasks(max_tokens: int) -> tuple[dict[str, Task], dict[str, Task]]:
    """Return the tasks whose test pairs are held back, which fit, and the others."""
    tasks = without_tasks(load_tasks("arc-agi-1/training"), load_tasks("arc-agi-1/evaluation"))
    sizes = {
        key: sum(g.size + len(g) for p in (*t.train, t.test[0]) for g in (p.input, p.output))
        for key, t in tasks.items()
    }
    fitting = [key for key, size in sizes.items() if size <= 0.9 * max_tokens]
    held_back = dict.fromkeys(fitting[:: max(1, len(fitting) // N_HELD_BACK)][:N_HELD_BACK])
    return {key: tasks[key] for key in held_back}, {
        key: task for key, task in tasks.items() if key not in held_back
    }


def run(
    name: str, seed: int, held_back: dict, others: dict, args: argparse.Namespace
) -> dict[str, Any]:
    """Train one model and return what it knows of the held-back test pairs."""
    options = dict(OPTIONS[name])
    rows, task_ids = options.get("rows", False), options.get("task_ids", False)
    prompt_format = tiny_prompt_format(rows=rows, task_ids=task_ids)
    ids = [*held_back, *others] if task_ids else ()
    tokenizer = build_tokenizer(rows=rows, task_ids=ids)
    torch.manual_seed(seed)
    dropout = options.get("dropout", 0.0)
    shape = {"width": args.width, "layers": args.layers, "heads": args.width // 64}
    model = factor_embeddings(build_model(tokenizer, **shape, dropout=dropout), tokenizer)
    sources = [
        Source("held back", demonstrations(held_back), 0.6),
        Source("training", all_pairs(others), 0.4),
    ]
    stream = ExampleStream(
        sources,
        prompt_format,
        tokenizer,
        max_tokens=args.max_tokens,
        seed=seed,
        n_pairs=options.get("n_pairs", (3, 6)),
        n_views=options.get("n_views"),
    )
    config = TrainConfig(
        seconds=1e9, tokens=args.tokens, window=256, decay=options.get("decay", 0.4)
    )
    folder = args.into / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    line = train(model, stream, config, folder)
    model.eval()
    engine = TransformersEngine(model, tokenizer=tokenizer)
    nats = []
    for task in held_back.values():
        answer = prompt_format.render_answer(task.test[0].output)
        nats.append(-engine.score([prompt_format.render(task)], [[answer]])[0][0])
    exact = HeldOut(held_back, stream)(model)["held_out_exact"]
    return {
        **{"options": name, "seed": seed, "tokens": line["tokens"], "exact": exact},
        "nats": [n / task.test[0].output.size for n, task in zip(nats, held_back.values())],
    }


def compare(done: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the means over the seeds of each option, and its change against the first option."""
    base = {
        row["seed"]: np.array(row["nats"]) for row in done if row["options"] == next(iter(OPTIONS))
    }
    rng, rows = np.random.default_rng(0), {}
    for name in dict.fromkeys(row["options"] for row in done):
        runs = [row for row in done if row["options"] == name]
        change = np.mean([np.array(r["nats"]) - base[r["seed"]] for r in runs], axis=0)
        drawn = rng.choice(change, (2000, len(change))).mean(axis=1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        rows[name] = {
            "seeds": len(runs),
            "nats a cell": np.mean([row["nats"] for row in runs]),
            "exact": np.mean([row["exact"] for row in runs]),
            **{"change": change.mean(), "low": low, "high": high},
            "of each seed": " ".join(f"{np.mean(r['nats'] - base[r['seed']]):+.3f}" for r in runs),
        }
    return pd.DataFrame(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", default="runs/options", type=Path)
    parser.add_argument("--only", nargs="+", default=list(OPTIONS), choices=OPTIONS)
    parser.add_argument("--tokens", default=1e6, type=float)
    parser.add_argument("--seeds", default=3, type=int)
    parser.add_argument("--max-tokens", default=512, type=int)
    parser.add_argument("--width", default=192, type=int)
    parser.add_argument("--layers", default=8, type=int)
    args = parser.parse_args()
    args.into.mkdir(parents=True, exist_ok=True)
    held_back, others = pick_tasks(args.max_tokens)
    results, made_by = args.into / "results.jsonl", args.into / "settings.json"
    settings = {key: getattr(args, key) for key in ("tokens", "max_tokens", "width", "layers")}
    if made_by.exists():
        check_same(args.into, json.loads(made_by.read_text()), settings)
    made_by.write_text(json.dumps(settings))
    done = [json.loads(line) for line in results.open()] if results.exists() else []
    first = next(iter(OPTIONS))
    for seed in range(args.seeds):
        for name in dict.fromkeys([first, *args.only]):
            if any((row["options"], row["seed"]) == (name, seed) for row in done):
                continue
            done.append(run(name, seed, held_back, others, args))
            with results.open("a") as file:
                file.write(json.dumps(done[-1]) + "\n")
            table = compare(done).to_string(float_format="{:.4f}".format)
            text = f"{len(held_back)} held-back tasks, {args.tokens:g} tokens\n{table}\n"
            (args.into / "table.txt").write_text(text)
            print(text, flush=True)


if __name__ == "__main__":
    main()
