"""A run of the submission notebook leaves a valid submission at any moment."""

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scripted import ScriptedEngine

from arc_airv.engines.gpus import Gpu
from arc_airv.infer import generate_predictions
from arc_airv.kaggle import Run, run
from arc_airv.submission import (
    build_submission,
    score_submission,
    validate_submission,
    write_submission,
)
from arc_airv.tasks import Pair, hide_outputs, load_tasks, read_challenges, save_tasks
from arc_airv.vote.rank import rank_candidates, select_attempts

ARC = load_tasks("arc-agi-1/training")
TASKS = {i: ARC[i] for i in ("6150a2bd", "44f52bb0", "27a28665", "d631b094")}  # 7 outputs
MALFORMED = {"empty": {}, "none": None, "many": {"train": [], "test": [7, 8]}}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Make a run on the scripted engine, in its own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "find_gpus", lambda: [])
    monkeypatch.setattr("arc_airv.kaggle.clock.process_start", time.time)
    answers = save_tasks(TASKS, tmp_path / "answers.json")
    challenges = json.loads(save_tasks(hide_outputs(TASKS), tmp_path / "hidden.json").read_text())
    (tmp_path / "malformed.json").write_text(json.dumps({**MALFORMED, **challenges}))
    solutions = {i: [pair.output.tolist() for pair in task.test] for i, task in TASKS.items()}
    (tmp_path / "solutions.json").write_text(json.dumps(solutions))

    def make(
        tasks="hidden.json",
        *,
        engine="faulty:FaultyEngine",
        minutes=10,
        gpus=None,
        n_tasks=None,
        **options,
    ):
        return Run(
            tasks,
            model=answers,
            submission="submission.json",
            minutes=minutes,
            gpus=gpus,
            n_tasks=n_tasks,
            engine=engine,
            engine_options=options,
        )

    return make


def generate(a_run, n=2, **options):
    a_run.generate(n, seed=0, store="store.jsonl", **options)


def answered():
    """Count the outputs that the submission on disk answers; it has to be valid."""
    submission = validate_submission("submission.json", load_tasks("hidden.json"))
    return sum(a["attempt_1"] != [[0]] for answers in submission.values() for a in answers)


def test_the_score_is_that_of_the_file(make, capsys):
    a_run = make()
    a_run.submit({i: [[pair.output] for pair in task.test] for i, task in TASKS.items()})
    write_submission(build_submission({}, a_run.tasks), a_run.path)  # past the run
    a_run.finish(solutions="solutions.json")
    assert "score: none, because nothing was answered" in capsys.readouterr().out


def test_a_run_from_its_fallback_to_its_score(make, capsys):
    a_run = make()
    assert answered() == 0
    a_run.finetune(None)
    generate(a_run, drop_demonstrations=True)
    assert score_submission("submission.json", TASKS) == 1.0  # the plain votes
    with a_run.step("vote"):
        predictions = a_run.read_predictions()
        ranked = rank_candidates(predictions, filters=["copy"], tasks=a_run.tasks)
        a_run.submit(select_attempts(ranked, a_run.tasks))
    a_run.finish(solutions="solutions.json")
    said = capsys.readouterr().out
    assert len(predictions) == 14 and answered() == 7
    for part in (
        "fallback: 4 tasks; 0 of 7 outputs answered",
        "machine: no GPU; ",
        "'engine': 'faulty:FaultyEngine'",
        "plain votes: 14 predictions; 7 of 7 outputs answered",
        "check: submission.json is valid; 7 of 7 outputs answered",
        "score: 100.0%, the mean over tasks",
    ):
        assert part in said
    assert said.endswith("\n0 things went wrong (marked !)\n")


def test_plain_votes_are_submitted_while_an_engine_still_works(make, monkeypatch):
    monkeypatch.setattr(run, "VOTE_SECONDS", 0)
    a_run = make(fault="hang", after=5)
    a_run.limits = run.Limits(hang_seconds=1.5, grace_seconds=2, poll_seconds=0.05)
    seen = []
    monkeypatch.setattr(a_run.log, "add", lambda *event, **_: seen.append((*event, answered())))
    generate(a_run)
    hang = next(event for event in seen if event[1].startswith("hangs"))
    votes = [event for event in seen if event[0] == "plain votes"]
    assert 0 < hang[2] < 7 and votes[-1][2] == 7
    assert len(votes) < 20  # without new votes nothing is written


@pytest.mark.parametrize(
    "spoil",
    [
        lambda a_run: a_run.read_predictions()["no such column"],
        lambda a_run: a_run.submit({"no such task": []}),
        lambda a_run: a_run.submit({"6150a2bd": [["no grid"]]}),
        lambda a_run: Path("submission.json").write_text('{"6150a2bd": ['),
        lambda a_run: Path("submission.json").unlink(),
    ],
)
def test_a_vote_that_fails_loses_nothing(make, capsys, spoil):
    a_run = make()
    a_run.submit({i: [[pair.output] for pair in task.test] for i, task in TASKS.items()})
    with a_run.step("vote"):
        spoil(a_run)
    assert score_submission("submission.json", TASKS) == 1.0
    a_run.finish()
    said = capsys.readouterr()
    assert "! vote: " in said.out and "Traceback" in said.err
    assert said.out.endswith("\n1 things went wrong (marked !)\n")


def test_malformed_entries_keep_the_fallback(make, capsys):
    a_run = make("malformed.json")
    assert list(a_run.tasks) == list(TASKS)
    generate(a_run, n=1)
    a_run.finish(solutions="solutions.json")
    submission = validate_submission("submission.json", read_challenges("malformed.json").all)
    assert list(submission) == [*MALFORMED, *TASKS]
    fallback = {"attempt_1": [[0]], "attempt_2": [[0]]}
    assert submission["none"] == [fallback] and submission["many"] == [fallback] * 2
    said = capsys.readouterr().out
    assert "7 of 11 outputs answered" in said and "! challenges: malformed.json: task none" in said
    assert "4 things went wrong" in said  # the entries, and the missing score of such a file


def test_a_trial_asks_and_scores_a_few_tasks_and_the_scored_rerun_all(make, capsys, monkeypatch):
    a_run = make(n_tasks=2)
    generate(a_run, n=1)
    a_run.finish(solutions="solutions.json")
    assert list(a_run.tasks) == list(TASKS)[:2] and answered() == 3
    said = capsys.readouterr().out
    assert "fallback: 4 tasks, of which 2 will be asked; 0 of 7" in said
    assert "score: 100.0%, the mean over 2 tasks that were asked" in said
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert list(make(n_tasks=2).tasks) == list(TASKS)


def test_a_fallback_is_no_score(make, tmp_path, capsys):
    task = TASKS["6150a2bd"]
    black = replace(task, test=(Pair(task.test[0].input, np.zeros((1, 1), np.int8)),))
    a_run = make(save_tasks({"6150a2bd": black}, tmp_path / "black.json"))
    assert score_submission("submission.json", {"6150a2bd": black}) == 1.0  # by chance
    a_run.finish()
    assert "score: none, because nothing was answered" in capsys.readouterr().out


def test_a_machine_that_is_too_slow_is_told_with_what_to_change(make, capsys):
    a_run = make(delay=1.0, minutes=0.08)
    a_run.limits = run.Limits(grace_seconds=0.5, poll_seconds=0.05)  # a slow start is no failure
    generate(a_run, n=1)
    (text,) = [event.what for event in a_run.log.failures if "too slow" in event.what]
    assert re.match(r"too slow for this: only [0-6] of 7 .*fewer tasks \(N_TASKS\)", text)


def test_where_no_engine_works_the_fallback_stays(make, capsys):
    a_run = make(fault="start")
    generate(a_run)
    a_run.finish()
    assert answered() == 0
    said = capsys.readouterr().out
    assert "no configuration is left to try" in said and "the solutions are hidden" in said


def test_a_store_that_was_cut_is_gone_on_with(make):
    generate(make(), n=1)
    size = os.path.getsize("store.jsonl")
    os.truncate("store.jsonl", size - 9)
    again = make()
    assert answered() == 0  # nothing from the earlier run
    generate(again, n=2)
    assert len(again.read_predictions()) == 14 and answered() == 7


def test_what_a_model_answered_before_it_learnt_stays_and_is_told_apart(make, capsys):
    a_run = make()
    generate(a_run)
    description = json.loads(Path("store.run.json").read_text())
    description["fingerprints"]["model"] = "before"
    Path("store.run.json").write_text(json.dumps(description))
    with pytest.warns(UserWarning, match="tuned.jsonl hold 28 predictions .* another model:"):
        a_run.generate(2, seed=0, store="tuned.jsonl")
        predictions = a_run.read_predictions()
    assert predictions["model"].value_counts().to_dict() == {"before": 14, "scripted": 14}
    assert rank_candidates(predictions)["votes"].tolist() == [4] * 7
    assert "plain votes: 28 predictions by 2 models; 7 of 7" in capsys.readouterr().out


def test_a_store_that_another_model_began_does_not_answer_for_this_one(make, monkeypatch):
    monkeypatch.setattr(run, "VOTE_SECONDS", 0)
    generate(make())
    description = json.loads(Path("store.run.json").read_text())
    description["fingerprints"]["model"] = "another"
    Path("store.run.json").write_text(json.dumps(description))
    again = make()
    generate(again)
    assert answered() == 0 and again.stores == [] and again.read_predictions().empty
    failure = again.log.failures[-1]
    assert (
        failure.what == "store.jsonl: not made with these settings, so no vote: use another store"
    )
    again.generate(2, seed=0, store="other.jsonl")
    assert answered() == 7


def test_what_a_humbler_configuration_is_refused_still_votes(make, monkeypatch):
    def run_shares(shares, *_):
        store, engine = shares[0].path, ScriptedEngine(TASKS)
        generate_predictions(TASKS, engine, n_predictions=1, seed=0, store=store, progress=False)
        return {store}

    monkeypatch.setattr("arc_airv.kaggle.supervise.run_shares", run_shares)
    generate(make())
    assert answered() == 7


@pytest.mark.parametrize("model", ["scripted", "another"])
def test_what_another_number_of_devices_left_votes_or_is_named(make, model):
    parts = dict(list(TASKS.items())[:2]), dict(list(TASKS.items())[2:])
    engine = ScriptedEngine(TASKS)
    engine.fingerprint = model
    for number, tasks in enumerate(parts):
        store = f"store.{number}.jsonl"
        generate_predictions(tasks, engine, n_predictions=3, seed=0, store=store, progress=False)
    a_run = make()
    generate(a_run, n=1)
    names = "store.0.jsonl, store.1.jsonl"
    if model == "scripted":
        assert f"{names} of another number of devices vote, too" in str(a_run.log)
        assert len(a_run.read_predictions()) == 7 * 3
    else:
        assert f"! generate: {names}: not made with these settings" in str(a_run.log)
        assert len(a_run.read_predictions()) == 7


@pytest.mark.parametrize(("content", "n_own"), [(b"old", 7), (b"new", 7 * 3)])
def test_what_adapters_of_another_training_left_does_not_vote(make, tmp_path, content, n_own):
    a_run, adapters = make(), {}
    for task_id in TASKS:
        adapters[task_id] = str(tmp_path / "finetuned" / task_id)
        Path(adapters[task_id]).mkdir(parents=True)
        (Path(adapters[task_id]) / "adapter_config.json").write_text('{"r": 8}')

    def train(content):
        header = b'{"__metadata__": {"trained": "%s"}}' % content  # of safetensors, without tensors
        for folder in adapters.values():
            file = Path(folder) / "adapter_model.safetensors"
            file.write_bytes(len(header).to_bytes(8, "little") + header)

    train(content)
    engine, options = ScriptedEngine(TASKS), {"adapters": adapters, "progress": False}
    generate_predictions(TASKS, engine, n_predictions=3, seed=0, store="store.0.jsonl", **options)
    train(b"new")
    generate(a_run, n=1, adapters=adapters)
    assert len(a_run.read_predictions()) == n_own
    assert ("! generate: store.0.jsonl: not made with these" in str(a_run.log)) == (n_own == 7)


def test_a_store_whose_name_is_none_is_told_before_any_engine_starts(make):
    a_run = make()
    a_run.generate(2, seed=0, store="store")
    (failure,) = a_run.log.failures
    assert "store: the name of a store must be <name>.jsonl" in failure.what
    assert not list(Path().glob("store*"))


def test_a_fine_tuning_that_fails_costs_nothing_else(make):
    a_run = make()
    a_run.finetune("per_tusk", share=0.5, folder="tuned", max_tokens=200)
    a_run.finetune("joint", share=0.5, folder="tuned", max_tokens=200, no_such_option=1)
    assert [event.who for event in a_run.log.failures] == ["fine-tune"] * 2
    generate(a_run, n=1)
    assert answered() == 7


def test_a_model_that_is_not_there_is_told_at_once(make, capsys):
    a_run = make(engine="vllm")
    a_run.model = "nowhere/at/all"
    start = time.time()
    generate(a_run)
    a_run.finish()
    assert time.time() - start < 5 and answered() == 0
    said = capsys.readouterr().out
    assert said.count("! generate: ValueError: there is no model folder nowhere/at/all") == 2
    assert said.endswith("\n1 things went wrong (marked !)\n")


@pytest.mark.parametrize(
    ("gpus", "engine", "answers"),
    [(0, None, "transformers"), (0, "vllm", "vllm"), (1, None, "vllm")],
)
def test_the_engine_suits_the_adapters(make, monkeypatch, tmp_path, gpus, engine, answers):
    t4 = [Gpu(i, "Tesla T4", 15.0, (7, 5)) for i in range(gpus)]
    monkeypatch.setattr(run, "find_gpus", lambda: t4)
    asked = {}
    monkeypatch.setattr(
        run, "supervise_generation", lambda *_, **options: asked.update(options) or []
    )
    adapters = {}
    for task_id, rank in zip(TASKS, (8, 24, 8, 8)):
        (tmp_path / task_id).mkdir()
        (tmp_path / task_id / "adapter_config.json").write_text(json.dumps({"r": rank}))
        adapters[task_id] = str(tmp_path / task_id)
    a_run = make(engine=engine, max_num_seqs=8)
    a_run.model = Path(__file__).parents[1] / "tiny"
    generate(a_run, adapters=adapters)
    first = asked["configurations"][0]
    assert first["engine"] == answers and asked["adapters"] == adapters
    assert first["options"].get("max_lora_rank") == (32 if answers == "vllm" else None)
    assert first["options"].get("max_num_seqs") == (8 if answers == "vllm" else None)
    assert ("on a CPU" in str(a_run.log)) == (gpus == 0)


def test_where_transformers_answers_it_gets_the_options_that_mean_the_same_to_it(make):
    same = {"tokenizer": "my/tokenizer", "max_model_len": 2048, "dtype": "float32"}
    given = make(engine=None, max_num_seqs=8, **same)._configure(16)
    assert given["engine"] == "transformers"
    assert given["options"].items() >= same.items() and "max_num_seqs" not in given["options"]


@pytest.mark.parametrize("odd", ['{"r": 8', "{}", '{"r": 8, "modules_to_save": ["lm_head"]}'])
def test_an_adapter_that_cannot_be_used_leaves_the_answers_to_the_model(make, tmp_path, odd):
    for task_id, content in zip(TASKS, ('{"r": 8}', odd, '{"r": 8}', '{"r": 8}')):
        (tmp_path / task_id).mkdir()
        (tmp_path / task_id / "adapter_config.json").write_text(content)
    a_run = make()
    generate(a_run, adapters={task_id: str(tmp_path / task_id) for task_id in TASKS})
    assert answered() == 7
    assert [event.who for event in a_run.log.failures] == ["adapters"]


# The machine -------------------------------------------------------------------------------------


def test_another_machine_ends_a_run_at_once_but_not_the_scored_one(make, monkeypatch):
    t4 = [Gpu(i, "Tesla T4", 15.0, (7, 5)) for i in range(2)]
    monkeypatch.setattr(run, "find_gpus", lambda: t4)
    with pytest.raises(RuntimeError, match="asked for 4xL4, the GPUs of this machine are: Tesla"):
        make(gpus="4xL4")
    assert answered() == 0
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    a_run = make(gpus="4xL4", engine=None, max_num_seqs=8, minutes=None)
    assert a_run.configuration["devices"] == ["0", "1"]
    assert a_run.configuration["options"]["dtype"] == "float16"
    assert a_run.configuration["options"]["max_num_seqs"] == 8
    assert 11 < a_run.deadline.seconds / 3600 < 12


def test_a_driver_that_is_broken_is_told(make, monkeypatch):
    def broken():
        raise RuntimeError("nvidia-smi failed")

    monkeypatch.setattr(run, "find_gpus", broken)
    a_run = make(engine=None, tensor_parallel_size=4)
    assert [event.what for event in a_run.log.failures] == ["RuntimeError: nvidia-smi failed"]
    assert a_run.configuration["devices"] == [None]
