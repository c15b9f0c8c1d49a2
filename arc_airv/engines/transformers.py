"""The Transformers engine: for GPUs that vLLM does not support, and to check vLLM against."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from arc_airv.engines.base import Completion, Request, Sampling, checked_logprob, choose_dtype
from arc_airv.engines.local import LocalEngine, checked_score
from arc_airv.engines.search import Search

WINDOW = 1024  # requests that are sorted by length together


class TransformersEngine(LocalEngine):
    """Batches of similar length through a Hugging Face causal language model.

    Parameters
    ----------
    model : str or causal language model
        Model folder (or a name that Transformers resolves), or a model in memory, which is used
        as and where it is.
    tokenizer : Hugging Face tokenizer, optional
        By default that of the model folder; a model in memory needs one.
    device : str, optional
        "cuda", "cpu", ...; by default CUDA where there is one.
    dtype : str, optional
        By default what suits the device, see `choose_dtype`.
    batch_tokens : int, default 16384
        Upper bound of rows x (prompt + reply) tokens in one batch, unless one prompt alone takes
        more. A search is as many rows as it has live prefixes; while searches grow, the caches of
        a few batches wait.
    max_model_len : int, optional
        By default the model's ``max_position_embeddings``.
    """

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        device: str | None = None,
        dtype: str | None = None,
        batch_tokens: int = 16384,
        max_model_len: int | None = None,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if isinstance(model, torch.nn.Module):
            self.network, self.model = model, model.config.name_or_path
            self.device, self.dtype = str(model.device), str(model.dtype)
        else:
            self.model = str(model)
            self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            capability = torch.cuda.get_device_capability() if "cuda" in self.device else None
            self.dtype = dtype or choose_dtype(capability)
            self.network = AutoModelForCausalLM.from_pretrained(self.model, dtype=self.dtype)
            self.network.to(self.device).eval()
        self.tokenizer = tokenizer or AutoTokenizer.from_pretrained(self.model)
        self.batch_tokens = batch_tokens
        own_length = getattr(self.network.config, "max_position_embeddings", 8192)
        self.max_model_len = min(max_model_len or own_length, own_length)
        eos = self.network.generation_config.eos_token_id
        self.eos_ids = {self.tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
        self.eos_ids -= {None}

    def describe(self) -> dict[str, Any]:
        """What a run description says of this engine."""
        import torch
        import transformers

        return {
            "engine": "transformers",
            "transformers": transformers.__version__,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if "cuda" in self.device else "cpu",
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
        }

    def stream_samples(
        self, requests: Iterable[Request]
    ) -> Iterator[list[tuple[int, list[Completion]]]]:
        for window in _windows(requests):
            rows = [
                (i, self.encode_fitting(i, prompt, sampling.max_tokens), sampling)
                for i, (prompt, sampling) in window
            ]
            rows.sort(key=lambda row: row[2].adapter or "")
            for adapter, group in itertools.groupby(rows, key=lambda row: row[2].adapter):
                with self._adapted(adapter):
                    yield from self._samples_of(list(group))

    def _samples_of(
        self, rows: list[tuple[int, list[int], Sampling]]
    ) -> Iterator[list[tuple[int, list[Completion]]]]:
        """Replies to rows of one adapter: number of the request, token ids, sampling."""
        for batch in self._batches(
            rows, length=lambda r: len(r[1]) + r[2].max_tokens, n_rows=lambda r: r[2].n
        ):
            n = batch[0][2].n
            # Samples of one prompt are neighbouring rows of the batch.
            flat = [row for row in batch for _ in range(n)]
            replies = self._generate_batch([row[1] for row in flat], [row[2] for row in flat])
            yield [(row[0], replies[k * n : (k + 1) * n]) for k, row in enumerate(batch)]

    @contextlib.contextmanager
    def _adapted(self, adapter: str | None) -> Iterator[None]:
        """The network has an adapter, for a while."""
        if adapter is None:
            yield
            return
        from arc_airv.adapters import import_peft

        self.network = import_peft().PeftModel.from_pretrained(self.network, adapter).eval()
        try:
            yield
        finally:
            self.network = self.network.unload()

    def run_searches(self, searches: Iterable[Search]) -> Iterator[list[tuple[int, Search]]]:
        from arc_airv.engines.cached import CachedRows

        def length(row: tuple[int, Search]) -> int:
            return len(row[1].token_ids) + row[1].max_tokens

        for window in _windows(searches):
            # A search begins as one row, so many begin together: how many rows it will become is
            # not known, and most stay far below what they may. What outgrows a batch waits.
            for begun in self._batches(window, length=length, n_rows=lambda row: 1):
                max_rows = self.batch_tokens // length(begun[0])  # all are padded to its prompt
                rows = CachedRows(self.network, [search.token_ids for _, search in begun])
                waiting: list[tuple[Any, CachedRows, list]] = [(begun, rows, [])]
                while waiting:
                    batch, rows, extensions = waiting.pop()
                    if extensions:
                        rows.step(*zip(*extensions))
                    extended = _advance(batch, rows.logprobs)
                    yield [(index, search) for index, search in batch if not search.live]
                    parts = _parts([row for row in batch if row[1].live], max_rows)
                    for part in parts:
                        extensions = [pair for index, _ in part for pair in extended[index]]
                        branch = rows.branch() if len(parts) > 1 else rows
                        waiting.append((part, branch, extensions))

    def stream_scores(
        self, requests: Iterable[tuple[str, Sequence[str]]]
    ) -> Iterator[list[tuple[int, list[float]]]]:
        from arc_airv.engines.cached import score_continuations

        for index, request in enumerate(requests):
            scores = score_continuations(
                self.network,
                *self.encode_continuations(index, *request),
                batch_tokens=self.batch_tokens,
            )
            yield [(index, list(map(checked_score, scores)))]

    def _batches(
        self, rows: list[Any], *, length: Callable[[Any], int], n_rows: Callable[[Any], int]
    ) -> Iterator[list[Any]]:
        """What to run together: longest first, cut so that a padded batch stays within its tokens.

        Each thing of the list takes `n_rows` rows of `length` tokens.
        """
        batch: list[Any] = []
        total = 0
        for row in sorted(rows, key=length, reverse=True):
            total += n_rows(row)
            if batch and total * length(batch[0]) > self.batch_tokens:
                yield batch
                batch, total = [], n_rows(row)
            batch.append(row)
        if batch:
            yield batch

    def _generate_batch(
        self, token_ids: list[list[int]], samplings: list[Sampling]
    ) -> list[Completion]:
        """Decode one batch with a key-value cache; rows that are over leave it."""
        import torch

        from arc_airv.engines.cached import CachedRows

        sampling = samplings[0]
        generator = torch.Generator(self.device)
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(hash(tuple(s.seed for s in samplings)) % 2**63)
        over = self.ends(sampling.stop)
        replies: list[list[int]] = [[] for _ in token_ids]
        logprobs = [0.0] * len(token_ids)
        reasons: list[str | None] = [None] * len(token_ids)
        alive = list(range(len(token_ids)))
        rows = CachedRows(self.network, token_ids)
        while True:
            chosen = _choose(rows.logprobs, sampling, generator)
            picked = rows.logprobs.gather(1, chosen[:, None])[:, 0].tolist()
            keep = []
            for k, (row, token) in enumerate(zip(alive, chosen.tolist())):
                replies[row].append(token)
                logprobs[row] += picked[k]
                if over(replies[row]):
                    reasons[row] = "stop"
                elif len(replies[row]) >= samplings[row].max_tokens:
                    reasons[row] = "length"
                else:
                    keep.append(k)
            if not keep:
                break
            alive = [alive[k] for k in keep]
            rows.step(keep, chosen[keep].tolist())
        return [
            Completion(
                text=self.tokenizer.decode(reply, skip_special_tokens=True),
                n_tokens=len(reply),
                cumulative_logprob=checked_logprob(logprob),
                finish_reason=reason,
            )
            for reply, logprob, reason in zip(replies, logprobs, reasons)
        ]


def _windows(things: Iterable[Any]) -> Iterator[list[tuple[int, Any]]]:
    """Numbered, in lists of `WINDOW`."""
    numbered = enumerate(things)
    while window := list(itertools.islice(numbered, WINDOW)):
        yield window


def _advance(batch: list[tuple[int, Search]], logprobs: Any) -> dict[int, list[tuple[int, int]]]:
    """Extend the searches of a batch by a token; by number, the rows and tokens to go on with.

    `logprobs` are those of the next token of each live prefix, of shape (rows, vocabulary).
    """
    n_next = max(search.n_next for _, search in batch)
    top = logprobs.topk(min(n_next, logprobs.shape[-1]))
    candidates = map(zip, top.indices.tolist(), top.values.tolist())
    extended, first = {}, 0
    for index, search in batch:
        n_live = len(search.live)
        search.advance(list(itertools.islice(candidates, n_live)))
        extended[index] = [(first + prefix.parent, prefix.tokens[-1]) for prefix in search.live]
        first += n_live
    return extended


def _parts(batch: list[tuple[int, Search]], max_rows: int) -> list[list[tuple[int, Search]]]:
    """Searches that go on together: halved, by their rows, until no part has too many."""
    n_rows = list(itertools.accumulate(len(search.live) for _, search in batch))
    if not batch:
        return []
    if n_rows[-1] <= max_rows or len(batch) == 1:
        return [batch]
    half = 1 + sum(2 * n < n_rows[-1] for n in n_rows[:-2])
    return _parts(batch[:half], max_rows) + _parts(batch[half:], max_rows)


def _choose(scores: Any, sampling: Sampling, generator: Any) -> Any:
    """The next token of every row, from its log-probabilities of shape (rows, vocabulary)."""
    import torch

    if sampling.allowed_tokens is not None:
        allowed = torch.tensor(sampling.allowed_tokens, device=scores.device)
        scores = torch.full_like(scores, -torch.inf).index_copy(1, allowed, scores[:, allowed])
    if sampling.temperature == 0:
        return scores.argmax(dim=-1)
    probabilities = (scores / sampling.temperature).softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        # A token stays if those before it do not reach top_p yet.
        ordered[ordered.cumsum(dim=-1) - ordered >= sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
