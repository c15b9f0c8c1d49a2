"""A thing is never taken for another because its name is the same: models, questions, draws."""

import json
import shutil
import time
import warnings
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pandas as pd
import pytest
from scripted import BARE, ScriptedEngine

from arc_airv.engines import TransformersEngine, VllmEngine
from arc_airv.engines.adapters import MADE_BY, base_of
from arc_airv.engines.base import Engine, as_engine
from arc_airv.engines.fingerprint import (
    N_PARTS,
    PART,
    fingerprint,
    model_fingerprint,
    network_fingerprint,
)
from arc_airv.grids import as_grid
from arc_airv.infer import generate_predictions, rescore
from arc_airv.infer.views import MOST_RENDERED, own_format
from arc_airv.metrics import read_results, score_outputs
from arc_airv.prompts.encoders import make_encoder
from arc_airv.prompts.format import PlainTemplate, PromptFormat
from arc_airv.records import read_predictions, read_scores, read_stores
from arc_airv.storage import read_run, run_path
from arc_airv.tasks import Pair, Task, hash_demonstrations
from arc_airv.vote import best_samples, combine_predictions, index_pools, rank_candidates
from arc_airv.vote.candidates import candidate_features

TINY = Path(__file__).parents[1] / "tiny"
GRIDS = [as_grid(g) for g in ([[1, 2]], [[2, 1]], [[1, 1]], [[2, 2]], [[1], [2]], [[2], [1]])]
PAIRS = [Pair(a, b) for a, b in zip(GRIDS, GRIDS[1:])]
TASK = Task("task", tuple(PAIRS[:3]), (PAIRS[3],))
TASKS = {"task": TASK}
BOTH = {**TASKS, "more": replace(TASK, task_id="more")}


class Scoring(ScriptedEngine):
    """Score too: the shorter, the likelier."""

    def score(self, prompts, continuations):
        return [[-float(len(text)) for text in texts] for texts in continuations]


def engine_of(tasks, *, fingerprint="one", model="1"):
    engine = Scoring(tasks)
    engine.model, engine.fingerprint = model, fingerprint
    return engine


def ask(tasks, store, n=8, engine=None, **options):
    engine = engine or engine_of(tasks)
    return generate_predictions(
        tasks, engine, n_predictions=n, seed=0, store=store, progress=False, **options
    )


def model_folder(folder, seed=0, size=3 * N_PARTS * PART):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    content = np.random.default_rng(seed).bytes(size)
    (folder / "model.safetensors").write_bytes(content)
    return folder


# Models ------------------------------------------------------------------------------------------


def test_a_fingerprint_tells_contents_and_not_names(tmp_path):
    one = model_folder(tmp_path / "a" / "1")
    same, other = tmp_path / "elsewhere", model_folder(tmp_path / "b" / "1", seed=1)
    shutil.copytree(one, same)
    (same / "README.md").write_text("copied")  # is no part of the model
    assert fingerprint(one) == fingerprint(str(same)) != fingerprint(other)
    (tmp_path / "link").symlink_to(one)
    assert fingerprint(tmp_path / "link") == fingerprint(one)
    assert fingerprint(tmp_path) is None is fingerprint("no/such-model")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_that_was_changed_in_place_is_another(tmp_path, name):
    folder = model_folder(tmp_path / "1")
    before, content = fingerprint(folder), bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    assert fingerprint(folder) != before


@pytest.mark.parametrize("name", ["tekken.json", "params.json", "modeling_x.py"])
def test_what_else_makes_a_model_of_its_weights_is_part_of_it(tmp_path, name):
    """Mistral's own form of a configuration and a tokenizer, and a network's own code."""
    folder = model_folder(tmp_path / "1")
    found = {fingerprint(folder)}
    for content in "ab":
        (folder / name).write_text(content)
        found.add(fingerprint(folder))
    assert len(found) == 3


def test_training_that_moves_one_weight_in_a_thousand_is_seen(tmp_path):
    folder = model_folder(tmp_path / "1")
    before, path = fingerprint(folder), folder / "model.safetensors"
    weights = np.frombuffer(path.read_bytes(), dtype=np.uint8).copy()
    moved = np.random.default_rng(5).choice(len(weights), len(weights) // 1000, replace=False)
    weights[moved] ^= 1
    path.write_bytes(weights.tobytes())
    assert fingerprint(folder) != before


def test_adapters_have_fingerprints_of_their_own(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
        (tmp_path / name / "adapter_model.safetensors").write_bytes(content)
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_an_adapter_that_is_given_as_the_model_is_nothing_without_its_base(tmp_path):
    adapter, base = tmp_path / "adapter", model_folder(tmp_path / "base")
    adapter.mkdir()
    config = {"base_model_name_or_path": str(base), "r": 8}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "adapter_model.safetensors").write_bytes(b"1")
    alone, before = fingerprint(adapter), model_fingerprint(adapter)
    shutil.rmtree(base)
    assert model_fingerprint(adapter) is None  # nothing answers
    model_folder(base, seed=1)
    assert fingerprint(adapter) == alone and model_fingerprint(adapter) not in (before, alone)
    assert model_fingerprint(base) == fingerprint(base)


def test_an_engine_of_ones_own_is_known_by_the_folder_of_its_model(tmp_path):
    folder = model_folder(tmp_path / "1")
    own = type("Own", (), {"model": str(folder)})()
    assert as_engine(own).fingerprint == fingerprint(folder)
    assert Engine().fingerprint is None


def test_a_store_does_not_go_on_with_another_model_of_its_name(tmp_path):
    store = tmp_path / "p.jsonl"
    ask(TASKS, store)
    content = store.read_bytes()
    with pytest.raises(ValueError, match="content of the model: one, now two"):
        ask(TASKS, store, 16, engine_of(TASKS, fingerprint="two"))
    assert store.read_bytes() == content


def test_a_store_goes_on_with_its_model_in_another_folder(tmp_path, recwarn):
    store = tmp_path / "p.jsonl"
    ask(TASKS, store)
    assert ask(TASKS, store, 16, engine_of(TASKS, model="moved")).n_new == 8
    assert not recwarn.list


def test_an_old_store_goes_on_with_one_warning(tmp_path):
    store = tmp_path / "p.jsonl"
    ask(TASKS, store)
    run = read_run(store)
    del run["fingerprints"]
    run_path(store).write_text(json.dumps(run))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert ask(TASKS, store, 16).n_new == 8
    assert [str(w.message).count("by content") for w in caught] == [1]
    with pytest.raises(ValueError, match="name|model"):  # and the name still counts
        run_path(store).write_text(json.dumps(run))
        ask(TASKS, store, 32, engine_of(TASKS, model="2"))


def test_an_adapter_of_another_content_is_another_model(tmp_path):
    store, adapter = tmp_path / "p.jsonl", tmp_path / "adapters" / "task"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.safetensors").write_bytes(b"1")
    ask(TASKS, store, adapters={"task": adapter})
    assert ask(TASKS, store, 16, adapters={"task": adapter}).n_new == 8
    (adapter / "adapter_model.safetensors").write_bytes(b"2")
    with pytest.raises(ValueError, match="content of the adapter of task"):
        ask(TASKS, store, 32, adapters={"task": adapter})


def unknown_adapters(folder):
    """Make an adapter for each task whose weights are in a form that is not known."""
    for task_id in BOTH:
        (folder / task_id).mkdir(parents=True)
        (folder / task_id / "adapter_config.json").write_text('{"r": 8}')
        (folder / task_id / "adapter.npz").write_text("1")
    return {task_id: folder / task_id for task_id in BOTH}


@pytest.mark.parametrize(
    ("adapters", "others"),
    [
        ("{here}/v1/{task}", "{here}/v2/{task}"),
        ("{here}/all/task", "{here}/all/more"),
        ("lora-v1", "lora-v2"),  # at a server of one's own
        ("lora-v1-{task}", "lora-v2-{task}"),
        ("lora-v1", "{here}/v1/{task}"),
    ],
)
def test_adapters_whose_content_is_not_known_are_known_by_name(tmp_path, adapters, others):
    for name in ("v1", "v2", "all"):
        unknown_adapters(tmp_path / name)
    store = tmp_path / "p.jsonl"

    def named(name, tasks=BOTH):
        return {"adapters": {i: name.format(here=tmp_path, task=i) for i in tasks}}

    ask(TASKS, store, **named(adapters, TASKS))
    warned = r"this run does not tell its adapters by content, only by name"
    with pytest.warns(UserWarning, match=warned):  # and further tasks may come
        assert ask(BOTH, store, **named(adapters)).n_new == 8
    content = store.read_bytes()
    with pytest.raises(ValueError, match="made with other settings: .*adapter.* now "):
        ask(BOTH, store, 16, **named(others))
    assert store.read_bytes() == content
    with pytest.warns(UserWarning, match=warned):
        assert ask(TASKS, store, 16, **named(adapters, TASKS)).n_new == 8
    assert read_predictions(store)["model"].unique().tolist() == [str(store)]


@pytest.mark.parametrize("adapters", [["adapters"], [""]])
def test_an_old_store_of_adapters_goes_on_with_a_warning(tmp_path, adapters):
    """Those of names at a server had the name ""; older ones had no fingerprints at all."""
    folders = (
        unknown_adapters(tmp_path / "adapters") if adapters[0] else dict.fromkeys(BOTH, "lora")
    )
    for kept in ({"fingerprints": {"model": "one"}}, {}):
        store = tmp_path / f"{len(kept)}.jsonl"
        ask(BOTH, store, adapters=folders)
        run = read_run(store)
        assert run["settings"]["adapters"] == adapters
        run = {k: v for k, v in run.items() if k not in ("names", "fingerprints")}
        run_path(store).write_text(json.dumps({**run, **kept}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert ask(BOTH, store, 16, adapters=folders).n_new == 16
        assert sum("by content" in str(w.message) for w in caught) == 2 - len(kept)


def test_adapters_that_are_known_by_content_may_be_called_otherwise(tmp_path, recwarn):
    """Also where the model that they are lent to is not known."""
    for content in ("one", None):
        store, folder = tmp_path / f"{content}.jsonl", tmp_path / str(content) / "1"
        for task_id in BOTH:
            foreign_adapter(folder / task_id, "")
        known = {"adapters": {task_id: folder / task_id for task_id in TASKS}}
        ask(TASKS, store, engine=engine_of(TASKS, fingerprint=content), **known)
        moved = shutil.move(folder, tmp_path / str(content) / "2")
        known = {"adapters": {task_id: moved / task_id for task_id in BOTH}}
        ask(BOTH, store, engine=engine_of(BOTH, fingerprint=content), **known)
    assert not [w for w in recwarn if "its adapters" in str(w.message)]


JSON = PromptFormat(make_encoder(["json"]), PlainTemplate())


@pytest.mark.parametrize(
    ("model", "adapters", "asked"),
    [
        (JSON, (BARE, BARE), BARE),
        (JSON, (None, None), JSON),
        (None, (None, None), None),
        (BARE, (BARE, None), BARE),  # without one, it was trained in the model's own
        (JSON, (BARE, None), "are different"),
        (JSON, (BARE, JSON), "are different"),
        (None, (BARE, None), BARE),
    ],
)
def test_an_adapter_is_not_asked_in_the_format_of_another(
    tmp_path, model, adapters, asked, recwarn
):
    engine, folders = Engine(), {}
    engine.prompt_format = model
    for task_id, format in zip(BOTH, adapters):
        folders[task_id] = foreign_adapter(tmp_path / task_id, "")
        if format is not None:
            format.save(folders[task_id])
    if asked == "are different":
        with pytest.raises(ValueError, match="different prompt formats"):
            own_format(engine, folders)
        return
    assert own_format(engine, folders) == asked
    warned = [str(w.message) for w in recwarn]
    if None in adapters and asked is not model:
        assert len(warned) == 1 and "of 2 adapters, 1 do not tell" in warned[0]
    else:
        assert not warned


def test_scores_of_another_model_are_not_gone_on_with(tmp_path):
    store, scores = tmp_path / "p.jsonl", tmp_path / "s.jsonl"
    ask(TASKS, store)
    predictions = read_predictions(store)
    options = {"n_views": 2, "store": scores, "progress": False}
    rescore(predictions, TASKS, engine_of(TASKS), **options)
    with pytest.raises(ValueError, match="content of the model"):
        rescore(predictions, TASKS, engine_of(TASKS, fingerprint="two"), **options)


# Questions ---------------------------------------------------------------------------------------

CHANGED = {
    "lost": replace(TASK, train=TASK.train[:-1]),
    "gained": replace(TASK, train=(*TASK.train, PAIRS[4])),
    "other order": replace(TASK, train=TASK.train[::-1]),
    "other test": replace(TASK, test=(PAIRS[4],)),
}


@pytest.mark.parametrize("task", CHANGED.values(), ids=CHANGED)
def test_a_store_does_not_go_on_with_another_task_of_its_id(tmp_path, task):
    store, scores = tmp_path / "p.jsonl", tmp_path / "s.jsonl"
    ask(TASKS, store)
    changed, content = {"task": task}, store.read_bytes()
    with pytest.raises(ValueError, match="answers another prompt"):
        ask(changed, store, 16)
    assert store.read_bytes() == content
    options = {"n_views": 2, "store": scores, "progress": False}
    predictions = read_predictions(store)
    rescore(predictions, TASKS, engine_of(TASKS), **options)
    with pytest.raises(ValueError, match="answers another prompt"):
        rescore(predictions, changed, engine_of(changed), **options)


def test_a_task_that_lost_a_test_pair_does_not_go_on(tmp_path):
    store, two = tmp_path / "p.jsonl", {"task": replace(TASK, test=(PAIRS[3], PAIRS[4]))}
    ask(two, store)
    with pytest.raises(ValueError, match="answers another prompt"):
        ask(TASKS, store)


@pytest.mark.parametrize("task", CHANGED.values(), ids=CHANGED)
def test_a_store_is_not_read_as_answers_to_another_task_of_its_id(tmp_path, task, recwarn):
    store, changed = tmp_path / "p.jsonl", {"task": task}
    ask(TASKS, store)

    def read(tasks):
        frame = read_predictions(store, tasks=tasks)
        assert frame.to_dict("records") == read_stores([store], tasks=tasks).to_dict("records")
        return frame

    assert len(read(TASKS)) == 8 and len(read({**TASKS, "more": TASK})) == 8 and read({}).empty
    assert not recwarn.list
    if sorted(map(id, task.train)) == sorted(map(id, TASK.train)) and task.test == TASK.test:
        assert len(read(changed)) == 8  # to the same question
        return
    with pytest.warns(UserWarning, match="tasks that are others here, .* such as .'task'"):
        assert read(changed).empty
    with pytest.raises(ValueError, match="holds no prediction for these 1 tasks"):
        read_results(store, changed)


@pytest.mark.parametrize("task", CHANGED.values(), ids=CHANGED)
def test_stores_of_other_tasks_of_the_same_ids_are_not_combined(tmp_path, task, recwarn):
    stores, changed = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"], {"task": task}
    for store, tasks in zip(stores, (TASKS, changed)):
        ask(tasks, store, engine=engine_of(tasks, fingerprint=store.name))
    if task.test == TASK.test and set(map(id, task.train)) == set(map(id, TASK.train)):
        assert len(combine_predictions(stores))
        return
    with pytest.raises(ValueError, match=r"two\.jsonl answers 1 tasks .* such as \['task'\]"):
        combine_predictions(stores)
    with pytest.warns(UserWarning, match="left out"):
        tables = [read_predictions(store, tasks=TASKS) for store in stores]
    assert combine_predictions(tables)["votes"].tolist() == [8]


def test_a_task_that_changed_before_it_was_answered_is_answered(tmp_path):
    store, other = tmp_path / "p.jsonl", replace(CHANGED["other test"], task_id="other")
    ask({**TASKS, "other": replace(TASK, task_id="other")}, store, deadline=0)
    assert len(read_predictions(store)) == 0
    ask({**TASKS, "other": other}, store)
    assert len(read_stores([store], tasks={**TASKS, "other": other})) == 16


@pytest.mark.parametrize("number", range(8))
def test_every_row_is_checked_and_not_only_the_first_view(tmp_path, number):
    assert number < MOST_RENDERED
    store = tmp_path / "p.jsonl"
    ask(TASKS, store)
    lines = store.read_text().splitlines()
    lines[number] = json.dumps({**json.loads(lines[number]), "prompt_hash": "0" * 16})
    store.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match="answers another prompt"):
        ask(TASKS, store, 16)


def test_two_runs_in_one_file_do_not_go_on_as_one(tmp_path):
    store = tmp_path / "p.jsonl"
    ask(TASKS, store)
    lines = store.read_text().splitlines(keepends=True)
    store.write_text("".join([lines[0], *lines]))  # the same answer
    assert ask(TASKS, store, 16).n_new == 8
    older = json.dumps({**json.loads(lines[0]), "prompt_hash": "0" * 16}) + "\n"
    store.write_text("".join([older, *lines]))
    with pytest.raises(
        ValueError, match=r"answers another prompt for \('task', 0, 'flip.*keep the"
    ):
        ask(TASKS, store, 16)
    unsent = {"status": "prompt_too_long", "grid": None, "text": None, "cumulative_logprob": None}
    store.write_text("".join([json.dumps({**json.loads(older), **unsent}) + "\n", *lines]))
    assert ask(TASKS, store, 16).n_new == 8  # asked again, in a larger context


def test_each_score_tells_the_prompt_that_it_belongs_to(tmp_path):
    store, scores = tmp_path / "p.jsonl", tmp_path / "s.jsonl"
    ask(TASKS, store)
    predictions = read_predictions(store)
    given = rescore(predictions, TASKS, engine_of(TASKS), n_views=2, store=scores, progress=False)
    known = predictions.set_index("augmentation")["prompt_hash"]
    assert (given["prompt_hash"] == given["augmentation"].map(known)).all()
    assert set(read_scores(scores)["prompt_hash"]) == set(given["prompt_hash"])


def test_scores_of_another_run_are_an_error_or_a_warning(tmp_path):
    store = tmp_path / "p.jsonl"
    ask(TASKS, store)
    predictions = read_predictions(store)
    scores = rescore(predictions, TASKS, engine_of(TASKS), n_views=2, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_candidates(predictions, method="product_of_experts", scores=scores)
    with pytest.raises(ValueError, match="scores are of other predictions"):
        candidate_features(predictions, scores=scores.assign(task_id="other"))
    with pytest.warns(UserWarning, match="another prompt when they were scored"):
        candidate_features(predictions, scores=scores.assign(prompt_hash="0" * 16))
    more = pd.concat([predictions, predictions.assign(task_id="more")])
    with pytest.warns(UserWarning, match="no candidate of 1 of 2 outputs"):
        candidate_features(more, scores=scores)


# Draws -------------------------------------------------------------------------------------------

IDENTITY, SWAPPED = (f"flip0.rot0.colors0123456{end}.order" for end in ("789", "987"))


def rows(*given, temperature=0.0, model="one"):
    """Make predictions of (augmentation, prompt_hash, text, grid)."""
    frame = pd.DataFrame(given, columns=["augmentation", "prompt_hash", "text", "grid"])
    numbers = {"cumulative_logprob": -1.0, "n_tokens": 2, "sample_index": 0, "test_index": 0}
    return frame.assign(task_id="a", model=model, temperature=temperature, status="ok", **numbers)


TWICE = [(IDENTITY, "p", "1", "1"), (SWAPPED, "p", "1", "1"), ("flip1", "q", "2", "2")]


def votes(frame):
    return rank_candidates(frame).set_index("grid")["votes"].to_dict()


def test_equal_prompts_are_one_greedy_vote():
    assert votes(rows(*TWICE)) == {"1": 1, "2": 1}
    assert votes(rows(*TWICE)[::-1]) == {"1": 1, "2": 1}


def test_samples_other_models_and_unknown_ones_keep_their_votes():
    assert votes(rows(*TWICE, temperature=0.7)) == {"1": 2, "2": 1}
    assert votes(rows(*TWICE, temperature=np.nan)) == {"1": 2, "2": 1}
    assert votes(rows(*TWICE).drop(columns="model")) == {"1": 2, "2": 1}
    both = pd.concat([rows(*TWICE), rows(*TWICE, model="two")])
    assert votes(both) == {"1": 2, "2": 2}


def test_the_replies_of_a_beam_are_several():
    beam = rows((IDENTITY, "p", "1", "1"), (IDENTITY, "p", "2", "2"), (SWAPPED, "p", "1", "1"))
    assert votes(beam) == {"1": 1, "2": 1}


def test_a_reply_that_reverts_to_two_grids_votes_for_the_same_one_in_any_order():
    frame = rows((SWAPPED, "p", "9", "7"), (IDENTITY, "p", "9", "9"))
    assert votes(frame) == votes(frame[::-1]) == {"9": 1, "7": 0}


def test_predictions_stay_predictions():
    tasks = {"a": replace(TASK, task_id="a")}
    assert score_outputs(rows(*TWICE), tasks)["n_predictions"].tolist() == [3]


def test_the_best_sample_of_a_view_is_one_of_each_model():
    both = pd.concat([rows(*TWICE), rows(*TWICE, model="two").assign(cumulative_logprob=-0.5)])
    assert best_samples(both)["model"].tolist() == ["one"] * 3 + ["two"] * 3
    assert best_samples(both.drop(columns="model"))["cumulative_logprob"].tolist() == [-0.5] * 3


FULL = [(IDENTITY, "p", "1", "1"), (SWAPPED, "q", "2", "2")]


@pytest.mark.parametrize("temperature", [0.0, 0.7, np.nan])
def test_a_run_that_is_there_twice_counts_once_and_that_is_said(temperature):
    frame = rows(*FULL, temperature=temperature)
    for twice in (pd.concat([frame, frame]), pd.concat([frame, frame[:1]], ignore_index=True)):
        with pytest.warns(UserWarning, match=f"{len(twice) - 2} predictions are there twice, to"):
            pools = index_pools(twice)
        assert len(pools.predictions) == 2 and pools.votes.tolist() == [1, 1]
    tasks = {"a": replace(TASK, task_id="a")}
    with pytest.warns(UserWarning, match="2 predictions are there twice"):
        scored = score_outputs(pd.concat([frame, frame]), tasks)
    assert scored["n_predictions"].tolist() == [2]


@pytest.mark.parametrize(
    "other",
    [
        rows(*FULL, temperature=0.7, model="two"),
        rows(*FULL, temperature=1.0),
        rows(*[(view, hash_ + "2", *reply) for view, hash_, *reply in FULL], temperature=0.7),
        rows(*FULL, temperature=0.7).assign(sample_index=1),
        rows(FULL[0], (SWAPPED, "q", "1", "1"), temperature=0.7),  # another seed
        rows(*FULL, temperature=0.7).assign(
            cumulative_logprob=[-1.0, -1.25]
        ),  # and by chance equal
        rows(*FULL, temperature=0.7).assign(model=None),
        rows(*FULL, temperature=0.7).drop(columns="prompt_hash"),
    ],
)
def test_replies_of_other_models_temperatures_prompts_and_seeds_are_no_copies(other, recwarn):
    both = pd.concat([rows(*FULL, temperature=0.7), other])
    assert len(index_pools(both).predictions) == 4 and not recwarn.list
    assert index_pools(both).votes.sum() == 4


def test_a_copy_of_a_run_is_noticed_in_an_ensemble(tmp_path):
    store, copy = tmp_path / "p.jsonl", tmp_path / "copy.jsonl"
    ask(TASKS, store)
    for path in (store, run_path(store)):
        shutil.copy(path, tmp_path / path.name.replace("p.", "copy."))
    with pytest.warns(UserWarning, match="8 predictions are in several of the 2 runs"):
        combine_predictions([store, copy])
    models = [read_predictions(path)["model"].unique().tolist() for path in (store, copy)]
    assert models == [["one"], ["one"]]
    assert votes(pd.concat(map(read_predictions, (store, copy)))) == votes(read_predictions(store))


def test_stores_whose_model_is_not_known_are_two_models(tmp_path):
    for name in "ab":
        ask(TASKS, tmp_path / f"{name}.jsonl", engine=engine_of(TASKS, fingerprint=None))
    both = pd.concat(read_predictions(tmp_path / f"{name}.jsonl") for name in "ab")
    assert both["model"].nunique() == 2
    assert votes(both)["|".join("".join(map(str, r)) for r in PAIRS[3].output.tolist())] == 16


def test_a_model_folder_is_read_in_a_moment_however_large(tmp_path):
    folder = model_folder(tmp_path / "1", size=1)
    with open(folder / "model.safetensors", "wb") as file:
        file.truncate(2**36)  # 64 GiB, sparse
    start = time.monotonic()
    assert len(fingerprint(folder)) == 16
    assert time.monotonic() - start < 10


# Options that make another model of the same files --------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"quantization": "fp8"},
        {"load_format": "dummy"},
        {"revision": "other"},
        {"hf_overrides": {"rope_theta": 1e4}},
        {"tokenizer": "elsewhere"},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_theta": 5.0},
        {"kv_cache_dtype": "fp8"},
        {"code_revision": "other"},
        {"config_format": "mistral"},
        {"override_generation_config": {"eos_token_id": 5}},
    ],
)
def test_an_option_that_makes_another_model_is_part_of_its_content(tmp_path, options):
    model = model_folder(tmp_path / "1")
    plain = model_fingerprint(model)
    assert model_fingerprint(model, options) != plain
    assert model_fingerprint(model, options) == model_fingerprint(model, dict(options))
    unchanged = {"max_model_len": 512, "load_format": "auto", "quantization": None}
    unchanged |= {"kv_cache_dtype": "auto", "rope_scaling": {}, "override_generation_config": {}}
    assert model_fingerprint(model, unchanged) == plain


def test_another_tokenizer_is_known_by_its_content(tmp_path):
    model = model_folder(tmp_path / "1")
    found = set()
    for name, text in (("one", "{}"), ("same", "{}"), ("other", '{"a": 1}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer.json").write_text(text)
        found.add(model_fingerprint(model, {"tokenizer": str(tmp_path / name)}))
    assert len(found) == 2 and model_fingerprint(model) not in found


def network(**config):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 50}
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **config))


class Vocabulary:
    def __init__(self, *tokens):
        self.tokens = tokens

    def get_vocab(self):
        return {token: number for number, token in enumerate(self.tokens)}


def test_a_network_in_memory_is_known_by_its_configuration_and_tokenizer_too(tmp_path):
    words = Vocabulary("a", "b")
    plain = network_fingerprint(network(), words)
    assert network_fingerprint(network(hidden_act="relu"), words) != plain
    theta = {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}
    assert network_fingerprint(network(**theta), words) != plain
    assert network_fingerprint(network(), Vocabulary("b", "a")) != plain
    # Not by what saving and training write into it.
    network().save_pretrained(tmp_path / "1")
    saved = type(network()).from_pretrained(tmp_path / "1")
    saved.config.use_cache = False
    assert saved.config.name_or_path and network_fingerprint(saved, words) == plain


def test_a_network_in_memory_is_known_by_the_tokens_that_end_its_replies():
    words, found = Vocabulary("a", "b"), []
    for ends in (None, 3, [3], [5, 3], [3, 5]):
        model = network()
        model.generation_config.eos_token_id = ends
        model.generation_config.update(top_k=7, transformers_version="1")  # which no engine takes
        found.append(network_fingerprint(model, words))
    assert found[1] == found[2] and found[3] == found[4] and len(set(found)) == 3


def test_a_tokenizer_in_memory_is_known_by_its_rules_too(tmp_path):
    transformers, normalizers = map(pytest.importorskip, ("transformers", "tokenizers.normalizers"))

    def content(change=lambda tokenizer: None, folder=TINY):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        change(tokenizer)
        return model_fingerprint(TINY, {"tokenizer": tokenizer})

    def normalize(tokenizer):
        tokenizer.backend_tokenizer.normalizer = normalizers.Replace("1a", "2a")

    def use(tokenizer):
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer(["<in>", "<in>1"], padding=True, truncation=True, max_length=8)
        tokenizer.save_pretrained(tmp_path / "saved")

    plain = content()
    others = {content(normalize)}
    others |= {content(lambda t: setattr(t, "chat_template", "given"))}
    others |= {content(lambda t: setattr(t, "eos_token", "0a"))}
    assert len(others) == 3 and plain not in others
    assert content(use) == plain == content(folder=tmp_path / "saved")


class Deaf:
    """Gives the same tokens for every text."""

    def encode(self, text, add_special_tokens=True):
        return []


def test_a_tokenizer_that_does_not_tell_colours_apart_is_a_warning(tmp_path):
    engine = engine_of(TASKS)
    engine.tokenizer = Deaf()
    with pytest.warns(UserWarning, match="a Deaf, does not tell the colours"):
        ask(TASKS, tmp_path / "store.jsonl", engine=engine)


# Scores of another model -------------------------------------------------------------------------


def test_scores_of_a_model_that_was_retrained_are_a_warning(tmp_path):
    ask(TASKS, tmp_path / "p.jsonl")
    predictions = read_predictions(tmp_path / "p.jsonl")
    for name, content in (("same", "one"), ("other", "two")):
        engine = engine_of(TASKS, fingerprint=content)
        store = tmp_path / f"{name}.jsonl"
        rescore(predictions, TASKS, engine, n_views=2, store=store, progress=False)
    method = {"method": "votes_plus_score"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_candidates(predictions, **method, scores=read_scores(tmp_path / "same.jsonl"))
    with pytest.warns(UserWarning, match="another model than any"):
        rank_candidates(predictions, **method, scores=read_scores(tmp_path / "other.jsonl"))


def test_scores_for_predictions_of_a_model_that_is_not_known_by_content_are_no_warning(tmp_path):
    ask(TASKS, tmp_path / "p.jsonl", engine=engine_of(TASKS, fingerprint=None))
    predictions = read_predictions(tmp_path / "p.jsonl")
    rescore(predictions, TASKS, engine_of(TASKS), n_views=2, store=tmp_path / "s.jsonl")
    scores = read_scores(tmp_path / "s.jsonl")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_candidates(predictions, method="votes_plus_score", scores=scores)


# Adapters and their bases -----------------------------------------------------------------------


def foreign_adapter(folder, base, **config):
    folder.mkdir(parents=True)
    config = {"base_model_name_or_path": str(base), "r": 8, **config}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes(b"1")
    return folder


@pytest.mark.parametrize("base", ["{here}/base", "../base"])
def test_an_adapter_of_others_is_known_by_the_base_that_it_names(tmp_path, base, recwarn):
    trained_on, other = model_folder(tmp_path / "base"), model_folder(tmp_path / "other", seed=1)
    adapter = foreign_adapter(tmp_path / "adapter", base.format(here=tmp_path))
    asked = {"adapters": {"task": adapter}}
    engine = engine_of(TASKS, fingerprint=fingerprint(trained_on))
    ask(TASKS, tmp_path / "right.jsonl", engine=engine, **asked)
    assert not [w for w in recwarn if "trained on another model" in str(w.message)]
    engine = engine_of(TASKS, fingerprint=fingerprint(other))
    with pytest.warns(UserWarning, match="adapters of 1 tasks were trained on another model"):
        ask(TASKS, tmp_path / "wrong.jsonl", engine=engine, **asked)


def test_an_adapter_of_another_version_of_a_task_is_a_warning(tmp_path, recwarn):
    """As ARC-AGI-2 has tasks of ARC-AGI-1's ids; the order of the demonstrations is no other."""
    engine, asked = engine_of(TASKS), {"adapters": {"task": tmp_path / "adapter"}}
    folder = foreign_adapter(tmp_path / "adapter", "")
    turned, fewer = replace(TASK, train=TASK.train[::-1]), replace(TASK, train=TASK.train[1:])
    made_by = {"model": engine.fingerprint, "demonstrations": hash_demonstrations(turned)}
    (folder / MADE_BY).write_text(json.dumps(made_by))
    ask(TASKS, tmp_path / "right.jsonl", engine=engine, **asked)
    assert not [w for w in recwarn if "other demonstrations" in str(w.message)]
    made_by["demonstrations"] = hash_demonstrations(fewer)
    (folder / MADE_BY).write_text(json.dumps(made_by))
    with pytest.warns(UserWarning, match="adapters of 1 tasks .* other demonstrations.* task "):
        ask(TASKS, tmp_path / "wrong.jsonl", engine=engine, **asked)


@pytest.mark.parametrize("base", ["no/such-model", "", None])
def test_an_adapter_whose_base_is_not_here_tells_of_none(tmp_path, base):
    folder = foreign_adapter(tmp_path / "adapter", "", base_model_name_or_path=base)
    assert base_of(folder) is None is base_of(tmp_path)


def test_an_adapter_whose_base_was_trained_on_in_place_is_a_warning(tmp_path, recwarn):
    base = model_folder(tmp_path / "base")
    adapter = foreign_adapter(tmp_path / "adapter", base)
    (adapter / MADE_BY).write_text(json.dumps({"model": fingerprint(base)}))
    model_fingerprint(adapter)
    assert not recwarn.list
    (base / "model.safetensors").write_bytes(b"trained on")
    with pytest.warns(UserWarning, match="was trained on another model than its base .* is now"):
        model_fingerprint(adapter)


@pytest.mark.parametrize("engine", [TransformersEngine, VllmEngine])
def test_a_model_that_is_updated_while_it_is_loaded_is_known_as_what_answers(
    tmp_path, monkeypatch, engine
):
    """As a name on the Hub is of which the cache holds an older commit."""
    transformers = pytest.importorskip("transformers")
    folder = shutil.copytree(TINY, tmp_path / "tiny")
    before, load = fingerprint(folder), transformers.AutoModelForCausalLM.from_pretrained

    def update(*args, **options):
        (folder / "added_tokens.json").write_text("{}")
        return load(*args, **options)

    if engine is VllmEngine:
        load = MagicMock()  # vLLM answers nothing here
        monkeypatch.setattr(pytest.importorskip("vllm"), "LLM", update)
    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", update)
    assert engine(str(folder)).fingerprint == fingerprint(folder) != before
