"""Lock a wheelhouse and check it, with the answers that pip would give on a Kaggle image.

This needs neither the image nor its version of Python. pip's own resolver runs in an environment
that holds only pip and the metadata of the image's packages, set to the image's version of Python
and platform. It reads only metadata, by range requests: torch is not downloaded.

`prepare` handles Kaggle's datasets and kernels; this module knows nothing of them.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

HERE = Path(__file__).resolve().parent
IMAGES = HERE / "images.toml"


@dataclass(frozen=True)
class Image:
    """Describe a Kaggle image to pip, as read from images.toml."""

    name: str
    python: str  # "3.12"
    glibc: str  # "2.35": no wheel may require a newer one
    vllm: str  # the version that pins the image's torch
    uploaded_before: str  # exclude releases from this day on: newer than that vLLM
    keep: tuple[str, ...]  # packages that an installation must not touch
    packages: dict[str, str]  # the image's versions, by normalized name
    reported: dict[str, str]  # other versions of some of them: an image may hold either

    def requirements(self) -> list[str]:
        """Return the requirements that the wheelhouse serves."""
        return [f"vllm=={self.vllm}"]

    def alternatives(self) -> list["Image"]:
        """Return the image, and the one with each of the other reported versions in turn."""
        others = [{name: version} for name, version in self.reported.items()]
        return [replace(self, packages={**self.packages, **other}) for other in ({}, *others)]

    def pip_options(self) -> list[str]:
        """Return the options that make pip choose wheels for the image's Python and platform."""
        newest = int(self.glibc.split(".")[1])
        platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(newest, 4, -1)]
        platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
        options = ["--only-binary", ":all:", "--python-version", self.python]
        for platform in platforms:
            options += ["--platform", platform]
        return options


@dataclass(frozen=True)
class Wheel:
    """Describe a wheel that pip chose, with the metadata behind the choice."""

    name: str
    version: str
    filename: str
    sha256: str
    requires: tuple[str, ...]
    requires_python: str | None
    extras: tuple[str, ...]


def normalize(name: str) -> str:
    """Return the canonical spelling of a package's name.

    >>> normalize("Prometheus_client")
    'prometheus-client'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def load_image(name: str, path: str | Path = IMAGES) -> Image:
    """Load the image of that name from images.toml."""
    images = tomllib.loads(Path(path).read_text())
    if name not in images:
        raise ValueError(f"no image {name!r} in {path}; it holds {sorted(images)}")
    table = images[name]
    packages = {normalize(package): version for package, version in table.pop("packages").items()}
    keep = tuple(normalize(package) for package in table.pop("keep"))
    reported = {normalize(name): version for name, version in table.pop("reported", {}).items()}
    missing = sorted(set(keep) - set(packages))
    if missing:
        raise ValueError(f"{path}: {name} keeps {missing}, whose versions it does not give")
    return Image(name=name, keep=keep, packages=packages, reported=reported, **table)


def resolve(
    requirements: Iterable[str], image: Image, *options: str, requires: dict | None = None
) -> list[Wheel]:
    """List the wheels that ``pip install`` would install or replace on the image, in its order.

    Parameters
    ----------
    requirements : iterable of str
        As on pip's command line.
    image : Image
    *options : str
        More options of pip, such as ``"--no-index", "--find-links", folder``.
    requires : dict of str to iterable of str, optional
        The requirements of the image's packages; none if left out.

    Raises
    ------
    ValueError
        If pip finds no solution; the message quotes pip.
    """
    with tempfile.TemporaryDirectory() as folder:
        site, report = Path(folder, "site"), Path(folder, "report.json")
        site.mkdir()
        (site / "pip").symlink_to(Path(find_spec("pip").origin).parent)
        for package, version in image.packages.items():
            info = site / f"{package.replace('-', '_')}-{version}.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(
                _metadata(package, version, (requires or {}).get(package, ()))
            )
            (info / "INSTALLER").write_text("pip")
        command = [sys.executable, "-I", "-S", str(HERE / "pip_on_image.py"), str(site)]
        command += [image.python, "install", "--dry-run", "--report", str(report)]
        command += [*image.pip_options(), *options, *requirements]
        environment = dict(os.environ)
        if "--no-index" in options:  # ignore any configured find-links as well
            environment = {k: v for k, v in environment.items() if not k.startswith("PIP_")}
            environment["PIP_CONFIG_FILE"] = os.devnull
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        if result.returncode:
            raise ValueError(
                f"pip finds no way to install {' '.join(requirements)} on {image.name}:\n"
                f"{_errors(result)}"
            )
        return [_wheel(item) for item in json.loads(report.read_text())["install"]]


def lock_wheels(image: Image) -> list[Wheel]:
    """List the wheels that the image's vLLM needs on top of it, sorted by name.

    Queries the package index that pip is configured for.
    """
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "constraints.txt")
        pins = [f"{package}=={image.packages[package]}\n" for package in image.keep]
        constraints.write_text("".join(pins))
        options = ["--constraint", str(constraints), "--use-feature", "fast-deps"]
        options += ["--uploaded-prior-to", image.uploaded_before]
        requires = requirements_of(image)
        wheels = resolve(image.requirements(), image, *options, requires=requires)
    return sorted(wheels, key=lambda wheel: wheel.name)


def requirements_of(image: Image) -> dict[str, tuple[str, ...]]:
    """Read the requirements of the image's packages from the package index.

    For a version with a local label, such as 2.10.0+cu128, read those of the public release.
    """
    pins = [f"{name}=={version.split('+')[0]}" for name, version in image.packages.items()]
    return {wheel.name: wheel.requires for wheel in _look_up(pins, image)}


def metadata_of(lock: dict[str, tuple[str, str]], image: Image) -> list[Wheel]:
    """Read the locked wheels with their metadata from the package index.

    Raises
    ------
    ValueError
        If the index now offers another file for a locked version.
    """
    wheels = _look_up([f"{name}=={version}" for name, (version, _) in lock.items()], image)
    changed = sorted(wheel.filename for wheel in wheels if lock[wheel.name][1] != wheel.sha256)
    if changed:
        raise ValueError(f"the index offers other files than the lock: {changed}")
    return wheels


def check_installs(
    folder: str | Path, requirements: Iterable[str], image: Image, requires: dict | None = None
) -> list[Wheel]:
    """Check that pip installs from the folder alone on the image and keeps its torch.

    Returns
    -------
    list of Wheel
        The wheels that pip would install, including those that replace one of the image.

    Raises
    ------
    ValueError
        If the folder is not flat or holds anything but wheels, if pip finds no solution in it, if
        the solution replaces a package that the image must keep, or if it holds libraries for
        another CUDA than the image's torch.
    """
    folder = Path(folder)
    check_flat(folder)
    chosen = resolve(
        requirements, image, "--no-index", "--find-links", str(folder), requires=requires
    )
    for wheel in chosen:
        if wheel.name in image.keep:
            raise ValueError(
                f"{', '.join(requirements)} would replace {wheel.name} "
                f"{image.packages[wheel.name]} of {image.name} by {wheel.version}"
            )
    cuda = re.search(r"\+cu(\d\d)", image.packages.get("torch", ""))
    others = [
        wheel.filename for wheel in chosen if _cuda(wheel.name) not in (None, cuda and cuda[1])
    ]
    if others:
        raise ValueError(
            f"the torch of {image.name} is {image.packages.get('torch')}, "
            f"but these are for another CUDA: {sorted(others)}"
        )
    return chosen


def check_flat(folder: str | Path) -> list[Path]:
    """List the wheels of a folder; refuse subfolders and source distributions."""
    wheels = []
    for path in sorted(Path(folder).iterdir()):
        if path.is_dir():
            raise ValueError(f"{path}: a dataset leaves subfolders out; all wheels must lie flat")
        if path.suffix == ".whl":
            wheels.append(path)
        elif path.name.endswith((".tar.gz", ".zip", ".tar.bz2")):
            raise ValueError(f"{path.name} is no wheel: it would be built without a network")
    return wheels


def check_locked(folder: str | Path, lock: dict[str, tuple[str, str]]) -> None:
    """Check that a folder holds exactly the files of a lock, apart from arc_airv's wheel.

    Raises
    ------
    ValueError
        If a file is missing or not in the lock.
    """
    wheels = [path for path in check_flat(folder) if not path.name.startswith("arc_airv-")]
    known = {sha256: name for name, (_, sha256) in lock.items()}
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest(): path.name for path in wheels}
    strangers = sorted(name for sha256, name in hashes.items() if sha256 not in known)
    missing = sorted(name for sha256, name in known.items() if sha256 not in hashes)
    if strangers or missing:
        raise ValueError(f"{folder} is not what was locked: strange {strangers}, missing {missing}")


def write_lock(wheels: Iterable[Wheel], path: str | Path, image: Image) -> Path:
    """Write exact versions and hashes in the format of pip's ``--require-hashes``."""
    lines = [
        f"# What {' and '.join(image.requirements())} adds to the image {image.name} (torch "
        f"{image.packages['torch']}, Python {image.python}).",
        f"# Made by: python kaggle/prepare.py wheels --target {image.name} --relock",
    ]
    for wheel in sorted(wheels, key=lambda wheel: wheel.name):
        lines.append(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}")
    path = Path(path)
    path.write_text("\n".join(lines) + "\n")
    return path


def read_lock(path: str | Path) -> dict[str, tuple[str, str]]:
    """Read the version and SHA-256 of every wheel of a lock, by normalized name."""
    lock = {}
    for line in Path(path).read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+) --hash=sha256:([0-9a-f]{64})", line)
        if match is None:
            raise ValueError(f"{path}: not 'name==version --hash=sha256:...': {line!r}")
        lock[match[1]] = (match[2], match[3])
    return lock


def write_stand_in(wheel: Wheel, folder: str | Path) -> Path:
    """Write a wheel with the same name and metadata but no code: enough for a resolver."""
    path = Path(folder, wheel.filename)
    info = f"{wheel.filename.split('-')[0]}-{wheel.version}.dist-info"
    text = _metadata(wheel.name, wheel.version, wheel.requires, wheel.requires_python, wheel.extras)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", text)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def _look_up(pins: list[str], image: Image) -> list[Wheel]:
    return resolve(pins, replace(image, packages={}), "--no-deps", "--use-feature", "fast-deps")


def _errors(result: subprocess.CompletedProcess) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
    _, caused, by = result.stdout.partition("The conflict is caused by:")
    return "\n".join([*lines, (caused + by.partition("\n\n")[0]).strip()]).strip() or result.stderr


def _metadata(name, version, requires=(), requires_python=None, extras=()) -> str:
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    if requires_python:
        lines.append(f"Requires-Python: {requires_python}")
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    return "\n".join(lines) + "\n"


def _wheel(item: dict) -> Wheel:
    metadata, download = item["metadata"], item["download_info"]
    return Wheel(
        name=normalize(metadata["name"]),
        version=metadata["version"],
        filename=unquote(os.path.basename(download["url"])),
        sha256=download["archive_info"].get("hashes", {}).get("sha256", ""),
        requires=tuple(metadata.get("requires_dist", ())),
        requires_python=metadata.get("requires_python"),
        extras=tuple(metadata.get("provides_extra", ())),
    )


def _cuda(name: str) -> str | None:
    match = re.search(r"-cu(\d\d)\d*$", name)
    return match and match[1]
