"""The inputs of a Kaggle notebook, whose paths moved over the years: they are searched for."""

import os
from collections.abc import Mapping
from pathlib import Path

INPUT = Path("/kaggle/input")


def is_rerun(environment: Mapping[str, str] = os.environ) -> bool:
    """Return True in the scored rerun, which sees the hidden test file."""
    return bool(environment.get("KAGGLE_IS_COMPETITION_RERUN"))


def find_input(name: str, *, root: str | Path = INPUT) -> Path:
    """Find the one file or folder of a name (or glob pattern) anywhere under the inputs.

    Raises
    ------
    FileNotFoundError
        If nothing has this name; the message lists what is attached.
    ValueError
        If several things have it; the message lists them.
    """
    return _the_one(_search(Path(root), name), name, Path(root))


def find_model(*, root: str | Path = INPUT) -> Path:
    """Find the one folder under the inputs with a model: a config.json beside safetensors.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or several.
    """
    found = [path.parent for path in _search(Path(root), "config.json")]
    found = [folder for folder in found if any(folder.glob("*.safetensors"))]
    return _the_one(found, "model folder (config.json and *.safetensors)", Path(root))


def _search(root: Path, pattern: str) -> list[Path]:
    """List the paths below a folder whose end matches; where links lead, too, but once."""
    found, seen = [], set()
    for folder, folders, files in os.walk(root, followlinks=True):
        folders.sort()
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        paths = [Path(folder, name) for name in (*folders, *files)]
        found += [path for path in paths if path.match(pattern)]
    return sorted({path.resolve(): path for path in reversed(found)}.values())


def _the_one(found: list[Path], what: str, root: Path) -> Path:
    if len(found) > 1:
        raise ValueError(f"{len(found)} times {what} under {root}: {', '.join(map(str, found))}")
    if not found:
        places = [f"{root} does not exist"]
        if root.is_dir():  # three levels: kind, owner, name
            folders = {p for depth in ("*", "*/*", "*/*/*") for p in root.glob(depth) if p.is_dir()}
            attached = [str(p) for p in sorted(folders)]
            places = [f"attached: {', '.join(attached[:20]) or 'nothing'}"]
        raise FileNotFoundError(f"no {what} under {root}; {places[0]}")
    return found[0]
