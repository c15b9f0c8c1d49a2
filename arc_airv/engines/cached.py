"""Rows of tokens on one key-value cache of a Hugging Face causal language model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache


class CachedRows:
    """A batch of prompts, left-padded, that goes on by a token or by whole continuations.

    The prompts pass through the network once, when this is made.

    Parameters
    ----------
    network : causal language model
    prompts : sequence of list of int

    Attributes
    ----------
    logprobs : Tensor of shape (rows, vocabulary), dtype float32
        Of the next token of each row (nats).
    """

    def __init__(self, network: torch.nn.Module, prompts: Sequence[list[int]]) -> None:
        self.network = network
        self.device = network.device
        self.cache = DynamicCache()
        length = max(map(len, prompts))
        ids = torch.zeros((len(prompts), length), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(prompts):
            ids[row, length - len(tokens) :] = torch.tensor(tokens)
            mask[row, length - len(tokens) :] = 1
        self.mask = mask.to(self.device)
        self.lengths = self.mask.sum(dim=1)
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = self._forward(ids.to(self.device), self.mask, positions, 1)
        self.logprobs = logits[:, -1].float().log_softmax(dim=-1)

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Go on with these rows (some may be left out or come several times), a token each."""
        if list(rows) != list(range(len(self.logprobs))):
            index = torch.tensor(rows, device=self.device)
            self.cache.batch_select_indices(index)
            self.mask, self.lengths = self.mask[index], self.lengths[index]
        ids = torch.tensor(tokens, device=self.device)[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        logits = self._forward(ids, self.mask, self.lengths[:, None], 1)
        self.lengths = self.lengths + 1
        self.logprobs = logits[:, -1].float().log_softmax(dim=-1)

    def score(self, continuations: Sequence[list[int]]) -> list[float]:
        """The log-probabilities (nats) of several continuations of the only row.

        The row stays as it is. Sums are in float64.
        """
        first = torch.tensor([tokens[0] for tokens in continuations], device=self.device)
        totals = self.logprobs[0, first].double()
        length = max(map(len, continuations)) - 1
        if length == 0:
            return totals.tolist()
        # Padded on the right, where nothing that counts can look at it.
        ids = torch.zeros((len(continuations), length), dtype=torch.long)
        for row, tokens in enumerate(continuations):
            ids[row, : len(tokens) - 1] = torch.tensor(tokens[:-1])
        ids = ids.to(self.device)
        positions = (self.lengths[:, None] + torch.arange(length, device=self.device)).expand(
            len(continuations), -1
        )
        kept = [(layer.keys, layer.values) for layer in self.cache.layers]
        for layer, (keys, values) in zip(self.cache.layers, kept):  # views: nothing is copied yet
            layer.keys = keys.expand(len(continuations), -1, -1, -1)
            layer.values = values.expand(len(continuations), -1, -1, -1)
        try:
            logits = self._forward(ids, None, positions, 0)
        finally:
            for layer, (keys, values) in zip(self.cache.layers, kept):
                layer.keys, layer.values = keys, values
        for row, tokens in enumerate(continuations):  # one by one: a float32 copy may be large
            logprobs = logits[row, : len(tokens) - 1].float().log_softmax(dim=-1)
            targets = torch.tensor(tokens[1:], device=self.device)
            totals[row] += logprobs.gather(1, targets[:, None]).double().sum()
        return totals.tolist()

    @torch.inference_mode()
    def _forward(
        self,
        ids: torch.Tensor,
        mask: torch.Tensor | None,
        positions: torch.Tensor,
        n_logits: int,
    ) -> torch.Tensor:
        """The logits of the last `n_logits` tokens of each row, or of all for 0."""
        return self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=n_logits,
        ).logits


def score_continuations(
    network: torch.nn.Module,
    prompt: list[int],
    continuations: Sequence[list[int]],
    *,
    batch_tokens: int,
) -> list[float]:
    """The log-probabilities (nats) of several continuations of a prompt.

    The prompt passes through the network once and alone, so that nothing of it is padding; its
    continuations go on from its cache, in batches of similar length.

    Parameters
    ----------
    network : causal language model
    prompt : list of int
    continuations : sequence of list of int
        None is empty.
    batch_tokens : int
        Upper bound of rows x (prompt + continuation) tokens in one batch, unless one row alone
        is longer.
    """
    cached = CachedRows(network, [prompt])
    scores = [0.0] * len(continuations)
    order = sorted(range(len(scores)), key=lambda i: len(continuations[i]), reverse=True)
    while order:
        n_rows = max(1, batch_tokens // (len(prompt) + len(continuations[order[0]])))
        batch, order = order[:n_rows], order[n_rows:]
        for i, score in zip(batch, cached.score([continuations[i] for i in batch])):
            scores[i] = score
    return scores
