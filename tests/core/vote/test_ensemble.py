"""Ensembles: weighted votes add up, slots fill in order, and the inputs stay unchanged."""

import copy
import json
import re
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from arc_airv.metrics import read_results
from arc_airv.records import Prediction, RecordStore, other_tasks, read_stores, to_frame
from arc_airv.storage import add_tasks
from arc_airv.submission import combine_submissions, validate_submission, write_submission
from arc_airv.tasks import hash_task, hide_outputs, load_tasks
from arc_airv.vote.ensemble import combine_predictions
from arc_airv.vote.rank import rank_candidates, select_attempts

ARC = load_tasks("arc-agi-1/training")
TASKS = {i: ARC[i] for i in ("6150a2bd", "44f52bb0")}  # 1 + 2 outputs


def records(grids, task_id="6150a2bd", test_index=0, logprob=-1.0, first=0):
    return [
        Prediction(
            task_id=task_id,
            test_index=test_index,
            augmentation="flip0.rot0.colors0123456789.order",
            sample_index=first + i,
            grid=grid,
            status="ok" if grid else "unparsed",
            text="",
            cumulative_logprob=logprob,
            n_tokens=2,
            n_prompt_tokens=9,
            finish_reason="stop",
            prompt_hash="0" * 16,
            n_train=1,
        )
        for i, grid in enumerate(grids)
    ]


def run(*args, **options):
    return to_frame(map(asdict, records(*args, **options)))


A = run(["1", "1", "1", "2", None])
B = run(["2", "2", "3"])


def scores(ranked):
    return dict(zip(ranked["grid"], ranked["score"].round(6)))


def test_votes_add_up_by_weight():
    assert scores(combine_predictions([A, B])) == {"1": 3, "2": 3, "3": 1}
    assert scores(combine_predictions([A, B], weights=[1, 2])) == {"2": 5, "1": 3, "3": 2}
    by_share = combine_predictions([A, B], count="share")
    assert scores(by_share) == {"2": round(1 / 4 + 2 / 3, 6), "1": 0.75, "3": round(1 / 3, 6)}
    assert by_share["rank"].tolist() == [1, 2, 3]
    assert by_share["votes"].tolist() == [3, 3, 1]


def test_one_run_is_ranked_as_by_votes():
    alone = combine_predictions([A])
    pd.testing.assert_frame_equal(alone, rank_candidates(A), check_dtype=False)
    halves = [A.iloc[:2], A.iloc[2:]]
    pd.testing.assert_frame_equal(combine_predictions(halves), alone, check_dtype=False)


def test_ties_go_to_the_likelier_replies_of_all_runs():
    likely, unlikely = run(["2"], logprob=-0.5), run(["1"], logprob=-4.0)
    for runs in ([likely, unlikely], [unlikely, likely]):
        ranked = combine_predictions(runs)
        assert ranked["grid"].tolist() == ["2", "1"]
        assert ranked["mean_logprob"].tolist() == [-0.25, -2.0]
    unknown = run(["2"], logprob=None)
    both = combine_predictions([likely, unknown])
    assert both["mean_logprob"].tolist() == [-0.25] and both["votes"].tolist() == [2]


def test_nothing_given_is_changed(tmp_path):
    before = A.copy(), B.copy()
    combine_predictions([A, B], weights=[2, 1], count="share")
    pd.testing.assert_frame_equal(A, before[0])
    pd.testing.assert_frame_equal(B, before[1])


def test_stores_combine_as_their_tables_do(tmp_path):
    for name, grids in (("a", ["1", "1", "1", "2", None]), ("b", ["2", "2", "3"])):
        with RecordStore(tmp_path / f"{name}.jsonl") as store:
            store.append(records(grids))
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    pd.testing.assert_frame_equal(combine_predictions(paths), combine_predictions([A, B]))
    attempts = select_attempts(combine_predictions(paths), TASKS)
    assert [g.tolist() for g in attempts["6150a2bd"][0]] == [[[1]], [[2]]]


@pytest.mark.parametrize(
    ("runs", "options", "message"),
    [
        ([], {}, "at least one"),
        ([A], {"weights": [1, 2]}, "2 weights for 1 runs"),
        ([A], {"weights": [-1]}, "at least 0"),
        ([A], {"weights": [float("nan")]}, "finite"),
        ([A], {"count": "sum"}, "'votes', 'share'"),
    ],
)
def test_faults_of_the_caller(runs, options, message):
    with pytest.raises(ValueError, match=message):
        combine_predictions(runs, **options)


# Stores of one plan ------------------------------------------------------------------------------


def test_stores_of_one_plan_count_a_key_once(tmp_path, recwarn):
    run = {"settings": {"model": "a"}, "fingerprints": {"model": "0123"}}
    with RecordStore(tmp_path / "0.jsonl", run) as store:
        store.append(records(["1", "2"]) + records(["5"], task_id="44f52bb0", test_index=1))
    with RecordStore(tmp_path / "1.jsonl", run) as store:
        store.append(records(["2", "3"], first=1))
        store.append(records(["7"], task_id="44f52bb0", test_index=2))  # no such output
        store.append(records(["7"], task_id="ffffffff"))
    (tmp_path / "2.jsonl").touch()
    paths = [tmp_path / f"{i}.jsonl" for i in range(4)]
    frame = read_stores(paths, tasks=TASKS)
    assert frame["grid"].tolist() == ["1", "2", "5", "3"]
    empty = read_stores([tmp_path / "no.jsonl"], tasks=TASKS)
    assert empty.empty and list(empty) == list(frame)
    assert not recwarn.list


def settings(model="0123", temperature=0.0):
    sampling = {"sampling": {"temperature": temperature}}
    return {"settings": sampling, "fingerprints": {} if model is None else {"model": model}}


@pytest.mark.parametrize(
    ("other", "changes", "differing"),
    [
        (settings("4567"), {}, "model"),
        (settings(temperature=1.0), {}, "temperature"),
        (settings(), {"prompt_hash": "1" * 16}, "prompt_hash"),
        (settings("4567", 1.0), {"prompt_hash": "1" * 16}, "model and temperature and prompt_hash"),
    ],
)
def test_equal_keys_of_other_models_temperatures_or_prompts_are_other_predictions(
    tmp_path, other, changes, differing
):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    replies = records(["1", "2"]), [replace(r, **changes) for r in records(["1", "3"])]
    for path, run, given in zip(paths, (settings(), other), replies):
        with RecordStore(path, run) as store:
            store.append([replace(reply, text=reply.grid) for reply in given])
    said = rf"a\.jsonl and .*b\.jsonl hold 4 predictions of the same views with another {differing}"
    with pytest.warns(UserWarning, match=said) as caught:
        frame = read_stores(paths, tasks=TASKS)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert frame["grid"].tolist() == ["1", "2", "1", "3"]
    assert rank_candidates(frame)["votes"].tolist() == [2, 1, 1]
    # Of one of them, the same reply counts once.
    with pytest.warns(UserWarning, match=said):
        assert read_stores([*paths, paths[0]], tasks=TASKS).equals(frame)


@pytest.mark.parametrize("changes", [{}, {"prompt_hash": "1" * 16, "n_train": 0}])
def test_a_prompt_that_did_not_fit_in_one_store_and_was_answered_in_another(
    tmp_path, changes, recwarn
):
    lost = {"status": "prompt_too_long", "grid": None, "text": None, "cumulative_logprob": None}
    replies = records(["1", "2"])
    unsent = [replace(reply, **lost, **changes) for reply in [*replies, *records(["3"], first=2)]]
    for name, given in (("a", unsent), ("b", replies)):
        with RecordStore(tmp_path / f"{name}.jsonl", settings()) as store:
            store.append(given)
    frame = read_stores([tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tasks=TASKS)
    assert frame["grid"].fillna("").tolist() == ["", "1", "2"] and not recwarn.list


def test_a_store_of_other_tasks_of_the_same_ids_is_left_out_and_named(tmp_path, recwarn):
    task = TASKS["44f52bb0"]
    swapped = {**TASKS, "44f52bb0": replace(task, test=task.test[::-1])}
    reordered = {**TASKS, "44f52bb0": replace(task, train=task.train[::-1])}
    with RecordStore(tmp_path / "p.jsonl", settings()) as store:
        add_tasks(store.path, {task_id: hash_task(task) for task_id, task in TASKS.items()})
        store.append(records(["1"]) + records(["5"], task_id="44f52bb0", test_index=1))
    for tasks in (TASKS, hide_outputs(TASKS), reordered):  # the order of what is shown is a view's
        assert len(read_stores([store.path], tasks=tasks)) == 2
        assert not other_tasks(store.path, tasks)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"p\.jsonl: left out .* 1 tasks .* such as .'44f52bb0'"):
        assert read_stores([store.path], tasks=swapped)["grid"].tolist() == ["1"]
    results = read_results(store.path, swapped)
    assert results.predictions["grid"].tolist() == ["1"] and list(results.tasks) == ["6150a2bd"]
    assert any("1 tasks that are others in this data set" in note for note in results.notes)


# Submissions -------------------------------------------------------------------------------------


def submission(first, second):
    answer = {"attempt_1": first, "attempt_2": second}
    return {i: [copy.deepcopy(answer) for _ in task.test] for i, task in TASKS.items()}


ONE, TWO, THREE, NONE = [[1]], [[2]], [[3]], [[0]]


@pytest.mark.parametrize(
    ("a", "b", "slots", "expected"),
    [
        ((ONE, TWO), (THREE, ONE), None, (ONE, THREE)),
        ((ONE, TWO), (ONE, THREE), None, (ONE, TWO)),  # a repeated attempt is skipped
        ((NONE, NONE), (THREE, NONE), None, (THREE, NONE)),
        ((ONE, NONE), (NONE, NONE), None, (ONE, NONE)),
        ((ONE, TWO), (ONE, THREE), [(0, 0), (1, 0), (1, 1), (0, 1)], (ONE, THREE)),
        ((ONE, TWO), (THREE, NONE), [(1, 0), (0, 0)], (THREE, ONE)),
    ],
)
def test_slots_fill_in_order(tmp_path, a, b, slots, expected):
    given = [submission(*a), submission(*b)]
    before = copy.deepcopy(given)
    combined = combine_submissions(given, TASKS, slots=slots)
    assert combined == submission(*expected)
    combined["6150a2bd"][0]["attempt_1"][0][0] = 9
    assert given == before
    path = write_submission(combined, tmp_path / "submission.json")
    validate_submission(path, TASKS)


def test_a_black_cell_is_an_answer_before_another_one():
    black = submission(NONE, ONE)
    assert combine_submissions([black], TASKS) == black
    assert combine_submissions([submission(TWO, NONE), black], TASKS) == submission(TWO, NONE)
    assert combine_submissions([submission(NONE, NONE), black], TASKS) == black


NO_GRIDS = [[], None, "1", [[]], [[1], [1, 2]], [[10]], [[True]], [[0] * 31], {"0": [1]}]


@pytest.mark.parametrize("no_grid", NO_GRIDS)
def test_what_is_no_grid_is_no_answer_and_told_once(tmp_path, no_grid):
    path = tmp_path / "other.json"
    broken = submission(TWO, THREE)
    broken["6150a2bd"][0]["attempt_1"] = no_grid
    path.write_text(json.dumps(broken))
    with pytest.warns(UserWarning) as caught:
        combined = combine_submissions([path, submission(ONE, NONE)], TASKS)
    (warning,) = caught
    assert warning.filename == __file__
    expected = r"other\.json: 1 faults leave answers out: task 6150a2bd: answer 0: attempt_1 must"
    assert re.search(
        expected, str(warning.message).replace("attempt_1 is ragged", "attempt_1 must")
    )
    assert combined["6150a2bd"] == [{"attempt_1": ONE, "attempt_2": THREE}]
    assert combined["44f52bb0"] == submission(TWO, ONE)["44f52bb0"]


@pytest.mark.parametrize(
    ("answers", "fault"),
    [
        ({"attempt_1": ONE, "attempt_2": TWO}, "task 6150a2bd: must be a list of answers"),
        (None, "task 6150a2bd: must be a list of answers"),
        ([[ONE, TWO]], "task 6150a2bd: answer 0 must be an object of attempts"),
        ([None], "task 6150a2bd: answer 0 must be an object of attempts"),
    ],
)
def test_answers_of_another_form_are_none_and_told(answers, fault):
    with pytest.warns(UserWarning, match=f"^submission 1: 1 faults leave answers out: {fault}$"):
        combined = combine_submissions([{}, {"6150a2bd": answers}, submission(ONE, TWO)], TASKS)
    assert combined == submission(ONE, TWO)


def test_faults_of_a_submission_are_one_warning_and_five_of_them_are_named():
    outputs = [submission({}, {})["44f52bb0"][0]] * 3
    task = replace(TASKS["44f52bb0"], test=TASKS["44f52bb0"].test[:1] * 3)
    with pytest.warns(UserWarning, match="^submission 0: 6 faults leave answers out: ") as caught:
        assert combine_submissions([{"a": outputs}], {"a": task}) == {
            "a": submission(NONE, NONE)["44f52bb0"][:1] * 3
        }
    assert len(caught) == 1
    assert str(caught[0].message).count("attempt_") == 5


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"44f52bb0": submission(ONE, TWO)["44f52bb0"] * 2},
         "task 44f52bb0: has 2 test outputs, not 4"),
        ({"6150a2bd": [{"attempt1": ONE, "attempt_2": TWO}]},
         r"task 6150a2bd: answer 0: 'attempt1' is none of \('attempt_1', 'attempt_2'\)"),
        ({"6150a2bd": [{"attempt_1": ONE, "attempt_2": TWO, "attempt_3": ONE}]},
         r"task 6150a2bd: answer 0: 'attempt_3' is none of .*"),
        ({"else": [{"attempt_1": ONE}]}, "1 tasks are not in the challenges, such as .'else'."),
    ],
)  # fmt: skip
def test_an_answer_that_has_no_place_is_told(tmp_path, change, fault):
    given = {**submission(ONE, TWO), **change}
    path = tmp_path / "given.json"
    path.write_text(json.dumps(given))
    with pytest.warns(UserWarning, match=f"1 faults leave answers out: {fault}$") as caught:
        combined = combine_submissions([path], TASKS)
    assert len(caught) == 1 and str(caught[0].message).startswith(str(path))
    assert combined["44f52bb0"] == submission(ONE, TWO)["44f52bb0"]


def test_a_submission_of_other_tasks_is_refused():
    with pytest.raises(
        ValueError, match="submission 1: none of its tasks is in the challenges, suc"
    ):
        combine_submissions([submission(ONE, TWO), {"a": [], "b": []}], TASKS)


def test_numbers_are_written_as_integers():
    combined = combine_submissions([submission([[1.0]], np.array([[2, 3]]))], TASKS)
    assert json.dumps(combined) == json.dumps(submission(ONE, [[2, 3]]))


def test_what_a_submission_lacks_comes_from_the_others(tmp_path):
    part = {"44f52bb0": submission(ONE, TWO)["44f52bb0"][:1]}
    path = tmp_path / "part.json"
    path.write_text(json.dumps(part))
    combined = combine_submissions([path, submission(THREE, NONE)], TASKS)
    assert combined["44f52bb0"] == [
        {"attempt_1": ONE, "attempt_2": THREE},
        {"attempt_1": THREE, "attempt_2": NONE},
    ]
    assert combined["6150a2bd"] == [{"attempt_1": THREE, "attempt_2": NONE}]
    assert combine_submissions([], TASKS) == submission(NONE, NONE)
    with pytest.raises(ValueError, match="slot \\(2, 0\\)"):
        combine_submissions([part, part], TASKS, slots=[(2, 0)])
