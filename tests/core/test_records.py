"""The store of predictions: complete lines stay, half-written ones go, nothing is doubled."""

import errno
import gzip
import json
import math
import os
import subprocess
import sys
import warnings
from dataclasses import asdict, replace

import pandas as pd
import pytest

from arc_airv import prompts
from arc_airv.augment import Augmentation
from arc_airv.records import (
    BLOCK,
    COLUMNS,
    NO_REPLY,
    RUN_COLUMNS,
    STATUSES,
    Prediction,
    RecordStore,
    mend_store,
    read_predictions,
    read_scores,
    to_frame,
)
from arc_airv.storage import run_path, write_atomically
from arc_airv.vote import index_pools

RUN = {
    "settings": {"model": "tiny", "plan": {"seed": 0}},
    "fingerprints": {"model": "0123"},
    "n_predictions": 8,
}


def make_prediction(task_id="22806e14", sample_index=0, **changes):
    values = {
        "task_id": task_id,
        "test_index": 0,
        "augmentation": "flip0.rot0.colors0123456789.order",
        "sample_index": sample_index,
        "grid": "012|345",
        "status": "ok",
        "text": "012\n345<end>",
        "cumulative_logprob": -1.5,
        "n_tokens": 12,
        "n_prompt_tokens": 100,
        "finish_reason": "stop",
        "prompt_hash": "0123456789abcdef",
        "n_train": 3,
        "n_grids": 1,
    }
    return Prediction(**{**values, **changes})


def unanswered(task_id="22806e14", sample_index=0):
    return make_prediction(task_id, sample_index, grid=None, status="prompt_too_long", text=None,
                           cumulative_logprob=None, n_tokens=0, finish_reason=None)  # fmt: skip


def as_records(frame):
    """Return the rows of a table, with None for missing values."""
    frame = frame[COLUMNS]
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "predictions.jsonl"


def fill(path, predictions, run=RUN):
    with RecordStore(path, run) as store:
        store.append(predictions)


# Round trip --------------------------------------------------------------------------------------


def test_what_is_appended_is_read_back(path):
    first = [make_prediction(sample_index=i) for i in range(3)]
    then = [unanswered(sample_index=3), make_prediction(test_index=1, cumulative_logprob=None)]
    with RecordStore(path, RUN) as store:
        store.append(first)
        store.append([])
        store.append(iter(then))
        assert len(store) == 5
    assert as_records(read_predictions(path)) == [asdict(p) for p in first + then]


def test_a_prediction_is_one_json_object_a_line(path):
    fill(path, [make_prediction(), unanswered(sample_index=1)])
    lines = path.read_bytes().decode().splitlines(keepends=True)
    assert all(line.endswith("}\n") for line in lines)
    assert [list(json.loads(line)) for line in lines] == [COLUMNS] * 2


def test_ids_stay_strings(path):
    ids = ["22806e14", "97999447", "00576224"]  # for pandas: a number, a number, 576224
    fill(path, [make_prediction(task_id) for task_id in ids])
    assert read_predictions(path)["task_id"].tolist() == ids
    with RecordStore(path) as store:
        assert [key[0] for key in store.known] == ids


def test_the_types_of_the_columns_do_not_depend_on_what_is_in_them(path):
    expected = {"test_index": "int64", "sample_index": "int64", "cumulative_logprob": "float64",
                "n_tokens": "int64", "n_prompt_tokens": "int64", "n_train": "int64"}  # fmt: skip
    for records in ([], [asdict(unanswered())], [asdict(make_prediction())]):
        dtypes = to_frame(records).dtypes.astype(str).to_dict()
        assert {name: dtypes[name] for name in expected} == expected
        assert list(dtypes) == COLUMNS


@pytest.mark.parametrize(
    "text", ["", "\n", "1\r\n2", "a\u2028b\u2029c\x85", "ñò÷ûąćďęĚĞ", '"\\', "\x00", "😀"]
)
def test_any_reply_is_kept_as_it_was(path, text):
    fill(path, [make_prediction(text=text), make_prediction(sample_index=1)])
    assert read_predictions(path)["text"].tolist() == [text, "012\n345<end>"]
    with RecordStore(path) as store:
        assert len(store) == 2


def test_a_character_that_utf8_has_not_becomes_a_question_mark(path):
    fill(path, [make_prediction(text="1\ud800")])
    assert read_predictions(path)["text"].tolist() == ["1?"]


def test_a_store_is_created_with_its_folder(tmp_path):
    path = tmp_path / "runs" / "tiny" / "predictions.jsonl"
    fill(path, [make_prediction()])
    assert len(read_predictions(path)) == 1
    assert [p.name for p in sorted(path.parent.iterdir())] == [
        "predictions.jsonl",
        "predictions.run.json",
    ]


def test_an_empty_store_is_an_empty_table(path):
    fill(path, [])
    assert read_predictions(path).empty
    assert list(read_predictions(path)) == [*COLUMNS, *RUN_COLUMNS]


def test_a_compressed_store_reads_the_same(path, tmp_path):
    fill(path, [make_prediction(), unanswered(sample_index=1)])
    compressed = tmp_path / "predictions.jsonl.gz"
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    assert as_records(read_predictions(compressed)) == as_records(read_predictions(path))
    assert run_path(compressed) == run_path(path) == tmp_path / "predictions.run.json"


# A kill, a broken file ---------------------------------------------------------------------------


def test_a_file_that_is_being_written_reads_without_its_half_line(path):
    with RecordStore(path) as store:
        store.append([make_prediction()])
        assert len(read_predictions(path)) == 1  # on disk once append returns
        store.append([make_prediction(sample_index=1)])
        with open(path, "ab") as file:
            file.write(b'{"task_id": "0057')
        assert read_predictions(path)["sample_index"].tolist() == [0, 1]


def test_a_store_cut_at_any_byte_of_its_last_lines_keeps_exactly_the_whole_ones(path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)  # some 600 times
    predictions = [
        make_prediction("97999447"),
        make_prediction(text="ñ\n÷", grid=None, status="unparsed"),
        make_prediction(sample_index=1),
    ]
    new = make_prediction(sample_index=2)
    fill(path, predictions, run=None)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    fill(path, [new], run=None)
    appended = path.read_bytes().removeprefix(content)
    for size in range(len(lines[0]), len(content) + 1):
        path.write_bytes(content[:size])
        n_whole = (content[:size] + b"\n").count(b"}\n")  # the last line may lack its newline
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            with RecordStore(path) as store:
                assert list(store.known) == [p.key for p in predictions[:n_whole]]
                store.append([new])
        is_whole = content[:size].endswith((b"\n", b"}"))
        assert len(warned) == (0 if is_whole else 1)
        assert is_whole or "half-written" in str(warned[0].message)
        assert path.read_bytes() == b"".join(lines[:n_whole]) + appended


def test_a_store_of_half_a_line_is_empty(path):
    path.write_bytes(b'{"task_id"')
    assert read_predictions(path).empty
    with pytest.warns(UserWarning, match="half-written"), RecordStore(path) as store:
        assert len(store) == 0
    assert path.read_bytes() == b""


@pytest.mark.parametrize(
    "broken",
    ["", "{", "[]", "null", "7", '"task_id"', '{"task_id": "00576224"}', "\xff", "\x00"]
    + ["[" * 5000, '{"a":' * 5000],
)
def test_a_broken_line_is_an_error_that_names_it(path, broken):
    fill(path, [make_prediction(sample_index=i) for i in range(3)])
    lines = path.read_bytes().splitlines()
    lines[1] = broken.encode("latin-1")
    path.write_bytes(b"\n".join(lines) + b"\n")
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"predictions\.jsonl: line 2 "):
        read_predictions(path)
    with pytest.raises(ValueError, match=r"predictions\.jsonl: line 2 "):
        RecordStore(path)
    assert path.read_bytes() == content


def test_a_line_that_lacks_a_field_is_an_error_that_names_both(path):
    record = asdict(make_prediction())
    del record["prompt_hash"]
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(ValueError, match=r"line 1 lacks \['prompt_hash'\]"):
        read_predictions(path)


@pytest.mark.parametrize("number", [0, BLOCK])
@pytest.mark.parametrize(
    "again",
    ['"grid": "9"', '"grid": "012|345"', '"text": "9"', '"n_train" : 9', '"gr\\u0069d": "9"',
     '"other": 1, "other": 1', '"other": {"a": 1, "a": 2}'],
)  # fmt: skip
def test_a_field_that_is_there_twice_is_an_error_that_names_the_line(path, again, number):
    lines = [json.dumps(asdict(make_prediction(sample_index=i))) for i in range(BLOCK + 2)]
    lines[number] = lines[number][:-1] + f", {again}}}"
    path.write_text("\n".join(lines) + "\n")
    said = rf"line {number + 1} is not a prediction \(\['\w+'\] more than once in one object\)"
    for read in (RecordStore, read_predictions):
        with pytest.raises(ValueError, match=said):
            read(path)
    assert mend_store(path) == 1
    assert len(read_predictions(path)) == BLOCK + 1


def test_a_name_that_is_only_in_a_text_is_no_field(path):
    texts = ['{"grid": "1", "grid": "2"}', '\\", "grid": "1"', '"']
    fill(path, [make_prediction(sample_index=i, text=text) for i, text in enumerate(texts)])
    assert read_predictions(path)["text"].tolist() == texts


BAD_VALUES = [
    ("task_id", 5), ("task_id", None), ("task_id", "\ud800"), ("task_id", ["a"]),
    *[(name, bad) for name in ("test_index", "sample_index", "n_tokens")
      for bad in ("0", 0.0, True, None, -1, 2**63, 2**70)],
    ("n_train", -2), ("n_train", 2**70),
    *[("augmentation", key) for key in (
        "", "a", "rot90", "flip0.rot4.colors0123456789.order", "flip0.rot0.colors0123456788.order",
        "flip0.rot0.colors0123456789.order0-0", "flip0.rot0.colors0123456789.order0-2",
        "flip0.rot0.colors0123456789.order\n", "flip0.rot0.colors012345678.order",
    )],
    *[("grid", grid) for grid in (
        "", "12|3$", "12|3", "12 34", "12\n34", "٣", "\ud800", "0" * 31, 12, [[1, 2]], None, 1.0)],
    *[("status", status) for status in ("OK", "", "done", None, True, "unparsed", "no_reply")],
    ("text", 5), ("finish_reason", 0), ("prompt_hash", None),
    *[("cumulative_logprob", x) for x in ("-1", math.nan, math.inf, -math.inf, 10**400, False)],
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), BAD_VALUES)
def test_a_value_that_is_none_of_its_field_is_an_error_that_names_line_and_field(path, name, value):
    records = [asdict(make_prediction(sample_index=i)) for i in range(4)]
    records[2][name] = value
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    named = "a row has a grid if" if name == "status" and value in STATUSES else f"{name} must be"
    named = "a row has a grid if" if (name, value) == ("grid", None) else named
    with pytest.raises(ValueError, match=f"predictions.jsonl: line 3: {named} "):
        read_predictions(path)
    # Where a run must not end for it, the line goes.
    assert mend_store(path) == 1
    assert read_predictions(path)["sample_index"].tolist() == [0, 1, 3]


def test_values_at_their_limits_are_read(path):
    task_id = "\U0001f600 <b>\x00/../.\x85"
    key = "flip1.rot3.colors9876543210.order10-9-8-7-6-5-4-3-2-1-0"
    last = make_prediction(task_id, 2**63 - 1, augmentation=key, cumulative_logprob=-1e308)
    grids = ["0", "|".join(["9" * 30] * 30)]
    rows = [make_prediction(sample_index=i, grid=grid, n_train=-1) for i, grid in enumerate(grids)]
    rows += [unanswered(sample_index=i + 2) for i in range(2)]
    rows += [replace(unanswered(sample_index=i + 9), status=s) for i, s in enumerate(STATUSES[1:])]
    fill(path, [*rows, last])
    assert as_records(read_predictions(path)) == [asdict(p) for p in [*rows, last]]
    assert set(STATUSES) == {*prompts.STATUSES, NO_REPLY}


def test_a_score_that_is_none_of_its_field_is_named(path):
    score = {"task_id": "a", "test_index": 0, "grid": "1", "augmentation": str(Augmentation())}
    for name, value in {"grid": None, "augmentation": "a", "score_logprob": math.inf}.items():
        path.write_text(json.dumps({**score, "score_logprob": -1.0, name: value}) + "\n")
        with pytest.raises(ValueError, match=f"line 1: {name} must be"):
            read_scores(path)


def test_a_prediction_that_is_there_twice_counts_once_and_that_is_said(path):
    fill(path, [make_prediction(sample_index=i) for i in range(3)])
    other = replace(make_prediction(sample_index=1), grid="9")
    path.write_bytes(path.read_bytes() * 2 + json.dumps(asdict(other)).encode())
    with pytest.warns(UserWarning, match=r"l: 4 lines repeat the pred.* them line 4$") as caught:
        table = read_predictions(path)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert table["sample_index"].tolist() == [0, 1, 2]
    assert table["grid"].tolist() == ["012|345"] * 3
    assert table.index.tolist() == [0, 1, 2]


def test_a_prompt_that_did_not_fit_is_followed_by_its_reply(path, recwarn):
    later = make_prediction(sample_index=1, grid="9")
    with RecordStore(path, RUN) as store:
        store.append([make_prediction(), unanswered(sample_index=1), unanswered(sample_index=2)])
        assert [store.is_new(p) for p in (make_prediction(), later)] == [False, True]
        for known in (make_prediction(), unanswered(sample_index=1)):
            with pytest.raises(ValueError, match="already"):
                store.append([known])
        with pytest.raises(ValueError, match="already"):
            store.append([later, later])
        store.append([later])
        assert len(store) == 3 and not store.is_new(later)
    with RecordStore(path, RUN) as store:
        assert not store.is_new(later) and store.is_new(make_prediction(sample_index=2))
    frame = read_predictions(path)
    assert frame["sample_index"].tolist() == [0, 2, 1]
    assert frame["status"].tolist() == ["ok", "prompt_too_long", "ok"]
    assert frame.index.tolist() == [0, 1, 2] and not recwarn.list


# Tables ------------------------------------------------------------------------------------------


def read_with_pandas(path, records, reader):
    frame = pd.DataFrame(records)
    if reader is pd.read_csv:
        frame.to_csv(path, index=False)
        return pd.read_csv(path)
    frame.to_json(path, orient="records", lines=True)
    return pd.read_json(path, lines=True)


@pytest.mark.parametrize("reader", [pd.read_csv, pd.read_json])
@pytest.mark.parametrize(
    ("task_id", "grids", "column"),
    [
        ("22806e14", ["1", "12|34"], "task_id"),
        ("00576224", ["1", "12|34"], "task_id"),
        ("007bbfb7", ["7", "00"], "grid"),
        ("007bbfb7", ["7", None], "grid"),
    ],
)
def test_a_table_of_pandas_own_readers_is_refused_by_column(path, reader, task_id, grids, column):
    rows = [
        replace(unanswered(task_id, i), grid=grid, status="ok" if grid else "unparsed")
        for i, grid in enumerate(grids)
    ]
    frame = read_with_pandas(path, map(asdict, rows), reader)
    with pytest.raises(ValueError, match=f"the column {column} must hold str.*read_predictions"):
        index_pools(frame)


@pytest.mark.parametrize(
    ("column", "value"),
    [("task_id", None), ("task_id", 5), ("test_index", None), ("test_index", 0.5),
     ("test_index", "0"), ("grid", 12), ("grid", [[1]]), ("grid", "12|3$"), ("n_tokens", "3"),
     ("cumulative_logprob", "-1.0"), ("status", 1), ("augmentation", Augmentation())],
)  # fmt: skip
def test_a_value_in_a_table_is_refused_by_column(column, value):
    records = [asdict(make_prediction(sample_index=i)) for i in range(3)]
    records[1][column] = value
    with pytest.raises(ValueError, match=f"the column {column} must hold"):
        index_pools(pd.DataFrame(records))


def test_a_table_may_lack_columns_and_know_no_numbers():
    rows = [{"task_id": "a", "test_index": 0, "grid": grid} for grid in ("1", None, "1")]
    assert index_pools(pd.DataFrame(rows)).votes.tolist() == [2]
    assert index_pools(pd.DataFrame(rows[1:2])).votes.tolist() == []
    assert index_pools(to_frame([])).votes.tolist() == []
    table = to_frame(map(asdict, [make_prediction(cumulative_logprob=None), unanswered("b")]))
    for dtype in (None, object):
        assert index_pools(table.astype(dtype) if dtype else table).votes.tolist() == [1]


def test_a_record_of_another_program_may_lack_what_is_no_part_of_the_format(path):
    record = asdict(make_prediction())
    del record["n_train"], record["n_grids"]
    path.write_text(json.dumps(record))  # its last line needs no newline either
    assert read_predictions(path)["n_train"].tolist() == [-1]
    assert to_frame([record])["n_train"].tolist() == [-1]
    fill(path, [make_prediction(sample_index=1)], run=None)
    assert read_predictions(path)["n_train"].tolist() == [-1, 3]
    assert read_predictions(path)["n_grids"].tolist() == [-1, 1]


@pytest.mark.parametrize(
    "content",
    [
        '{"00576224": {"train": []}}',
        "a note",
        '{"a": 1}\n',
        '[{"task_id": "a"}]',
        "7",
        "{} {",
        "[\n",
    ],
)
def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(path, content):
    path.write_text(content)
    for read in (RecordStore, read_predictions):
        with pytest.raises(ValueError, match=r"l: line 1 (is not a prediction|lacks)"):
            read(path)
    assert path.read_text() == content


def test_a_compressed_store_is_not_written_to(path, tmp_path):
    compressed = tmp_path / "predictions.jsonl.gz"
    compressed.write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match="compressed store cannot be appended to"):
        RecordStore(compressed)


@pytest.mark.parametrize("name", ["p", "p.json", "p.JSONL", "p.jsonl.txt", ".jsonl"])
def test_a_store_under_another_name_is_not_written_for_it_would_share_its_description(
    tmp_path, name
):
    fill(tmp_path / "p.jsonl", [make_prediction()])
    before = sorted(tmp_path.iterdir()), run_path(tmp_path / "p.jsonl").read_bytes()
    with pytest.raises(ValueError, match=rf"{name}: the name of a store must be <name>.jsonl"):
        RecordStore(tmp_path / name, {"settings": {"model": "other"}})
    assert before == (sorted(tmp_path.iterdir()), run_path(tmp_path / "p.jsonl").read_bytes())
    # What another program left under such a name has no model of ours.
    if name != ".jsonl":
        (tmp_path / name).write_text(json.dumps(asdict(make_prediction())) + "\n")
        with pytest.warns(UserWarning, match="no run description"):
            assert read_predictions(tmp_path / name)["model"].tolist() == [str(tmp_path / name)]


def test_a_new_store_does_not_take_the_description_of_a_packed_one(path):
    fill(path, [make_prediction()])
    packed = path.with_name(path.name + ".gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    fill(path, [make_prediction(sample_index=1)])  # the same store goes on
    path.unlink()
    with pytest.raises(ValueError, match="predictions.jsonl.gz beside it has the run description"):
        fill(path, [make_prediction()], {"settings": {"model": "other"}})
    assert read_predictions(packed)["model"].tolist() == ["0123"]


def test_a_store_without_a_run_description_is_told_once(path):
    fill(path, [make_prediction()], run=None)
    with pytest.warns(UserWarning, match="predictions.jsonl: no run description") as told:
        frame = read_predictions(path)
    assert len(told) == 1 and told[0].filename == __file__
    assert math.isnan(frame["temperature"][0]) and frame["model"].tolist() == [str(path)]
    path.write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_predictions(path)  # there is nothing to tell of


def test_a_setting_that_is_there_twice_is_no_run_description(path):
    fill(path, [make_prediction()])
    run_path(path).write_text('{"settings": {}, "settings": {"model": "other"}}')
    with pytest.raises(ValueError, match="predictions.run.json: not readable as a JSON object"):
        fill(path, [make_prediction(sample_index=1)])


def test_a_store_whose_run_description_is_gone_is_gone_on_with_and_told(path):
    fill(path, [make_prediction()])
    run_path(path).unlink()
    with pytest.warns(UserWarning, match="predictions.run.json is missing"):
        fill(path, [make_prediction(sample_index=1)])
    for broken in ('{"settings": ', "[" * 5000):
        run_path(path).write_text(broken)
        with pytest.raises(ValueError, match="predictions.run.json: not readable as a JSON obj"):
            fill(path, [])


@pytest.mark.parametrize("broken", [0, BLOCK - 1, BLOCK, 2 * BLOCK + 1])
def test_a_long_store_is_read_in_blocks_that_do_not_show(path, broken):
    lines = [json.dumps(asdict(make_prediction(sample_index=i))) for i in range(2 * BLOCK + 2)]
    path.write_text("\n".join(lines) + "\n")
    assert read_predictions(path)["sample_index"].tolist() == list(range(len(lines)))
    with RecordStore(path) as store:
        assert len(store) == len(lines)
    lines[broken] = lines[broken][:-1]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"line {broken + 1} is not a prediction"):
        read_predictions(path)


@pytest.mark.parametrize(
    "lines", [("{0},{0}",), ("{0}, {0}", '{{"task_id": [', "]}}"), ("[", "{0}", "]"), ("{0},", "")]
)
def test_lines_that_are_json_only_together_are_broken(path, lines):
    record = json.dumps(asdict(make_prediction()))
    path.write_text("".join(line.format(record) + "\n" for line in lines))
    with pytest.raises(ValueError, match="line 1 is not a prediction"):
        read_predictions(path)


# Refusals ----------------------------------------------------------------------------------------


def test_a_duplicate_is_refused_and_nothing_is_written(path):
    a, b, c = (make_prediction(sample_index=i) for i in range(3))
    with RecordStore(path) as store:
        store.append([a])
        for batch in ([b, replace(a, grid="0")], [b, c, replace(b, text="other")]):
            before = path.read_bytes()
            with pytest.raises(ValueError, match="22806e14.*already"):
                store.append(batch)
            assert path.read_bytes() == before
            assert list(store.known) == [a.key]
        store.append([b, c])
    assert len(read_predictions(path)) == 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_has_not_is_never_written(path, value):
    with RecordStore(path) as store:
        with pytest.raises(ValueError):
            store.append([make_prediction(), make_prediction("97999447", cumulative_logprob=value)])
        assert path.read_bytes() == b""
        store.append([make_prediction()])
    assert len(read_predictions(path)) == 1


def test_a_second_writer_is_refused_until_the_first_is_done(path):
    script = (
        "import sys\n"
        "from arc_airv.records import RecordStore\n"
        "try:\n"
        "    RecordStore(sys.argv[1]).close()\n"
        "except RuntimeError as error:\n"
        "    print('refused', error)\n"
    )

    def try_in_another_process():
        command = [sys.executable, "-c", script, str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    with RecordStore(path) as store:
        store.append([make_prediction()])
        assert try_in_another_process().startswith("refused")
        with pytest.raises(RuntimeError, match="another process is writing"):
            RecordStore(path)
        store.append([make_prediction(sample_index=1)])
    assert try_in_another_process() == ""
    assert len(read_predictions(path)) == 2


def test_other_settings_are_refused_and_named(path):
    fill(path, [make_prediction()])
    content, description = path.read_bytes(), run_path(path).read_bytes()
    other = {"settings": {"model": "tiny", "plan": {"seed": 1}, "extra": True}}
    with pytest.raises(ValueError) as error:
        RecordStore(path, other)
    message = str(error.value)
    assert "plan: {'seed': 0}, now {'seed': 1}" in message
    assert "extra: None, now True" in message
    assert "model" not in message
    assert (path.read_bytes(), run_path(path).read_bytes()) == (content, description)


def test_more_predictions_of_the_same_settings_are_welcome(path):
    fill(path, [make_prediction()])
    fill(path, [make_prediction(sample_index=1)], {**RUN, "n_predictions": 16})
    run = json.loads(run_path(path).read_text())
    assert run["n_predictions"] == 16
    assert run["settings"] == RUN["settings"]
    assert run["schema_version"] == 1


def test_every_task_that_was_ever_asked_for_is_named_once(path):
    fill(path, [make_prediction()], {**RUN, "task_ids": ["22806e14", "97999447"]})
    fill(path, [], {**RUN, "task_ids": ["97999447", "00576224"]})
    run = json.loads(run_path(path).read_text())
    assert run["task_ids"] == ["22806e14", "97999447", "00576224"]


def test_settings_are_compared_as_json(path):
    fill(path, [make_prediction()], {"settings": {"stop": ("<end>",)}})
    fill(path, [make_prediction(sample_index=1)], {"settings": {"stop": ["<end>"]}})


def test_a_store_without_predictions_takes_any_settings(path):
    fill(path, [])
    fill(path, [make_prediction()], {"settings": {"model": "large"}})
    assert json.loads(run_path(path).read_text())["settings"] == {"model": "large"}


# Atomic files ------------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "file.json"
    write_atomically(path, "old")
    write_atomically(path, "new ñ")
    assert path.read_text(encoding="utf-8") == "new ñ\n"
    assert list(tmp_path.iterdir()) == [path]


def sync_with(monkeypatch, number):
    """Make fsync fail with this error."""

    def fsync(fd):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fsync)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, number):
    path = tmp_path / "file.json"
    write_atomically(path, "old")
    sync_with(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_atomically(path, "new")
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "write"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_an_append_that_failed_is_undone_and_may_be_done_again(path, monkeypatch, failing, error):
    """A disk may be full once and have room a moment later."""
    real = getattr(os, failing)
    batch = [make_prediction(sample_index=i, text="1" * 9000) for i in range(1, 5)]
    with RecordStore(path, RUN) as store:
        store.append([make_prediction()])
        before = path.read_bytes()

        def fail(fd, *data):
            if data and fails.pop():  # a part of it gets there
                return real(fd, data[0][:12_345])
            raise error

        fails = [False, True]
        monkeypatch.setattr(os, failing, fail)
        with pytest.raises(type(error)):
            store.append(batch)
        assert path.read_bytes() == before
        monkeypatch.setattr(os, failing, real)
        assert len(store) == 1
        store.append(batch)
    assert read_predictions(path)["sample_index"].tolist() == [0, 1, 2, 3, 4]


def test_a_disk_that_is_full_ends_the_store_behind_a_whole_line(path):
    """The limit of the process stands for the end of the disk: the system itself refuses."""
    script = (
        "import resource, sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_records import *\n"
        "with RecordStore(sys.argv[1]) as store:\n"
        "    store.append([make_prediction()])\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        store.append([make_prediction(sample_index=i) for i in range(1, 9)])\n"
        "    except OSError as error:\n"
        "        print(error.errno)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))\n"
        "    store.append([make_prediction(sample_index=i) for i in range(1, 9)])\n"
    )
    folder = os.path.dirname(__file__)
    command = [sys.executable, "-c", script, str(path), folder]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(result.stdout) == errno.EFBIG
    assert read_predictions(path)["sample_index"].tolist() == list(range(9))


@pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
def test_a_disk_that_does_not_confirm_is_a_warning(path, monkeypatch, number):
    """Continue on a broken or network disk: what was written can still be read."""
    sync_with(monkeypatch, number)
    with pytest.warns(UserWarning, match="the disk does not confirm"):
        fill(path, [make_prediction()])
    with pytest.warns(UserWarning, match=r"file.json.\d+.tmp: .* may be lost"):
        write_atomically(path.with_name("file.json"), "new")
    assert len(read_predictions(path)) == 1
    assert path.with_name("file.json").read_text() == "new\n"


@pytest.mark.parametrize("damage", ["cut", "content", "checksum", "head"])
def test_a_damaged_compressed_store_is_named(tmp_path, damage):
    path = tmp_path / "predictions.jsonl.gz"
    lines = [json.dumps(asdict(make_prediction(sample_index=i))) for i in range(1000)]
    content = bytearray(gzip.compress("\n".join(lines).encode()))
    if damage == "cut":
        del content[-20:]
    else:
        at = {"content": 10, "checksum": len(content) - 8, "head": 0}[damage]
        content[at : at + 40] = bytes(b ^ 0xFF for b in content[at : at + 40])
    path.write_bytes(content)
    with pytest.raises(ValueError, match="predictions.jsonl.gz: not a whole gzip file"):
        read_predictions(path)
