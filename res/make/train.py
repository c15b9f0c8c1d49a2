"""Train a model on ARC prompts, from scratch or from a model folder.

    python res/make/train.py --into runs/tiny --minutes 108 \\
        --answer arc-agi-1/evaluation=0.6 --mixture arc-agi-1/training=0.2 rearc.jsonl.gz=0.2

The model cards list the arguments. You can stop the command at any time and run it again with the
same arguments: it resumes from its checkpoint.
"""

import argparse

import torch
from transformers import AutoModelForCausalLM

from arc_airv.engines.fingerprint import fingerprint
from arc_airv.tasks import load_tasks
from arc_airv.training import ExampleStream, Source, parse_mixture, tiny_prompt_format
from arc_airv.training.examples import ExampleSizes, demonstrations
from arc_airv.training.heldout import HeldOut
from arc_airv.training.tiny import build_model, build_tokenizer, factor_embeddings
from arc_airv.training.train import TrainConfig, load_model, train
from arc_airv.training.ttft import add_adapter


def answered_later(part: str, sizes: ExampleSizes, max_tokens: int) -> Source:
    """Return the demonstrations of the tasks that fit as a whole; never a test pair."""
    name, _, weight = part.rpartition("=")
    pairs = {
        task_id: pairs
        for task_id, pairs in demonstrations(load_tasks(name)).items()
        if sizes.example([*pairs, min(pairs, key=sizes.pair)]) <= max_tokens
    }
    return Source(f"demonstrations of {name}", pairs, float(weight))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--into", required=True)
    parser.add_argument("--minutes", required=True, type=float)
    parser.add_argument("--model", help="folder to start from; without it, a blank tiny model")
    parser.add_argument("--lora-rank", type=int, help="train an adapter of --model, not all of it")
    parser.add_argument(
        "--mixture",
        nargs="*",
        default=[],
        metavar="NAME=WEIGHT[:SHARE]",
        help="training data, see arc_airv.training.sources; SHARE of it with changed rules",
    )
    parser.add_argument(
        "--answer", metavar="TASKS=WEIGHT", help="tasks of which to learn only the demonstrations"
    )
    parser.add_argument("--held-out", default=0, type=int, help="training tasks to measure on")
    parser.add_argument("--max-tokens", default=512, type=int, help="longest training example")
    parser.add_argument("--batch-tokens", default=2048, type=int)
    parser.add_argument("--accumulate", default=1, type=int, help="batches per step")
    parser.add_argument("--muon-lr", default=0.02, type=float)
    parser.add_argument("--adamw-lr", default=4e-3, type=float)
    parser.add_argument("--decay", default=0.4, type=float, help="share of the time")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--workers", default=0, type=int, help="processes that make examples")
    parser.add_argument("--window", default=1024, type=int, help="examples sorted together")
    parser.add_argument("--width", default=192, type=int)
    parser.add_argument("--layers", default=8, type=int)
    parser.add_argument("--heads", default=3, type=int)
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    if args.model:
        model, tokenizer, prompt_format = load_model(args.model, "cpu")
        if args.lora_rank:
            model = add_adapter(model, args.lora_rank)
    else:
        prompt_format, tokenizer = tiny_prompt_format(), build_tokenizer()
        model = build_model(tokenizer, width=args.width, layers=args.layers, heads=args.heads)
    # An adapter does not change the embeddings.
    if not args.lora_rank and tokenizer.get_vocab() == build_tokenizer().get_vocab():
        factor_embeddings(model, tokenizer, blank=not args.model)
    sources = parse_mixture(args.mixture) if args.mixture else []
    held_out = dict(list(load_tasks("arc-agi-1/training").items())[: args.held_out])
    for source in sources:
        for task_id in held_out:
            source.pairs.pop(task_id, None)
    if args.answer:
        sizes = ExampleSizes(prompt_format, tokenizer)
        sources.append(answered_later(args.answer, sizes, args.max_tokens))
    stream = ExampleStream(
        sources, prompt_format, tokenizer, max_tokens=args.max_tokens, seed=args.seed
    )
    config = TrainConfig(
        seconds=60 * args.minutes,
        batch_tokens=args.batch_tokens,
        accumulate=args.accumulate,
        muon_lr=args.muon_lr or None,
        adamw_lr=args.adamw_lr,
        decay=args.decay,
        compile=args.compile,
        n_workers=args.workers,
        window=args.window,
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {args.device}", flush=True)
    measure = HeldOut(held_out, stream) if held_out else None
    base = fingerprint(args.model) if args.model else None
    options = {"base": base, "device": args.device, "measure": measure}
    print(train(model, stream, config, args.into, **options))
    if not args.lora_rank:  # for serving; the checkpoint keeps full precision
        saved = AutoModelForCausalLM.from_pretrained(args.into, dtype=torch.bfloat16)
        saved.save_pretrained(args.into)


if __name__ == "__main__":
    main()
