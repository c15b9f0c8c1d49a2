"""Write everything to push to Kaggle into one folder that git ignores.

    python kaggle/prepare.py wheels                  # the wheel dataset: wheels, lock, check
    python kaggle/prepare.py check                   # only the check of the lock, from metadata
    python kaggle/prepare.py folders --owner NAME    # metadata, model, kernels for user NAME

The README beside this file explains how to push them. Needs only Python and its pip.
"""

import argparse
import json
import os
import re
import shutil
import string
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wheelhouse import (
    IMAGES,
    Image,
    Wheel,
    check_flat,
    check_installs,
    check_locked,
    load_image,
    lock_wheels,
    metadata_of,
    read_lock,
    requirements_of,
    write_lock,
    write_stand_in,
)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MODEL = ROOT / "res" / "small"
COMPETITION = "arc-prize-2026-arc-agi-2"
KAGGLE_INPUT = 'INPUT = Path("/kaggle/input")'  # this line of the cells

# The kernels made from notebooks: the cells to put first, and the parameters to set. The values are
# expressions, because only code on Kaggle can find where an input is mounted.
KERNELS = {
    "generate": {
        "notebook": "01_generate_predictions.ipynb",
        "cells": ["install", "vllm"],
        "parameters": {
            "MODEL": "str(find_model(root=INPUT))",
            "TASKS": 'str(find_input("arc-agi_evaluation_challenges.json", root=INPUT))',
            "DROP_DEMONSTRATIONS": "True",
            "MINUTES": "120",
        },
    },
    "visualize": {
        "notebook": "02_visualize_predictions.ipynb",
        "cells": ["install"],
        "parameters": {
            "PREDICTIONS": 'str(find_input("predictions.jsonl", root=INPUT))',
            "TASKS": 'str(find_input("arc-agi_evaluation_challenges.json", root=INPUT))',
            "SOLUTIONS": 'str(find_input("arc-agi_evaluation_solutions.json", root=INPUT))',
        },
    },
    "submission": {
        "notebook": "03_build_submission.ipynb",
        "cells": ["fallback", "install", "vllm"],
        "parameters": {
            "MODEL": "str(find_model(root=INPUT))",
            "TASKS": 'str(find_input("arc-agi_test_challenges.json", root=INPUT))',
        },
    },
}


def build_wheel(into: str | Path) -> Path:
    """Build arc_airv's wheel from a copy of the sources, free of old build files."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "source"), Path(folder, "out")
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "arc_airv", source / "arc_airv", ignore=ignore)
        for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
        if _can_build():  # else pip downloads a setuptools that can
            command.append("--no-build-isolation")
        subprocess.run([*command, "--wheel-dir", str(out), str(source)], check=True)
        (wheel,) = out.glob("*.whl")
        return Path(shutil.move(wheel, Path(into, wheel.name)))


def _can_build() -> bool:
    """Return True if the installed setuptools builds wheels by itself, as from 70.1 on."""
    # Not by import: setuptools must not be imported after pip, which the resolver looks up.
    try:
        return tuple(map(int, version("setuptools").split(".")[:2])) >= (70, 1)
    except PackageNotFoundError:
        return False


def prepare_wheels(
    image: Image, into: str | Path, *, relock: bool = False, download: bool = True
) -> Path:
    """Fill the folder of the wheel dataset: arc_airv's and vLLM's wheels, their lock, the image.

    Parameters
    ----------
    image : Image
    into : str or Path
        Gets the wheels, in its folder "wheels".
    relock : bool, default False
        Resolve again and write the lock beside this file.
    download : bool, default True
        Download the wheels of the lock; otherwise the kernel vllm_wheels does, on Kaggle.

    Returns
    -------
    Path
        The folder.
    """
    folder, lock = Path(into, "wheels"), lock_path(image)
    if relock or not lock.exists():
        write_lock(lock_wheels(image), lock, image)
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in ("*.whl", "*.lock"):
        for old in folder.glob(pattern):
            old.unlink()
    wheel = build_wheel(folder)
    shutil.copy(lock, folder)
    shutil.copy(IMAGES, folder)
    print(f"{folder}: {wheel.name}, {lock.name} of {len(read_lock(lock))} wheels")
    if download:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--require-hashes", "--requirement", str(lock), "--dest", str(folder)]
        command += ["--only-binary", ":all:", *image.pip_options()]
        subprocess.run(command, check=True)
        print(f"{folder}: {len(check_flat(folder))} wheels")
    return folder


def check(image: Image, folder: str | Path | None = None) -> list[Wheel]:
    """Check that the requirements install on the image from wheels alone; print the changes.

    If no folder of downloaded wheels is given, use stand-ins with the names and metadata of the
    locked wheels. pip gives the same answer, because it reads nothing else.
    """
    requirements, lock = [*image.requirements(), "arc_airv"], read_lock(lock_path(image))
    if folder is not None:
        check_locked(folder, lock)
    chosen = []
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            build_wheel(temporary)
            for wheel in metadata_of(lock, image):
                write_stand_in(wheel, temporary)
            folder = temporary
        for held in reversed(image.alternatives()):
            chosen = check_installs(folder, requirements, held, requirements_of(held))
            kept = ", ".join(image.keep)
            print(f"{image.name}: pip installs {len(chosen)} wheels; {kept} stay.")
            for wheel in chosen:
                if wheel.name in held.packages:
                    print(f"  replaces {wheel.name} {held.packages[wheel.name]} by {wheel.version}")
    return chosen


def lock_path(image: Image) -> Path:
    """Return the path of an image's lock."""
    return HERE / f"{image.name}.lock"


def prepare_folders(
    into: str | Path,
    *,
    owner: str,
    competition: str = COMPETITION,
    model: str | Path = MODEL,
    machine: str = "NvidiaL4",
    model_license: str = "Apache 2.0",
    wheelhouse: str = "kernel",
    versions: dict[str, int] | None = None,
    docker_image: str | None = None,
    inputs: str | Path = "/kaggle/input",
    parameters: dict[str, dict[str, str]] | None = None,
) -> Path:
    """Write the metadata, the model and the kernels, ready to push to the owner's account.

    Parameters
    ----------
    into : str or Path
        Gets the folders wheels, model, vllm_wheels, generate, visualize and submission.
    owner : str
        The NAME in kaggle.com/NAME.
    competition : str
    model : str or Path
        The model folder to upload as a Kaggle model.
    machine : str
        The accelerator of the kernels that use one.
    model_license : str
        The licence of the model, in Kaggle's words.
    wheelhouse : {"kernel", "dataset"}
        The source of vLLM's wheels: the output of the kernel vllm_wheels, or the wheel dataset.
    versions : dict of str to int, optional
        The versions of "wheels", "vllm_wheels", "model" and "generate" that kernels attach; 1 for
        each one left out.
    docker_image : str, optional
        The digest of the image to run on, as ``kaggle kernels pull -m`` prints it.
    inputs : str or Path
        Where the kernels look for their inputs; a rehearsal gives another folder.
    parameters : dict of str to dict of str to str, optional
        More parameters of the notebooks, by kernel; the values are Python expressions.
    """
    if not re.fullmatch(r"[a-z0-9]+(?:[_-][a-z0-9]+)*", owner):
        raise ValueError(f"owner {owner!r}: give the name in the address kaggle.com/NAME")
    if wheelhouse not in ("kernel", "dataset"):
        raise ValueError(f"wheelhouse must be 'kernel' or 'dataset', not {wheelhouse!r}")
    numbers = {"wheels": 1, "vllm_wheels": 1, "model": 1, "generate": 1}
    unknown = set(versions or {}) - set(numbers)
    if unknown:
        raise ValueError(f"unknown versions of {sorted(unknown)}: there are {sorted(numbers)}")
    numbers |= versions or {}
    strangers = set(parameters or {}) - set(KERNELS)
    if strangers:
        raise ValueError(f"unknown parameters of {sorted(strangers)}: there are {sorted(KERNELS)}")
    names = {"owner": owner, "competition": competition, "machine": machine}
    names["license"] = model_license
    names |= {f"{name}_version": str(number) for name, number in numbers.items()}
    into, model = Path(into), Path(model)
    if not (model / "config.json").is_file():
        raise ValueError(f"{model} is no model folder: it holds no config.json")
    if model.resolve() == (into / "model").resolve():
        raise ValueError(f"{model} is what this command writes: give the folder that it came from")
    shutil.rmtree(into / "model", ignore_errors=True)  # remove the files of any earlier model
    for template in sorted(HERE.glob("*/*-metadata.json")):
        folder = into / template.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        metadata = json.loads(string.Template(template.read_text()).substitute(names))
        if template.name == "kernel-metadata.json":
            if docker_image is not None:
                metadata["docker_image"] = docker_image
            if wheelhouse == "dataset":
                vllm_wheels = f"{owner}/arc-airv-vllm-wheels/"
                metadata["kernel_sources"] = [
                    source
                    for source in metadata["kernel_sources"]
                    if not source.startswith(vllm_wheels)
                ]
        (folder / template.name).write_text(json.dumps(metadata, indent=2) + "\n")
    for path in model.iterdir():
        if path.is_file():
            _link(path, into / "model" / path.name)
    shutil.copy(HERE / "vllm_wheels" / "vllm_wheels.py", into / "vllm_wheels")
    for name in KERNELS:
        (into / name / f"{name}.ipynb").write_text(
            json.dumps(make_notebook(name, inputs, (parameters or {}).get(name)), indent=1) + "\n"
        )
    return into


def _link(path: Path, into: Path) -> None:
    """Give a file a second name; copy it only where the file system cannot."""
    try:
        os.link(path.resolve(), into)
    except OSError:
        shutil.copy(path, into)


def make_notebook(
    kernel: str,
    inputs: str | Path = "/kaggle/input",
    parameters: dict[str, str] | None = None,
) -> dict:
    """Return a notebook with the kernel's cells put first and its parameters set, as JSON."""
    path = ROOT / "notebooks" / KERNELS[kernel]["notebook"]
    parameters = KERNELS[kernel]["parameters"] | (parameters or {})
    notebook = json.loads(path.read_text())
    cells = notebook["cells"]
    tagged = [i for i, cell in enumerate(cells) if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        raise ValueError(f"{path}: must have one cell tagged 'parameters', has {len(tagged)}")
    source = "".join(cells[tagged[0]]["source"])
    unknown = [name for name in parameters if not re.search(rf"^{name} =", source, re.MULTILINE)]
    if unknown:
        raise ValueError(f"{path}: has no parameter {unknown}")
    lines = ["# Set for Kaggle:", "from arc_airv.kaggle.inputs import find_input, find_model", ""]
    lines += [f"{name} = {value}" for name, value in parameters.items()]
    cells.insert(tagged[0] + 1, _code_cell("kaggle-parameters", "\n".join(lines)))
    place = f"INPUT = Path({json.dumps(str(inputs))})"
    cells[1:1] = [
        _code_cell(
            f"kaggle-{name}",
            (HERE / "cells" / f"{name}.py").read_text().replace(KAGGLE_INPUT, place),
        )
        for name in KERNELS[kernel]["cells"]
    ]
    return notebook


def _code_cell(name: str, source: str) -> dict:
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": name,
        "metadata": {},
        "outputs": [],
        "source": source.strip().splitlines(keepends=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--target", default="kaggle-2026", help="an image of images.toml")
    common.add_argument("--into", default=ROOT / "build" / "kaggle", type=Path)
    wheels = commands.add_parser("wheels", parents=[common], help="wheels, lock and check")
    wheels.add_argument("--relock", action="store_true", help="resolve again")
    wheels.add_argument(
        "--no-download", action="store_true", help="only lock: the kernel vllm_wheels downloads"
    )
    checked = commands.add_parser("check", parents=[common], help="only the check")
    checked.add_argument("--wheels", type=Path, help="a folder of wheels, instead of stand-ins")
    folders = commands.add_parser("folders", parents=[common], help="everything to push")
    folders.add_argument("--owner", default=os.environ.get("KAGGLE_USERNAME"), metavar="NAME")
    folders.add_argument("--competition", default=COMPETITION)
    folders.add_argument("--model", default=MODEL, type=Path, help="a model folder")
    folders.add_argument("--model-license", default="Apache 2.0", metavar="NAME")
    folders.add_argument("--machine", default="NvidiaL4", help="or NvidiaTeslaT4, ...")
    folders.add_argument("--wheelhouse", default="kernel", choices=["kernel", "dataset"])
    folders.add_argument("--version", default=[], nargs="*", metavar="SOURCE=N", dest="versions")
    folders.add_argument("--docker-image")
    folders.add_argument(
        "--set",
        default=[],
        nargs="*",
        metavar="KERNEL.NAME=VALUE",
        dest="settings",
        help="parameters of the notebooks, such as submission.N_PREDICTIONS=64",
    )
    folders.add_argument("--inputs", default="/kaggle/input", help="for a rehearsal")
    args = parser.parse_args()
    try:
        run(args)
    except ValueError as error:  # the message is enough, without a traceback
        sys.exit(f"{type(error).__name__}: {error}")


def run(args: argparse.Namespace) -> None:
    """Run one command."""
    if args.command == "folders":
        if not args.owner:
            raise ValueError("no owner: give --owner NAME or set KAGGLE_USERNAME")
        wrong = [text for text in args.versions if not re.fullmatch(r"\w+=\d+", text)]
        if wrong:
            raise ValueError(f"--version takes SOURCE=N, such as wheels=2, not {wrong}")
        versions = dict(text.split("=") for text in args.versions)
        parameters: dict[str, dict[str, str]] = {}
        for text in args.settings:
            match = re.fullmatch(r"(\w+)\.(\w+)=(.+)", text, re.DOTALL)
            if match is None:
                raise ValueError(f"--set takes KERNEL.NAME=VALUE, not {text!r}")
            parameters.setdefault(match[1], {})[match[2]] = match[3]
        options = ("owner", "competition", "model", "model_license", "machine", "wheelhouse")
        into = prepare_folders(
            args.into,
            versions={name: int(number) for name, number in versions.items()},
            inputs=args.inputs,
            parameters=parameters,
            docker_image=args.docker_image,
            **{name: getattr(args, name) for name in options},
        )
        print(f"{into}: {', '.join(sorted(path.name for path in into.iterdir()))}")
        print(
            f"The kernels ask for {args.machine} in their metadata. If Kaggle gives another, push "
            f"with `kaggle kernels push --accelerator {args.machine} -p FOLDER`, or choose it in "
            "the notebook's editor. The log of a kernel begins with the GPUs that it got."
        )
        return
    image = load_image(args.target)
    folder = getattr(args, "wheels", None)
    if args.command == "wheels":
        download = not args.no_download
        folder = prepare_wheels(image, args.into, relock=args.relock, download=download)
        if not download:
            folder = None
    check(image, folder)


if __name__ == "__main__":
    main()
