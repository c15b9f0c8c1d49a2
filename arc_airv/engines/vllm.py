"""The vLLM engine, on CUDA and on CPU, for vLLM 0.10.2 to 0.33.

Versions differ in their options, so features are detected and versions are not compared. Prompts go
through vLLM's own step loop: results are handed out as they finish, with no barrier between
chunks, and a run can be stopped between two steps.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

from arc_airv.engines.base import (
    Completion,
    LocalEngine,
    Request,
    Sampling,
    checked_logprob,
    choose_dtype,
)

# Prompts waiting inside vLLM beyond those that it runs: enough to never starve it, few enough
# that stopping is quick.
QUEUE_AHEAD = 256


class VllmEngine(LocalEngine):
    """Continuous batching through vLLM.

    Parameters
    ----------
    model : str
        Model folder (or a name that vLLM resolves).
    **options
        Any engine argument of the installed vLLM (``max_model_len``, ``gpu_memory_utilization``,
        ``tensor_parallel_size``, ...), passed on. Where not given: ``dtype`` suits the device
        (see `choose_dtype`); on a CPU, ``enforce_eager`` is True, which starts in a fifth of the
        time, and the cache takes 2 GiB unless VLLM_CPU_KVCACHE_SPACE says otherwise.

    Raises
    ------
    ValueError
        If the installed vLLM has no such option.
    """

    def __init__(self, model: str, **options: Any) -> None:
        # The engine runs in a process of its own, which a fork after CUDA was touched would break.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        import vllm
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform

        known = {field.name for field in fields(EngineArgs)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise ValueError(f"vLLM {vllm.__version__} has no option {unknown}")
        capability = None
        if current_platform.is_cuda():
            capability = tuple(current_platform.get_device_capability())
        defaults: dict[str, Any] = {"dtype": choose_dtype(capability), "seed": 0}
        if capability is None:
            defaults["enforce_eager"] = True
        elif capability < (8, 0) and "attention_backend" in known:
            # FlashInfer is broken on these for several versions, FlashAttention needs (8, 0).
            defaults["attention_backend"] = "TRITON_ATTN"
        self.options = {**{k: v for k, v in defaults.items() if k in known}, **options}
        self.model = str(model)
        self.device = "cpu" if capability is None else current_platform.get_device_name()
        self.llm = vllm.LLM(model=self.model, **self.options)
        self.tokenizer = self.llm.get_tokenizer()
        core = self.llm.llm_engine
        config = getattr(core, "model_config", None) or core.vllm_config.model_config
        self.max_model_len = config.max_model_len
        self._request_ids = itertools.count()

    def close(self) -> None:
        """End vLLM's own process, which gives its memory back."""
        self.llm.llm_engine.engine_core.shutdown()

    def describe(self) -> dict[str, Any]:
        """What a run description says of this engine."""
        import torch
        import vllm

        return {
            "engine": "vllm",
            "vllm": vllm.__version__,
            "torch": torch.__version__,
            "device": self.device,
            "options": {k: str(v) for k, v in self.options.items()},
            "max_model_len": self.max_model_len,
        }

    def stream(self, requests: Iterable[Request]) -> Iterator[list[tuple[int, list[Completion]]]]:
        core = self.llm.llm_engine
        waiting = enumerate(requests)
        running: dict[str, int] = {}
        limit = QUEUE_AHEAD + (self.options.get("max_num_seqs") or 256)
        try:
            while True:
                for index, request in itertools.islice(waiting, max(0, limit - len(running))):
                    # Our own id: newer versions return another one, but report under this.
                    request_id = f"arc_airv-{next(self._request_ids)}"
                    token_ids = self.encode_request(index, request)
                    core.add_request(
                        request_id, self._render(token_ids), _sampling_params(request[1])
                    )
                    running[request_id] = index
                if not running:
                    return
                finished = [output for output in core.step() if output.finished]
                yield [(running.pop(o.request_id), _completions(o)) for o in finished]
        finally:
            if running:  # the caller stopped early
                core.abort_request(list(running))

    def _render(self, token_ids: list[int]) -> Any:
        """Token ids as this version of vLLM takes them."""
        prompt = {"prompt_token_ids": token_ids}
        renderer = getattr(self.llm.llm_engine, "renderer", None)
        if hasattr(renderer, "render_cmpl"):  # since then, raw prompts are deprecated
            return renderer.render_cmpl([prompt])[0]
        return prompt


def _sampling_params(sampling: Sampling) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=sampling.n,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=sampling.seed,
        max_tokens=sampling.max_tokens,
        logprobs=0,  # only the chosen token's; without it there is no cumulative_logprob
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completions(output: Any) -> list[Completion]:
    ordered = sorted(output.outputs, key=lambda completion: completion.index)
    return [
        Completion(
            text=completion.text,
            n_tokens=len(completion.token_ids),
            cumulative_logprob=checked_logprob(completion.cumulative_logprob),
            finish_reason=completion.finish_reason,
        )
        for completion in ordered
    ]
