# Added by kaggle/prepare.py. Install from the attached inputs: there is no network.
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

INPUT = Path("/kaggle/input")


def install(package, minutes):
    """Install from the folder of wheels that holds the package."""
    wheels = sorted(INPUT.rglob(f"{package}-*.whl"))
    if not wheels:
        attached = ", ".join(sorted(str(path) for path in INPUT.glob("*/*"))) or "nothing"
        raise FileNotFoundError(f"no {package}-*.whl under {INPUT}; attached: {attached}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
    command += ["--find-links", str(wheels[-1].parent), package]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60 * minutes)
    if result.returncode:
        raise RuntimeError(f"pip could not install {package}:\n{result.stderr[-3000:]}")
    print(package, version(package), "from", wheels[-1].parent)


def try_install(package, minutes, without):
    """Install an optional package; if that fails, say what replaces it."""
    try:
        install(package, minutes)
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"{without}; {error}")


if shutil.which("nvidia-smi"):
    print(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout)
install("arc_airv", minutes=5)
