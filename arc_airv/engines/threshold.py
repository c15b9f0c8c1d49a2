"""Threshold search: all replies whose probability is above a given one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from arc_airv.engines.base import Completion
from arc_airv.engines.local import LocalEngine
from arc_airv.engines.search import Ends, Prefix, Search


class ThresholdSearch(Search):
    """All replies of at least a given probability.

    Prefixes of one length exclude each other, so no more than ``1 / min_probability`` are ever
    live, and no prefix has more next tokens than that to look at.

    Parameters
    ----------
    token_ids, max_tokens, ends
        See `Search`.
    min_probability : float
    max_live : int
        If there are more prefixes, the least probable are dropped.

    Attributes
    ----------
    dropped : float
        Total probability of the prefixes that were dropped because of `max_live`.
    """

    def __init__(
        self,
        token_ids: list[int],
        max_tokens: int,
        ends: Ends,
        *,
        min_probability: float,
        max_live: int,
    ) -> None:
        super().__init__(token_ids, max_tokens, ends)
        self.min_probability = min_probability
        self.dropped = 0.0
        self._max_live = max_live

    @property
    def n_next(self) -> int:
        best = math.exp(self.live[0].logprob) if self.live else 1.0
        return max(1, math.floor(best / self.min_probability + 1e-6))

    @property
    def max_live(self) -> int:
        return min(self._max_live, math.floor(1 / self.min_probability))

    def keep(self, ranked: Iterator[Prefix]) -> list[Prefix]:
        floor = math.log(self.min_probability)
        live: list[Prefix] = []
        for prefix in ranked:
            if not prefix.logprob >= floor:
                break
            if self.ends(prefix.tokens):
                self.ended.append(prefix)
            elif len(live) < self._max_live:
                live.append(prefix)
            else:
                self.dropped += math.exp(prefix.logprob)
        return live


@dataclass(frozen=True)
class Harvest:
    """What `threshold_search` found for one prompt.

    Attributes
    ----------
    completions : list of Completion
        Most probable first. Those of `finish_reason` "length" reached the longest length while
        they were still probable enough.
    mass : float
        Total probability of the completions that ended.
    cut : float
        Total probability of those that reached the longest length.
    dropped : float
        Total probability of the prefixes that were dropped because too many were live. If this
        is 0, every reply of the asked probability and length is there. What is missing of
        ``mass + cut + dropped`` to 1 is the probability of the replies below the threshold.
    """

    completions: list[Completion]
    mass: float
    cut: float
    dropped: float


def threshold_search(
    engine: LocalEngine,
    prompts: Sequence[str],
    *,
    min_probability: float,
    max_tokens: int,
    max_live: int = 64,
    stop: Sequence[str] = (),
) -> list[Harvest]:
    """All replies whose probability is at least `min_probability`.

    Parameters
    ----------
    engine : TransformersEngine or VllmEngine
    prompts : sequence of str
    min_probability : float
        In (0, 1].
    max_tokens : int
        Longest reply.
    max_live : int, default 64
        The most prefixes of a prompt to extend at once. No more than ``1 / min_probability`` are
        ever needed.
    stop : sequence of str
        As in `Sampling`.

    Returns
    -------
    list of Harvest
        In the order of the prompts.

    Raises
    ------
    ValueError
        If an argument is out of its range, or a prompt does not fit the model's context.

    Notes
    -----
    What the depth-first search of the ARChitects (ARC Prize 2024) finds, but found breadth first:
    the prefixes of all prompts are extended together, in batches.
    """
    requests = ((prompt, max_tokens) for prompt in prompts)
    options = {"min_probability": min_probability, "max_live": max_live, "stop": stop}
    harvests = dict(stream_harvests(engine, requests, **options))
    return [harvests[i] for i in range(len(prompts))]


def stream_harvests(
    engine: LocalEngine,
    requests: Iterable[tuple[str, int]],
    *,
    min_probability: float,
    max_live: int = 64,
    stop: Sequence[str] = (),
) -> Iterator[tuple[int, Harvest]]:
    """What `threshold_search` does, handed out as the searches finish.

    Parameters
    ----------
    engine, min_probability, max_live, stop
        As in `threshold_search`.
    requests : iterable of (str, int)
        Prompts, each with its longest reply; taken as the engine needs them.

    Yields
    ------
    tuple of (int, Harvest)
        The number of a request and what was found.
    """
    if not 0 < min_probability <= 1:
        raise ValueError(f"min_probability must be in (0, 1], got {min_probability}")
    if max_live < 1:
        raise ValueError(f"max_live must be at least 1, got {max_live}")
    ends = engine.ends(tuple(stop))

    def searches() -> Iterator[ThresholdSearch]:
        for i, (prompt, max_tokens) in enumerate(requests):
            if max_tokens < 1:
                raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
            yield ThresholdSearch(
                engine.encode_fitting(i, prompt, max_tokens),
                max_tokens,
                ends,
                min_probability=min_probability,
                max_live=max_live,
            )

    for finished in engine.run_searches(searches()):
        for index, search in finished:
            yield (
                index,
                Harvest(
                    engine.completions(search),
                    mass=sum(math.exp(p.logprob) for p in search.ended),
                    cut=sum(math.exp(p.logprob) for p in search.cut),
                    dropped=search.dropped,
                ),
            )
