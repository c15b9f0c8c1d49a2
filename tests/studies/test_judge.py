"""The judge: candidates that it finds right come first, and all get the same views."""

import math

import numpy as np
import pandas as pd
import pytest
from handmade import even_pool
from scripted import BARE

from arc_airv.augment import sample_augmentations
from arc_airv.grids import format_grid
from arc_airv.prompts.encoders import make_encoder
from arc_airv.studies.judge import JudgeTemplate, judge_yes_no
from arc_airv.tasks import hide_outputs, load_tasks
from arc_airv.vote import rank_by_score, rank_candidates

ARC = load_tasks("arc-agi-1/training")
TASKS = {i: ARC[i] for i in ("6150a2bd", "44f52bb0")}  # of one and of two test outputs
SOLUTIONS = {(i, k): format_grid(p.output) for i, t in TASKS.items() for k, p in enumerate(t.test)}
WRONG = ["12|34", "111|000|222", "5", "77|77"]  # by votes, all before the right one
POOL = ["task_id", "test_index"]


POOLS = pd.concat(
    [even_pool(*key, [None, right, *(g for n, g in enumerate(WRONG[::-1], 2) for _ in range(n))])
     for key, right in SOLUTIONS.items()]
)  # fmt: skip
RANKED = rank_candidates(POOLS)


class JudgingEngine:
    """Judge a grid by its number of wrong cells, in the frame of the prompt.

    A token is a character. `taste` is a constant bias towards "Yes", in nats.
    """

    prompt_format = BARE
    max_model_len = None
    tokenizer = None

    def __init__(self, *, taste=0.0, n_views=64):
        self.taste = taste
        self.asked = []
        self.rights = {}  # what stands before the proposed output -> the right one
        for task in TASKS.values():
            for augmentation in sample_augmentations(task, n_views, seed=0):
                view = augmentation.apply_task(task)
                for i, pair in enumerate(view.test):
                    prompt = JudgeTemplate().render(view, i, pair.output, BARE.encoder, None)
                    self.rights[prompt.split("### Proposed")[0]] = BARE.encoder.encode(pair.output)

    def count_tokens(self, prompts):
        return list(map(len, prompts))

    def score(self, prompts, continuations):
        self.asked += prompts
        return [self._score(p, list(c)) for p, c in zip(prompts, continuations)]

    def _score(self, prompt, answers):
        assert answers == [" Yes", " No"]
        assert len(prompt) + len(answers[0]) < (self.max_model_len or math.inf)
        head, proposed = prompt.split("### Proposed output")
        right, grid = self.rights[head], proposed.split("\n\n")[1]
        faults = sum(a != b for a, b in zip(right, grid)) + abs(len(right) - len(grid))
        logits = np.array([1.0 - faults + self.taste, 0.0])
        return (logits - np.logaddexp(*logits) + math.log(0.5)).tolist()


@pytest.fixture
def engine():
    return JudgingEngine()


def run(engine, candidates=RANKED, **options):
    options = {"progress": False, **options}
    return judge_yes_no(candidates, hide_outputs(TASKS), engine, **options)


def winners(ranked):
    first = ranked[ranked["rank"] == 1]
    return {(row.task_id, row.test_index): row.grid for row in first.itertuples()}


# Prompts -----------------------------------------------------------------------------------------


def test_a_prompt_shows_the_task_then_what_is_proposed_then_the_question():
    task = TASKS["6150a2bd"]
    grid = np.array([[1], [2]], dtype=np.int8)
    template = JudgeTemplate(intro="INTRO", question="IS IT?")
    shown = "\n\n".join(
        f"## Example {i}\n\n### Input\n\n{BARE.encoder.encode(p.input)}"
        f"\n\n### Output\n\n{BARE.encoder.encode(p.output)}"
        for i, p in enumerate(task.train, 1)
    )
    assert template.render(task, 0, grid, BARE.encoder, None) == (
        f"INTRO\n\n{shown}\n\n## Test case\n\n### Input\n\n"
        f"{BARE.encoder.encode(task.test[0].input)}\n\n"
        "### Proposed output\n\n1\n2\n\nIS IT?\n\nAnswer:"
    )


class ChatTokenizer:
    """Imitate the part of a Hugging Face tokenizer that a chat needs."""

    chat_template = "{{ messages }}"

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


def test_a_model_with_a_chat_template_is_asked_in_a_chat(engine):
    engine.tokenizer = ChatTokenizer()
    answers = []
    engine._score = lambda prompt, given: answers.append(given) or [-1.0, -2.0]
    run(engine, n_views=1)
    template = JudgeTemplate()
    for prompt in engine.asked:
        assert prompt.startswith(f"<system>{template.system}<user>{template.intro}")
        assert prompt.endswith(f"{template.question}<assistant>")
    assert answers == [["Yes", "No"]] * len(RANKED)


def test_grids_are_written_by_the_engine_s_format_or_as_one_says(engine):
    run(engine)
    assert "### Proposed output\n\n12\n34\n\n" in "".join(engine.asked)
    engine.asked.clear()
    engine._score = lambda prompt, answers: [-1.0, -1.0]
    run(engine, encoder=make_encoder(["row_number", "minimal"]))
    assert "### Proposed output\n\n1 12\n2 34\n\n" in "".join(engine.asked)


# Judging -----------------------------------------------------------------------------------------


def test_what_the_model_finds_right_is_first(engine):
    assert winners(RANKED) == dict.fromkeys(SOLUTIONS, WRONG[0])
    assert winners(rank_by_score(run(engine))) == SOLUTIONS


def test_every_given_candidate_has_its_row(engine):
    few = RANKED[RANKED["rank"] <= 3]
    judged = run(engine, few)
    assert judged.index.equals(few.index)
    pd.testing.assert_frame_equal(judged[[*POOL, "grid", "votes"]], few[[*POOL, "grid", "votes"]])
    assert judged["score"].between(0, 1).all()
    assert judged["answer_mass"].to_numpy() == pytest.approx(0.5)
    assert len(rank_by_score(judged)) == len(few)


def test_the_score_is_the_mean_log_probability_of_yes(engine):
    judged = run(engine, n_views=3)
    assert len(engine.asked) == 3 * len(RANKED)
    assert (judged["n_views"] == 3).all()
    right = judged[judged["grid"] == [SOLUTIONS[k] for k in zip(judged.task_id, judged.test_index)]]
    assert right["score"].to_numpy() == pytest.approx(1 / (1 + math.exp(-1)))


def test_a_liking_for_yes_changes_no_order(engine):
    biased = rank_by_score(run(JudgingEngine(taste=3.0)))
    assert biased["grid"].equals(rank_by_score(run(engine))["grid"])


def test_a_result_depends_on_the_seed_and_on_its_own_pool_alone(engine):
    judged = run(engine)
    shuffled = RANKED.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(run(JudgingEngine(), shuffled).sort_index(), judged)
    one = RANKED["task_id"] == "44f52bb0"
    pd.testing.assert_frame_equal(run(JudgingEngine(), RANKED[one]), judged[one])
    asked = []
    for seed in (0, 0, 1):
        engine = JudgingEngine()
        engine._score = lambda prompt, answers: [-1.0, -1.0]
        run(engine, seed=seed)
        asked.append(engine.asked)
    assert asked[0] == asked[1] != asked[2]


def test_without_candidates_there_is_nothing_to_judge(engine):
    judged = run(engine, RANKED.iloc[:0])
    assert judged.empty and engine.asked == []
    assert rank_by_score(judged).empty


def test_few_kinds_of_augmentation_give_few_views(engine):
    plain = {"geometric": False, "colors": False, "train_order": False}
    assert (run(engine, n_views=5, **plain)["n_views"] == 1).all()


# What does not count -----------------------------------------------------------------------------


def test_a_pool_whose_longest_candidate_does_not_fit_is_not_judged(engine):
    long = format_grid(np.full((30, 30), 3, dtype=np.int8))
    # The engine asserts the rest.
    engine.max_model_len = max(len(head) for head in engine.rights) + 300
    candidates = rank_candidates(pd.concat([POOLS, even_pool("6150a2bd", 0, [long])]))
    with pytest.warns(UserWarning, match="4 of 12 views do not fit the model's context"):
        judged = run(engine, candidates)
    unknown = judged["task_id"] == "6150a2bd"
    assert judged["score"].isna().equals(unknown) and (judged["n_views"] == 4 * ~unknown).all()
    by_votes = candidates[unknown]["grid"].tolist()
    assert rank_by_score(judged[unknown])["grid"].tolist() == by_votes


def test_a_view_that_does_not_fit_is_left_out_for_all_candidates(engine):
    """A quarter turn gives this candidate more lines, and so more characters."""
    flat = format_grid(np.full((1, 30), 3, dtype=np.int8))
    candidates = rank_candidates(even_pool("6150a2bd", 0, [flat, "5", "12|34"]))
    run(engine, candidates)
    engine.max_model_len = max(map(len, engine.asked))
    with pytest.warns(UserWarning, match="views do not fit the model's context"):
        judged = run(engine, candidates)
    assert judged["score"].notna().all()
    assert judged["n_views"].nunique() == 1 and 0 < judged["n_views"].iloc[0] < 4


def test_an_overflow_counts_for_nobody(engine):
    sound, scored = engine._score, []

    def overflowing(prompt, answers):
        scored.append(prompt)
        return [math.nan] * 2 if len(scored) == 1 else sound(prompt, answers)

    engine._score = overflowing
    with pytest.warns(UserWarning, match="1 views gave no number"):
        judged = run(engine)
    assert winners(rank_by_score(judged)) == SOLUTIONS
    assert sorted(judged.groupby(POOL)["n_views"].agg(tuple)) == [(3,) * 5, (4,) * 5, (4,) * 5]
    engine._score = lambda prompt, answers: [math.nan, math.nan]
    with pytest.warns(UserWarning, match="gave no number"):
        assert run(engine)["score"].isna().all()


# Mistakes ----------------------------------------------------------------------------------------


def test_mistakes_are_named(engine):
    with pytest.raises(ValueError, match="n_views must be at least 1, got 0"):
        run(engine, n_views=0)
    with pytest.raises(ValueError, match="no test output 1 of task '6150a2bd'"):
        run(engine, rank_candidates(even_pool("6150a2bd", 1, WRONG)))


def test_an_engine_that_does_not_score_is_named():
    class Mute:
        prompt_format = BARE
        count_tokens = JudgingEngine.count_tokens

    with pytest.raises(TypeError, match="the engine Mute has no score"):
        run(Mute())
