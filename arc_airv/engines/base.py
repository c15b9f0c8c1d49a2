"""The contract of an engine, and what every engine does alike.

An engine takes prompts as text and knows nothing of tasks. Log-probabilities are natural (nats), of
the model's own distribution: before temperature and any restriction of the sampling.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from arc_airv.prompts import PromptFormat


@dataclass(frozen=True)
class Completion:
    """One reply to one prompt.

    Attributes
    ----------
    text : str or None
        Without the prompt and the end-of-text token; None where the prompt was not sent.
    n_tokens : int
        Generated tokens, the end-of-text token included.
    cumulative_logprob : float or None
        Sum over the generated tokens (nats); None where it is no number.
    finish_reason : str or None
        "stop": the model ended the reply, or wrote a stop string. "length": it was cut.
    """

    text: str | None
    n_tokens: int
    cumulative_logprob: float | None
    finish_reason: str | None


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn.

    Attributes
    ----------
    n : int
        Replies to each prompt; more than one needs a temperature.
    temperature : float
        0 is greedy.
    top_p : float
        In (0, 1].
    max_tokens : int
        Longest reply.
    seed : int or None
        For a temperature above 0.
    stop : tuple of str
        A reply is over when it has written one of these; it stays in the text.
    """

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1100
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", tuple(self.stop))
        if self.n < 1 or self.max_tokens < 1:
            raise ValueError(f"n and max_tokens must be at least 1, got {self}")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"need temperature >= 0 and 0 < top_p <= 1, got {self}")
        if self.n > 1 and self.temperature == 0:
            raise ValueError("n > 1 gives the same greedy reply n times: set a temperature")


Request = tuple[str, Sampling]


class Engine(Protocol):
    """What `arc_airv.infer` needs of an engine.

    An engine may also have ``stream(requests)``, which takes ``(prompt, sampling)`` pairs lazily
    and yields lists of ``(number of the request, its completions)`` as they finish; without it,
    prompts are sent in chunks. Used if present: ``prompt_format``, ``tokenizer``,
    ``max_model_len``, ``model`` and ``describe()``.
    """

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Length of each prompt in tokens."""

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[list[Completion]]:
        """The replies to each prompt, in the order of the prompts."""


class LocalEngine:
    """What the engines of this package share: the tokenizer's side of the contract.

    A subclass sets `model`, `tokenizer` and `max_model_len`, and gives `stream`.
    """

    model: str
    tokenizer: Any
    max_model_len: int
    _encoded: tuple[str, list[int]] = ("", [])  # the latest: a prompt is counted, then sent

    @property
    def prompt_format(self) -> PromptFormat | None:
        """The format that the model folder carries, or None."""
        return PromptFormat.load(self.model)

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of each prompt; a begin-of-text token is added unless the text has it."""
        return [self._encode(prompt) for prompt in prompts]

    def _encode(self, prompt: str) -> list[int]:
        if prompt != self._encoded[0]:
            bos = getattr(self.tokenizer, "bos_token", None)
            special = not (bos and prompt.startswith(bos))
            self._encoded = prompt, self.tokenizer.encode(prompt, add_special_tokens=special)
        return self._encoded[1]

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Length of each prompt in tokens."""
        return [len(ids) for ids in self.encode(prompts)]

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[list[Completion]]:
        """The replies to each prompt, in the order of the prompts.

        Raises
        ------
        ValueError
            If a prompt and its reply cannot fit the model's context.
        """
        samplings = [sampling] * len(prompts)
        if sampling.seed is not None:  # so that equal prompts draw differently
            samplings = [replace(sampling, seed=sampling.seed + i) for i in range(len(prompts))]
        replies: list[list[Completion]] = [[] for _ in prompts]
        for finished in self.stream(zip(prompts, samplings)):
            for index, completions in finished:
                replies[index] = completions
        return replies

    def stream(self, requests: Iterable[Request]) -> Iterator[list[tuple[int, list[Completion]]]]:
        """Yield replies as they finish; an empty list where a step finished none.

        Parameters
        ----------
        requests : iterable of (str, Sampling)
            Prompts, each with its sampling: all alike but for `max_tokens` and `seed`. They are
            taken as the engine needs them, so the iterable may be lazy and long.
        """
        raise TypeError(f"{type(self).__name__} does not generate")

    def encode_request(self, index: int, request: Request) -> list[int]:
        """Token ids of a request's prompt.

        Raises
        ------
        ValueError
            If the prompt does not fit the model's context with its reply.
        """
        prompt, sampling = request
        ids = self.encode([prompt])[0]
        if len(ids) + sampling.max_tokens > self.max_model_len:
            raise ValueError(
                f"prompt {index} has {len(ids)} tokens; with a reply of up to "
                f"{sampling.max_tokens} it exceeds the {self.max_model_len} of the context"
            )
        return ids


def checked_logprob(value: float | None) -> float | None:
    """The log-probability, or None with a warning where it is NaN or infinite (an overflow)."""
    if value is not None and not math.isfinite(value):
        warnings.warn(
            f"the model gave a log-probability of {value}: its dtype may overflow, "
            "try dtype='float32'",
            stacklevel=2,
        )
        return None
    return value


def choose_dtype(capability: tuple[int, int] | None) -> str:
    """The dtype to load a model in: "auto" (the model's own) where the device computes in it.

    Parameters
    ----------
    capability : tuple of int or None
        CUDA compute capability, or None for a CPU.

    Returns
    -------
    str
        "float32" on a CPU (small models; most CPUs emulate the half types), "float16" on GPUs
        before (8, 0), which have no bfloat16 (T4, P100), else "auto".
    """
    if capability is None:
        return "float32"
    return "float16" if capability < (8, 0) else "auto"
