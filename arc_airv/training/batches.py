"""Batches for training: examples of similar length together, so that little is padding.

Nothing is packed, so attention cannot cross from one example into another. Examples are taken in
windows of a fixed number, sorted by length and cut; window `w` depends only on the stream, so that
worker processes can make windows ahead and a run resumes at any batch of any window.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader

from arc_airv.training.examples import IGNORED, Example, ExampleStream

BUCKET = 16  # lengths are padded to a multiple of this
FINENESS = 64  # and, where they are longer, to this many lengths an octave


@dataclass(frozen=True)
class Batch:
    """Examples of similar length: two arrays of shape (rows, length), dtype int32.

    They are padded on the right, with 0 and with `IGNORED`; `n_tokens` is without the padding.
    `position` is (window, batch of it) of the batch that comes next: where to resume.
    """

    token_ids: np.ndarray
    labels: np.ndarray
    n_tokens: int
    position: tuple[int, int]

    @property
    def n_labels(self) -> int:
        """Count the tokens that the loss is on: a row's first token is predicted by nothing."""
        return int((self.labels[:, 1:] != IGNORED).sum())


@dataclass(frozen=True)
class Windows:
    """The windows of a stream, by number: each a list of batches in a random, fixed order.

    Rows x padded length of a batch are at most `batch_tokens`, unless one example is longer. The
    more examples a window has, the less is padding: of 1,024, 2,048 and 4,096 examples of up to
    4,096 tokens in batches of 49,152 it is 6.0%, 3.9% and 2.6%.
    """

    stream: ExampleStream
    batch_tokens: int
    examples: int = 1024  # of a window

    def __getitem__(self, window: int) -> list[Batch]:
        first = window * self.examples
        rest = [self.stream[i] for i in range(first, first + self.examples)]
        rest.sort(key=lambda example: len(example.token_ids))
        groups: list[list[Example]] = []
        while rest:
            rows = self.rows(padded_length(len(rest[-1].token_ids)))
            groups.append(rest[-rows:])
            rest = rest[:-rows]
        order = np.random.default_rng([self.stream.seed, window]).permutation(len(groups))
        following = [*((window, k) for k in range(1, len(groups))), (window + 1, 0)]
        return [_pad(groups[k], position) for k, position in zip(order, following)]

    def rows(self, length: int) -> int:
        """Return the rows of a batch of this padded length."""
        return max(1, self.batch_tokens // length)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The shapes of full batches, (rows, length): one for each length there is."""
        lengths = sorted({padded_length(n + 1) for n in range(self.stream.max_tokens)})
        return [(self.rows(length), length) for length in lengths]


def padded_length(n: int) -> int:
    """Return the length that examples of up to n tokens are padded to, of a fixed list.

    Multiples of `BUCKET`, then steps that double with the length, so that a list up to 4,096 has
    128 lengths.
    """
    step = BUCKET
    while n > step * FINENESS:
        step *= 2
    return -(-n // step) * step


def _pad(group: list[Example], position: tuple[int, int]) -> Batch:
    longest = len(group[-1].token_ids)
    ids = np.zeros((len(group), padded_length(longest)), dtype=np.int32)
    labels = np.full_like(ids, IGNORED)
    for row, example in enumerate(group):
        ids[row, : len(example.token_ids)] = example.token_ids
        labels[row, : len(example.labels)] = example.labels
    return Batch(ids, labels, sum(len(e.token_ids) for e in group), position)


def iterate_batches(
    windows: Windows, position: tuple[int, int] = (0, 0), *, n_workers: int = 0
) -> Iterator[Batch]:
    """Return batches without end, from the `position` on that an earlier `Batch` gave.

    `n_workers` processes make windows ahead, for a GPU, which eats faster than one process makes.
    They begin at once, as forks where that is safe: on Linux, before this process has touched
    CUDA. Then they share its data; otherwise each gets a copy, which takes seconds for large data.
    """
    first, skipped = position
    safe = sys.platform == "linux" and not torch.cuda.is_initialized()
    loader = DataLoader(
        windows,
        batch_size=None,
        # A sampler without end: the loader keeps the order whatever the number of workers.
        sampler=itertools.count(first),
        num_workers=n_workers,
        multiprocessing_context=("fork" if safe else "spawn") if n_workers else None,
        worker_init_fn=_end_with_parent,
        generator=torch.Generator(),  # the global one's state belongs to the model, and resumes
    )
    return _batches(iter(loader), skipped)


def _end_with_parent(worker: int) -> None:
    """End this worker when its parent is gone, be it killed.

    A worker whose queue is full would wait for ever, and keep its memory from the next run.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _batches(windows: Iterator[list[Batch]], skipped: int) -> Iterator[Batch]:
    for batches in windows:
        yield from batches[skipped:]
        skipped = 0
