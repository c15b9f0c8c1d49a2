"""Searches: which replies to go on with, token by token, whatever computes the probabilities.

A search holds the prefixes that it still extends. It is told the most probable next tokens of each,
and decides. The engines run searches (`LocalEngine.run_searches`): Transformers on a key-value
cache, vLLM as requests of one token that its prefix cache makes cheap. Probabilities are the
model's own and are never divided by a length, so those of longer prefixes only fall: what is
dropped because of that could not have come back, and a search ends as soon as nothing can change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

Ends = Callable[[tuple[int, ...]], bool]
Candidates = Iterable[tuple[int, float]]  # tokens and their log-probabilities


class Prefix(NamedTuple):
    """A reply, or its beginning.

    `logprob` is in nats; `parent` its place among the prefixes that the search extended last.
    """

    tokens: tuple[int, ...]
    logprob: float
    parent: int


class Search:
    """The state of one search; a subclass says which prefixes to keep.

    Parameters
    ----------
    token_ids : list of int
        The prompt.
    max_tokens : int
        Longest reply.
    ends : callable
        Whether a reply that ends with its last token is over.

    Attributes
    ----------
    live : list of Prefix
        To be extended by one token, most probable first; empty when the search is over.
    ended, cut : list of Prefix
        Replies that are over, and those that reached `max_tokens`.
    """

    def __init__(self, token_ids: list[int], max_tokens: int, ends: Ends) -> None:
        self.token_ids = token_ids
        self.max_tokens = max_tokens
        self.ends = ends
        self.live = [Prefix((), 0.0, 0)]
        self.ended: list[Prefix] = []
        self.cut: list[Prefix] = []

    @property
    def n_next(self) -> int:
        """How many next tokens of each prefix the search has to know."""
        raise NotImplementedError

    def advance(self, candidates: Sequence[Candidates]) -> None:
        """Extend every prefix by one token, given the `n_next` most probable of each."""
        ranked = sorted(
            (
                (prefix.logprob + logprob, parent, token)
                for parent, prefix in enumerate(self.live)
                for token, logprob in candidates[parent]
            ),
            key=lambda c: (-c[0] if c[0] == c[0] else math.inf, c[1], c[2]),  # NaN goes last
        )
        # Made one at a time: most of them are never looked at.
        self.live = self.keep(
            Prefix((*self.live[parent].tokens, token), logprob, parent)
            for logprob, parent, token in ranked
        )
        if self.live and len(self.live[0].tokens) == self.max_tokens:
            self.cut, self.live = self.live, []

    def keep(self, ranked: Iterator[Prefix]) -> list[Prefix]:
        """Of all extended prefixes, best first: note those that end, return those to go on with."""
        raise NotImplementedError

    def replies(self) -> list[Prefix]:
        """What was found, most probable first."""
        return sorted(self.ended + self.cut, key=lambda p: (-p.logprob, p.tokens))


class BeamSearch(Search):
    """The `width` most probable replies that a beam of `width` prefixes meets.

    At each token the `width` best prefixes that go on are kept, and of those that end, the ones
    among the `width` best of all. So a width of 1 is greedy decoding.

    Parameters
    ----------
    token_ids, max_tokens, ends
        See `Search`.
    width : int
    n_ends : int, default 1
        How many tokens end a reply.
    """

    def __init__(
        self, token_ids: list[int], max_tokens: int, ends: Ends, *, width: int, n_ends: int = 1
    ) -> None:
        super().__init__(token_ids, max_tokens, ends)
        self.width = width
        self.n_ends = n_ends

    @property
    def n_next(self) -> int:
        return self.width + max(self.width, self.n_ends)

    def keep(self, ranked: Iterator[Prefix]) -> list[Prefix]:
        live = []
        for rank, prefix in enumerate(ranked):
            if not self.ends(prefix.tokens):
                live.append(prefix)
                if len(live) == self.width:
                    break
            elif rank < self.width:
                self.ended.append(prefix)
        self.ended = self.replies()
        if len(self.ended) == self.width:  # less probable ones can no longer be among the replies
            live = [prefix for prefix in live if prefix.logprob > self.ended[-1].logprob]
        return live

    def replies(self) -> list[Prefix]:
        return super().replies()[: self.width]
