"""Submissions: always whole, always valid, scored as Kaggle does."""

import errno
import json
from dataclasses import replace

import numpy as np
import pytest

from arc_airv.grids import as_grid, parse_grid
from arc_airv.submission import (
    build_submission,
    score_submission,
    validate_submission,
    write_submission,
)
from arc_airv.tasks import Pair, Task, hide_outputs, load_tasks, save_tasks

FALLBACK = {"attempt_1": [[0]], "attempt_2": [[0]]}


def make_task(task_id, *solutions):
    grid = as_grid([[0]])
    return Task(task_id, (Pair(grid, grid),), tuple(Pair(grid, parse_grid(s)) for s in solutions))


TASKS = {
    "b": make_task("b", "5", "67"),
    "a": make_task("a", "1|2"),
    "00576224": make_task("00576224", "3"),
}
ATTEMPTS = {
    "b": [[parse_grid("4"), parse_grid("5")], [parse_grid("76")]],
    "a": [[parse_grid("1|2"), parse_grid("12")]],
    "00576224": [[]],
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "submission.json"


# Building ----------------------------------------------------------------------------------------


def test_without_attempts_every_output_has_the_fallback():
    assert build_submission({}, TASKS) == {
        "b": [FALLBACK, FALLBACK], "a": [FALLBACK], "00576224": [FALLBACK]
    }  # fmt: skip


def test_a_fallback_that_is_changed_changes_no_other():
    submission = build_submission({}, TASKS)
    submission["a"][0]["attempt_1"][0][0] = 7
    assert submission["a"][0]["attempt_2"] == submission["b"][0]["attempt_1"] == [[0]]
    assert build_submission({}, TASKS)["a"] == [FALLBACK]


def test_an_attempt_may_be_a_list_of_rows_and_must_be_a_grid():
    submission = build_submission({"a": [[[[1, 2]]]]}, TASKS)
    assert submission["a"] == [{"attempt_1": [[1, 2]], "attempt_2": [[0]]}]
    with pytest.raises(ValueError, match="task a: test output 0.*31"):
        build_submission({"a": [[np.zeros((31, 1), dtype=np.int8)]]}, TASKS)


def test_attempts_are_filled_up_with_the_fallback():
    assert build_submission(ATTEMPTS, hide_outputs(TASKS)) == {
        "b": [
            {"attempt_1": [[4]], "attempt_2": [[5]]},
            {"attempt_1": [[7, 6]], "attempt_2": [[0]]},
        ],
        "a": [{"attempt_1": [[1], [2]], "attempt_2": [[1, 2]]}],
        "00576224": [FALLBACK],
    }


def test_attempts_may_lack_tasks_and_outputs():
    partial = {"b": ATTEMPTS["b"][:1]}
    submission = build_submission(partial, TASKS)
    assert submission["b"] == [{"attempt_1": [[4]], "attempt_2": [[5]]}, FALLBACK]
    assert submission["a"] == [FALLBACK]


def test_attempts_beyond_the_second_are_left_out():
    grids = [parse_grid(text) for text in "1234"]
    submission = build_submission({"a": [grids]}, TASKS)
    assert submission["a"] == [{"attempt_1": [[1]], "attempt_2": [[2]]}]


def test_attempts_for_what_is_not_in_the_challenges_are_refused():
    with pytest.raises(ValueError, match=r"not in the challenges: \['c'\]"):
        build_submission({"c": [[]]}, TASKS)
    with pytest.raises(ValueError, match="task a has 1 test outputs, not 2"):
        build_submission({"a": [[], []]}, TASKS)


@pytest.mark.parametrize("source", ["arc-agi-1/evaluation", "arc-agi-2/evaluation"])
def test_ids_and_their_order_are_those_of_the_challenges(tmp_path, path, source):
    challenges = save_tasks(hide_outputs(load_tasks(source)), tmp_path / "challenges.json")
    tasks = load_tasks(challenges)
    write_submission(build_submission({}, tasks), path)
    written = json.loads(path.read_text())
    expected = json.loads(challenges.read_text())
    assert list(written) == list(expected)
    assert [len(answers) for answers in written.values()] == [
        len(task["test"]) for task in expected.values()
    ]
    assert validate_submission(path, tasks) == written
    assert score_submission(path, load_tasks(source)) == 0.0


def test_the_solutions_themselves_score_one(path):
    tasks = load_tasks("arc-agi-1/evaluation")
    attempts = {i: [[pair.output] for pair in task.test] for i, task in tasks.items()}
    write_submission(build_submission(attempts, tasks), path)
    assert score_submission(path, tasks) == score_submission(path, tasks, average="task") == 1.0


# Writing -----------------------------------------------------------------------------------------


def test_what_is_written_is_read_back_and_nothing_else_is_left(path):
    submission = build_submission(ATTEMPTS, TASKS)
    assert write_submission(submission, path) == path
    assert write_submission(submission, str(path)) == path
    assert validate_submission(path, TASKS) == submission
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stays_when_writing_fails(path, monkeypatch):
    write_submission(build_submission({}, TASKS), path)
    before = path.read_bytes()

    def full_disk(fd):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_submission(build_submission(ATTEMPTS, TASKS), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_old_file_stays_when_the_content_is_no_json(path):
    write_submission(build_submission({}, TASKS), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_submission({"a": [{"attempt_1": parse_grid("1")}]}, path)
    assert path.read_bytes() == before


# Validating --------------------------------------------------------------------------------------


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("task_id", "answers", "fault"),
    [
        ("a", None, "task a: missing"),
        ("a", [], "task a: must be a list of 1 answers"),
        ("b", [FALLBACK], "task b: must be a list of 2 answers"),
        ("a", FALLBACK, "task a: must be a list of 1 answers"),
        ("a", [[[0]]], "task a: answer 0 must have exactly attempt_1 and attempt_2"),
        ("b", [FALLBACK, {"attempt_1": [[0]]}], "task b: answer 1 must have exactly"),
        ("a", [{**FALLBACK, "attempt_3": [[0]]}], "task a: answer 0 must have exactly"),
        ("a", [{**FALLBACK, "attempt_2": []}], "task a: answer 0: attempt_2 must be a non-empty"),
        ("a", [{**FALLBACK, "attempt_2": None}], "task a: answer 0: attempt_2 must be a non-empty"),
        ("a", [{**FALLBACK, "attempt_1": [0]}], "task a: answer 0: attempt_1 must hold non-empty"),
        ("a", [{**FALLBACK, "attempt_1": [[0], [0, 1]]}], "answer 0: attempt_1 is ragged"),
        ("a", [{**FALLBACK, "attempt_1": [[10]]}], "attempt_1 must hold values 0-9, got 10 to 10"),
        ("a", [{**FALLBACK, "attempt_1": [[0.5]]}], "attempt_1 must hold integers"),
        ("a", [{**FALLBACK, "attempt_1": [["0"]]}], "attempt_1 must hold integers"),
        ("a", [{**FALLBACK, "attempt_1": [[True]]}], "attempt_1 must hold integers"),
        ("a", [{**FALLBACK, "attempt_1": [[0] * 31]}], r"sides 1-30, got shape \(1, 31\)"),
        ("c", [FALLBACK], "task c: not in the challenges"),
    ],
)
def test_a_fault_is_named(path, task_id, answers, fault):
    content = {**build_submission({}, TASKS), task_id: answers}
    if answers is None:
        del content[task_id]
    with pytest.raises(ValueError, match=rf"submission\.json: .*{fault}"):
        validate_submission(written(path, content), TASKS)
    with pytest.raises(ValueError, match=fault):
        score_submission(path, TASKS)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "not readable as JSON"),
        ('{"a": [', "not readable as JSON"),
        ("[]", "must be an object of tasks"),
        ("null", "must be an object of tasks"),
    ],
)
def test_a_file_that_is_no_submission_is_named(path, content, fault):
    with pytest.raises(ValueError, match=rf"submission\.json: {fault}"):
        validate_submission(written(path, content), TASKS)


def test_faults_of_several_tasks_are_counted_and_named(path):
    content = {"c": [], "b": [FALLBACK], "a": [FALLBACK]}
    with pytest.raises(ValueError, match="3 faults: task c: .*task b: .*task 00576224: miss"):
        validate_submission(written(path, content), TASKS)


# Scoring -----------------------------------------------------------------------------------------


def test_a_score_by_hand(path):
    # b: the second attempt at its first output is right, its second output is wrong; a: the first
    # attempt is right; 00576224 is not answered.
    write_submission(build_submission(ATTEMPTS, TASKS), path)
    assert score_submission(path, TASKS) == 2 / 4
    assert score_submission(path, TASKS) == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert score_submission(path, TASKS, average="output") == 2 / 4
    assert score_submission(path, TASKS, average="all") == 1 / 3


def test_an_output_is_solved_once_even_if_both_attempts_are_right(path):
    twice = {"a": [[parse_grid("1|2"), parse_grid("1|2")]]}
    write_submission(build_submission(twice, TASKS), path)
    assert score_submission(path, TASKS) == 1 / 3


def test_the_same_cells_in_another_shape_are_wrong(path):
    write_submission(build_submission({"a": [[parse_grid("12"), parse_grid("21")]]}, TASKS), path)
    assert score_submission(path, TASKS) == 0.0


def test_a_hidden_solution_cannot_be_scored(path):
    write_submission(build_submission({}, TASKS), path)
    task = TASKS["b"]
    tasks = {**TASKS, "b": replace(task, test=(task.test[0], Pair(task.test[1].input)))}
    with pytest.raises(ValueError, match="task b: a solution is hidden"):
        score_submission(path, tasks)


def test_a_score_of_no_tasks_is_refused(path):
    write_submission({}, path)
    with pytest.raises(ValueError, match="no tasks"):
        score_submission(path, {})


def test_an_unknown_average_is_refused(path):
    write_submission(build_submission({}, TASKS), path)
    with pytest.raises(ValueError, match=r"\['task', 'output', 'all'\], got 'mean'"):
        score_submission(path, TASKS, average="mean")
