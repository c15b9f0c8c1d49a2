"""Predictions of other programs: each form is read, each fault is named, and no pickle runs."""

import bz2
import json
import math
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_airv.augment import Augmentation
from arc_airv.foreign import _read_key
from arc_airv.grids import as_grid
from arc_airv.metrics import evaluate, metric_curves
from arc_airv.records import COLUMNS, import_predictions
from arc_airv.tasks import Pair, Task
from arc_airv.vote import rank_candidates

# JSON --------------------------------------------------------------------------------------------

TASKS = {
    i: Task(i, (PAIR := Pair(as_grid([[1]]), as_grid([[1]])),), (PAIR,) * 2)
    for i in ("00576224", "b")
}


def imported(path, content):
    path.write_text(json.dumps(content))
    frame = import_predictions(path)
    assert list(frame) == COLUMNS
    return frame


def test_results_of_arc24_are_read(tmp_path):
    colors = {str(c): (c + 1) % 10 for c in range(10)}
    entry = {"task_id": "00576224", "idx": 1, "prompt": "...", "response": "1", "n_tokens": 4,
             "grid": [[1]], "cumulative_logprob": -2.0,
             "data_augmentation_kwargs": {"hflip": True, "n_rot90": 3, "color_map": colors},
    }  # fmt: skip
    plain = {**entry, "data_augmentation_kwargs": {"hflip": False, "n_rot90": 0}, "grid": [[2.0]]}
    frame = imported(tmp_path / "x_task_results.json", [entry, plain, entry, {**plain, "grid": []}])
    assert frame["augmentation"].map(Augmentation.parse).tolist()[:2] == [
        Augmentation(True, 3, "1234567890"), Augmentation()
    ]  # fmt: skip
    assert frame["sample_index"].tolist() == [0, 0, 1, 1]
    assert frame["grid"].fillna("").tolist() == ["1", "2", "1", ""]
    assert frame["status"].tolist() == ["ok", "ok", "ok", "unparsed"]
    assert frame["text"].tolist() == ["1"] * 4
    ranked = rank_candidates(frame)
    assert ranked[["test_index", "grid", "votes", "mean_logprob"]].to_numpy().tolist() == [
        [1, "1", 2, -0.5], [1, "2", 1, -0.5]
    ]  # fmt: skip
    assert evaluate(frame, TASKS)["accuracy"] == (0 + 2 / 4) / 2 / 2


def test_a_list_of_ones_own_needs_three_values(tmp_path):
    rows = [{"task_id": "00576224", "test_index": 0, "grid": g} for g in ([[1]], "1", "12|3", None)]
    frame = imported(tmp_path / "mine.json", rows)
    assert frame["grid"].fillna("").tolist() == ["1", "1", "", ""]
    unknown = ["augmentation", "text", "cumulative_logprob", "n_tokens", "n_prompt_tokens"]
    assert frame[unknown].isna().all(axis=None)
    assert rank_candidates(frame)["votes"].tolist() == [2]
    assert evaluate(frame, TASKS)["pass_n"] == 1 / 4
    assert len(metric_curves(frame, TASKS))


def test_a_submission_of_any_number_of_attempts_is_read(tmp_path):
    attempts = {f"attempt_{i}": [[i % 10]] for i in (11, 9, 2, 1)}
    frame = imported(tmp_path / "s.json", {"b": [attempts, {"attempt_1": []}], "00576224": []})
    assert frame["grid"].fillna("").tolist() == ["1", "2", "9", "1", ""]
    assert frame["test_index"].tolist() == [0, 0, 0, 0, 1]


def test_a_folder_of_arc_agi_benchmarking_is_read(tmp_path):
    about = {"task_id": "b", "pair_index": 1, "model": "m",
             "usage": {"prompt_tokens": 90, "completion_tokens": 8},
             "choices": [{"index": 0, "message": {"role": "user", "content": "?"}},
                         {"index": 1, "message": {"role": "assistant", "content": "It is 1"}}],
    }  # fmt: skip
    answers = [{"attempt_1": {"answer": [[1]], "metadata": about, "correct": True},
                "attempt_2": {"answer": "[[1, 2]]", "metadata": about}},
               {"attempt_1": None, "attempt_2": {"answer": [], "metadata": None}}]  # fmt: skip
    (tmp_path / "00576224.json").write_text(json.dumps(answers[1:]))
    (tmp_path / "b.json").write_text(json.dumps(answers[:1]))
    (tmp_path / "results.json").write_text('{"score": 1.0}')
    frame = import_predictions(tmp_path)
    assert frame["task_id"].tolist() == ["00576224"] * 2 + ["b"] * 2
    assert frame["test_index"].tolist() == [0, 0, 1, 1]
    assert frame["grid"].fillna("").tolist() == ["", "", "1", "12"]
    assert frame["text"].tolist()[2:] == ["It is 1"] * 2
    assert frame["n_tokens"].tolist()[2:] == [8, 8]


ENTRY = {"task_id": "a", "test_index": 0, "grid": [[1]]}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (7, "task other: must be a list of objects of attempts"),
        ([7], "task other: output 0 must be an object of attempts"),
        ([{"attempt_1": [[1]]}, 7], "task other: output 1 must be an object of attempts"),
        ([], "holds no predictions$"),
        ({"a": [{}]}, "holds no predictions$"),
        ({"a": [{"attempt1": [[1]]}]}, "holds no predictions, but 'attempt1' of task a: outp"),
        ({"a": [[[1]]]}, "task a: output 0 must be an object of attempts"),
        ({"a": {"train": [], "test": []}}, "task a: must be a list of objects of attempts"),
        ({"a": [{"attempt_1": {"grid": [[1]]}}]}, "task a: output 0: attempt_1 lacks 'answer'"),
        ([{"task_id": "a", "grid": [[1]]}], "entry 1 lacks 'test_index'"),
        # Each entry is looked at, whatever the first one is.
        ([ENTRY, {"attempt_1": [[1]]}], "entry 2 lacks 'test_index'"),
        ([{"attempt_1": [[1]]}, ENTRY], "entry 1 lacks 'test_index'"),
        ([ENTRY, ENTRY, 7], "entry 3 is of no known form"),
        ([ENTRY, [ENTRY]], "entry 2 is of no known form"),
        ([ENTRY, {**ENTRY, "task_id": 5}], "prediction 2: task_id must be str, got 5"),
        ([{**ENTRY, "test_index": -1}], "prediction 1: test_index must be an integer from 0"),
        ([{**ENTRY, "n_tokens": "many"}], "prediction 1: n_tokens must be int"),
        ([{**ENTRY, "cumulative_logprob": math.inf}], "cumulative_logprob must be a finite"),
        ([{**ENTRY, "data_augmentation_kwargs": {"hflip": False}}], "entry 1 lacks 'n_rot90'"),
        ([{**ENTRY, "data_augmentation_kwargs": {"hflip": False, "n_rot90": 4}}], "the key of an"),
        ([{**ENTRY, "data_augmentation_kwargs": {"hflip": 0, "n_rot90": 0,
                                                 "color_map": {"1": 2}}}], "the key of an"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_predictions_is_named(tmp_path, content, fault):
    with pytest.raises(ValueError, match=rf"other\.json: .*{fault}"):
        imported(tmp_path / "other.json", content)


def test_a_misspelt_attempt_is_told_once_a_file(tmp_path):
    answers = {"a": [{"attempt_1": [[1]], "attempt2": [[2]]}] * 2, "b": [{"Attempt_2": [[2]]}]}
    with pytest.warns(UserWarning) as caught:
        frame = imported(tmp_path / "s.json", answers)
    (warning,) = caught
    assert "s.json: left out 3 entries that are not called attempt_1" in str(warning.message)
    assert str(warning.message).endswith("such as 'attempt2' of task a: output 0")
    assert warning.filename == __file__
    assert frame["grid"].tolist() == ["1", "1"]


# Pickles -----------------------------------------------------------------------------------------


def leave(folder, name, *contents, protocol=4, packed=True):
    """Write pickles, one after the other, as those programs do."""
    folder.mkdir(exist_ok=True)
    content = b"".join(pickle.dumps(c, protocol=protocol) for c in contents)
    (folder / name).write_bytes(bz2.compress(content) if packed else content)
    return folder / name


def opened(path):
    frame = import_predictions(path, allow_pickle=True)
    assert list(frame) == COLUMNS
    return frame


VIEW = "00576224_1.transpose.rot90.permute1234567890.ex201"
SOLUTION = np.array([[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_decoder_of_nvarc_is_read(tmp_path, protocol, packed, order):
    solution = np.array(SOLUTION, order=order)
    samples = [
        {"beam_score": 0.5, "score_aug": [1.0, 2.5], "solution": solution},
        {"beam_score": np.float32(0.25), "score_aug": [], "solution": solution.T},
    ]
    folder = tmp_path / "inference_outputs"
    leave(folder, VIEW, samples, protocol=protocol, packed=packed)
    leave(folder, "b_0.permute0123456789.ex10", samples[:1])
    leave(folder, "b_0.rot90.rot90.permute0123456789.ex10", [])  # nothing was probable enough
    frame = opened(folder)
    assert frame["task_id"].tolist() == ["00576224", "00576224", "b"]
    assert frame["test_index"].tolist() == [1, 1, 0]
    assert frame["grid"].tolist() == ["123|456", "14|25|36", "123|456"]
    assert frame["cumulative_logprob"].tolist() == [-0.5, -0.25, -0.5]
    assert frame["sample_index"].tolist() == [0, 1, 0]
    assert frame["n_train"].tolist() == [3, 3, 2]
    assert frame["text"].isna().all() and (frame["status"] == "ok").all()
    # Transposed, then turned: mirrored up and down.
    assert frame["augmentation"][0] == "flip1.rot2.colors1234567890.order2-0-1"
    assert rank_candidates(frame)["votes"].tolist() == [1, 1, 1]


def test_a_decoder_of_the_architects_is_read(tmp_path):
    view = Augmentation(True, 2, "1234567890", (2, 0, 1))
    rows = ["".join(map(str, row)) for row in view.apply_grid(as_grid(SOLUTION)).tolist()]
    text, scores = "\n".join(rows) + "\n", np.zeros((6, 10), np.float32)
    samples = [
        (10, np.float32(-0.5), text, scores),
        (11, np.float64(-1.0), "12\n3\n", None),  # ragged
        (12, text, scores),  # as earlier versions
        (3, None, "", None),
    ]
    frame = opened(leave(tmp_path, VIEW, samples))
    assert frame["grid"].fillna("").tolist() == ["123|456", "", "123|456", ""]
    assert frame["status"].tolist() == ["ok", "unparsed", "ok", "unparsed"]
    assert frame["text"].tolist() == [text, "12\n3\n", text, ""]
    assert frame["cumulative_logprob"].fillna(9).tolist() == [-0.5, -1.0, 9, 9]
    assert frame["n_tokens"].tolist() == [9, 10, 11, 2]
    assert set(frame["augmentation"]) == {str(view)}


def test_the_results_of_the_product_of_experts_are_read(tmp_path):
    one, two = "00576224_1.tp.rt.perm1234567890.ex2-0-1", "00576224_1.perm0123456789.ex0-1-2"
    candidates = [
        {"output": SOLUTION, "correct": True, "scores_inf": {one: 0.5, two: 1.5},
         "scores_aug": {one: 2.0}, "poe": 2.0, "scores_alg": [0.5, 2.0]},
        {"output": SOLUTION[:1], "correct": None, "scores_inf": {two: 0.75}},
        {"output": SOLUTION[:, :1], "correct": False, "scores_inf": {}},  # scored, not written
    ]  # fmt: skip
    results = {np.str_("00576224"): [[], candidates], "b": [[]]}
    path = leave(tmp_path, "results.pickle.bz2", {"00576224_1": [one, two]}, results)
    frame = opened(path)
    assert frame["grid"].tolist() == ["123|456", "123|456", "123"]
    assert frame["cumulative_logprob"].tolist() == [-0.5, -1.5, -0.75]
    assert frame["augmentation"].tolist() == [
        "flip1.rot2.colors1234567890.order2-0-1", *["flip0.rot0.colors0123456789.order0-1-2"] * 2
    ]  # fmt: skip
    assert (frame["task_id"] == "00576224").all() and (frame["test_index"] == 1).all()
    assert evaluate(frame, TASKS)["unanswered"] == 3 / 4  # measured as any other


STEPS = {
    "rot90": np.rot90, "rt": np.rot90, "transpose": np.transpose, "tp": np.transpose,
    "permute3120456789": lambda grid: np.array([3, 1, 2, 0, 4, 5, 6, 7, 8, 9])[grid],
    "perm9876543210": lambda grid: 9 - grid,
    "copy0": np.copy, "out3": np.copy, "run1": np.copy, "ex10": np.copy,
}  # fmt: skip


@given(st.lists(st.sampled_from(list(STEPS)), max_size=8))
@settings(max_examples=50)
def test_the_steps_of_a_view_are_one_augmentation(steps):
    grid = SOLUTION
    for step in steps:
        grid = STEPS[step](grid)
    view = Augmentation.parse(_read_key(".".join(["a_b_0", *steps]))["augmentation"])
    assert np.array_equal(view.apply_grid(as_grid(SOLUTION)), grid)
    assert np.array_equal(view.revert_grid(as_grid(grid)), SOLUTION)


@pytest.mark.parametrize(
    ("steps", "order", "n_train"),
    [
        ("", (), -1),
        (".ex201", (2, 0, 1), 3),
        (".ex2-0-1", (2, 0, 1), 3),
        (".ex10-2-3-4-5-6-7-8-9-0-1", (10, *range(2, 10), 0, 1), 11),
        (".ex31", (), 2),  # cut
        (".ex-2-3-4", (), -1),
    ],
)
def test_of_a_prompt_that_was_cut_the_order_is_not_known(steps, order, n_train):
    row = _read_key("a_0" + steps)
    assert row["augmentation"] == str(Augmentation(train_order=order))
    assert row["n_train"] == n_train


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        (VIEW, {}, "holds no predictions$"),
        (VIEW, "text", "holds no predictions of a known form"),
        (VIEW, [7], "sample 0 is of no known form"),
        (VIEW, [{"beam_score": 1.0}], "sample 0 lacks 'solution'"),
        (VIEW, [{"beam_score": "1", "solution": SOLUTION}], "sample 0 is of no known form"),
        (VIEW, [{"beam_score": math.nan, "solution": SOLUTION}], "prediction 1: cumulative_logpr"),
        ("00576224", [], "is not called <task_id>_<number>"),
        ("00576224_x.rot90", [], "is not called <task_id>_<number>"),
        ("00576224_0.rt2", [], "the step 'rt2' of the view '00576224_0.rt2' is not known"),
        ("a_0.shear", [], "the step 'shear' of the view"),
        ("a_0.permute01", [], "the step 'permute01' of the view"),
        ("a_0..rot90", [], "the step '' of the view"),
        ("a_0.permute0123456788", [], "colors must be a permutation"),
        ("r", {"a": [[{"output": SOLUTION}]]}, "a: output 0: candidate 0 lacks 'scores_inf'"),
        ("r", {"a": 5}, "not iterable"),
        ("r", {"a": ["a_0.rot90"]}, "a: output 0: candidate 0 is of no known form"),
    ],
)
def test_what_is_no_pickle_of_predictions_is_named(tmp_path, name, content, fault):
    path = leave(tmp_path, name, content)
    with pytest.raises(ValueError, match=f"{name}: .*{fault}"):
        import_predictions(path, allow_pickle=True)


class Runs:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "content",
    [
        Runs("ran"),
        [{"beam_score": 1.0, "solution": Runs("ran")}],
        [{"beam_score": 1.0, "solution": np.array([[Runs("ran")]], dtype=object)}],
        [{"beam_score": 1.0, "solution": np.array([[None]], dtype=object)}],
        [{"beam_score": 1.0, "solution": np.zeros((1, 1), dtype="i8,O")}],
        [{"beam_score": 1.0, "solution": np.ma.array([[1]])}],
        [(1, 0.5, "1", os.system)],
        [(1, 0.5, "1", np.load)],
        [(1, 0.5, "1", complex)],
    ],
)
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_a_pickle_that_holds_more_than_values_is_refused_and_nothing_runs(
    tmp_path, monkeypatch, content, protocol
):
    monkeypatch.chdir(tmp_path)
    path = leave(tmp_path, VIEW, content, protocol=protocol)
    with pytest.raises(ValueError, match=f"{VIEW}: not readable as a pickle of numbers"):
        import_predictions(path, allow_pickle=True)
    assert not os.path.exists("ran")


# A type of objects that says it is one of numbers, and an array that points anywhere.
FORGED = [
    b"\x80\x03cnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87R(K\x03X\x01\x00\x00\x00|NNNJ"
    b"\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb.",
    b"\x80\x03cnumpy.core.numeric\n_frombuffer\n(C\x08AAAAAAAAX\x02\x00\x00\x00O8K\x01\x85"
    b"X\x01\x00\x00\x00CtR.",
    b"\x80\x03cbuiltins\neval\nX\x01\x00\x00\x001\x85R.",
    b"\x80\x03cnumpy\nndarray.__reduce__\n.",
]


@pytest.mark.parametrize("content", [*FORGED, b"", b"\x80", b"\x80\x04.", b"BZh", b"BZh91AY&SY"])
def test_forged_and_broken_pickles_are_refused(tmp_path, content):
    path = tmp_path / VIEW
    path.write_bytes(content)
    with pytest.raises(ValueError, match=VIEW):
        import_predictions(path, allow_pickle=True)


@pytest.mark.parametrize("packed", [True, False])
def test_a_pickle_is_not_opened_unless_that_is_allowed(tmp_path, packed):
    path = leave(
        tmp_path / "outputs", VIEW, [{"beam_score": 1.0, "solution": SOLUTION}], packed=packed
    )
    for place in (path, path.parent):
        with pytest.raises(ValueError, match=rf"{VIEW}: is a pickle.*allow_pickle=True"):
            import_predictions(place)
