"""Batches: little padding, no lost examples, and the same ones from any position."""

import itertools

import numpy as np
import pytest

from arc_airv.training.examples import IGNORED, ExampleStream, Source, all_pairs
from arc_airv.training.tiny import build_tokenizer, tiny_prompt_format

pytest.importorskip("torch")

from arc_airv.training.batches import Windows, iterate_batches  # noqa: E402


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
