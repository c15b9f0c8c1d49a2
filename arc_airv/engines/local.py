"""What the engines of this package share: the tokenizer's side of the contract.

A subclass moves tokens: it samples (`stream_samples`), runs searches (`run_searches`) and scores
(`stream_scores`). All three take their work lazily and hand out results as they finish.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from arc_airv.engines.base import Completion, Request, Sampling, checked_logprob
from arc_airv.engines.search import BeamSearch, Ends, Search
from arc_airv.prompts import PromptFormat

STOP_TOKENS = 16  # the last tokens of a reply, which hold any stop string: it is a few characters


class LocalEngine:
    """The contract of an engine, for subclasses that move tokens.

    A subclass sets `model`, `tokenizer`, `max_model_len` and `eos_ids` (the tokens that end a
    reply), and gives `stream_samples`, `run_searches` and `stream_scores`.
    """

    model: str
    tokenizer: Any
    max_model_len: int
    eos_ids: set[int]
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

    def encode_fitting(self, index: int, prompt: str, max_tokens: int) -> list[int]:
        """Token ids of a prompt.

        Raises
        ------
        ValueError
            If it does not fit the model's context with its reply.
        """
        ids = self.encode([prompt])[0]
        if not ids:
            raise ValueError(f"prompt {index} is empty")
        if len(ids) + max_tokens > self.max_model_len:
            raise ValueError(
                f"prompt {index} has {len(ids)} tokens; with a reply of up to "
                f"{max_tokens} it exceeds the {self.max_model_len} of the context"
            )
        return ids

    def close(self) -> None:
        """Give back what the engine holds beside its memory: nothing, unless a subclass does."""

    # Replies -------------------------------------------------------------------------------------

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
        return _collect(self.stream(zip(prompts, samplings)), len(prompts))

    def beam_search(
        self,
        prompts: Sequence[str],
        beam_width: int,
        max_tokens: int,
        *,
        stop: Sequence[str] = (),
    ) -> list[list[Completion]]:
        """The `beam_width` most probable replies that a beam search meets, best first.

        Parameters
        ----------
        prompts : sequence of str
        beam_width : int
        max_tokens : int
            Longest reply. A search ends earlier when nothing can change any more.
        stop : sequence of str
            As in `Sampling`.

        Returns
        -------
        list of list of Completion
            In the order of the prompts; ranked by the total log-probability, whatever the length.

        Notes
        -----
        The same as `generate` with the `beam_width` of a `Sampling`. The search is that of the
        Transformers library with a length penalty of 0; see `arc_airv.engines.search.BeamSearch`.
        """
        sampling = Sampling(
            n=beam_width, beam_width=beam_width, max_tokens=max_tokens, stop=tuple(stop)
        )
        return self.generate(prompts, sampling)

    def stream(self, requests: Iterable[Request]) -> Iterator[list[tuple[int, list[Completion]]]]:
        """Yield replies as they finish; an empty list where a step finished none.

        Parameters
        ----------
        requests : iterable of (str, Sampling)
            Prompts, each with its sampling: all alike but for `max_tokens`, `seed` and `adapter`.
            They are taken as the engine needs them, so the iterable may be lazy and long. Where
            the engine is `continuous`, None among them (not as the first) says that there is none
            for now.
        """
        requests = iter(requests)
        first = next(requests, None)
        if first is not None:
            beams = first[1].beam_width is not None
            stream = self._stream_beams if beams else self.stream_samples
            yield from stream(itertools.chain([first], requests))

    def stream_samples(
        self, requests: Iterable[Request]
    ) -> Iterator[list[tuple[int, list[Completion]]]]:
        """What `stream` does, for requests without a beam."""
        raise TypeError(f"{type(self).__name__} does not generate")

    def run_searches(self, searches: Iterable[Search]) -> Iterator[list[tuple[int, Search]]]:
        """Run searches to their ends; yield each with its number when it is over.

        Parameters
        ----------
        searches : iterable of arc_airv.engines.search.Search
            Taken as the engine needs them.
        """
        raise TypeError(f"{type(self).__name__} does not search")

    def _stream_beams(
        self, requests: Iterable[Request]
    ) -> Iterator[list[tuple[int, list[Completion]]]]:
        n_replies = 1

        def searches() -> Iterator[Search | None]:
            nonlocal n_replies
            for index, request in numbered(requests):
                if request is None:
                    yield None
                    continue
                prompt, sampling = request
                n_replies = sampling.n
                yield BeamSearch(
                    self.encode_fitting(index, prompt, sampling.max_tokens),
                    sampling.max_tokens,
                    self.ends(sampling.stop),
                    width=sampling.beam_width,
                    n_ends=len(self.eos_ids),
                )

        for finished in self.run_searches(searches()):
            yield [(index, self.completions(search)[:n_replies]) for index, search in finished]

    def completions(self, search: Search) -> list[Completion]:
        """The replies that a search found, most probable first."""
        cut = {prefix.tokens for prefix in search.cut}
        return [
            Completion(
                text=self.tokenizer.decode(prefix.tokens, skip_special_tokens=True),
                n_tokens=len(prefix.tokens),
                cumulative_logprob=checked_logprob(prefix.logprob),
                finish_reason="length" if prefix.tokens in cut else "stop",
            )
            for prefix in search.replies()
        ]

    def ends(self, stop: tuple[str, ...]) -> Ends:
        """Whether a reply is over with its last token: end of text, or a stop string."""
        return EndsOf(self, tuple(stop))

    # Scores --------------------------------------------------------------------------------------

    def score(
        self, prompts: Sequence[str], continuations: Sequence[str | Sequence[str]]
    ) -> list[float | list[float]]:
        """The log-probability (nats) of each given continuation of each prompt.

        Parameters
        ----------
        prompts : sequence of str
        continuations : sequence of str or of list of str
            One continuation or a list of them for each prompt. They are scored as written: the
            end-of-text token counts where the text ends with it, as in
            `PromptFormat.render_answer` of the formats whose replies end so.

        Returns
        -------
        list of float or of list of float
            Of the same shape as `continuations`: the sum over the tokens of a continuation, the
            same as the `cumulative_logprob` of a reply of these tokens. NaN, with a warning, where
            the model overflowed.

        Raises
        ------
        ValueError
            If the lengths differ, a continuation is empty, or one does not fit the model's
            context with its prompt.

        Notes
        -----
        A prompt and its continuation are encoded apart, as in generation: no token spans the
        border. Equal prompts are scored together, however they are ordered.
        """
        if len(prompts) != len(continuations):
            raise ValueError(
                f"there must be one entry of continuations for each prompt, got "
                f"{len(continuations)} for {len(prompts)} prompts"
            )
        nested = [[entry] if isinstance(entry, str) else list(entry) for entry in continuations]
        together: dict[str, list[str]] = {}
        for prompt, texts in zip(prompts, nested):
            if texts:
                together.setdefault(prompt, []).extend(texts)
        scores = _collect(self.stream_scores(together.items()), len(together))
        ready = {prompt: iter(values) for prompt, values in zip(together, scores)}
        results = [[next(ready[p]) for _ in texts] for p, texts in zip(prompts, nested)]
        return [
            values[0] if isinstance(entry, str) else values
            for values, entry in zip(results, continuations)
        ]

    def stream_scores(
        self, requests: Iterable[tuple[str, Sequence[str]]]
    ) -> Iterator[list[tuple[int, list[float]]]]:
        """Yield scores as they finish; an empty list where a step finished none.

        Parameters
        ----------
        requests : iterable of (str, sequence of str)
            Prompts, each with at least one continuation. They are taken as the engine needs them.
        """
        raise TypeError(f"{type(self).__name__} does not score")

    def encode_continuations(self, index: int, prompt: str, texts: Sequence[str]) -> list[Any]:
        """Token ids of a prompt, and a list of those of its continuations.

        Raises
        ------
        ValueError
            If a continuation is empty, or leaves no room for one more token of the context.
        """
        prompt_ids = self.encode([prompt])[0]
        continuations = [self.tokenizer.encode(t, add_special_tokens=False) for t in texts]
        for text, ids in zip(texts, continuations):
            if not ids:
                raise ValueError(f"prompt {index}: a continuation must not be empty, got {text!r}")
            if len(prompt_ids) + len(ids) >= self.max_model_len:
                raise ValueError(
                    f"prompt {index} has {len(prompt_ids)} tokens; with a continuation of "
                    f"{len(ids)} it exceeds the {self.max_model_len} of the context"
                )
        return [prompt_ids, continuations]


class EndsOf:
    """Whether a reply is over for an engine that stops at some strings.

    An object, not a function, so that a search can move to another process: its new engine has
    ends of its own (``engine.ends(ends.stop)``).
    """

    def __init__(self, engine: LocalEngine, stop: tuple[str, ...]) -> None:
        self.engine = engine
        self.stop = stop

    def __call__(self, reply: Sequence[int]) -> bool:
        if reply[-1] in self.engine.eos_ids:
            return True
        return bool(self.stop) and any(
            s in self.engine.tokenizer.decode(reply[-STOP_TOKENS:]) for s in self.stop
        )


def numbered(requests: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """Each request with its number; None, which says that there is none for now, has none.

    >>> list(numbered(["a", None, "b"]))
    [(0, 'a'), (1, None), (1, 'b')]
    """
    number = 0
    for request in requests:
        yield number, request
        number += request is not None


def _collect(finished: Iterable[list[tuple[int, Any]]], n: int) -> list[Any]:
    """The results of a stream, in the order of what was asked."""
    results: list[Any] = [None] * n
    for group in finished:
        for index, result in group:
            results[index] = result
    return results


def checked_score(value: float) -> float:
    """The score, or NaN with a warning where the model overflowed."""
    checked = checked_logprob(value)
    return math.nan if checked is None else checked
