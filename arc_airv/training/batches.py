"""Batches for training: examples of similar length together, so that little is padding.

Nothing is packed, so attention cannot cross from one example into another. Examples are taken in
windows of a fixed number, sorted by length and cut; window `w` depends only on the stream, so that
worker processes can make windows ahead and a run resumes at any batch of any window.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from arc_airv.training.examples import IGNORED, Example, ExampleStream


@dataclass(frozen=True)
class Batch:
    """Examples of similar length, padded on the right.

    Attributes
    ----------
    token_ids, labels : ndarray of shape (rows, length), dtype int64
        Padded with 0 and `arc_airv.training.examples.IGNORED`.
    n_tokens : int
        Without the padding.
    position : tuple of int
        (window, batch of it) of the batch that comes next: where to resume.
    """

    token_ids: np.ndarray
    labels: np.ndarray
    n_tokens: int
    position: tuple[int, int]

    @property
    def n_labels(self) -> int:
        """Tokens that the loss is on: a row's first token is predicted by nothing."""
        return int((self.labels[:, 1:] != IGNORED).sum())


class Windows:
    """The windows of a stream, by number: each a list of batches in a random, fixed order.

    Parameters
    ----------
    stream : ExampleStream
    batch_tokens : int
        Upper bound of rows x padded length of a batch, unless one example alone is longer.
    examples : int, default 1024
        Of one window.
    bucket : int, default 16
        Lengths are padded to a multiple of this.
    """

    def __init__(
        self, stream: ExampleStream, *, batch_tokens: int, examples: int = 1024, bucket: int = 16
    ) -> None:
        self.stream = stream
        self.batch_tokens = batch_tokens
        self.examples = examples
        self.bucket = bucket

    def __getitem__(self, window: int) -> list[Batch]:
        first = window * self.examples
        rest = [self.stream[i] for i in range(first, first + self.examples)]
        rest.sort(key=lambda example: len(example.token_ids))
        groups: list[list[Example]] = []
        while rest:
            rows = max(1, self.batch_tokens // self._padded(rest[-1]))
            groups.append(rest[-rows:])
            rest = rest[:-rows]
        order = np.random.default_rng([self.stream.seed, window]).permutation(len(groups))
        batches = []
        for k, group in enumerate(order):
            last = k == len(groups) - 1
            batches.append(self._pad(groups[group], (window + 1, 0) if last else (window, k + 1)))
        return batches

    def _padded(self, example: Example) -> int:
        return -(-len(example.token_ids) // self.bucket) * self.bucket

    def _pad(self, group: list[Example], position: tuple[int, int]) -> Batch:
        length = max(map(self._padded, group))
        ids = np.zeros((len(group), length), dtype=np.int64)
        labels = np.full((len(group), length), IGNORED, dtype=np.int64)
        for row, example in enumerate(group):
            ids[row, : len(example.token_ids)] = example.token_ids
            labels[row, : len(example.labels)] = example.labels
        return Batch(ids, labels, sum(len(e.token_ids) for e in group), position)


def iterate_batches(
    windows: Windows, position: tuple[int, int] = (0, 0), *, n_workers: int = 0
) -> Iterator[Batch]:
    """The batches from a position on, without end.

    Parameters
    ----------
    windows : Windows
    position : tuple of int, default (0, 0)
        As an earlier `Batch` gave it.
    n_workers : int, default 0
        Processes that make windows ahead; for a GPU, which eats faster than one process makes.
    """
    window, skipped = position
    for batches in _windows_from(windows, window, n_workers):
        yield from batches[skipped:]
        skipped = 0


def _windows_from(windows: Windows, first: int, n_workers: int) -> Iterator[list[Batch]]:
    if n_workers == 0:
        yield from map(windows.__getitem__, itertools.count(first))
        return
    from torch.utils.data import DataLoader

    # A sampler without end: the loader keeps the order whatever the number of workers.
    yield from DataLoader(
        windows,
        batch_size=None,
        sampler=itertools.count(first),
        num_workers=n_workers,
        multiprocessing_context="spawn",
    )
