"""Rows of tokens on one key-value cache of a Hugging Face causal language model.

Decoding a small model is a matter of moving memory, so as little of it moves as can: a token is
written into room that was left for it, and rows that only change places among those of their own
prompt (the beams of a search) exchange their replies, not the prompt that they share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from transformers import Cache, DynamicLayer

ROOM = 64  # tokens that a cache grows by


class RoomyLayer(DynamicLayer):
    """Keys and values of one layer; with room after them, once `reserve` was called.

    `keys` and `values` are then views of the `buffers`, which are longer. Rows are chosen by
    `reserve` alone: the methods of the base class know nothing of buffers.
    """

    buffers: list[torch.Tensor] | None = None

    def update(self, key_states, value_states, *args, **kwargs):  # noqa: D102
        if self.buffers is None:
            return super().update(key_states, value_states, *args, **kwargs)
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        for buffer, states in zip(self.buffers, (key_states, value_states)):
            buffer[..., start:end, :] = states
        self.keys, self.values = (buffer[..., :end, :] for buffer in self.buffers)
        return self.keys, self.values

    def reserve(self, rows: torch.Tensor) -> None:
        """Keep these rows (some may come several times), with room for more tokens."""
        _, n_heads, length, width = self.keys.shape
        shape = (len(rows), n_heads, length + ROOM, width)
        self.buffers = [self.keys.new_empty(shape), self.values.new_empty(shape)]
        for buffer, states in zip(self.buffers, (self.keys, self.values)):
            buffer[..., :length, :] = states[rows]
        self.keys, self.values = (buffer[..., :length, :] for buffer in self.buffers)

    def is_full(self) -> bool:
        """Whether there is no room for another token."""
        return self.buffers is None or self.buffers[0].shape[-2] == self.keys.shape[-2]

    def copy_replies(self, into: torch.Tensor, rows: torch.Tensor, start: int) -> None:
        """Give the rows `into` what other rows have from column `start` on."""
        for states in (self.keys, self.values):
            states[into, :, start:] = states[rows, :, start:]


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
        self.cache = Cache(layer_class_to_replicate=RoomyLayer)
        length = max(map(len, prompts))
        ids = torch.zeros((len(prompts), length), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(prompts):
            ids[row, length - len(tokens) :] = torch.tensor(tokens)
            mask[row, length - len(tokens) :] = 1
        self.mask = mask.to(self.device)
        self.lengths = self.mask.sum(dim=1)
        self.prompts = torch.arange(len(prompts))  # the prompt of each row
        self.n_prompt_columns = length
        positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = self._forward(ids.to(self.device), self.mask, positions, 1)
        self.logprobs = logits[:, -1].float().log_softmax(dim=-1)

    def step(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Go on with these rows (some may be left out or come several times), a token each."""
        self._select(torch.tensor(rows))
        ids = torch.tensor(tokens, device=self.device)[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(ids)], dim=1)
        logits = self._forward(ids, self.mask, self.lengths[:, None], 1)
        self.lengths = self.lengths + 1
        self.logprobs = logits[:, -1].float().log_softmax(dim=-1)

    def branch(self) -> CachedRows:
        """The same rows again, for one `step` with some of them; these must not go on themselves.

        The keys and values are shared until that step, which copies those it goes on with.
        """
        other = copy.copy(self)
        other.cache, other.logprobs = self._cache_like(lambda states: states), None
        return other

    def _select(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order, with room for a token."""
        index, layers = rows.to(self.device), self.cache.layers
        if layers[0].is_full() or not torch.equal(self.prompts[rows], self.prompts):
            for layer in layers:
                layer.reserve(index)
        else:
            (moved,) = (rows != torch.arange(len(rows))).nonzero(as_tuple=True)
            if not len(moved):
                return
            into, source = moved.to(self.device), rows[moved].to(self.device)
            for layer in layers:
                layer.copy_replies(into, source, self.n_prompt_columns)
        self.prompts = self.prompts[rows]
        self.mask, self.lengths = self.mask[index], self.lengths[index]

    def _cache_like(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Cache:
        """A cache of these rows' keys and values, changed; without room of its own."""
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:
            layer.keys, layer.values = change(layer.keys), change(layer.values)
            layer.buffers = None
        return cache

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
        # Views: nothing is copied yet.
        expanded = self._cache_like(lambda states: states.expand(len(continuations), -1, -1, -1))
        logits = self._forward(ids, None, positions, 0, cache=expanded)
        del expanded
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
        cache: Cache | None = None,
    ) -> torch.Tensor:
        """The logits of the last `n_logits` tokens of each row, or of all for 0."""
        return self.network(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache if cache is None else cache,
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
