"""Engines by name, and the one that uses the whole machine."""

import functools
import importlib
import importlib.util
import warnings
from typing import Any

from arc_airv.engines.adapters import ADAPTER_OPTIONS
from arc_airv.engines.base import Engine, as_engine
from arc_airv.engines.gpus import engine_options, find_gpus, gpus_for_model
from arc_airv.engines.model_folder import look_at_model

ENGINES = {
    "auto": "arc_airv.engines.auto:auto_engine",
    "vllm": "arc_airv.engines:VllmEngine",
    "transformers": "arc_airv.engines:TransformersEngine",
}


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
    try:
        return as_engine(getattr(importlib.import_module(module), attribute)(model, **options))
    except (AttributeError, TypeError) as error:
        raise ValueError(f"engine {name!r} with the options {options}: {error}") from error


def auto_engine(model: str, **options: Any) -> Engine:
    """Make the engine that uses all of this machine.

    On one GPU, or none, it is the plain one that suits it (`arc_airv.engines.engine_options`),
    with further options. On several it is a `RayEngine` with one such engine for each GPU, or for
    each few of them if the model does not fit one (or a ``tensor_parallel_size`` is given). Without
    Ray it is a plain engine on the first of them, with a warning. On a CPU, with ``enable_lora`` or
    an adapter for a model, it is Transformers' engine, which is faster there.
    """
    folder, gpus = look_at_model(model, has_tokenizer="tokenizer" in options), find_gpus()
    together = options.get("tensor_parallel_size") or gpus_for_model(model, gpus)
    has_adapters = bool(options.get("enable_lora") or folder.adapter)
    suited = engine_options(gpus, tensor_parallel_size=together, adapters=has_adapters)
    if suited["engine"] == "transformers":  # which needs no room for adapters
        options = {name: value for name, value in options.items() if name not in ADAPTER_OPTIONS}
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
