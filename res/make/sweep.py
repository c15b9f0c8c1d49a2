"""Make the runs that the studies compare: temperatures, augmentations, samples, thresholds.

    python res/make/sweep.py --max-tokens 512 --into res/dumps/settings

Every run generates as many predictions of the same tasks (with a threshold: searches as many
views) and changes one setting. The command skips finished runs and resumes interrupted ones;
`--only` selects runs. Notebook 04 covers beams.
"""

import gzip
import shutil
from pathlib import Path

from evaluate import make_parser, open_engine

from arc_airv.engines import Engine, Sampling, answer_tokens
from arc_airv.infer.generate import generate_predictions
from arc_airv.infer.threshold import search_predictions
from arc_airv.storage import read_run
from arc_airv.tasks import Task

THRESHOLDS = {"threshold-0.10": 0.1, "threshold-0.02": 0.02}  # minimum probability of a reply
PLAIN = {"geometric": False, "colors": False, "train_order": False}


def runs(n: int, allowed_tokens: tuple[int, ...]) -> dict[str, tuple[Sampling, dict[str, bool]]]:
    """Return each run's sampling and kinds of augmentation, by name."""
    some = {f"t{t:.2f}": (Sampling(temperature=t, seed=0), {}) for t in (0.25, 0.5, 0.75, 1.0)}
    return {
        "t0.00": (Sampling(), {}),
        **some,
        "t1.00-alphabet": (
            Sampling(temperature=1.0, seed=0, allowed_tokens=allowed_tokens),
            {},
        ),
        "t0.50-4-samples": (Sampling(n=4, temperature=0.5, seed=0), {}),
        "t1.00-4-samples": (Sampling(n=4, temperature=1.0, seed=0), {}),
        "geometry": (Sampling(), {"colors": False, "train_order": False}),
        "geometry-order": (Sampling(), {"colors": False}),
        "order": (Sampling(), {"geometric": False, "colors": False}),
        "colors": (Sampling(), {"geometric": False, "train_order": False}),
        "plain-t0.50": (Sampling(n=n, temperature=0.5, seed=0), PLAIN),
        "plain-t1.00": (Sampling(n=n, temperature=1.0, seed=0), PLAIN),
        "t0.00-shortened": (Sampling(), {"drop_demonstrations": True}),
    }


def pack(store: Path) -> None:
    """Compress a store that is complete; its run description serves the packed one, too."""
    with open(store, "rb") as plain, gzip.GzipFile(f"{store}.gz", "wb", mtime=0) as file:
        shutil.copyfileobj(plain, file)
    store.unlink()


def run_one(name: str, tasks: dict[str, Task], engine: Engine, n: int, into: Path) -> None:
    """Fill the store of one run and pack it; a packed one with as many predictions stays.

    One of another model is an error.
    """
    store, packed = into / f"{name}.jsonl", into / f"{name}.jsonl.gz"
    if packed.exists():
        run = read_run(store)
        model = run.get("fingerprints", {}).get("model", engine.fingerprint)
        if run.get("n_predictions", n) >= n and model == engine.fingerprint:
            return
        if not store.exists():  # a smaller run goes on
            store.write_bytes(gzip.decompress(packed.read_bytes()))
    options = {"seed": 0, "store": store}
    if name in THRESHOLDS:
        options |= {"n_views": n, "min_probability": THRESHOLDS[name]}
        summary = search_predictions(tasks, engine, **options)
    else:
        sampling, kinds = runs(n, answer_tokens(engine))[name]
        options |= {"n_predictions": n, "sampling": sampling, **kinds}
        summary = generate_predictions(tasks, engine, **options)
    print(f"{name}: {summary.n_stored} predictions, {summary.seconds:.0f} s", flush=True)
    pack(store)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--into", default="runs/sweep", type=Path)
    args = parser.parse_args()
    engine, tasks = open_engine(args)
    for name in args.only or [*runs(args.predictions, ()), *THRESHOLDS]:
        run_one(name, tasks, engine, args.predictions, args.into)


if __name__ == "__main__":
    main()
