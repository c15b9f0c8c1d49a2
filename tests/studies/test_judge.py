"""The judge: whom it prefers comes first, a liking for a place cancels, nothing is biased."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import BARE

from arc_airv.augment import sample_augmentations
from arc_airv.grids import format_grid
from arc_airv.prompts.encoders import make_encoder
from arc_airv.studies.judge import judge_pairs, judge_yes_no
from arc_airv.studies.ranking import Tournament, bradley_terry, halving_sizes
from arc_airv.studies.referee import JudgeTemplate
from arc_airv.tasks import hide_outputs, load_tasks
from arc_airv.vote.rank import rank_by_score, rank_candidates

ARC = load_tasks("arc-agi-1/training")
TASKS = {i: ARC[i] for i in ("6150a2bd", "44f52bb0")}  # of one and of two test outputs
SOLUTIONS = {(i, k): format_grid(p.output) for i, t in TASKS.items() for k, p in enumerate(t.test)}
WRONG = ["12|34", "111|000|222", "5", "77|77"]  # by votes, all before the right one
JUDGES = [judge_yes_no, judge_pairs]


def pool(task_id, test_index, grids):
    """Predictions of these grids, one for each."""
    return pd.DataFrame(
        {"task_id": task_id, "test_index": test_index, "grid": grids,
         "cumulative_logprob": -1.0, "n_tokens": 10}
    )  # fmt: skip


POOLS = pd.concat(
    [pool(*key, [None, right, *(g for n, g in enumerate(WRONG[::-1], 2) for _ in range(n))])
     for key, right in SOLUTIONS.items()]
)  # fmt: skip


class JudgingEngine:
    """Finds a grid the less right, in the frame of the prompt, the more of its cells are wrong.

    One token a character. It only has `score`; `taste` is what it likes of an answer anyhow, in
    nats.
    """

    model = "scripted"
    prompt_format = BARE
    max_model_len = None
    tokenizer = None

    def __init__(self, *, eyes=1.0, taste=None, n_views=64):
        self.eyes = eyes
        self.taste = taste or {}
        self.asked = []
        self.rights = {}  # what stands before the proposed outputs -> the right one
        for task in TASKS.values():
            for augmentation in sample_augmentations(task, n_views, seed=0):
                view = augmentation.apply_task(task)
                for i, pair in enumerate(view.test):
                    prompt = JudgeTemplate().render(view, i, [pair.output], BARE.encoder)
                    self.rights[prompt.split("### Proposed")[0]] = BARE.encoder.encode(pair.output)

    def count_tokens(self, prompts):
        return list(map(len, prompts))

    def score(self, prompts, continuations):
        self.asked += prompts
        return [self._score(p, c) for p, c in zip(prompts, continuations)]

    def _score(self, prompt, answers):
        assert len(prompt) + max(map(len, answers)) < (self.max_model_len or math.inf)
        head, *proposed = prompt.split("### Proposed output")
        grids = ["".join(text.split("\n\n")[1]) for text in proposed]
        worth = [1.0 - self.eyes * self._faults(self.rights[head], grid) for grid in grids]
        if len(grids) == 1:
            worth = [worth[0], 0.0]
            assert answers == [" Yes", " No"]
        else:
            assert answers == [" A", " B"]
        logits = np.array(worth) + [self.taste.get(answer.strip(), 0.0) for answer in answers]
        return (logits - np.logaddexp(*logits) + math.log(0.5)).tolist()

    @staticmethod
    def _faults(right, grid):
        return sum(a != b for a, b in zip(right, grid)) + abs(len(right) - len(grid))


@pytest.fixture
def engine():
    return JudgingEngine()


def run(judge, engine, predictions=POOLS, **options):
    return judge(predictions, hide_outputs(TASKS), engine, **{"progress": False, **options})


def winners(ranked):
    first = ranked[ranked["rank"] == 1]
    return {(row.task_id, row.test_index): row.grid for row in first.itertuples()}


# Strengths ---------------------------------------------------------------------------------------


def test_who_won_three_of_four_is_three_times_as_strong():
    assert bradley_terry([[0, 3], [1, 0]], prior=1e-9) == pytest.approx(
        [math.sqrt(3), math.sqrt(1 / 3)]
    )


def test_five_wins_of_five_by_hand():
    """With t = ln 2 the slope is 5 - 5 * 4/5 + 3 * (1 - 2 * 2/3) = 0."""
    assert bradley_terry([[0, 5], [0, 0]], prior=3) == pytest.approx([2, 1 / 2])


def test_the_example_of_wikipedia():
    wins = [[0, 2, 0, 1], [3, 0, 5, 0], [0, 3, 0, 1], [4, 0, 3, 0]]
    expected = [0.640, 1.043, 0.660, 2.270]
    assert bradley_terry(wins, prior=1e-9) == pytest.approx(expected, abs=5e-4)


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=7))
def test_known_strengths_are_recovered_from_expected_wins(strengths):
    s = np.array(strengths)
    wins = 8 * s[:, None] / (s[:, None] + s)
    expected = s / np.exp(np.log(s).mean())
    assert bradley_terry(wins, prior=1e-9) == pytest.approx(expected, rel=1e-6)


def test_known_strengths_are_approached_from_drawn_wins():
    rng = np.random.default_rng(0)
    s = np.array([8.0, 4.0, 2.0, 1.0, 0.5])
    chance = s[:, None] / (s[:, None] + s)
    wins = np.triu(rng.binomial(2000, chance), 1)
    wins = wins + np.tril(2000 - wins.T, -1)
    found = bradley_terry(wins)
    assert found / found[3] == pytest.approx(s, rel=0.1)


def test_strengths_are_finite_and_equal_where_nothing_tells_them_apart():
    assert bradley_terry(np.zeros((3, 3))).tolist() == [1, 1, 1]
    assert bradley_terry(np.ones((4, 4))).tolist() == [1] * 4
    assert bradley_terry([[0]]).tolist() == [1]
    assert bradley_terry(np.zeros((0, 0))).tolist() == []
    won_all = bradley_terry([[0, 9, 9], [0, 0, 5], [0, 4, 0]])
    assert np.isfinite(won_all).all() and won_all[0] > won_all[1] > won_all[2]


@pytest.mark.parametrize(
    ("wins", "prior", "message"),
    [
        ([[0, 1]], 1, r"square matrix, got the shape \(1, 2\)"),
        ([[0, -1], [1, 0]], 1, "at least 0, got .*-1"),
        ([[0, math.nan], [1, 0]], 1, "finite"),
        ([[0, 1], [1, 0]], 0, "prior must be above 0 and finite, got 0"),
    ],
)
def test_wins_that_are_none_are_named(wins, prior, message):
    with pytest.raises(ValueError, match=message):
        bradley_terry(wins, prior=prior)


# Tournaments -------------------------------------------------------------------------------------


def play(tournament, chance):
    """The rounds of a whole tournament."""
    rounds = []
    while tournament.pairs:
        rounds.append(tournament.pairs)
        tournament.record([chance(i, j) for i, j in tournament.pairs])
    return rounds


def test_each_round_halves_the_field():
    assert halving_sizes(8) == [8, 4, 2]
    assert halving_sizes(7) == [7, 4, 2]
    assert halving_sizes(1) == halving_sizes(0) == []


@pytest.mark.parametrize("n", range(1, 10))
@pytest.mark.parametrize("n_matches", [2, 4, 6])
def test_everybody_left_plays_the_same_number_of_matches(n, n_matches):
    tournament = Tournament(n, n_matches=n_matches, seed=0)
    rounds = play(tournament, lambda i, j: 0.5)
    assert len(rounds) == len(halving_sizes(n))
    for pairs, size in zip(rounds, halving_sizes(n)):
        assert len(pairs) == size * n_matches / 2
        assert all(i != j for i, j in pairs)
        assert np.bincount(np.ravel(pairs), minlength=n).tolist() == [n_matches] * size + [0] * (
            n - size
        )  # nobody is stronger, so the lower numbers stay
    assert tournament.n_total == sum(map(len, rounds))
    assert tournament.played.sum() == 2 * tournament.n_total


def test_the_strong_stay():
    tournament = Tournament(8, n_matches=4, seed=0)
    rounds = play(tournament, lambda i, j: float(i > j))
    assert [sorted(set(np.ravel(pairs).tolist())) for pairs in rounds[1:]] == [[4, 5, 6, 7], [6, 7]]
    assert tournament.strengths.argmax() == 7


def test_a_seed_fixes_who_plays_whom():
    pairs = [Tournament(8, n_matches=2, seed=seed).pairs for seed in (1, 1, 2)]
    assert pairs[0] == pairs[1] != pairs[2]


def test_all_are_connected_by_the_matches_of_the_first_round():
    for n in range(2, 12):
        reached = {0}
        for _ in range(n):
            pairs = Tournament(n, n_matches=2, seed=n).pairs
            reached |= {k for pair in pairs if reached & set(pair) for k in pair}
        assert len(reached) == n


def test_a_match_without_a_result_does_not_count():
    tournament = Tournament(2, n_matches=2, seed=0)
    tournament.record([math.nan, 1.0])
    assert tournament.played.tolist() == [1, 1]


def test_results_that_are_none_are_named():
    tournament = Tournament(3, n_matches=2, seed=0)
    with pytest.raises(ValueError, match="3 matches have 1 results"):
        tournament.record([0.5])
    with pytest.raises(ValueError, match=r"chances must be in \[0, 1\], got \[1.5\]"):
        tournament.record([0.5, 1.5, 0.5])
    with pytest.raises(ValueError, match="n_matches must be an even number above 0, got 3"):
        Tournament(3, n_matches=3, seed=0)


# Prompts -----------------------------------------------------------------------------------------


def test_a_prompt_shows_the_task_then_what_is_proposed_then_the_question():
    task = TASKS["6150a2bd"]
    grid = np.array([[1, 2]], dtype=np.int8)
    template = JudgeTemplate(intro="INTRO", a_or_b="WHICH?")
    prompt = template.render(task, 0, [grid, grid.T], BARE.encoder)
    shown = "\n\n".join(
        f"## Example {i}\n\n### Input\n\n{BARE.encoder.encode(p.input)}"
        f"\n\n### Output\n\n{BARE.encoder.encode(p.output)}"
        for i, p in enumerate(task.train, 1)
    )
    assert prompt == (
        f"INTRO\n\n{shown}\n\n## Test case\n\n### Input\n\n"
        f"{BARE.encoder.encode(task.test[0].input)}\n\n"
        "### Proposed output A\n\n12\n\n### Proposed output B\n\n1\n2\n\nWHICH?\n\nAnswer:"
    )


class ChatTokenizer:
    """As much of a Hugging Face tokenizer as a chat needs."""

    chat_template = "{{ messages }}"

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        assert not tokenize and add_generation_prompt
        return "".join(f"<{m['role']}>{m['content']}" for m in messages) + "<assistant>"


def test_a_model_with_a_chat_template_is_asked_in_a_chat():
    asked = []

    class ChatEngine(JudgingEngine):
        tokenizer = ChatTokenizer()

        def score(self, prompts, continuations):
            asked.extend(zip(prompts, continuations))
            return [[-1.0, -2.0]] * len(prompts)

    run(judge_yes_no, ChatEngine(), n_views=1)
    for prompt, answers in asked:
        assert prompt.startswith(f"<system>{JudgeTemplate().system}<user>{JudgeTemplate().intro}")
        assert prompt.endswith(f"{JudgeTemplate().yes_no}<assistant>")
        assert answers == ["Yes", "No"]


def test_grids_are_written_by_the_engine_s_format_or_as_one_says(engine):
    run(judge_pairs, engine)
    assert "### Proposed output A\n\n12\n34\n\n" in "".join(engine.asked)
    engine.asked.clear()
    engine._score = lambda prompt, answers: [-1.0, -1.0]
    run(judge_pairs, engine, encoder=make_encoder(["row_number", "minimal"]))
    assert "### Proposed output A\n\n1 12\n2 34\n\n" in "".join(engine.asked)


# Judging -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", JUDGES)
def test_who_the_model_finds_right_is_first(judge, engine):
    assert winners(rank_candidates(POOLS)) == dict.fromkeys(SOLUTIONS, WRONG[0])
    judged = run(judge, engine)
    assert winners(rank_by_score(judged)) == SOLUTIONS
    weighted = {"method": "weighted", "weights": {"mean_score_logprob": 1}, "scores": judged}
    by_weight = rank_candidates(POOLS, **weighted)
    assert by_weight["grid"].tolist() == rank_by_score(judged)["grid"].tolist()


@pytest.mark.parametrize("judge", JUDGES)
def test_every_candidate_has_one_row(judge, engine):
    judged = run(judge, engine)
    ranked = rank_candidates(POOLS)
    assert judged[["task_id", "test_index", "grid"]].equals(
        ranked[["task_id", "test_index", "grid"]]
    )
    assert judged["score"].between(0, 1).all()
    assert np.log(judged["score"]).to_numpy() == pytest.approx(judged["score_logprob"].to_numpy())
    assert judged["answer_mass"].to_numpy() == pytest.approx(0.5)


def test_the_score_of_yes_or_no_is_the_mean_log_probability_of_yes(engine):
    judged = run(judge_yes_no, engine, n_views=3)
    assert len(engine.asked) == 3 * 5 * 3
    assert (judged["n_views"] == 3).all()
    right = judged[judged["grid"] == [SOLUTIONS[k] for k in zip(judged.task_id, judged.test_index)]]
    assert right["score"].to_numpy() == pytest.approx(1 / (1 + math.exp(-1)))


def test_the_score_of_pairs_is_the_share_of_the_strength():
    """Where the model gives one of two candidates a chance of 3/4 in each match."""
    right = SOLUTIONS["6150a2bd", 0]
    engine = JudgingEngine(eyes=math.log(3))
    engine._faults = lambda expected, grid: expected != grid
    predictions = pool("6150a2bd", 0, ["12|34", right])
    judged = run(judge_pairs, engine, predictions, prior=1e-9).set_index("grid")
    assert judged["score"].to_dict() == pytest.approx({right: 3 / 4, "12|34": 1 / 4})
    assert (judged["n_matches"] == 4).all() and len(engine.asked) == 8


def test_pairs_ask_both_orders_of_each_match_of_the_tournament(engine):
    judged = run(judge_pairs, engine, n_matches=2)
    sizes = halving_sizes(5)  # 5, 3, 2
    assert len(engine.asked) == 3 * 2 * sum(sizes)
    played = [2, 2, 4, 6, 6]
    for _, group in judged.groupby(["task_id", "test_index"]):
        assert sorted(group["n_matches"]) == played

    def swapped(prompt):
        head, a, b = prompt.split("### Proposed output")
        a, b = a.removeprefix(" A\n\n").strip(), b.removeprefix(" B\n\n")
        b, question = b.split("\n\n", 1)
        return f"{head}### Proposed output A\n\n{b}\n\n### Proposed output B\n\n{a}\n\n{question}"

    assert engine.asked[1::2] == list(map(swapped, engine.asked[::2]))


@pytest.mark.parametrize("taste", [{"A": 30.0}, {"B": 3.0}])
def test_a_model_that_only_likes_a_letter_leaves_the_order_of_votes(taste):
    judged = run(judge_pairs, JudgingEngine(eyes=0.0, taste=taste))
    assert judged["score"].nunique() == 1
    assert rank_by_score(judged)["grid"].tolist() == rank_candidates(POOLS)["grid"].tolist()


def test_a_liking_for_a_letter_changes_no_score():
    plain, biased = (run(judge_pairs, JudgingEngine(taste=taste)) for taste in ({}, {"A": 9.0}))
    assert biased["score"].to_numpy() == pytest.approx(plain["score"].to_numpy(), rel=1e-6)


def test_a_liking_for_yes_changes_no_order():
    plain, biased = (run(judge_yes_no, JudgingEngine(taste=taste)) for taste in ({}, {"Yes": 3.0}))
    assert rank_by_score(biased)["grid"].equals(rank_by_score(plain)["grid"])


@pytest.mark.parametrize("judge", JUDGES)
def test_a_result_depends_on_the_seed_and_on_its_own_pool_alone(judge):
    judged = run(judge, JudgingEngine())
    shuffled = POOLS.sample(frac=1, random_state=1)
    assert run(judge, JudgingEngine(), shuffled).equals(judged)
    alone = run(judge, JudgingEngine(), POOLS[POOLS["task_id"] == "44f52bb0"])
    together = judged[judged["task_id"] == "44f52bb0"].reset_index(drop=True)
    assert alone.equals(together)
    asked = []
    for seed in (0, 0, 1):
        engine = JudgingEngine()
        engine._score = lambda prompt, answers: [-1.0, -1.0]
        run(judge, engine, seed=seed)
        asked.append(engine.asked)
    assert asked[0] == asked[1] != asked[2]


@pytest.mark.parametrize("judge", JUDGES)
def test_only_the_most_voted_are_judged_and_the_others_come_behind(judge, engine):
    judged = run(judge, engine, top_k=3)
    for key, group in judged.groupby(["task_id", "test_index"]):
        assert group["grid"].tolist() == [*WRONG, SOLUTIONS[key]]
        assert group["score"].notna().tolist() == [True] * 3 + [False] * 2
        ranked = rank_by_score(group)
        assert ranked["grid"].tolist()[3:] == [WRONG[3], SOLUTIONS[key]]


def test_a_candidate_alone_is_chosen_without_a_question(engine):
    judged = run(judge_pairs, engine, pool("6150a2bd", 0, ["1", "1", None]))
    assert judged[["score", "n_matches"]].to_numpy().tolist() == [[1.0, 0]]
    assert engine.asked == []


@pytest.mark.parametrize("judge", JUDGES)
def test_without_candidates_there_is_nothing_to_judge(judge, engine):
    judged = run(judge, engine, pool("6150a2bd", 0, [None, None]))
    assert judged.empty and engine.asked == []
    assert rank_by_score(judged).empty


def test_few_kinds_of_augmentation_give_few_views(engine):
    plain = {"geometric": False, "colors": False, "train_order": False}
    assert (run(judge_yes_no, engine, n_views=5, **plain)["n_views"] == 1).all()
    assert (run(judge_pairs, engine, n_matches=2, **plain)["n_matches"] >= 2).all()


# What does not fit -------------------------------------------------------------------------------


@pytest.mark.parametrize(("judge", "n_proposed"), [(judge_yes_no, 1), (judge_pairs, 2)])
def test_a_pool_whose_longest_candidates_do_not_fit_is_not_judged(judge, n_proposed, engine):
    long = [format_grid(np.full((30, side), 3, dtype=np.int8)) for side in (29, 30)]
    longest = max(len(head) for head in engine.rights)
    engine.max_model_len = longest + n_proposed * 300  # the asserts of the engine see to the rest
    predictions = pd.concat([POOLS, pool("6150a2bd", 0, long)])
    with pytest.warns(UserWarning, match=r"(\d+) of \d+ views do not fit .* 1 of 3 pools"):
        judged = run(judge, engine, predictions)
    unknown = judged["score"].isna()
    assert (unknown == (judged["task_id"] == "6150a2bd")).all()
    ranked = rank_by_score(judged[unknown])
    by_votes = rank_candidates(predictions[predictions["task_id"] == "6150a2bd"])
    assert ranked["grid"].tolist() == by_votes["grid"].tolist()


@pytest.mark.parametrize("judge", JUDGES)
def test_a_view_that_does_not_fit_is_left_out_for_all_candidates(judge, engine):
    """Turned by a quarter, this candidate takes more lines, and so more characters."""
    flat = format_grid(np.full((1, 30), 3, dtype=np.int8))
    predictions = pool("6150a2bd", 0, [flat, "5", "12|34"])
    run(judge, engine, predictions)
    lengths = sorted(set(map(len, engine.asked)))
    engine.max_model_len = lengths[-1]
    engine.asked.clear()
    with pytest.warns(UserWarning, match="views do not fit the model's context"):
        judged = run(judge, engine, predictions)
    assert len(engine.asked) and judged["score"].notna().all()
    if judge is judge_yes_no:
        assert judged["n_views"].nunique() == 1 and judged["n_views"].iloc[0] < 4
    else:
        assert sorted(judged["n_matches"]) == [4, 8, 8]


@pytest.mark.parametrize("judge", JUDGES)
def test_an_overflow_counts_for_nobody(judge, engine):
    sound = engine._score
    bad = []

    def overflowing(prompt, answers):
        bad.append(len(bad) == 0)
        return [math.nan, math.nan] if bad[-1] else sound(prompt, answers)

    engine._score = overflowing
    with pytest.warns(UserWarning, match="1 views or matches gave no number"):
        judged = run(judge, engine)
    assert winners(rank_by_score(judged)) == SOLUTIONS
    engine._score = lambda prompt, answers: [math.nan, math.nan]
    with pytest.warns(UserWarning, match="gave no number"):
        assert run(judge, engine)["score"].isna().all()


# Mistakes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("judge", "options", "message"),
    [
        (judge_yes_no, {"n_views": 0}, "n_views must be at least 1, got 0"),
        (judge_yes_no, {"top_k": 0}, "top_k must be at least 1, got 0"),
        (judge_pairs, {"n_matches": 3}, "n_matches must be an even number above 0, got 3"),
        (judge_pairs, {"prior": 0.0}, "prior must be above 0"),
    ],
)
def test_arguments_out_of_range_are_named(judge, options, message, engine):
    with pytest.raises(ValueError, match=message):
        run(judge, engine, **options)


@pytest.mark.parametrize("judge", JUDGES)
def test_a_prediction_of_no_given_task_is_named(judge, engine):
    with pytest.raises(ValueError, match="no test output 1 of task '6150a2bd'"):
        run(judge, engine, pool("6150a2bd", 1, WRONG))


@pytest.mark.parametrize("judge", JUDGES)
def test_an_engine_that_does_not_score_is_named(judge):
    with pytest.raises(ValueError, match="needs an engine with score, got object"):
        run(judge, object())
