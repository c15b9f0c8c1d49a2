"""The process of an engine or a training: ``-m arc_airv.kaggle.worker job.json``.

What it knows comes from the job file, and what it finds goes to the store or folder named there.
It says on standard output, one JSON object a line, how far it is. `arc_airv.kaggle.process` starts
and watches it, and holds the other end of its standard input.
"""

import json
import math
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from arc_airv.engines.auto import make_engine
from arc_airv.engines.base import Sampling
from arc_airv.infer.generate import generate_predictions
from arc_airv.infer.sizes import options_for_tasks
from arc_airv.storage import MADE_OTHERWISE
from arc_airv.tasks import load_tasks

SUPERVISED = "--supervised"
MARK = "@arc_airv "  # of a line that is for the supervisor, among those that libraries print
WARNING_MODULES = ("warnings", "_py_warnings")  # between what warns and what shows it
TOLD: set[str] = set()  # the warnings that the supervisor knows
MOST_TOLD = 50  # a wrong engine may give one for every reply; the others are in the worker's log


def generate(job: dict[str, Any]) -> None:
    """Make the engine that the job names, and fill its store until the deadline."""
    start = time.monotonic()
    tasks, sampling = load_tasks(job["tasks"]), Sampling(**job["sampling"])
    asked = {name: job["generate"].get(name) for name in ("prompt_format", "adapters")}
    asked["sampling"] = sampling
    options = options_for_tasks(job["engine"], job["model"], job["options"], tasks, **asked)
    say("starting", engine=job["engine"], options=options)
    engine = make_engine(job["engine"], job["model"], options)
    say("ready", seconds=round(time.monotonic() - start, 1))
    try:
        summary = generate_predictions(
            tasks,
            engine,
            n_predictions=job["n_predictions"],
            store=job["store"],
            sampling=sampling,
            progress=False,
            **job["generate"],
        )
    except ValueError as error:
        if MADE_OTHERWISE in str(error):  # told here, for an engine may fail again as it ends
            say("refused")
        raise
    text = (
        f"done: {summary.n_stored} of {summary.n_asked} predictions, {summary.n_new} of them new "
        f"in {summary.seconds:.1f} s ({summary.n_new / summary.seconds:.2f}/s)"
    )
    stopped = "" if summary.stopped == "done" else f", stopped at the {summary.stopped}"
    say("done", text=text + stopped)
    engine.close()


def finetune(job: dict[str, Any]) -> None:
    """Learn the demonstrations of the job's tasks until the deadline, in the mode that it names."""
    from arc_airv.training.train import TrainConfig
    from arc_airv.training.ttft import finetune_joint, finetune_per_task

    say("starting", model=job["model"])
    tasks = load_tasks(job["tasks"])
    # The deadline is the only limit, so that a second start uses the time that it has.
    config = TrainConfig(seconds=math.inf, **job["training"])
    learn = {"joint": finetune_joint, "per_task": finetune_per_task}[job["mode"]]
    learn(job["model"], tasks, config, **job["finetune"])
    say("done", text="done")


JOBS = {"generate": generate, "finetune": finetune}


def say(event: str, **details: Any) -> None:
    """Tell the supervisor."""
    print(MARK + json.dumps({"event": event, **details}), flush=True)


def show_warning(message: Warning, category: type, filename: str, *where: Any) -> None:
    """Tell the supervisor what the library warns of, whomever it names as the caller."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__") in WARNING_MODULES:
        frame = frame.f_back
    is_ours = frame.f_globals.get("__name__", "").partition(".")[0] == "arc_airv"
    if is_ours and issubclass(category, UserWarning) and len(TOLD) < MOST_TOLD:
        if (text := str(message)) not in TOLD:
            say("warning", text=text)
        TOLD.add(text)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, where[0]))


def end_with_supervisor() -> None:
    """End all our processes when standard input is closed: the supervisor is gone.

    Otherwise the engine of a notebook whose kernel was killed would keep its GPU and its store.
    """
    while os.read(0, 1):  # not through sys.stdin, whose lock would disturb a normal end
        pass
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run the job whose file is the argument."""
    if sys.argv[2:] == [SUPERVISED]:
        threading.Thread(target=end_with_supervisor, daemon=True).start()
    # A polite stop leaves what is finished on disk, as an exception does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    warnings.showwarning = show_warning
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    JOBS[job["do"]](job)


if __name__ == "__main__":
    main()
