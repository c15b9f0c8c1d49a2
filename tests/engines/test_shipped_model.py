"""The shipped model: both engines give its greedy answers alike, and it solves some tasks."""

import json
from pathlib import Path

import pytest

from arc_airv.augment import sample_augmentations
from arc_airv.engines import Sampling, TransformersEngine, VllmEngine
from arc_airv.prompts.format import PromptFormat
from arc_airv.tasks import load_tasks

MODEL = str(Path(__file__).parents[2] / "res" / "small")
# Evaluation tasks: it has seen their demonstrations, but not their test outputs.
TASKS = ("66e6c45b", "b1fc8b8e", "c8b7cc0f", "3b4c2228", "e872b94a")


@pytest.fixture(scope="module")
def questions():
    tasks = load_tasks("arc-agi-1/evaluation")
    prompt_format = PromptFormat.load(MODEL)
    views = [
        (task, augmentation, augmentation.apply_task(task))
        for task in map(tasks.get, TASKS)
        for augmentation in sample_augmentations(task, 4, seed=0)
    ]
    return [(prompt_format.render(view), task, augmentation) for task, augmentation, view in views]


@pytest.fixture(scope="module")
def transformers_replies(questions):
    engine = TransformersEngine(MODEL, device="cpu")
    return engine.generate([prompt for prompt, _, _ in questions], Sampling(max_tokens=150))


@pytest.mark.parametrize("shipped", [MODEL, str(Path(__file__).parents[1] / "tiny"), None])
def test_the_tokenizer_is_of_a_class_that_transformers_4_and_5_know(shipped, random_model):
    folder = Path(shipped or random_model)  # the last one as `save_model` writes it
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_vllm_and_transformers_give_the_same_greedy_answers(questions, transformers_replies):
    pytest.importorskip("vllm")
    engine = VllmEngine(MODEL, max_model_len=1024)
    replies = engine.generate([prompt for prompt, _, _ in questions], Sampling(max_tokens=150))
    engine.close()
    differ = 0
    for (one,), (other,) in zip(replies, transformers_replies, strict=True):
        if one.text == other.text:
            assert one.cumulative_logprob == pytest.approx(other.cumulative_logprob, abs=1e-2)
            assert one.finish_reason == other.finish_reason
        else:
            differ += 1
    # Both compute in float32 on a CPU, in different order: a near tie may go either way.
    assert differ <= 1


def test_it_answers_with_grids_and_solves_an_evaluation_task(questions, transformers_replies):
    prompt_format = PromptFormat.load(MODEL)
    n_right = 0
    for (_, task, augmentation), (reply,) in zip(questions, transformers_replies):
        grid, status = prompt_format.parse(reply.text, reply.finish_reason)
        assert status == "ok"
        n_right += augmentation.revert_grid(grid).tolist() == task.test[0].output.tolist()
    assert n_right >= 3
