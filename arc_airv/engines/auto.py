"""Engines by name, and the one that uses the whole machine."""

import functools
import importlib
import importlib.util
import warnings
from typing import Any

from arc_airv.engines.base import Engine, as_engine
from arc_airv.engines.gpus import engine_options, find_gpus, gpus_for_model

ENGINES = {
    "auto": "arc_airv.engines.auto:auto_engine",
    "vllm": "arc_airv.engines:VllmEngine",
    "transformers": "arc_airv.engines:TransformersEngine",
}
# The values of `max_lora_rank` that vLLM takes (vllm/config/lora.py; 0.32 takes 1, too).
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


def make_engine(name: str, model: str, options: dict[str, Any]) -> Engine:
    """Make an engine by name.

    Parameters
    ----------
    name : str
        "auto" (see `auto_engine`), "vllm", "transformers", or ``module:name`` of anything that
        takes a model and options.
    model : str
    options : dict
    """
    module, _, attribute = ENGINES.get(name, name).partition(":")
    if not attribute:
        raise ValueError(f"engine must be one of {sorted(ENGINES)} or 'module:name', got {name!r}")
    return as_engine(getattr(importlib.import_module(module), attribute)(model, **options))


def adapter_options(name: str, rank: int) -> dict[str, Any]:
    """Return the options that an engine needs for prompts with adapters; for most it is none.

    Parameters
    ----------
    name : str
        As for `make_engine`.
    rank : int
        The largest of the adapters; a ValueError if vLLM has no room for it.
    """
    if name not in ("auto", "vllm"):
        return {}
    room = next((room for room in LORA_RANKS if 1 <= rank <= room), None)
    if room is None:
        raise ValueError(f"an adapter's rank must be 1 to {LORA_RANKS[-1]} in vLLM, got {rank}")
    return {"enable_lora": True, "max_lora_rank": room, "max_loras": 4}


def auto_engine(model: str, **options: Any) -> Engine:
    """Make the engine that uses all of this machine.

    On one GPU, or none, it is the plain one that suits it (`arc_airv.engines.engine_options`),
    with further options. On several it is a `RayEngine` with one such engine for each GPU, or for
    each few of them if the model does not fit one (or a ``tensor_parallel_size`` is given). Without
    Ray it is a plain engine on the first of them, with a warning.
    """
    gpus = find_gpus()
    together = options.get("tensor_parallel_size") or gpus_for_model(model, gpus)
    suited = engine_options(gpus, tensor_parallel_size=together)
    options = {**suited["options"], **options}
    if len(suited["devices"]) > 1:
        if importlib.util.find_spec("ray"):
            from arc_airv.engines.cluster.ray import RayEngine

            if together > 1:  # vLLM's own choice inside of Ray depends on its version
                options.setdefault("distributed_executor_backend", "mp")
            return RayEngine(
                functools.partial(make_engine, suited["engine"], model, options),
                n_workers=len(suited["devices"]),
                gpus_per_worker=together,
            )
        warnings.warn(
            f"Ray is not installed: {together} of {len(gpus)} GPUs will be used "
            "(pip install 'arc_airv[ray]')",
            stacklevel=2,
        )
    return make_engine(suited["engine"], model, options)
