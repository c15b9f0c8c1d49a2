"""The vLLM engine, on CUDA and on CPU, for vLLM 0.10.2 to 0.33.

Versions differ in their options, so features are detected and versions are not compared. Prompts go
through vLLM's own step loop: results are handed out as they finish, with no barrier between
chunks, and a run can be stopped between two steps.
"""

from __future__ import annotations

import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from arc_airv.engines.base import Completion, Request, Sampling, checked_logprob, choose_dtype
from arc_airv.engines.local import LocalEngine, checked_score, numbered
from arc_airv.engines.search import Search

# Requests that belong together: token ids, SamplingParams, LoRARequest or None.
Group = list[tuple[list[int], Any, Any]]
# Prompts waiting inside vLLM beyond those that it runs: enough to never starve it, few enough
# that stopping is quick.
QUEUE_AHEAD = 256
FEW_CORES = 4  # up to so many, none is kept from computing


class VllmEngine(LocalEngine):
    """Continuous batching through vLLM.

    Parameters
    ----------
    model : str
        Model folder (or a name that vLLM resolves).
    **options
        Any engine argument of the installed vLLM (``max_model_len``, ``gpu_memory_utilization``,
        ``tensor_parallel_size``, ...), passed on. Where not given: ``dtype`` suits the device
        (see `choose_dtype`); ``max_logprobs`` is 128, enough for 64 beams; on a CPU,
        ``enforce_eager`` is True, which starts in a fifth of the time, ``block_size`` 32, prompts
        are read whole, the cache takes 2 GiB and of few cores all compute, unless
        VLLM_CPU_KVCACHE_SPACE and VLLM_CPU_NUM_OF_RESERVED_CPU say otherwise.

    Raises
    ------
    ValueError
        If the installed vLLM has no such option.
    """

    continuous = True

    def __init__(self, model: str, **options: Any) -> None:
        # The engine runs in a process of its own, which a fork after CUDA was touched would break.
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        if (os.cpu_count() or 1) <= FEW_CORES:
            # A core kept free for the scheduler is a large share of few: of two it costs 39%.
            os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
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
        defaults["max_logprobs"] = 128
        if capability is None:
            defaults["enforce_eager"] = True
            if hasattr(
                current_platform, "update_block_size_for_backend"
            ):  # earlier: 16, or not free
                # A search reads again what is in no full block: of vLLM's 128 it would take 2.8
                # times as long.
                defaults["block_size"] = 32
            if not options.keys() & {"enable_chunked_prefill", "max_num_batched_tokens"}:
                defaults |= _whole_prompts(model, options.get("max_model_len"))
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
        self.vocab_size = config.get_vocab_size()
        limit = config.max_logprobs
        self.max_logprobs = self.vocab_size if limit == -1 else limit
        # What vLLM itself ends a reply at.
        eos = config.try_get_generation_config().get("eos_token_id")
        self.eos_ids = {self.tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
        self.eos_ids -= {None}
        self._request_ids = itertools.count()
        self._adapters: dict[str, int] = {}

    @property
    def window(self) -> int:
        """How many requests it takes at once."""
        return QUEUE_AHEAD + (self.options.get("max_num_seqs") or 256)

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

    def stream_samples(
        self, requests: Iterable[Request]
    ) -> Iterator[list[tuple[int, list[Completion]]]]:
        adapted = None

        def start(index: int, request: Request) -> Group:
            nonlocal adapted
            prompt, sampling = request
            # vLLM 0.32 on a CPU, as measured: beside those of an adapter, a prompt without one
            # gets the answer of some adapter of its batch, and nothing says so.
            if adapted not in (None, sampling.adapter is not None):
                raise ValueError("requests with and without an adapter must not be mixed")
            adapted = sampling.adapter is not None
            token_ids = self.encode_fitting(index, prompt, sampling.max_tokens)
            return [(token_ids, _sampling_params(sampling), self._lora_request(sampling.adapter))]

        for finished in self._run(requests, start):
            yield [(index, _completions(output)) for index, (output,) in finished]

    def run_searches(self, searches: Iterable[Search]) -> Iterator[list[tuple[int, Search]]]:
        running: dict[int, Search] = {}

        def start(index: int, search: Search) -> Group:
            running[index] = search
            return self._next_tokens(search)

        def go_on(index: int, outputs: list[Any]) -> Group:
            tops = (output.outputs[0].logprobs[0] for output in outputs)
            running[index].advance([[(t, top[t].logprob) for t in top] for top in tops])
            return self._next_tokens(running[index])

        for finished in self._run(searches, start, go_on):
            yield [(index, running.pop(index)) for index, _ in finished]

    def _next_tokens(self, search: Search) -> Group:
        """One request for each live prefix: its most probable next tokens."""
        n_next = min(search.n_next, self.vocab_size)
        if n_next > self.max_logprobs:
            raise ValueError(
                f"this search has to know the {n_next} most probable tokens, the engine gives "
                f"{self.max_logprobs}: make it with a larger max_logprobs"
            )
        params = _one_token(logprobs=n_next)
        return [([*search.token_ids, *prefix.tokens], params, None) for prefix in search.live]

    def stream_scores(
        self, requests: Iterable[tuple[str, Sequence[str]]]
    ) -> Iterator[list[tuple[int, list[float]]]]:
        # vLLM reads nothing from its prefix cache for these, so that each is computed as a whole.
        params = _one_token(prompt_logprobs=0)
        starts: dict[int, int] = {}

        def start(index: int, request: tuple[str, Sequence[str]]) -> Group:
            prompt, continuations = self.encode_continuations(index, *request)
            starts[index] = len(prompt)
            return [(prompt + continuation, params, None) for continuation in continuations]

        for finished in self._run(requests, start):
            yield [
                (index, [_score(output, starts[index]) for output in outputs])
                for index, outputs in finished
            ]

    def _run(
        self,
        asked: Iterable[Any],
        start: Callable[[int, Any], Group],
        go_on: Callable[[int, list[Any]], Group] = lambda index, outputs: [],
    ) -> Iterator[list[tuple[int, list[Any]]]]:
        """Answer what is asked; yield each with its number when all its answers are there.

        `start` gives the group of requests of each, and `go_on` may give a further group to ask
        instead of an end, under the same number.
        """
        core = self.llm.llm_engine
        source = numbered(asked)
        waiting: deque[tuple[int, int, tuple[list[int], Any, Any]]] = deque()
        running: dict[str, tuple[int, int]] = {}
        answers: dict[int, list[Any]] = {}
        limit, is_over = self.window, False

        def add(index: int, group: Group) -> None:
            answers[index] = [None] * len(group)
            waiting.extend((index, k, request) for k, request in enumerate(group))

        try:
            while True:
                while len(waiting) + len(running) < limit and not is_over:
                    index, new = next(source, (None, None))
                    if new is None:  # the end, or none for now
                        is_over = index is None
                        break
                    add(index, start(index, new))
                while waiting and len(running) < limit:
                    index, k, (token_ids, params, lora) = waiting.popleft()
                    # Our own id: newer versions return another one, but report under this.
                    request_id = f"arc_airv-{next(self._request_ids)}"
                    core.add_request(request_id, self._render(token_ids), params, lora_request=lora)
                    running[request_id] = index, k
                finished = []
                if not running:
                    if is_over:
                        return
                    yield finished
                    continue
                for output in core.step():
                    if not output.finished:
                        continue
                    index, k = running.pop(output.request_id)
                    answers[index][k] = output
                    if None in answers[index]:
                        continue
                    outputs = answers.pop(index)
                    if further := go_on(index, outputs):
                        add(index, further)
                    else:
                        finished.append((index, outputs))
                yield finished
        finally:
            if running:  # the caller stopped early
                core.abort_request(list(running))

    def _lora_request(self, adapter: str | None) -> Any:
        if adapter is None:
            return None
        from vllm.lora.request import LoRARequest

        if not self.options.get("enable_lora"):
            raise ValueError("adapters need an engine made with enable_lora=True")
        path = str(Path(adapter).resolve())
        # vLLM caches adapters by their number, which must be above 0.
        number = self._adapters.setdefault(path, len(self._adapters) + 1)
        return LoRARequest(path, number, path)

    def _render(self, token_ids: list[int]) -> Any:
        """Token ids as this version of vLLM takes them."""
        prompt = {"prompt_token_ids": token_ids}
        renderer = getattr(self.llm.llm_engine, "renderer", None)
        if hasattr(renderer, "render_cmpl"):  # since then, raw prompts are deprecated
            return renderer.render_cmpl([prompt])[0]
        return prompt


def _whole_prompts(model: str, max_model_len: int | None) -> dict[str, Any]:
    """Options by which no prompt is read in chunks.

    vLLM 0.32 dies on a CPU ("CPU Generator does not use offset") where one with a seed is.
    """
    if max_model_len is None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(model).get_text_config()
        max_model_len = getattr(config, "max_position_embeddings", None)
    if max_model_len is None:
        return {}
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(4096, max_model_len)}


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
        allowed_token_ids=sampling.allowed_tokens and list(sampling.allowed_tokens),
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _one_token(**options: Any) -> Any:
    """Parameters of a request for probabilities; the token itself is of no interest."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=0.0,
        max_tokens=1,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
        **options,
    )


def _score(output: Any, start: int) -> float:
    """The log-probability of a prompt's tokens from a place on."""
    tokens, logprobs = output.prompt_token_ids[start:], output.prompt_logprobs[start:]
    return checked_score(math.fsum(top[token].logprob for token, top in zip(tokens, logprobs)))


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
