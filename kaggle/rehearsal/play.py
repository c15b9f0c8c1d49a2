"""Play one rehearsal: attach everything, execute the notebook as Kaggle does, check the end."""

import json
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import prepare

from arc_airv.engines.lifetime import tie_children
from rehearsal import image, sealed, validator
from rehearsal.variants import Scene, Variant

FALLBACK_SECONDS = 60  # limit for the first submission
PATIENCE = 900  # seconds; far more than any variant takes


@dataclass(frozen=True)
class Stage:
    """Hold the borrowed packages, datasets and models, which the rehearsals share."""

    folder: Path
    packages: Path
    datasets: Path


@dataclass(frozen=True)
class Outcome:
    """Hold the result of a rehearsal.

    Attributes
    ----------
    name, isolation : str
    seconds, fallback_seconds : float
        Time until the end and until the first submission.
    answered, outputs : int
        Number of outputs with an answer, and of all outputs.
    reported : list of str
        The failures in the log of the run.
    faults : list of str
        The requirements that the run did not meet.
    log : str
        Everything printed.
    """

    name: str
    isolation: str
    seconds: float
    fallback_seconds: float
    answered: int
    outputs: int
    reported: list[str]
    faults: list[str]
    log: str


def set_stage(folder: Path) -> Stage:
    """Make what the rehearsals share."""
    folder.mkdir(parents=True, exist_ok=True)
    datasets = image.prepare_datasets(folder / "datasets")
    shutil.copytree(prepare.ROOT / "tests" / "tiny", datasets / "tiny")
    make_garbage_model(datasets / "garbage")
    return Stage(folder, image.lend_packages(folder / "packages"), datasets)


def make_garbage_model(folder: Path) -> None:
    """Make an untrained model of the shipped format."""
    import torch

    from arc_airv.training.tiny import build_model, build_tokenizer, tiny_prompt_format
    from arc_airv.training.train import save_model

    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = build_model(tokenizer, width=64, layers=2, heads=2, context=2048)
    save_model(model, tokenizer, tiny_prompt_format(), folder)


def rehearse(stage: Stage, name: str, variant: Variant, kind: str | None = None) -> Outcome:
    """Play one variant.

    Parameters
    ----------
    stage : Stage
    name : str
    variant : Variant
    kind : str, optional
        The isolation, see `rehearsal.sealed.KINDS`; by default the best available.
    """
    start = time.monotonic()
    kind = variant.isolation or kind or sealed.find_kind()
    folder = stage.folder / name.replace(" ", "_")
    kaggle = sealed.make_folders(folder / "kaggle")
    here = sealed.inside(kind, kaggle)
    pushed = prepare.prepare_folders(
        folder / "pushed",
        owner=image.OWNER,
        model=stage.datasets / variant.model,
        inputs=here / "input",
        parameters={"submission": variant.parameters},
    )
    challenges = variant.challenges()
    shutil.copytree(stage.datasets / "wheels", folder / "attached" / "wheels")
    shutil.copytree(stage.datasets / "vllm_wheels", folder / "attached" / "vllm_wheels")
    shutil.copytree(pushed / "model", folder / "attached" / "model")
    attached = folder / "attached"
    image.attach(kaggle, pushed / "submission", attached, challenges, flat=variant.flat)
    before = snapshot(kaggle / "input")
    python = image.make_environment(folder / "env", stage.packages, kind)
    if variant.gpus:
        image.pretend_gpus(folder / "env", variant.gpus)
    scene = Scene(kaggle / "working", f"{folder}/")
    env = image.environment_variables(folder / "env", scene.mark, rerun=variant.rerun)
    disk = variant.disk and variant.disk[kind == "sockets"]
    faults, log = [], folder / "log.txt"
    first = None
    with open(log, "wb") as file, sealed.read_only(kind, kaggle / "input"):
        for command in commands(python, here, variant):
            process = start_sealed(kind, kaggle, command, disk=disk, env=env, output=file)
            sabotage = variant.sabotage(scene) if variant.sabotage else iter(())
            first = watch(process, scene, sabotage, start, first)
            if process.returncode and not variant.killed:
                faults.append(f"exit status {process.returncode}")
                break
    if not wait_for_end(scene):
        faults.append(f"left running: {len(scene.processes())} processes")
        scene.signal(signal.SIGKILL)
    text = log.read_text(errors="replace")
    notebook = kaggle / "working" / "__notebook__.ipynb"
    printed = text if variant.killed else outputs_of(notebook)
    submission = kaggle / "working" / "submission.json"
    faults += validator.submission_faults(submission, challenges)
    if not variant.killed:  # after a kill only the submission has to be whole
        faults += validator.half_written(kaggle / "working")
    faults += [f"nothing says {said!r}" for said in variant.says if not re.search(said, printed)]
    if snapshot(kaggle / "input") != before:
        faults.append("the inputs were changed")
    if disk is None and (first is None or first > FALLBACK_SECONDS):
        faults.append(f"no submission within {FALLBACK_SECONDS} s")
    answers = {} if faults else validator.answered(submission)
    found = [answer for task in answers.values() for answer in task]
    if not faults and variant.answers != any(found):
        faults.append("there are answers" if any(found) else "nothing is answered")
    faults += [f"{t} is answered" for t in variant.unanswered if any(answers.get(t, ()))]
    return Outcome(
        name=name,
        isolation=kind,
        seconds=time.monotonic() - start,
        fallback_seconds=first if first is not None else float("nan"),
        answered=sum(found),
        outputs=sum(validator.answers_needed(challenges).values()),
        reported=sorted(set(re.findall(r"^ *\d+:\d\d ! (.*)$", printed, re.MULTILINE))),
        faults=faults,
        log=text,
    )


def start_sealed(
    kind: str,
    kaggle: Path,
    command: list[str],
    *,
    disk: int | None,
    env: dict[str, str],
    output: IO[bytes],
) -> subprocess.Popen:
    """Start a command in isolation; it ends with this process, as its kernels do."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
    with tie_children():
        return subprocess.Popen(**sealed.seal(kind, kaggle, command, disk=disk), env=env, **streams)


def commands(python: Path, kaggle: Path, variant: Variant) -> list[list[str]]:
    """Return Kaggle's commands: papermill (in earlier years nbconvert), then the HTML page."""
    source, target = kaggle / "src" / "script.ipynb", kaggle / "working" / "__notebook__.ipynb"
    nbconvert = [str(python), "-m", "nbconvert"]
    page = [*nbconvert, "--to", "html", "--output", "__results__.html", str(target)]
    if variant.runner == "papermill":
        run = [str(python), "-m", "papermill", str(source), str(target)]
        run += ["--cwd", str(kaggle / "working"), "--log-output", "--no-progress-bar"]
    else:  # nbconvert executes a notebook in its own folder
        run = ["sh", "-c", 'cp "$0" "$1" && shift && exec "$@"', str(source), str(target)]
        run += [*nbconvert, "--execute", "--inplace", "--to", "notebook", str(target)]
        run += ["--ExecutePreprocessor.timeout=-1"]
    return [run, page] if variant.page else [run]


def watch(
    process: subprocess.Popen,
    scene: Scene,
    sabotage: Iterator[None],
    start: float,
    first: float | None,
) -> float | None:
    """Run the sabotage and wait for the end; return when the first submission appeared."""
    began = time.monotonic()
    while process.poll() is None:
        if first is None and (scene.working / "submission.json").exists():
            first = time.monotonic() - start
        next(sabotage, None)
        if time.monotonic() - began > PATIENCE:
            scene.signal(signal.SIGKILL)
        time.sleep(0.05)
    return first


def wait_for_end(scene: Scene, seconds: float = 5.0) -> bool:
    """Return True if all processes of a run end by themselves in time."""
    end = time.monotonic() + seconds
    while scene.processes():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def outputs_of(notebook: Path) -> str:
    """Return everything that the cells of an executed notebook printed."""
    try:
        cells = json.loads(notebook.read_text())["cells"]
    except (OSError, ValueError) as error:
        return f"{notebook.name}: {error}"
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    return "\n".join("".join(output.get("text", ())) for output in outputs)


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and modification time of every file."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}
