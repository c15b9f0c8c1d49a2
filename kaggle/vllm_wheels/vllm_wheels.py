"""Build vLLM's wheelhouse on Kaggle: download the locked wheels and test them on the image.

This kernel has internet. Its output is the wheelhouse that the kernels without internet attach. It
requests a GPU to get the image with the GPU libraries, and takes minutes.
"""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

INPUT = Path("/kaggle/input")
WORKING = Path("/kaggle/working")


def run(*args: str) -> None:
    """Run Python with these arguments; a failure ends the kernel."""
    subprocess.run([sys.executable, *args], check=True)


def held(package: str) -> str:
    """Return the version of a package in this environment, or "none"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def compare(image: dict) -> None:
    """Print where the image differs from images.toml; end the kernel if its torch differs."""
    freeze = [sys.executable, "-m", "pip", "freeze"]
    freeze = subprocess.run(freeze, capture_output=True, text=True, check=True).stdout
    (WORKING / "freeze.txt").write_text(freeze)
    for package, expected in image["packages"].items():
        known = [expected, image.get("reported", {}).get(package)]
        if held(package) not in known:
            print(f"{package}: the image holds {held(package)}, images.toml says {expected}")
    if held("torch") != image["packages"]["torch"]:
        print(freeze)  # Kaggle may drop the output of a failed run but keeps its log
        raise SystemExit(
            f"This image holds torch {held('torch')}, the lock is for {image['packages']['torch']}."
            " Correct images.toml, and lock again."
        )


def main() -> None:
    """Compare the image, then download, check, install and import the wheels."""
    (lock,) = INPUT.rglob("*.lock")
    (images,) = INPUT.rglob("images.toml")
    image = tomllib.loads(images.read_text())[lock.stem]
    wanted = re.findall(r"^vllm==[^ ]+", lock.read_text(), re.MULTILINE)
    compare(image)
    before = {package: held(package) for package in image["keep"]}
    download = ["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    run(*download, "--requirement", str(lock), "--dest", str(WORKING))
    install = ["-m", "pip", "install", "--no-index", "--find-links", str(WORKING), *wanted]
    run(*install, "--dry-run", "--report", "/tmp/report.json")
    report = json.loads(Path("/tmp/report.json").read_text())
    replaced = {item["metadata"]["name"].lower() for item in report["install"]} & set(before)
    if replaced:
        raise SystemExit(f"{wanted} would replace {sorted(replaced)}")
    run(*install, "--quiet")
    after = {package: held(package) for package in before}
    if after != before:
        raise SystemExit(f"{wanted} turned {before} into {after}")
    run("-c", "import torch, vllm._C, vllm; print(torch.__version__, vllm.__version__)")
    print(len(list(WORKING.glob("*.whl"))), "wheels, and vLLM imports.")


if __name__ == "__main__":
    main()
