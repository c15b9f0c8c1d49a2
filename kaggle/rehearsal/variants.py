"""Define the variants of the rehearsal: each one's sabotage and its required end."""

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rehearsal.testfiles import (
    LARGE,
    MALFORMED,
    hidden_tasks,
    large_tasks,
    malformed_tasks,
    public_tasks,
)

MIB = 1 << 20
STORE = "submission_predictions.jsonl"  # as notebook 03 names it


@dataclass
class Scene:
    """Show a running rehearsal to its sabotage."""

    working: Path
    mark: str

    def lines(self) -> int:
        """Count the stored predictions."""
        stores = self.working.glob(Path(STORE).stem + "*.jsonl")
        return sum(path.read_bytes().count(b"\n") for path in stores)

    def processes(self, name: str = "") -> list[int]:
        """List the ids of this run's processes whose command line holds the name."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                marked = f"REHEARSAL={self.mark}".encode() in (entry / "environ").read_bytes()
                if marked and name.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except (OSError, ValueError):  # gone, another user's, or no process
                continue
        return found

    def signal(self, number: int, name: str = "", *, spare: str | None = None) -> None:
        """Send a signal to these processes, except those whose command line holds `spare`."""
        spared = set(self.processes(spare)) if spare else set()
        for pid in set(self.processes(name)) - spared:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


Sabotage = Callable[[Scene], Iterator[None]]  # advanced many times a second


@dataclass(frozen=True)
class Variant:
    """Describe one rehearsal.

    Attributes
    ----------
    what : str
        The sabotage in words.
    says : tuple of str
        Regular expressions that have to match in the printed output.
    challenges : function that returns dict
        Makes the content of the test file.
    parameters : dict of str to str
        Expressions, set after those that are pushed.
    answers : bool
        At least one output has to have an answer.
    unanswered : tuple of str
        Tasks that cannot have one.
    sabotage : function of Scene, optional
    disk : tuple of int, optional
        Capacity in bytes of the working folder; without mounts, the limit of one file.
    model : {"tiny", "garbage"}
    gpus : int
        The number that nvidia-smi reports: each gets a worker, which computes on the CPU.
    runner : {"papermill", "nbconvert"}
    page : bool
        Also make the HTML page.
    rerun, flat : bool
        Play the scored rerun; use the input layout of earlier years.
    killed : bool
        The run is killed, so there is no executed notebook.
    isolation : str, optional
        The isolation to use instead of the best available.
    """

    what: str
    says: tuple[str, ...] = ()
    challenges: Callable[[], dict] = hidden_tasks
    parameters: dict[str, str] = field(default_factory=dict)
    answers: bool = True
    unanswered: tuple[str, ...] = ()
    sabotage: Sabotage | None = None
    disk: tuple[int, int] | None = None
    model: str = "tiny"
    gpus: int = 0
    runner: str = "papermill"
    page: bool = False
    rerun: bool = True
    flat: bool = False
    killed: bool = False
    isolation: str | None = None


# Sabotage ----------------------------------------------------------------------------------------


def kill_engine(scene: Scene) -> Iterator[None]:
    """Kill the engine's processes after the first predictions."""
    while not scene.lines():
        yield
    scene.signal(signal.SIGKILL, "arc_airv.kaggle.worker")


def truncate_store(scene: Scene) -> Iterator[None]:
    """Kill the engine and cut the store at a random byte, as a crash may."""
    while not scene.lines():
        yield
    scene.signal(signal.SIGKILL, "arc_airv.kaggle.worker")
    store = scene.working / STORE
    os.truncate(store, random.randrange(1, store.stat().st_size))


def freeze_engine(scene: Scene) -> Iterator[None]:
    """Stop the engine's processes without killing them."""
    while not scene.lines():
        yield
    scene.signal(signal.SIGSTOP, "arc_airv.kaggle.worker")


def fill_disk(scene: Scene) -> Iterator[None]:
    """Fill the working folder from another process, except for a small rest."""
    while not (workers := scene.processes("arc_airv.kaggle.worker")):
        yield
    working = Path(f"/proc/{workers[0]}/root/kaggle/working")  # the mount is only visible in there
    if working.exists():
        while not any(path.stat().st_size for path in working.glob(STORE)):
            yield
        free = shutil.disk_usage(working).free
        (working / "filler.bin").write_bytes(bytes(free - MIB // 4))


def kill_kernel(scene: Scene) -> Iterator[None]:
    """Kill everything but the engine, as a machine at its time limit may."""
    while not scene.lines():
        yield
    scene.signal(signal.SIGKILL, spare="arc_airv.kaggle.worker")


def kill_training(scene: Scene) -> Iterator[None]:
    """Kill the fine-tuning process."""
    job = "finetune.0.job.json"
    while not scene.processes(job):  # its log exists before a process has this name
        yield
    scene.signal(signal.SIGKILL, job)


# -------------------------------------------------------------------------------------------------

# Without MINUTES the limit is that of the rerun, so that a slow machine does not fail.
SHORT = {"ENGINE": '"transformers"', "N_PREDICTIONS": "4"}
LONG = SHORT | {"N_PREDICTIONS": "8"}

VARIANTS = {
    "commit": Variant(
        "the public test file, through nbconvert; inputs as in earlier years",
        says=("worker 0: done", "0 things went wrong"),
        challenges=public_tasks,
        parameters=SHORT,
        runner="nbconvert",
        page=True,
        rerun=False,
        flat=True,
    ),
    "rerun": Variant(
        "the hidden test file, through vLLM and papermill",
        says=("vllm .* from", "'engine': 'vllm'", "worker 0: done", "0 things went wrong"),
        parameters={"N_PREDICTIONS": "8"},
        page=True,
    ),
    "two workers": Variant(
        "two GPUs according to nvidia-smi: a worker for each, with its tasks",
        says=("Tesla T4, Tesla T4; ", "worker 0: done", "worker 1: done", "0 things went wrong"),
        parameters=SHORT,
        gpus=2,
    ),
    "no namespaces": Variant(
        "sockets blocked in every Python process",
        says=("worker 0: done", "0 things went wrong"),
        parameters=SHORT,
        isolation="sockets",
    ),
    "engine killed": Variant(
        "SIGKILL to the engine after it has stored predictions",
        says=(r"! worker 0: was killed by SIGKILL", "worker 0: done"),
        parameters=LONG,
        sabotage=kill_engine,
    ),
    "store truncated": Variant(
        "the engine killed, and the store cut at a random byte",
        says=(r"! worker 0: was killed by SIGKILL", "worker 0: done"),
        parameters=LONG,
        sabotage=truncate_store,
    ),
    "engine frozen": Variant(
        "SIGSTOP to the engine after it has stored predictions",
        says=("! worker 0: hangs: no prediction for", "worker 0: 4 tasks, .*'batch_tokens': 4096"),
        parameters=LONG | {"MINUTES": "2"},
        sabotage=freeze_engine,
    ),
    "time limit": Variant(
        "more predictions than fit into a minute",
        says=("worker 0: (done|did not stop by itself at the deadline)",),
        parameters=SHORT | {"N_PREDICTIONS": "512", "MINUTES": "1"},
    ),
    "fine-tuned": Variant(
        "adapters trained first; two GPUs according to nvidia-smi",
        says=(
            "finetune.0: per_task, 2 tasks",
            "finetune.1: done",
            "4 of 4 tasks have learnt an adapter",
            "0 things went wrong",
        ),
        parameters=SHORT | {"FINETUNE": '"per_task"', "MINUTES": "20", "FINETUNE_SHARE": "0.08"},
        gpus=2,
    ),
    "training killed": Variant(
        "SIGKILL to the fine-tuning process: the model stays unchanged",
        says=("! finetune.0: was killed by SIGKILL", "worker 0: done", "1 things went wrong"),
        parameters=SHORT | {"FINETUNE": '"joint"'},
        sabotage=kill_training,
    ),
    "kernel killed": Variant(
        "everything but the engine killed, as at the time limit",
        says=("fallback: 4 tasks", "worker 0: ready"),
        parameters=LONG,
        answers=False,
        sabotage=kill_kernel,
        killed=True,
    ),
    "malformed tasks": Variant(
        f"{len(MALFORMED)} malformed or empty entries among the tasks",
        says=tuple(f"! challenges: .*task {name}: " for name in MALFORMED)
        + (f"{len(MALFORMED)} things went wrong",),
        challenges=malformed_tasks,
        parameters=SHORT,
        unanswered=tuple(MALFORMED),
    ),
    "no tasks": Variant(
        "an empty test file",
        says=("0 things went wrong",),
        challenges=dict,
        parameters=SHORT,
        answers=False,
    ),
    "30x30 tasks": Variant(
        "tasks whose prompts do not fit, even with few demonstrations",
        says=("worker 0: done", "0 things went wrong"),
        challenges=large_tasks,
        parameters=SHORT | {"ENGINE_OPTIONS": '{"max_model_len": 1024}'},
        unanswered=LARGE,
    ),
    "garbage": Variant(
        "a model that emits garbage, through nbconvert",
        says=("worker 0: done", "0 things went wrong"),
        parameters=SHORT,
        answers=False,
        model="garbage",
        runner="nbconvert",
    ),
    "disk full": Variant(
        "the working folder's disk filled after predictions are stored",
        says=("! disk: only .* MiB are free|! worker 0: .*File too large",),
        parameters=SHORT | {"N_PREDICTIONS": "512"},
        sabotage=fill_disk,
        disk=(80 * MIB, 60_000),
    ),
}  # fmt: skip
