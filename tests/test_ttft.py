"""Test-time fine-tuning: what it learns from, what it leaves, and that it can be stopped."""

import time

import numpy as np
import pytest

pytest.importorskip("peft")
torch = pytest.importorskip("torch")

from arc_airv.finetune import TrainConfig  # noqa: E402
from arc_airv.tasks import Pair, Task, hide_outputs  # noqa: E402
from arc_airv.ttft import finetune_joint, finetune_per_task  # noqa: E402

CONFIG = TrainConfig(seconds=2, batch_tokens=512, warmup=0, decay=0)


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
    start = time.monotonic()
    again = finetune_per_task(random_model, tasks, CONFIG, folder, max_tokens=200, rank=4)
    assert again == adapters and time.monotonic() - start < CONFIG.seconds
    trained = [p for p in before if p.parent.name != "untrained"]
    assert all(p.stat().st_mtime_ns == before[p] for p in trained)


def test_after_the_deadline_tasks_are_left_untrained(random_model, tasks, tmp_path):
    adapters = finetune_per_task(
        random_model, tasks, CONFIG, tmp_path, max_tokens=200, deadline=time.time() - 1
    )
    assert {path.name for path in adapters.values()} == {"untrained"}
    # and trained by the next call: an untrained adapter is not kept as a result
    adapters = finetune_per_task(random_model, tasks, CONFIG, tmp_path, max_tokens=200)
    assert [path.name for path in adapters.values()] == ["3c9b0459", "d037b0a7", "untrained"]


def test_joint_fine_tuning_leaves_an_ordinary_model_folder(random_model, tasks, tmp_path):
    folder = finetune_joint(random_model, tasks, CONFIG, tmp_path / "joint", max_tokens=200)
    assert (folder / "prompt_format.json").exists()
    assert not torch.allclose(logits(load(folder)), logits(load(random_model)))


def test_a_model_without_a_prompt_format_is_refused(random_model, tmp_path):
    with pytest.raises(ValueError, match="no prompt_format.json"):
        finetune_joint(tmp_path, {}, CONFIG, tmp_path, max_tokens=200)


def test_no_test_pair_is_learnt_from(random_model, tmp_path):
    """One demonstration and a solved test pair are not two pairs."""
    pair = Pair(np.array([[1, 2]], dtype=np.int8), np.array([[2, 1]], dtype=np.int8))
    task = Task("a", (pair,), (pair,))
    with pytest.raises(ValueError, match="no two pairs"):
        finetune_joint(random_model, {"a": task}, CONFIG, tmp_path, max_tokens=200)
