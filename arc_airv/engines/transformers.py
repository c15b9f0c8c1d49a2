"""The Transformers engine: for GPUs that vLLM does not support, and to check vLLM against."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from arc_airv.engines.base import (
    Completion,
    LocalEngine,
    Request,
    Sampling,
    checked_logprob,
    choose_dtype,
)

WINDOW = 1024  # requests that are sorted by length together
Row = tuple[int, list[int], Sampling]  # number of the request, token ids, sampling


class TransformersEngine(LocalEngine):
    """Batches of similar length through a Hugging Face causal language model.

    Parameters
    ----------
    model : str
        Model folder (or a name that Transformers resolves).
    device : str, optional
        "cuda", "cpu", ...; by default CUDA where there is one.
    dtype : str, optional
        By default what suits the device, see `choose_dtype`.
    batch_tokens : int, default 16384
        Upper bound of rows x (prompt + reply) tokens in one batch.
    max_model_len : int, optional
        By default the model's ``max_position_embeddings``.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_tokens: int = 16384,
        max_model_len: int | None = None,
    ) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = str(model)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        capability = torch.cuda.get_device_capability() if "cuda" in self.device else None
        self.dtype = dtype or choose_dtype(capability)
        self.tokenizer = AutoTokenizer.from_pretrained(self.model)
        self.network = AutoModelForCausalLM.from_pretrained(self.model, dtype=self.dtype)
        self.network.to(self.device).eval()
        self.batch_tokens = batch_tokens
        own_length = getattr(self.network.config, "max_position_embeddings", 8192)
        self.max_model_len = min(max_model_len or own_length, own_length)
        eos = self.network.generation_config.eos_token_id
        self.eos_ids = set(eos if isinstance(eos, list) else [eos]) - {None}

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

    def stream(self, requests: Iterable[Request]) -> Iterator[list[tuple[int, list[Completion]]]]:
        numbered = enumerate(requests)
        while rows := [
            (i, self.encode_request(i, r), r[1]) for i, r in itertools.islice(numbered, WINDOW)
        ]:
            for batch in self._batches(rows):
                n = batch[0][2].n
                # Samples of one prompt are neighbouring rows of the batch.
                flat = [row for row in batch for _ in range(n)]
                replies = self._generate_batch([row[1] for row in flat], [row[2] for row in flat])
                yield [(row[0], replies[k * n : (k + 1) * n]) for k, row in enumerate(batch)]

    def _batches(self, rows: list[Row]) -> Iterator[list[Row]]:
        """Rows sorted longest first, cut so that a padded batch stays within its tokens."""

        def length(row: Row) -> int:
            return len(row[1]) + row[2].max_tokens

        batch: list[Row] = []
        for row in sorted(rows, key=length, reverse=True):
            if batch and (len(batch) + 1) * row[2].n * length(batch[0]) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    def _generate_batch(
        self, token_ids: list[list[int]], samplings: list[Sampling]
    ) -> list[Completion]:
        """Decode one left-padded batch with a key-value cache; rows that are over leave it."""
        import torch
        from transformers import DynamicCache

        sampling = samplings[0]
        generator = torch.Generator(self.device)
        if sampling.seed is None:
            generator.seed()
        else:
            generator.manual_seed(hash(tuple(s.seed for s in samplings)) % 2**63)
        length = max(map(len, token_ids))
        ids = torch.zeros((len(token_ids), length), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(token_ids):
            ids[row, length - len(tokens) :] = torch.tensor(tokens)
            mask[row, length - len(tokens) :] = 1
        ids, mask = ids.to(self.device), mask.to(self.device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        cache = DynamicCache()
        replies: list[list[int]] = [[] for _ in token_ids]
        logprobs = [0.0] * len(token_ids)
        reasons: list[str | None] = [None] * len(token_ids)
        alive = list(range(len(token_ids)))
        with torch.inference_mode():
            while True:
                logits = self.network(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
                scores = logits.float().log_softmax(dim=-1)
                chosen = _choose(scores, sampling, generator)
                picked = scores.gather(1, chosen[:, None])[:, 0].tolist()
                keep = []
                for k, (row, token) in enumerate(zip(alive, chosen.tolist())):
                    replies[row].append(token)
                    logprobs[row] += picked[k]
                    if token in self.eos_ids or self._stopped(replies[row], sampling.stop):
                        reasons[row] = "stop"
                    elif len(replies[row]) >= samplings[row].max_tokens:
                        reasons[row] = "length"
                    else:
                        keep.append(k)
                if not keep:
                    break
                alive = [alive[k] for k in keep]
                index = torch.tensor(keep, device=self.device)
                if len(keep) < len(chosen):
                    cache.batch_select_indices(index)
                ids = chosen[index][:, None]
                mask = torch.cat([mask[index], mask.new_ones((len(keep), 1))], dim=1)
                positions = positions[index][:, -1:] + 1
        return [
            Completion(
                text=self.tokenizer.decode(reply, skip_special_tokens=True),
                n_tokens=len(reply),
                cumulative_logprob=checked_logprob(logprob),
                finish_reason=reason,
            )
            for reply, logprob, reason in zip(replies, logprobs, reasons)
        ]

    def _stopped(self, reply: list[int], stop: tuple[str, ...]) -> bool:
        # A stop string is a few characters, so the last tokens hold it.
        return bool(stop) and any(s in self.tokenizer.decode(reply[-16:]) for s in stop)


def _choose(scores: Any, sampling: Sampling, generator: Any) -> Any:
    """The next token of every row, from its log-probabilities of shape (rows, vocabulary)."""
    import torch

    if sampling.temperature == 0:
        return scores.argmax(dim=-1)
    probabilities = (scores / sampling.temperature).softmax(dim=-1)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(dim=-1, descending=True)
        # A token stays if those before it do not reach top_p yet.
        ordered[ordered.cumsum(dim=-1) - ordered >= sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(1, order, ordered)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]
