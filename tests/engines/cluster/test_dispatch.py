"""The dispatcher, whatever its workers do: nothing lost, nothing repeated, no endless loop."""

import itertools
import math
import sys
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_airv.engines.cluster.dispatch import STARTS, TRIES, Dispatcher

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
from simulated_workers import Faults, SimulatedWorkers  # noqa: E402


def make(n_workers=2, *, chunk=4, slots=4, window=16, seconds=lambda request: 1.0, **options):
    backend = SimulatedWorkers(seconds, slots=slots, window=window, n_workers=n_workers, **options)
    limits = {"startup_seconds": 50, "hang_seconds": 100}
    return backend, Dispatcher(backend, n_workers, chunk=chunk, **limits)


def run(dispatcher, requests, size=lambda request: 1):
    """Return the answers by number; each must come once."""
    answers = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for each death
        for finished in dispatcher.run(
            "replies", requests, size=size, give_up=lambda request: ("given up", request)
        ):
            for number, answer in finished:
                assert number not in answers
                answers[number] = answer
    return answers


@settings(max_examples=60)
@given(
    n=st.integers(0, 700),
    n_workers=st.integers(1, 9),
    chunk=st.integers(1, 40),
    window=st.one_of(st.none(), st.integers(1, 300)),
    seed=st.integers(0, 99),
)
def test_every_request_is_answered_once_by_any_number_of_workers(n, n_workers, chunk, window, seed):
    _, dispatcher = make(
        n_workers, chunk=chunk, window=window, seconds=lambda request: 0.01 * (request % 7)
    )
    assert run(dispatcher, range(n)) == dict(enumerate(range(n)))
    assert run(dispatcher, range(n, 0, -1)) == dict(enumerate(range(n, 0, -1)))  # and once more


@settings(max_examples=60)
@given(
    n=st.integers(1, 300),
    n_workers=st.integers(1, 6),
    poison=st.sets(st.integers(0, 299), max_size=4),
    hanging=st.sets(st.integers(0, 299), max_size=2),
    window=st.sampled_from([None, 8, 64]),
    failed_start=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 10**6),
)
def test_only_what_ends_its_workers_is_given_up(
    n, n_workers, poison, hanging, window, failed_start, seed
):
    faults = Faults(poison.__contains__, hanging.__contains__, failed_start=failed_start)
    _, dispatcher = make(n_workers, window=window, faults=faults, startup=5, seed=seed)
    try:
        answers = run(dispatcher, range(n))
    except RuntimeError as error:
        assert failed_start and "no worker is left" in str(error)
        return
    faulty = (poison | hanging) & set(range(n))
    assert answers == {i: ("given up", i) if i in faulty else i for i in range(n)}


@settings(max_examples=30)
@given(n_workers=st.integers(2, 6), seed=st.integers(0, 10**6))
def test_workers_that_are_evicted_now_and_then_lose_nothing(n_workers, seed):
    _, dispatcher = make(n_workers, faults=Faults(death=0.01), seed=seed)
    answers = run(dispatcher, range(400))
    assert answers.keys() == set(range(400))
    # By chance, one request may be hit repeatedly: four times, at 1% each.
    assert sum(answer != number for number, answer in answers.items()) <= 1


def test_a_request_ends_no_more_workers_than_it_may():
    backend, dispatcher = make(3, faults=Faults(kills=lambda request: request == 50))
    deaths = Counter()
    start = backend.start
    backend.start = lambda worker: (deaths.update(["start"]), start(worker))
    assert run(dispatcher, range(100))[50] == ("given up", 50)
    assert deaths["start"] <= 2 * TRIES


def test_where_every_request_ends_its_worker_the_run_ends():
    _, dispatcher = make(2, faults=Faults(kills=lambda request: True))
    with pytest.raises(RuntimeError, match="workers died and nothing was answered: killed by"):
        run(dispatcher, range(1000))


def test_where_no_worker_starts_the_run_ends():
    backend, dispatcher = make(2, faults=Faults(failed_start=1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="no worker is left: no start"):
            dispatcher.wait_ready()
    assert backend.workers[0].generation >= STARTS


def test_the_workers_that_start_do_the_work_of_those_that_do_not():
    backend, dispatcher = make(3, startup=60)  # 10 s longer than it may take
    backend.startup = 5
    assert run(dispatcher, range(60)) == dict(enumerate(range(60)))


def test_a_death_is_a_warning_that_names_the_cause():
    _, dispatcher = make(1, faults=Faults(kills=lambda request: request == 3))
    with pytest.warns(UserWarning, match="worker 0: killed by 3; another is started, and . prompt"):
        list(dispatcher.run("replies", range(4), size=lambda r: 1, give_up=lambda r: None))


def test_what_takes_longest_goes_out_first_and_each_worker_gets_its_share():
    backend, dispatcher = make(4, slots=1, window=None, chunk=1)
    sent = []
    send = backend.send
    backend.send = lambda worker, run, kind, chunks: (
        sent.extend((worker, request) for chunk in chunks for _, request in chunk),
        send(worker, run, kind, chunks),
    )
    run(dispatcher, [1, 9, 3, 7, 5, 8, 2, 6], size=lambda request: request)
    orders = [[request for worker, request in sent if worker == i] for i in range(4)]
    assert sorted(orders, reverse=True) == [[9, 5], [8, 3], [7, 2], [6, 1]]


@pytest.mark.parametrize("window", [None, 16])
def test_requests_are_taken_when_there_is_room_for_them(window):
    _, dispatcher = make(2, window=window)
    n_taken = n_answered = most_ahead = 0

    def endless():
        nonlocal n_taken
        while True:
            n_taken += 1
            yield n_taken

    stream = dispatcher.run("replies", endless(), size=lambda r: 1, give_up=lambda r: None)
    for finished in stream:
        n_answered += len(finished)
        most_ahead = max(most_ahead, n_taken - n_answered)
        if n_answered > 2000:
            break
    assert most_ahead <= 256 + 2 * 16


def test_a_run_that_is_stopped_leaves_the_workers_free_for_the_next():
    backend, dispatcher = make(2, seconds=lambda request: 30.0)
    stream = dispatcher.run("replies", range(50), size=lambda r: 1, give_up=lambda r: None)
    for _ in range(5):
        next(stream)
    stream.close()
    assert not any(worker.chunks for worker in dispatcher.workers)
    assert run(dispatcher, range(100, 120)) == dict(enumerate(range(100, 120)))


def test_the_caller_hears_from_it_while_nothing_is_answered():
    """Otherwise the caller misses its deadline."""
    backend, dispatcher = make(1, seconds=lambda request: math.inf)
    stream = dispatcher.run("replies", [0], size=lambda r: 1, give_up=lambda r: None)
    times = [backend.now() for _ in itertools.islice(stream, 50)]
    assert all(later - sooner <= 1.0 for sooner, later in itertools.pairwise(times))


def test_many_workers_stay_busy_and_memory_stays_flat():
    seconds = [0.5 + (i * 7919 % 1000) / 500 for i in range(1000)]
    n, n_workers, slots = 24_000, 32, 8
    backend, dispatcher = make(
        n_workers, slots=slots, window=24, chunk=8, seconds=lambda i: seconds[i % 1000]
    )
    ideal = sum(seconds[i % 1000] for i in range(n)) / (n_workers * slots)
    memory, n_answered = [], 0
    tracemalloc.start()
    stream = dispatcher.run("replies", range(n), size=lambda r: 1, give_up=lambda r: None)
    for finished in stream:
        n_answered += len(finished)
        if n_answered // 2400 > len(memory):
            memory.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert n_answered == n
    assert backend.now() < 1.05 * ideal
    assert memory[-2] < 1.2 * memory[1]
