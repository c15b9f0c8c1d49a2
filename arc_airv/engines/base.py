"""The contract of an engine.

An engine takes prompts as text and knows nothing of tasks. Log-probabilities are natural (nats), of
the model's own distribution: before temperature and any restriction of the sampling.
"""

from __future__ import annotations

import itertools
import math
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol


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
        "stop": the model ended the reply, or wrote a stop string. "length": it was cut. "error":
        there is none, for the prompt ended every process that was to answer it.
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
        Replies to each prompt; more than one needs a temperature or a beam.
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
    beam_width : int or None
        Search with so many beams and reply with the `n` most probable, best first.
    allowed_tokens : tuple of int or None
        Write nothing but these tokens, see `arc_airv.engines.alphabet.answer_tokens`.
    adapter : str or None
        Folder of the LoRA adapter to reply with; None is the model alone. The requests of one
        stream have one each, or none at all.
    """

    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 1100
    seed: int | None = None
    stop: tuple[str, ...] = ()
    beam_width: int | None = None
    allowed_tokens: tuple[int, ...] | None = None
    adapter: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            raise ValueError(f"stop must be several strings, got the one {self.stop!r}")
        object.__setattr__(self, "stop", tuple(self.stop))
        if not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"a stop string must not be empty, got {self.stop}")
        if self.n < 1 or self.max_tokens < 1:
            raise ValueError(f"n and max_tokens must be at least 1, got {self}")
        if not (self.temperature >= 0 and 0 < self.top_p <= 1):  # NaN is neither
            raise ValueError(f"need temperature >= 0 and 0 < top_p <= 1, got {self}")
        if self.allowed_tokens is not None:
            object.__setattr__(self, "allowed_tokens", tuple(self.allowed_tokens))
            if not self.allowed_tokens:
                raise ValueError("allowed_tokens is empty: nothing could be written")
        if self.beam_width is not None:
            if self.beam_width < self.n:
                raise ValueError(f"n replies need a beam_width of at least n, got {self}")
            if self.temperature > 0 or self.allowed_tokens is not None or self.adapter is not None:
                raise ValueError(
                    f"a beam search takes no temperature, allowed_tokens or adapter, got {self}"
                )
        elif self.n > 1 and self.temperature == 0:
            raise ValueError(
                "n > 1 gives the same greedy reply n times: set a temperature or a beam_width"
            )

    def settings(self) -> dict[str, Any]:
        """What makes a run another one, for its description.

        `max_tokens` and `adapter` are each prompt's own. What is newer than the first stores is
        left out where it is not used, so that those can be gone on with.
        """
        newer = [k for k in ("beam_width", "allowed_tokens") if getattr(self, k) is None]
        return {k: v for k, v in asdict(self).items() if k not in ("max_tokens", "adapter", *newer)}


Request = tuple[str, Sampling]


class Engine(Protocol):
    """What `arc_airv.infer` needs of an engine; `arc_airv.rescore` needs `score` too.

    An engine may also have ``stream(requests)``, which takes ``(prompt, sampling)`` pairs lazily
    and yields lists of ``(number of the request, its completions)`` as they finish, and
    ``stream_scores(requests)``, the same of ``(prompt, continuations)`` and scores; without them,
    prompts are sent in chunks that share one sampling but for its `max_tokens` (the largest) and
    its seed (the first one's). Used if present: ``prompt_format``, ``tokenizer``,
    ``max_model_len``, ``model`` and ``describe()``.

    Where ``continuous`` is true, a stream takes None in place of a request, which says that there
    is none for now: it goes on with those it has, and asks again. ``window`` is then how many
    requests it takes at once.
    """

    def count_tokens(self, prompts: Sequence[str]) -> list[int]:
        """Length of each prompt in tokens."""

    def generate(self, prompts: Sequence[str], sampling: Sampling) -> list[list[Completion]]:
        """The replies to each prompt, in the order of the prompts."""

    def score(
        self, prompts: Sequence[str], continuations: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """The log-probability (nats) of each continuation of each prompt."""


CHUNK = 512  # prompts a call, at most, for an engine that only has `generate`
FIRST_CHUNK = 8  # where a call may not take long, and the engine's speed is not known yet
SCORED_CHUNK = 32  # the same where it only has `score`


def stream_replies(
    engine: Engine, requests: Iterable[Request], *, seconds: float | None = None
) -> Iterator[list[tuple[int, list[Completion]]]]:
    """What ``engine.stream`` yields, also of an engine that has none.

    Its calls then take about so many `seconds`, if that is given; else `CHUNK` prompts each.
    """
    if hasattr(engine, "stream"):
        yield from engine.stream(requests)
        return
    sent, size, requests = 0, CHUNK if seconds is None else FIRST_CHUNK, iter(requests)
    first = next(requests, None)
    while first is not None:
        chunk, first = _next_chunk(engine, first, requests, size)
        sampling = replace(chunk[0][1], max_tokens=max(s.max_tokens for _, s in chunk))
        start = time.monotonic()
        yield list(enumerate(engine.generate([prompt for prompt, _ in chunk], sampling), sent))
        sent += len(chunk)
        if seconds is not None:
            rate = len(chunk) / max(time.monotonic() - start, 1e-3)
            size = min(CHUNK, max(1, int(rate * seconds)))


def _next_chunk(
    engine: Engine, first: Request, requests: Iterator[Request], size: int
) -> tuple[list[Request], Request | None]:
    """Requests that one call can answer, and the one that comes after them."""
    limit = getattr(engine, "max_model_len", None) or math.inf
    chunk: list[Request] = []
    request, longest, widest = first, 0, 0
    while request is not None and len(chunk) < size:
        prompt, sampling = request
        if math.isfinite(limit):
            longest = max(longest, engine.count_tokens([prompt])[0])
        widest = max(widest, sampling.max_tokens)
        alike = replace(sampling, max_tokens=1, seed=None) == replace(
            first[1], max_tokens=1, seed=None
        )
        if chunk and not (alike and longest + widest <= limit):
            break
        chunk.append(request)
        request = next(requests, None)
    return chunk, request


def stream_scores(
    engine: Engine, requests: Iterable[tuple[str, Sequence[str]]]
) -> Iterator[list[tuple[int, list[float]]]]:
    """What ``engine.stream_scores`` yields, also of an engine that has none."""
    if hasattr(engine, "stream_scores"):
        yield from engine.stream_scores(requests)
        return
    sent, requests = 0, iter(requests)
    while chunk := list(itertools.islice(requests, SCORED_CHUNK)):
        prompts, answers = zip(*chunk)
        yield list(enumerate(engine.score(prompts, answers), start=sent))
        sent += len(chunk)


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
