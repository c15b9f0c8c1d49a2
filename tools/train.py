"""Train the tiny model from scratch; the command behind the model card in res/tiny.

    python tools/train_tiny.py --into runs/tiny --minutes 150 --extra-pairs rearc.jsonl.gz

Stop it at any time and start it again with the same arguments: it resumes from its checkpoint.
"""

import argparse

import torch

from arc_airv.corpus import ExampleStream, Source, all_pairs, demonstrations, load_pairs, pair_tokens
from arc_airv.finetune import TrainConfig, train
from arc_airv.tasks import load_tasks
from arc_airv.tiny import build_model, build_tokenizer, factor_embeddings, tiny_prompt_format


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", required=True)
    parser.add_argument("--minutes", default=150.0, type=float)
    parser.add_argument("--extra-pairs", help="JSON lines of pairs of training tasks (re-arc)")
    parser.add_argument("--max-tokens", default=512, type=int, help="longest training example")
    parser.add_argument("--batch-tokens", default=2048, type=int)
    parser.add_argument("--evaluation-share", default=0.6, type=float)
    parser.add_argument("--width", default=192, type=int)
    parser.add_argument("--layers", default=8, type=int)
    parser.add_argument("--heads", default=3, type=int)
    parser.add_argument("--decay", default=0.4, type=float, help="share of the time")
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    rest = 1 - args.evaluation_share
    training = all_pairs(load_tasks("arc-agi-1/training"))
    # Those of the tasks that fit as a whole, with a question no smaller than a demonstration.
    evaluation = {
        task_id: pairs
        for task_id, pairs in demonstrations(load_tasks("arc-agi-1/evaluation")).items()
        if sum(map(pair_tokens, pairs)) + min(map(pair_tokens, pairs)) <= args.max_tokens
    }
    sources = [
        # The demonstrations alone: no solution of an evaluation test pair is ever read.
        Source(
            "evaluation demonstrations",
            evaluation,
            args.evaluation_share,
        ),
        Source("training", training, rest / 2 if args.extra_pairs else rest),
    ]
    if args.extra_pairs:
        sources.append(Source("extra pairs", load_pairs(args.extra_pairs), rest / 2))
    tokenizer = build_tokenizer()
    stream = ExampleStream(
        sources, tiny_prompt_format(), tokenizer, max_tokens=args.max_tokens, seed=args.seed
    )
    torch.manual_seed(args.seed)
    model = build_model(tokenizer, width=args.width, layers=args.layers, heads=args.heads)
    config = TrainConfig(
        seconds=60 * args.minutes, batch_tokens=args.batch_tokens, decay=args.decay
    )
    factor_embeddings(model, tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {args.device}", flush=True)
    print(train(model.to(args.device), stream, config, args.into))


if __name__ == "__main__":
    main()
