"""Batches: little padding, no lost examples, and the same ones from any position."""

import itertools
import multiprocessing
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from arc_airv.training.examples import IGNORED, ExampleStream, Source, all_pairs
from arc_airv.training.tiny import build_tokenizer, tiny_prompt_format

pytest.importorskip("torch")

from arc_airv.training.batches import (  # noqa: E402
    BUCKET,
    Windows,
    iterate_batches,
    padded_length,
)


@pytest.fixture(scope="module")
def stream(training_tasks):
    tasks = dict(list(training_tasks.items())[:40])
    source = Source("training", all_pairs(tasks))
    return ExampleStream([source], tiny_prompt_format(), build_tokenizer(), max_tokens=300)


@pytest.fixture(scope="module")
def windows(stream):
    return Windows(stream, batch_tokens=1024, examples=50)


def take(windows, n, position=(0, 0), **options):
    return list(itertools.islice(iterate_batches(windows, position, **options), n))


def test_a_window_holds_each_of_its_examples_once(windows, stream):
    rows = [tuple(row[row > 0]) for batch in windows[1] for row in batch.token_ids]
    assert sorted(rows) == sorted(stream[i].token_ids for i in range(50, 100))
    assert sum(batch.n_tokens for batch in windows[1]) == sum(map(len, rows))


def test_batches_are_padded_little_and_bounded(windows):
    for batch in windows[0]:
        assert batch.token_ids.size <= 1024
        assert batch.token_ids.shape == batch.labels.shape
        assert ((batch.labels == IGNORED) | (batch.labels == batch.token_ids)).all()
        assert batch.n_labels == (batch.labels >= 0).sum() > 0
    size = sum(batch.token_ids.size for batch in windows[0])
    assert sum(batch.n_tokens for batch in windows[0]) > 0.85 * size


def test_an_example_longer_than_a_batch_is_a_batch_of_its_own(stream):
    batches = Windows(stream, batch_tokens=16, examples=5)[0]
    assert [len(batch.token_ids) for batch in batches] == [1] * 5


@pytest.mark.parametrize("at", [1, 3, 12])
def test_a_run_resumes_at_any_batch(windows, at):
    whole = take(windows, 16)
    again = take(windows, 16 - at, whole[at - 1].position)
    for expected, batch in zip(whole[at:], again, strict=True):
        np.testing.assert_array_equal(batch.token_ids, expected.token_ids)
        assert batch.position == expected.position


def test_worker_processes_give_the_same_batches(windows):
    for one, two in zip(take(windows, 12), take(windows, 12, n_workers=2), strict=True):
        np.testing.assert_array_equal(one.labels, two.labels)
        assert one.position == two.position


def test_lengths_are_of_a_fixed_list():
    """Each is hardly longer than what it holds; there are few, so that all can be tried before."""
    for n in range(1, 5000):
        assert 0 <= padded_length(n) - n < max(BUCKET, n / 32)
    stream = SimpleNamespace(max_tokens=4096)
    shapes = Windows(stream, batch_tokens=49152).shapes
    assert len(shapes) == 128
    assert all(rows * length <= 49152 < (rows + 1) * length for rows, length in shapes)
    assert {padded_length(n) for n in range(1, 4097)} == {length for _, length in shapes}


def test_of_a_large_window_less_than_3_percent_is_padding(training_tasks):
    source = Source("training", all_pairs(training_tasks))
    stream = ExampleStream([source], tiny_prompt_format(), build_tokenizer(), max_tokens=1024)
    batches = Windows(stream, batch_tokens=12288, examples=2048)[0]
    size = sum(batch.token_ids.size for batch in batches)
    assert 1 - sum(batch.n_tokens for batch in batches) / size < 0.03
    assert {batch.token_ids.shape[1] for batch in batches} <= {
        length for _, length in Windows(stream, 12288).shapes
    }


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
def test_workers_are_forks_that_begin_before_the_first_batch_is_asked_for(windows):
    """They share the data of this process; a GPU may be touched once they exist."""
    before = set(multiprocessing.active_children())
    batches = iterate_batches(windows, n_workers=2)
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    assert all(type(worker).__name__ == "ForkProcess" for worker in workers)
    next(batches)


@pytest.mark.skipif(sys.platform != "linux", reason="forks are for Linux")
def test_workers_end_with_a_training_that_is_killed(windows):
    """They have made windows ahead, and nobody takes them: a full pipe holds them."""
    forks = multiprocessing.get_context("fork")
    ours, theirs = forks.Pipe()

    def train():
        batches = iterate_batches(windows, n_workers=1)
        next(batches)
        theirs.send([worker.pid for worker in multiprocessing.active_children()])
        time.sleep(600)

    training = forks.Process(target=train)
    training.start()
    (worker,) = ours.recv()
    time.sleep(1)
    training.kill()
    training.join()
    end = time.time() + 20
    while is_alive(worker):
        assert time.time() < end, "the worker goes on"
        time.sleep(0.1)


def is_alive(pid):
    try:
        return "Z (zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
