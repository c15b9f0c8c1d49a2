"""No answer is swapped, lost or left over on its way through files, tables and engines."""

import json
import math
import os
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from scripted import BARE, ScriptedEngine

from arc_airv.__main__ import main
from arc_airv.engines import TransformersEngine
from arc_airv.engines.adapters import MADE_BY
from arc_airv.engines.base import CHUNK, Completion, Sampling
from arc_airv.grids import as_grid
from arc_airv.infer import generate_predictions, rescore
from arc_airv.metrics import read_results
from arc_airv.plots import browse
from arc_airv.prompts.format import FORMAT_FILE, PromptFormat
from arc_airv.records import (
    COLUMNS,
    IDENTITY,
    Prediction,
    RecordStore,
    mend_store,
    read_predictions,
    read_stores,
)
from arc_airv.storage import read_run, run_path, write_atomically
from arc_airv.studies import compare_runs
from arc_airv.tasks import Pair, Task, hide_outputs
from arc_airv.vote import rank_candidates, select_attempts

TINY = Path(__file__).parents[1] / "tiny"
GRIDS = [as_grid(g) for g in ([[1, 2]], [[2, 1]], [[1, 1]], [[2, 2]], [[1], [2]], [[2], [1]])]
PAIRS = [Pair(a, b) for a, b in zip(GRIDS, GRIDS[1:])]
TASK = Task("task", tuple(PAIRS[:3]), (PAIRS[3],))
TASKS = {"task": TASK}
OTHERS = {"task": Task("task", TASK.train[:2], TASK.test)}  # of the same id


def ask(tasks, store, n=8, engine=None, **options):
    engine = engine or ScriptedEngine(tasks)
    return generate_predictions(
        tasks, engine, n_predictions=n, seed=0, store=store, progress=False, **options
    )


# Engines of one's own ----------------------------------------------------------------------------


class Padded(ScriptedEngine):
    """Answer a batch that was padded, and score one that was cut."""

    def generate(self, prompts, sampling):
        filler = Completion("7<end>", 2, -1.0, "stop")
        return [*super().generate(prompts, sampling), [filler]]

    def score(self, prompts, continuations):
        return [[-1.0] * (len(texts) - 1) for texts in continuations]


def test_a_reply_too_many_does_not_answer_the_next_question(tmp_path):
    n, store = CHUNK + 8, tmp_path / "p.jsonl"
    with pytest.raises(RuntimeError, match=f"asked for {CHUNK} lists of replies, .* gave 513"):
        ask(TASKS, store, n, Padded(TASKS, n_views=n))
    assert read_predictions(store).empty


class Silent(ScriptedEngine):
    """Does not tell why a reply ended."""

    def generate(self, prompts, sampling):
        replies = super().generate(prompts, sampling)
        return [[replace(reply, finish_reason=None) for reply in r] for r in replies]


def test_a_reply_of_all_its_tokens_was_cut_where_the_engine_does_not_tell(tmp_path):
    ask(TASKS, tmp_path / "cut.jsonl", engine=Silent(TASKS, endless=1.0))
    cut = read_predictions(tmp_path / "cut.jsonl")
    assert set(cut["finish_reason"]) == {"length"} and set(cut["status"]) == {"truncated"}
    ask(TASKS, tmp_path / "whole.jsonl", engine=Silent(TASKS))
    whole = read_predictions(tmp_path / "whole.jsonl")
    assert whole["finish_reason"].isna().all() and set(whole["status"]) == {"ok"}


def test_scores_that_an_engine_leaves_out_are_not_lost_without_a_word(tmp_path):
    ask(TASKS, tmp_path / "p.jsonl")
    candidates = read_predictions(tmp_path / "p.jsonl")
    with pytest.raises(RuntimeError, match="asked for 1 scores of a prompt, the engine gave 0"):
        rescore(candidates, TASKS, Padded(TASKS), n_views=2, progress=False)


# Adapters ----------------------------------------------------------------------------------------


def test_an_adapter_of_another_model_is_told(tmp_path, recwarn):
    adapter = tmp_path / "adapters" / "task"
    adapter.mkdir(parents=True)
    (adapter / MADE_BY).write_text(json.dumps({"model": ScriptedEngine.fingerprint}))
    ask(TASKS, tmp_path / "own.jsonl", adapters={"task": adapter})
    assert not recwarn.list
    (adapter / MADE_BY).write_text(json.dumps({"model": "other"}))
    with pytest.warns(UserWarning, match="1 tasks were trained on another model than scripted"):
        ask(TASKS, tmp_path / "other.jsonl", adapters={"task": adapter})


@pytest.mark.parametrize("config", [{"modules_to_save": ["lm_head"]}, {"bias": "all"}])
def test_an_adapter_that_would_stay_in_its_base_answers_as_a_model_alone(tmp_path, config):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    base = pytest.importorskip("transformers").AutoModelForCausalLM.from_pretrained(TINY)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], **config)
    adapted = peft.get_peft_model(base, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    adapted.save_pretrained(tmp_path / "task")
    engine, asked = TransformersEngine(str(TINY)), Sampling(max_tokens=4)
    before = engine.generate(["1"], asked)
    with pytest.raises(ValueError, match="the answers of other tasks: merge it into its base"):
        engine.generate(["1"], replace(asked, adapter=str(tmp_path / "task")))
    assert engine.generate(["1"], asked) == before
    assert TransformersEngine(str(tmp_path / "task")).generate(["1"], asked) != before


# Tables and rankings -----------------------------------------------------------------------------


def test_the_attempts_of_several_rankings_are_not_one_grid_twice(tmp_path):
    ask(TASKS, tmp_path / "p.jsonl")
    ranked = rank_candidates(read_predictions(tmp_path / "p.jsonl"))
    with pytest.raises(ValueError, match="holds several"):
        select_attempts(pd.concat([ranked, ranked]), TASKS)
    with pytest.raises(ValueError, match="holds several"):
        select_attempts(pd.concat([ranked, ranked.assign(rank=2)]), TASKS)


def test_metrics_of_runs_are_not_over_other_tasks_of_their_ids(tmp_path):
    ask(TASKS, tmp_path / "p.jsonl")
    assert compare_runs({"p": tmp_path / "p.jsonl"}, TASKS).loc["p", "vote_2"] == 1
    with pytest.warns(UserWarning, match="left out what it holds for 1 tasks that are others here"):
        compare_runs({"p": tmp_path / "p.jsonl"}, OTHERS)


@pytest.mark.parametrize("tasks", [OTHERS, {}, hide_outputs(TASKS)])
def test_a_page_does_not_show_replies_beside_other_tasks(tmp_path, tasks):
    ask(TASKS, tmp_path / "p.jsonl")
    results = read_results(tmp_path / "p.jsonl", TASKS)
    with pytest.raises(ValueError, match=r"'p' was read against other tasks .* \['task'\]"):
        browse({"p": results}, tasks)


def test_draws_of_another_seed_are_not_lost_in_equal_keys(tmp_path):
    stores = [tmp_path / f"{seed}.jsonl" for seed in (1, 2)]
    for seed, store in enumerate(stores):
        engine = ScriptedEngine(TASKS, wrong=0.9, seed=seed)
        ask(TASKS, store, 8, engine, sampling=Sampling(temperature=1.0, seed=seed))
    first, second = map(read_predictions, stores)
    n_others = (first["text"] != second["text"]).sum()
    with pytest.warns(UserWarning, match=f"{2 * n_others} predictions .* with another text"):
        assert len(read_stores(stores, tasks=TASKS)) == 8 + n_others > 8


def test_each_sample_of_a_view_is_to_have_its_prompt(tmp_path):
    store, options = tmp_path / "p.jsonl", {"sampling": Sampling(n=2, temperature=1.0)}
    ask(TASKS, store, **options)
    rows = [json.loads(line) for line in store.read_text().splitlines()]
    rows[0]["prompt_hash"] = "0" * 16  # the first of two samples
    store.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="the store answers another prompt"):
        ask(TASKS, store, **options)


# Files -------------------------------------------------------------------------------------------


def test_a_link_to_a_store_stays_one(tmp_path):
    store, link = tmp_path / "there" / "p.jsonl", tmp_path / "p.jsonl"
    ask(TASKS, store, 4)
    link.symlink_to(store)
    run_path(link).symlink_to(run_path(store))
    lines = store.read_text().splitlines(keepends=True)
    store.write_text("".join([lines[0], "{broken\n", *lines[1:]]))
    assert mend_store(link) == 1
    ask(TASKS, link, 8)
    assert len(read_predictions(store)) == 8
    assert read_run(store)["n_predictions"] == 8


def test_a_store_that_is_being_written_is_not_mended(tmp_path):
    store = tmp_path / "p.jsonl"
    ask(TASKS, store, 4)
    rows = read_predictions(store)
    with RecordStore(store) as opened:
        with open(store, "ab") as file:
            file.write(b"{half of a line\n")
        assert mend_store(store) == 0
        last = rows.iloc[-1][COLUMNS].to_dict() | {"sample_index": 7}
        opened.append([Prediction(**last)])
    assert mend_store(store) == 1
    assert len(read_predictions(store)) == 5


def test_a_field_of_a_format_that_is_there_twice_is_an_error(tmp_path, capsys):
    BARE.save(tmp_path)
    file = tmp_path / FORMAT_FILE
    file.write_text(file.read_text().replace("{", '{"encoder": ["rows"],', 1))
    with pytest.raises(ValueError, match=r"\['encoder'\] more than once in one object"):
        PromptFormat.load(tmp_path)
    with pytest.raises(SystemExit):
        main(["generate", "model", "--tasks", "tasks", "--format", str(file)])
    assert "more than once" in capsys.readouterr().err


def test_a_temperature_is_finite():
    with pytest.raises(ValueError, match="a finite temperature"):
        Sampling(temperature=math.inf)


def test_two_processes_that_write_one_file_do_not_share_what_is_unfinished(tmp_path, monkeypatch):
    path, own = tmp_path / "file.json", os.getpid()
    (tmp_path / f"file.json.{own + 1}.tmp").write_text("the other's")
    write_atomically(path, "mine")
    assert path.read_text() == "mine\n"
    assert (tmp_path / f"file.json.{own + 1}.tmp").read_text() == "the other's"


def test_a_store_of_scores_is_not_mended_as_one_of_predictions(tmp_path):
    store = tmp_path / "scores.jsonl"
    line = {"task_id": "a", "test_index": 0, "grid": "1", "augmentation": IDENTITY}
    line |= {"score_logprob": -1.0, "prompt_hash": None}
    store.write_text(json.dumps(line) + "\n")
    before = store.read_bytes()
    with pytest.raises(ValueError, match="re-scores"):
        mend_store(store)
    assert store.read_bytes() == before


def test_a_positive_log_probability_is_a_warning():
    with pytest.warns(UserWarning, match="3 is above 0"):
        Completion("1", 1, 3.0, "stop")


# Several stores of one plan ----------------------------------------------------------------------

REPLY = {"task_id": "task", "test_index": 0, "augmentation": IDENTITY, "sample_index": 0,
         "grid": "2|1", "status": "ok", "text": "2\n1", "cumulative_logprob": -1.0, "n_tokens": 4,
         "n_prompt_tokens": 9, "finish_reason": "stop", "prompt_hash": "0" * 16}  # fmt: skip
FAILED = {"grid": None, "status": "truncated", "text": "2", "finish_reason": "length"}
NOTHING = {**FAILED, "text": None, "finish_reason": None, "n_tokens": 0}


def read_both(tmp_path, first, second, temperature=0.0):
    """Read two stores that hold a reply each, in both orders; return the grids and the warnings."""
    sampling = {"temperature": temperature}
    run = {"settings": {"sampling": sampling}, "fingerprints": {"model": "one"}}
    stores = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for store, changes in zip(stores, (first, second)):
        with RecordStore(store, run) as opened:
            opened.append([Prediction(**{**REPLY, **changes})])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        grids = [
            sorted(read_stores(order, tasks=TASKS)["grid"].fillna(""))
            for order in (stores, stores[::-1])
        ]
    assert grids[0] == grids[1]
    return grids[0], " ".join(str(warning.message) for warning in caught)


@pytest.mark.parametrize(
    "failed",
    [
        FAILED,
        {**NOTHING, "status": "prompt_too_long"},
        {**NOTHING, "status": "no_reply"},
        {**NOTHING, "status": "unparsed", "finish_reason": "error"},
    ],
)
def test_what_failed_in_one_store_does_not_hide_the_answer_of_another(tmp_path, failed):
    assert read_both(tmp_path, failed, {}) == (["2|1"], "")


def test_a_greedy_reply_and_the_best_of_a_beam_are_two_predictions(tmp_path):
    grids, said = read_both(tmp_path, {}, {"grid": "1|1", "text": "1\n1"})
    assert grids == ["1|1", "2|1"] and "hold 2 predictions of the same views" in said


def test_the_same_answer_after_longer_thoughts_counts_once(tmp_path):
    assert read_both(tmp_path, {}, {"text": "Well: 2\n1"}) == (["2|1"], "")


def test_a_draw_that_failed_is_a_draw(tmp_path):
    grids, said = read_both(tmp_path, FAILED, {}, temperature=0.7)
    assert grids == ["", "2|1"] and "another text" in said
