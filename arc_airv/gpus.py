"""GPUs of this machine, without initializing CUDA here, and the engine options that suit them."""

from __future__ import annotations

import csv
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FIRST_FLASH_ATTENTION = (8, 0)  # the compute capability since which there is bfloat16, too
FIRST_VLLM = (7, 5)  # older GPUs are not supported by vLLM


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes
    ----------
    index : int
        As CUDA_VISIBLE_DEVICES counts.
    name : str
        "Tesla T4", "NVIDIA L4", ...
    memory_gib : float
    capability : tuple of int
        CUDA compute capability: (7, 5) is a T4, (8, 9) an L4.
    """

    index: int
    name: str
    memory_gib: float
    capability: tuple[int, int]


def find_gpus(
    command: Sequence[str] = ("nvidia-smi",), environment: Mapping[str, str] = os.environ
) -> list[Gpu]:
    """The GPUs that this process may use, as nvidia-smi tells; none where it is not installed.

    Raises
    ------
    RuntimeError
        If nvidia-smi is there but fails: the driver is broken, which is no CPU machine.
    """
    query = [
        "--query-gpu=index,uuid,name,memory.total,compute_cap",
        "--format=csv,noheader,nounits",
    ]
    try:
        result = subprocess.run([*command, *query], capture_output=True, text=True, timeout=60)
    except (FileNotFoundError, PermissionError):
        return []
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{command[0]} gave no answer for 60 s") from None
    if result.returncode:
        if "No devices were found" in result.stdout + result.stderr:
            return []
        raise RuntimeError(f"{command[0]} failed: {(result.stderr or result.stdout).strip()[:300]}")
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = []
    for row in csv.reader(result.stdout.splitlines(), skipinitialspace=True):
        index, uuid, name, memory, capability = row
        if visible is None or {index, uuid} & set(re.split(r"\s*,\s*", visible.strip())):
            try:
                major, minor = map(int, capability.split("."))
                gpus.append(Gpu(int(index), name, float(memory) / 1024, (major, minor)))
            except ValueError:  # "[N/A]", "[Unknown Error]"
                raise RuntimeError(f"{command[0]} does not know this GPU: {row}") from None
    return gpus


def require_gpus(gpus: Sequence[Gpu], wanted: str) -> None:
    """Fail early if the machine is not the one that was asked for.

    Parameters
    ----------
    gpus : sequence of Gpu
        As `find_gpus` gives them.
    wanted : str
        A number and a part of the name, such as "2xT4" or "4xL4"; "cpu" for none.

    Raises
    ------
    RuntimeError
        If they differ; the message names both. (Kaggle gives another machine without a word.)
    """
    match = re.fullmatch(r"(\d+)x(.+)|cpu", wanted)
    if match is None:
        raise ValueError(f"wanted must be like '2xT4', or 'cpu', got {wanted!r}")
    number, name = int(match[1] or 0), match[2] or ""
    found = ", ".join(f"{gpu.name} {gpu.memory_gib:.0f} GiB" for gpu in gpus) or "none"
    words = [re.split(r"[\s-]+", gpu.name.lower()) for gpu in gpus]
    if len(gpus) != number or not all(name.lower() in parts for parts in words):
        raise RuntimeError(f"asked for {wanted}, the GPUs of this machine are: {found}")


def engine_options(gpus: Sequence[Gpu], *, tensor_parallel_size: int = 1) -> dict[str, Any]:
    """The configuration of engines for a machine: a plain dictionary, to be changed at will.

    Parameters
    ----------
    gpus : sequence of Gpu
    tensor_parallel_size : int, default 1
        GPUs that one model is spread over. A model that fits one GPU is faster once on each, with
        no traffic between them (T4s cannot even reach each other's memory).

    Returns
    -------
    dict
        ``engine`` ("vllm" or "transformers"), ``options`` (of one engine), ``devices``: for each
        engine the value of its CUDA_VISIBLE_DEVICES, or None for a CPU.

    Raises
    ------
    ValueError
        If there are not that many GPUs.

    Examples
    --------
    >>> engine_options([Gpu(0, "Tesla T4", 15.0, (7, 5)), Gpu(1, "Tesla T4", 15.0, (7, 5))])
    {'engine': 'vllm', 'options': {'dtype': 'float16', 'gpu_memory_utilization': 0.9,
     'attention_backend': 'TRITON_ATTN'}, 'devices': ['0', '1']}
    """
    if not gpus:
        return {"engine": "vllm", "options": {}, "devices": [None]}
    n = tensor_parallel_size
    if not 1 <= n <= len(gpus):
        raise ValueError(f"tensor_parallel_size must be 1 to {len(gpus)} here, got {n}")
    numbers = [str(gpu.index) for gpu in gpus]
    devices = [",".join(numbers[i : i + n]) for i in range(0, len(gpus) - n + 1, n)]
    weakest = min(gpu.capability for gpu in gpus)
    if weakest < FIRST_VLLM:  # P100 is (6, 0)
        return {"engine": "transformers", "options": {"dtype": "float16"}, "devices": devices}
    options: dict[str, Any] = {"dtype": "auto", "gpu_memory_utilization": 0.9}
    if weakest < FIRST_FLASH_ATTENTION:
        # No bfloat16 and no FlashAttention 2; FlashInfer is broken there in several versions.
        options |= {"dtype": "float16", "attention_backend": "TRITON_ATTN"}
    if n > 1:
        options["tensor_parallel_size"] = n
    return {"engine": "vllm", "options": options, "devices": devices}
