"""Re-scoring: all candidates of a pool, under the same views, whatever happens."""

import json
import math
import time
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from handmade import even_pool
from scripted import BARE

from arc_airv.augment import Augmentation, sample_augmentations
from arc_airv.grids import format_grid, parse_grid
from arc_airv.infer import read_scores, rescore
from arc_airv.tasks import hide_outputs, load_tasks
from arc_airv.vote import rank_candidates

ARC = load_tasks("arc-agi-1/training")
TASKS = {i: ARC[i] for i in ("6150a2bd", "44f52bb0")}  # of one and of two test outputs
SOLUTIONS = {(i, k): format_grid(p.output) for i, t in TASKS.items() for k, p in enumerate(t.test)}
WRONG = ["12|34", "111|000|222", "5"]


COLUMNS = ["task_id", "test_index", "grid", "augmentation", "score_logprob", "prompt_hash"]


POOLS = pd.concat(
    [even_pool(i, k, [None, solution, *WRONG, WRONG[0], solution, solution])
     for (i, k), solution in SOLUTIONS.items()]
)  # fmt: skip
N_CANDIDATES = len(WRONG) + 1


class ScoringEngine:
    """Score a reply as minus its number of wrong cells in the frame of the prompt.

    A token is a character. The engine only has `score`, and knows the views of a plan.
    """

    model = "scripted"
    prompt_format = BARE
    delay = 0.0
    max_model_len = None

    def __init__(self, n_views=16, seed=0):
        self.calls = []
        self.solutions = {}  # prompt -> reply
        for task in TASKS.values():
            for augmentation in sample_augmentations(task, n_views, seed=seed):
                view = augmentation.apply_task(task)
                for i, pair in enumerate(view.test):
                    self.solutions[BARE.render(view, i)] = BARE.render_answer(pair.output)

    def count_tokens(self, prompts):
        return list(map(len, prompts))

    def score(self, prompts, continuations):
        self.calls += list(zip(prompts, continuations))
        time.sleep(self.delay)
        return [[self._score(p, c) for c in texts] for p, texts in zip(prompts, continuations)]

    def _score(self, prompt, reply):
        right = self.solutions[prompt]
        assert len(prompt) + len(reply) < (self.max_model_len or math.inf)
        return -float(sum(a != b for a, b in zip(right, reply)) + abs(len(right) - len(reply)))


@pytest.fixture
def engine():
    return ScoringEngine()


def run(engine, predictions=POOLS, **options):
    return rescore(predictions, hide_outputs(TASKS), engine, **{"progress": False, **options})


def test_every_candidate_has_a_score_under_every_view(engine):
    scores = run(engine, n_views=8)
    assert list(scores.columns) == COLUMNS
    assert len(scores) == 3 * N_CANDIDATES * 8
    assert not scores.duplicated(COLUMNS[:4]).any()
    for (task_id, test_index), group in scores.groupby(["task_id", "test_index"]):
        views = set(map(str, sample_augmentations(TASKS[task_id], 8, seed=0)))
        assert set(group["grid"]) == {SOLUTIONS[task_id, test_index], *WRONG}
        for _, candidate in group.groupby("grid"):
            assert set(candidate["augmentation"]) == views


def test_a_candidate_is_augmented_as_its_task(engine):
    for row in run(engine, n_views=16).itertuples():
        is_right = row.grid == SOLUTIONS[row.task_id, row.test_index]
        assert (row.score_logprob == 0) == is_right


def test_all_candidates_of_a_view_are_asked_with_one_prompt(engine):
    run(engine, n_views=4)
    assert len(engine.calls) == 3 * 4
    assert len({prompt for prompt, _ in engine.calls}) == 3 * 4
    assert {len(replies) for _, replies in engine.calls} == {N_CANDIDATES}


def test_only_the_most_voted_candidates_are_scored_if_so_wished(engine):
    ranked = rank_candidates(POOLS)
    scores = run(engine, ranked[ranked["rank"] <= 2], n_views=2)
    for key, group in scores.groupby(["task_id", "test_index"]):
        assert set(group["grid"]) == {SOLUTIONS[key], WRONG[0]}


def test_a_plan_of_few_views_has_no_view_twice(engine):
    plain = {"geometric": False, "colors": False, "train_order": False}
    scores = run(engine, n_views=5, **plain)
    assert len(scores) == 3 * N_CANDIDATES
    assert all(Augmentation.parse(key).colors == tuple(range(10)) for key in scores["augmentation"])


def test_an_output_without_candidates_has_no_scores(engine):
    predictions = pd.concat(
        [even_pool("6150a2bd", 0, [None, None]), even_pool("44f52bb0", 1, WRONG)]
    )
    scores = run(engine, predictions, n_views=2)
    assert Counter(zip(scores["task_id"], scores["test_index"])) == {("44f52bb0", 1): 6}
    nothing = run(engine, even_pool("6150a2bd", 0, [None]))
    assert list(nothing.columns) == COLUMNS and nothing.empty
    assert nothing.dtypes["score_logprob"] == "float64"


# What does not fit -------------------------------------------------------------------------------


def test_a_view_that_one_candidate_does_not_fit_counts_for_none(engine):
    long = format_grid(np.zeros((30, 30), dtype=np.int8))
    longest = max(len(prompt) for prompt in engine.solutions)
    engine.max_model_len = longest + 300
    with pytest.warns(UserWarning, match="4 of 12 views do not fit"):
        scores = run(engine, pd.concat([POOLS, even_pool("6150a2bd", 0, [long])]), n_views=4)
    nan = scores[scores["score_logprob"].isna()]
    assert set(zip(nan["task_id"], nan["grid"])) == {
        ("6150a2bd", g) for g in (SOLUTIONS["6150a2bd", 0], *WRONG, long)
    }
    assert len(nan) == 4 * (N_CANDIDATES + 1)
    assert len(scores) == len(nan) + 2 * 4 * N_CANDIDATES


# Stopping and resuming ---------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    return tmp_path / "scores.jsonl"


def test_a_store_is_gone_on_with(engine, store):
    few = run(engine, n_views=2, store=store)
    first = len(engine.calls)
    assert run(engine, n_views=2, store=store).equals(few)
    assert len(engine.calls) == first
    more = run(engine, n_views=4, store=store)
    assert len(engine.calls) == 2 * first
    assert more.equals(run(ScoringEngine(), n_views=4))
    by_name = COLUMNS[:4]
    assert (
        read_scores(store)
        .sort_values(by_name, ignore_index=True)
        .equals(more.sort_values(by_name, ignore_index=True))
    )


def test_a_new_candidate_is_scored_and_the_others_are_not_again(engine, store):
    run(engine, n_views=3, store=store)
    engine.calls.clear()
    new = "77|77"
    scores = run(
        engine, pd.concat([POOLS, even_pool("44f52bb0", 1, [new])]), n_views=3, store=store
    )
    assert [len(replies) for _, replies in engine.calls] == [1, 1, 1]
    assert len(scores) == 3 * (3 * N_CANDIDATES + 1)


def test_at_the_deadline_no_candidate_has_more_views_than_another(store, monkeypatch):
    monkeypatch.setattr("arc_airv.engines.base.SCORED_CHUNK", 1)
    engine = ScoringEngine()
    engine.delay = 0.03
    scores = run(engine, n_views=8, store=store, deadline=time.time() + 0.25)
    assert 3 <= len(engine.calls) < 20
    views = scores.groupby(["task_id", "test_index", "grid"])["augmentation"].agg(set)
    assert all(len(set(map(frozenset, g))) == 1 for _, g in views.groupby(level=[0, 1]))
    assert max(map(len, views)) - min(map(len, views)) <= 1
    assert run(engine, n_views=8, store=store).equals(run(ScoringEngine(), n_views=8))
    assert run(engine, n_views=8, deadline=time.time() - 1).empty


def test_a_half_written_line_is_scored_again(engine, store):
    whole = run(engine, n_views=2, store=store)
    with open(store, "r+b") as file:
        file.truncate(store.stat().st_size - 5)
    engine.calls.clear()
    assert run(engine, n_views=2, store=store).equals(whole)
    assert [len(replies) for _, replies in engine.calls] == [1]


def test_an_overflow_is_kept_as_no_number(store):
    engine = ScoringEngine()
    engine._score = lambda prompt, reply: math.nan
    assert run(engine, n_views=1, store=store)["score_logprob"].isna().all()
    assert json.loads(store.read_text().splitlines()[0])["score_logprob"] is None
    assert read_scores(store)["score_logprob"].isna().all()


def test_other_settings_need_another_store(engine, store):
    run(engine, n_views=1, store=store)
    with pytest.raises(ValueError, match="other settings.*'seed': 0.*'seed': 1"):
        run(engine, n_views=1, store=store, seed=1)


def test_a_broken_line_is_named(engine, store):
    store.write_text('{"task_id": "a"}\n')
    with pytest.raises(ValueError, match="scores.jsonl: line 1 lacks"):
        run(engine, n_views=1, store=store)


@pytest.mark.parametrize("options", [{"n_views": 0}, {"n_views": -1}])
def test_arguments_out_of_range_are_named(engine, options):
    with pytest.raises(ValueError, match="n_views must be at least 1"):
        run(engine, **options)


@pytest.mark.parametrize("key", [("nowhere", 0), ("6150a2bd", 1)])
def test_a_prediction_of_no_given_task_is_named(engine, key):
    with pytest.raises(ValueError, match=f"no test output {key[1]} of task '{key[0]}'"):
        run(engine, even_pool(*key, WRONG))


# With a real engine ------------------------------------------------------------------------------


def test_a_score_is_the_log_probability_of_the_augmented_reply(random_model):
    pytest.importorskip("torch")
    from arc_airv.engines import TransformersEngine

    engine = TransformersEngine(str(random_model))
    scores = run(engine, POOLS[POOLS["task_id"] == "6150a2bd"], n_views=3)
    task = TASKS["6150a2bd"]
    assert len(scores) == 3 * N_CANDIDATES
    for row in scores.itertuples():
        augmentation = Augmentation.parse(row.augmentation)
        prompt = engine.prompt_format.render(augmentation.apply_task(task))
        grid = augmentation.apply_grid(parse_grid(row.grid))
        (expected,) = engine.score([prompt], [engine.prompt_format.render_answer(grid)])
        assert row.score_logprob == pytest.approx(expected, abs=1e-3)
