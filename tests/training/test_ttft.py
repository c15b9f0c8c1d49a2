"""Test-time fine-tuning: its data, its results, and stopping it."""

import json
import os
import re
import shutil
import string
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("peft")
torch = pytest.importorskip("torch")

from arc_airv.engines import Sampling, TransformersEngine, VllmEngine  # noqa: E402
from arc_airv.engines.adapters import MADE_BY  # noqa: E402
from arc_airv.infer.generate import generate_predictions  # noqa: E402
from arc_airv.prompts import PlainTemplate, PromptFormat  # noqa: E402
from arc_airv.prompts.format import FORMAT_FILE  # noqa: E402
from arc_airv.records import read_predictions  # noqa: E402
from arc_airv.storage import read_run  # noqa: E402
from arc_airv.tasks import Pair, Task, hash_demonstrations, hide_outputs  # noqa: E402
from arc_airv.training.train import TrainConfig, make_optimizers  # noqa: E402
from arc_airv.training.ttft import add_adapter, finetune_joint, finetune_per_task  # noqa: E402

CONFIG = TrainConfig(seconds=3, batch_tokens=512, warmup=0, decay=0, window=32)


@pytest.fixture(scope="module")
def tasks(training_tasks):
    # Two that fit, and one without two demonstrations within the limit.
    ids = ("3c9b0459", "d037b0a7", "00d62c1b")
    return hide_outputs({task_id: training_tasks[task_id] for task_id in ids})


@pytest.fixture(scope="module")
def adapters(random_model, tasks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    return finetune_per_task(random_model, tasks, CONFIG, folder, max_tokens=200, rank=4)


def logits(network, token_ids=(1, 40, 50, 2)):
    with torch.inference_mode():
        return network(torch.tensor([token_ids])).logits


def load(random_model, adapter=None):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(random_model, dtype="float32")
    return network if adapter is None else PeftModel.from_pretrained(network, adapter)


def test_every_task_has_an_adapter_of_its_own(random_model, adapters, tasks):
    assert list(adapters) == list(tasks)
    assert all((path / "adapter_config.json").exists() for path in adapters.values())
    base = logits(load(random_model))
    trained = [logits(load(random_model, adapters[t])) for t in ("3c9b0459", "d037b0a7")]
    assert not torch.allclose(trained[0], base) and not torch.allclose(trained[1], base)
    assert not torch.allclose(*trained)


def test_a_task_that_cannot_be_learnt_from_has_the_untrained_adapter(random_model, adapters):
    assert adapters["00d62c1b"].name == "untrained"
    untrained = logits(load(random_model, adapters["00d62c1b"]))
    torch.testing.assert_close(untrained, logits(load(random_model)))


def test_adapters_that_are_there_are_kept(random_model, tasks, adapters):
    folder = adapters["3c9b0459"].parent
    before = {p: p.stat().st_mtime_ns for p in folder.glob("*/adapter_model.safetensors")}
    again = finetune_per_task(random_model, tasks, CONFIG, folder, max_tokens=200, rank=4)
    assert again == adapters
    trained = [p for p in before if p.parent.name != "untrained"]
    assert all(p.stat().st_mtime_ns == before[p] for p in trained)


def test_adapters_tell_the_demonstrations_that_they_learnt(random_model, tasks, adapters, tmp_path):
    told = json.loads((adapters["3c9b0459"] / MADE_BY).read_text("utf-8"))
    assert told.pop("demonstrations") == hash_demonstrations(tasks["3c9b0459"])
    # and folders that do not, since they are older, are used on
    folder = shutil.copytree(adapters["3c9b0459"].parent, tmp_path / "older")
    (folder / "3c9b0459" / MADE_BY).write_text(json.dumps(told))
    finetune_per_task(random_model, tasks, CONFIG, folder, max_tokens=200, rank=4)
    assert json.loads((folder / "3c9b0459" / MADE_BY).read_text("utf-8")) == told


def test_after_the_deadline_tasks_are_left_untrained(random_model, tasks, tmp_path):
    adapters = finetune_per_task(
        random_model, tasks, CONFIG, tmp_path, max_tokens=200, deadline=time.time() - 1
    )
    assert {path.name for path in adapters.values()} == {"untrained"}
    # and trained by the next call: an untrained adapter is not kept as a result
    longer = replace(CONFIG, seconds=4)
    adapters = finetune_per_task(random_model, tasks, longer, tmp_path, max_tokens=200)
    assert [path.name for path in adapters.values()] == ["3c9b0459", "d037b0a7", "untrained"]


def test_a_task_that_does_not_fit_is_told(random_model, tasks, tmp_path):
    """Count in the tokens of the given format, whose preamble takes one a mark."""
    options = {"max_tokens": 110, "deadline": time.time()}
    for marks, left_out in ((20, "00d62c1b"), (100, "3c9b0459, d037b0a7, 00d62c1b")):
        encoder = PromptFormat.load(random_model).encoder
        wordy = PromptFormat(encoder, PlainTemplate(preamble="<in>" * marks)).to_dict()
        n = left_out.count(",") + 1
        with pytest.warns(UserWarning) as told:
            adapters = finetune_per_task(
                random_model, tasks, CONFIG, tmp_path / str(n), prompt_format=wordy, **options
            )
        says = f"{n} of 3 tasks are not learnt, because no two .* max_tokens=110: {left_out}$"
        assert [w for w in told if re.search(says, str(w.message))]
        assert all(path.name == "untrained" for path in adapters.values())


def test_a_model_without_a_format_is_trained_in_the_one_that_it_is_asked_in(
    random_model, tasks, tmp_path
):
    model = tmp_path / "model"
    shutil.copytree(random_model, model)
    (model / FORMAT_FILE).unlink()
    tokenizer_of_characters().save_pretrained(model)
    one = {"3c9b0459": tasks["3c9b0459"]}
    default = PromptFormat(template=PlainTemplate())
    with pytest.warns(UserWarning, match="no prompt_format.json"):
        finetune_joint(model, one, CONFIG, tmp_path / "joint", max_tokens=600)
    assert PromptFormat.load(tmp_path / "joint") == default
    given = PromptFormat(template=PlainTemplate(preamble="1"))
    options = {"max_tokens": 600, "rank": 4, "prompt_format": given}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapters = finetune_per_task(model, one, CONFIG, tmp_path / "adapters", **options)
        assert PromptFormat.load(adapters["3c9b0459"]) == given
        # Asked through the adapters, the model is asked in their format, and nothing is to be told.
        engine, store = TransformersEngine(model, device="cpu"), tmp_path / "p.jsonl"
        asked = {"n_predictions": 1, "seed": 0, "store": store, "progress": False}
        generate_predictions(one, engine, adapters=adapters, **asked)
    assert read_run(store)["settings"]["prompt_format"] == given.to_dict()
    default.save(tmp_path / "joint")
    several = {"3c9b0459": adapters["3c9b0459"], "d037b0a7": tmp_path / "joint"}
    two = {task_id: tasks[task_id] for task_id in several}
    with pytest.raises(ValueError, match="different prompt formats"):
        generate_predictions(two, engine, adapters=several, **asked)


def tokenizer_of_characters():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<pad>", "</s>", *string.printable])}
    core = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")


@pytest.mark.parametrize("muon_lr", [None, 0.02])
def test_an_adapter_alone_is_trained_by_either_optimizer(random_model, muon_lr):
    adapted = add_adapter(load(random_model), rank=4)
    optimizers = make_optimizers(adapted, replace(CONFIG, muon_lr=muon_lr))
    trained = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    adapted(torch.tensor([[1, 40, 50, 2]])).logits.square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    changed = {n for n, p in adapted.named_parameters() if not torch.equal(p, before[n])}
    assert changed and all("lora_" in name for name in changed)
    assert len(trained) == sum("lora_" in name for name in before)


def test_joint_fine_tuning_leaves_an_ordinary_model_folder(random_model, tasks, tmp_path):
    folder = finetune_joint(random_model, tasks, CONFIG, tmp_path / "joint", max_tokens=200)
    assert (folder / "prompt_format.json").exists()
    assert not torch.allclose(logits(load(folder)), logits(load(random_model)))


def test_joint_fine_tuning_ends_at_the_deadline(random_model, tasks, tmp_path):
    hour = replace(CONFIG, seconds=3600)
    start = time.time()
    options = {"max_tokens": 200, "deadline": start + 3}
    folder = finetune_joint(random_model, tasks, hour, tmp_path / "joint", **options)
    assert time.time() - start < 60
    assert not torch.allclose(logits(load(folder)), logits(load(random_model)))
    # Called again after the deadline: the same model, which learns nothing more.
    before = logits(load(folder))
    torch.testing.assert_close(
        logits(load(finetune_joint(random_model, tasks, hour, folder, **options))), before
    )


def test_a_call_that_was_killed_leaves_the_same_shares(random_model, tasks, tmp_path, monkeypatch):
    """With one of two learnable tasks done, half of the budget is left."""
    seconds = []

    def note(model, stream, config, folder, **options):
        seconds.append(config.seconds)
        folder.mkdir()

    monkeypatch.setattr("arc_airv.training.ttft.train", note)
    config, first = replace(CONFIG, seconds=100), {"3c9b0459": tasks["3c9b0459"]}
    finetune_per_task(random_model, first, config, tmp_path, max_tokens=200)
    (tmp_path / ".d037b0a7.1").mkdir()  # the task that the killed call worked on
    adapters = finetune_per_task(random_model, tasks, config, tmp_path, max_tokens=200)
    assert seconds == [pytest.approx(100, abs=1), pytest.approx(50, abs=1)]
    assert {path.name for path in tmp_path.iterdir()} == {p.name for p in adapters.values()}


@pytest.fixture(scope="module")
def other_model(random_model, tmp_path_factory):
    """Make a model of the same shape and the same name, with other weights."""
    folder = tmp_path_factory.mktemp("other") / random_model.name
    shutil.copytree(random_model, folder)
    network = load(random_model)
    with torch.no_grad():
        network.lm_head.weight.mul_(2)
    network.save_pretrained(folder)
    return folder


def drop_demonstration(tasks):
    """Return the tasks, one of which has lost a demonstration."""
    task = tasks["3c9b0459"]
    return {**tasks, task.task_id: replace(task, train=task.train[1:])}


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("model", r"untrained was made .*: model: '\w{16}', now '\w{16}'\. Use another folder"),
        ("demonstrations", r"3c9b0459 was made with other settings: data: "),
        ("no demonstrations", r"3c9b0459 was made with other settings: data: '\w{16}', now None"),
        ("options", r"3c9b0459 was made with other settings: adamw_lr: 0.004, now 0.001\."),
        ("base", r"3c9b0459 was made with other settings: small_base: False, now True\."),
        ("rank", r"untrained was made with other settings: rank: 4, now 8\."),
    ],
)
def test_adapters_of_something_else_are_refused(
    random_model, other_model, tasks, adapters, changed, named
):
    folder = adapters["3c9b0459"].parent
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    model, asked, config, options = random_model, tasks, CONFIG, {"max_tokens": 200, "rank": 4}
    match changed:
        case "model":
            model = other_model
        case "demonstrations":
            asked = drop_demonstration(tasks)
        case "no demonstrations":
            asked = {**tasks, "3c9b0459": replace(tasks["3c9b0459"], train=())}
        case "options":
            config = replace(CONFIG, adamw_lr=1e-3)
        case "base":
            options["small_base"] = True
        case "rank":
            options["rank"] = 8
    with pytest.raises(ValueError, match=named):
        finetune_per_task(model, asked, config, folder, **options)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_longer_budget_keeps_the_adapters_of_a_shorter_one(random_model, tasks, adapters):
    longer = replace(CONFIG, seconds=3 * CONFIG.seconds)
    folder = adapters["3c9b0459"].parent
    again = finetune_per_task(random_model, tasks, longer, folder, max_tokens=200, rank=4)
    assert again == adapters


def test_a_joint_model_of_something_else_is_not_gone_on_with(
    random_model, other_model, tasks, tmp_path
):
    short = replace(CONFIG, seconds=0.1)
    finetune_joint(random_model, tasks, short, tmp_path, max_tokens=200)
    for model, asked, named in (
        (other_model, tasks, "model"),
        (random_model, drop_demonstration(tasks), "data"),
    ):
        with pytest.raises(ValueError, match=f"checkpoint.pt was made with .* settings: {named}: "):
            finetune_joint(model, asked, short, tmp_path, max_tokens=200)
    finetune_joint(random_model, tasks, short, tmp_path, max_tokens=200)


def test_a_training_that_diverges_costs_its_own_task_alone(random_model, tasks, tmp_path):
    """Break the adapter of the first task, so that its loss is NaN."""
    from arc_airv.training import ttft

    def diverge(model, stream, *args, **options):
        if "3c9b0459" in stream.sources[0].pairs:
            with torch.no_grad():
                next(p for n, p in model.named_parameters() if "lora_A" in n).fill_(float("nan"))
        return train(model, stream, *args, **options)

    train = ttft.train
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.warns(UserWarning, match="task 3c9b0459 is not learnt: .*the loss is nan at step"),
    ):
        patch.setattr(ttft, "train", diverge)
        adapters = finetune_per_task(random_model, tasks, CONFIG, tmp_path, max_tokens=200)
    assert [path.name for path in adapters.values()] == ["untrained", "d037b0a7", "untrained"]
    assert logits(load(random_model, adapters["d037b0a7"])).isfinite().all()


def test_no_test_pair_is_learnt_from(random_model, tmp_path):
    """Do not count a solved test pair as a second demonstration."""
    pair = Pair(np.array([[1, 2]], dtype=np.int8), np.array([[2, 1]], dtype=np.int8))
    task = Task("a", (pair,), (pair,))
    with pytest.raises(ValueError, match="no two pairs"):
        finetune_joint(random_model, {"a": task}, CONFIG, tmp_path, max_tokens=200)


def test_an_old_torchao_does_not_stop_peft(tmp_path):
    """Train beside a torchao for which peft raises at the first adapter, as on Kaggle's image."""
    info = tmp_path / "torchao-0.10.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchao\nVersion: 0.10.0\n")
    (tmp_path / "torchao.py").write_text("")
    adapt = """
import torch
network = torch.nn.Sequential(torch.nn.Linear(2, 2))
peft.LoraModel(network, peft.LoraConfig(target_modules=["0"]), "a")
"""

    def run(how):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
        command = [sys.executable, "-c", how + adapt]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    assert "incompatible version of torchao" in run("import peft").stderr
    assert (
        run("from arc_airv.engines.adapters import import_peft; peft = import_peft()").returncode
        == 0
    )


# A small base ------------------------------------------------------------------------------------


def test_on_a_small_base_the_adapter_alone_learns_as_on_a_full_one(tasks, tmp_path, monkeypatch):
    """Hold the base in bfloat16, the adapter in float32, and compute the layers again."""
    from arc_airv.training import ttft
    from arc_airv.training.tiny import build_model, build_tokenizer, tiny_prompt_format
    from arc_airv.training.train import save_model

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    blank = build_model(tokenizer, width=64, layers=2, heads=2)
    save_model(blank, tokenizer, tiny_prompt_format(), tmp_path)
    seen, train = [], ttft.train

    def watch(model, *args, **options):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        line = train(model, *args, **options)
        after = dict(model.named_parameters())
        learnt = {n: after[n].detach() for n in after if not torch.equal(after[n], before[n])}
        recomputes = model.get_base_model().is_gradient_checkpointing
        dtypes = [{p.dtype for n, p in after.items() if ("lora_" in n) == is_lora}
                  for is_lora in (True, False)]  # fmt: skip
        seen.append((recomputes, dtypes, learnt))
        return line

    monkeypatch.setattr(ttft, "train", watch)
    config = replace(CONFIG, seconds=600, tokens=6e3, adamw_lr=5e-3, log_every=0)
    options = {"max_tokens": 200, "rank": 4}
    losses = []
    for small_base in (True, False):
        folder, one = tmp_path / str(small_base), {"3c9b0459": tasks["3c9b0459"]}
        options |= {"small_base": small_base}
        (adapter,) = finetune_per_task(tmp_path, one, config, folder, **options).values()
        lines = (adapter / "train_log.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    (recomputes, dtypes, learnt), (full_recomputes, full_dtypes, full_learnt) = seen
    assert recomputes and not full_recomputes
    assert dtypes == [{torch.float32}, {torch.bfloat16}]
    assert full_dtypes == [{torch.float32}, {torch.float32}]
    assert learnt.keys() == full_learnt.keys() and all("lora_" in name for name in learnt)
    assert losses[0][-1] < losses[0][0] - 0.2
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    for name, weights in full_learnt.items():
        assert (learnt[name] - weights).norm() < 0.2 * weights.norm(), name


# Answering with adapters -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strong_adapters(random_model, tmp_path_factory):
    """Make two adapters that change every answer, and the untrained one."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("strong")
    for name, seed in (("one", 1), ("two", 2), ("none", None)):
        network = AutoModelForCausalLM.from_pretrained(random_model, dtype="float32")
        adapted = get_peft_model(network, LoraConfig(r=4, target_modules="all-linear"))
        if seed is not None:
            torch.manual_seed(seed)
            for parameter_name, parameter in adapted.named_parameters():
                if "lora_B" in parameter_name:
                    torch.nn.init.normal_(parameter, std=0.5)
        adapted.save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("one", "two", "none")}


@pytest.fixture(scope="module")
def expected(random_model, strong_adapters):
    """Return each adapter's greedy replies and their log-probabilities, by peft alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model)
    replies = {}
    for name, path in strong_adapters.items():
        network = load(random_model, path)
        for prompt in PROMPTS:
            ids = torch.tensor([tokenizer.encode(prompt)])
            total = 0.0
            for _ in range(12):
                with torch.inference_mode():
                    logprobs = network(ids).logits[0, -1].log_softmax(dim=-1)
                best = int(logprobs.argmax())
                total += float(logprobs[best])
                ids = torch.cat([ids, torch.tensor([[best]])], dim=1)
                if best == tokenizer.eos_token_id:
                    break
            text = tokenizer.decode(ids[0, len(tokenizer.encode(prompt)) :])
            replies[name, prompt] = text.removesuffix(tokenizer.eos_token), total
    return replies


PROMPTS = ("<in>1 5a\n2 0a<out>", "<in>1 1a2b<out>", "<in>1 3a\n2 4a\n3 5a<out>")


def requests(adapters):
    return [
        (prompt, Sampling(max_tokens=12, adapter=path))
        for prompt in PROMPTS
        for path in adapters.values()
    ]


def check(engine, adapters, expected):
    replies = dict(pair for group in engine.stream(requests(adapters)) for pair in group)
    keys = [(name, prompt) for prompt in PROMPTS for name in adapters]
    assert len({expected[key][0] for key in keys}) > len(PROMPTS)  # the adapters differ
    for number, key in enumerate(keys):
        (reply,) = replies[number]
        assert reply.text == expected[key][0]
        assert reply.cumulative_logprob == pytest.approx(expected[key][1], abs=2e-3)


def test_transformers_answers_each_prompt_with_its_adapter(random_model, strong_adapters, expected):
    engine = TransformersEngine(random_model, device="cpu")
    check(engine, strong_adapters, expected)
    for prompt, (reply,) in zip(PROMPTS, engine.generate(PROMPTS, Sampling(max_tokens=12))):
        assert reply.text == expected["none", prompt][0]  # nothing is left behind


def test_vllm_answers_a_mixed_batch_as_peft_does(random_model, strong_adapters, expected):
    pytest.importorskip("vllm")
    engine = VllmEngine(random_model, enable_lora=True, max_loras=3, max_model_len=256)
    check(engine, strong_adapters, expected)
    mixed = [(PROMPTS[0], Sampling(max_tokens=2)), requests(strong_adapters)[0]]
    with pytest.raises(ValueError, match="must not be mixed"):
        list(engine.stream(mixed))
    engine.close()


def test_predictions_come_from_the_adapter_of_their_task(
    random_model, strong_adapters, training_tasks, tmp_path
):
    tasks = {task_id: training_tasks[task_id] for task_id in ("3c9b0459", "d037b0a7")}
    adapters = dict(zip(tasks, (strong_adapters["one"], strong_adapters["two"])))
    engine = TransformersEngine(random_model, device="cpu")
    options = {"n_predictions": 2, "seed": 0, "progress": False}
    store = tmp_path / "adapted.jsonl"
    generate_predictions(tasks, engine, store=store, adapters=adapters, **options)
    assert read_run(store)["settings"]["adapters"] == [Path(strong_adapters["one"]).parent.name]
    together = read_predictions(store).set_index("task_id")["text"]
    for task_id, path in adapters.items():
        alone = tmp_path / f"{task_id}.jsonl"
        generate_predictions(
            {task_id: tasks[task_id]}, engine, store=alone, adapters={task_id: path}, **options
        )
        assert list(read_predictions(alone)["text"]) == list(together[[task_id]])
    with pytest.raises(ValueError, match="there is none for .'d037b0a7'."):
        some = {"3c9b0459": strong_adapters["one"]}
        generate_predictions(tasks, engine, store=store, adapters=some, **options)
    with pytest.raises(ValueError, match="made with other settings: adapters"):
        generate_predictions(tasks, engine, store=store, **options)
