"""An engine gets the context that the tasks need, and no more than its model has."""

import json
import shutil
from pathlib import Path

import pytest

from arc_airv.augment import sample_augmentations
from arc_airv.engines.base import Sampling
from arc_airv.infer import options_for_tasks
from arc_airv.infer.sizes import context_for_tasks
from arc_airv.prompts import PromptFormat

pytest.importorskip("transformers")
TINY = Path(__file__).parents[1] / "tiny"


@pytest.fixture(scope="module")
def tasks(training_tasks):
    return {i: training_tasks[i] for i in ("25ff71a9", "3c9b0459", "d511f180")}


@pytest.fixture(scope="module")
def long_model(tmp_path_factory):
    """Copy the tiny model, with the context that models of 2026 have."""
    folder = tmp_path_factory.mktemp("models") / "long"
    shutil.copytree(TINY, folder)
    config = json.loads((folder / "config.json").read_text())
    config["max_position_embeddings"] = 262144
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def longest_prompt(tasks):
    from transformers import AutoTokenizer

    tokenizer, render = AutoTokenizer.from_pretrained(TINY), PromptFormat.load(TINY).render
    return max(
        len(tokenizer.encode(render(augmentation.apply_task(task), index)))
        for task in tasks.values()
        for augmentation in sample_augmentations(task, 16, seed=1)
        for index in range(len(task.test))
    )


def test_the_context_holds_every_view_with_its_longest_reply(tasks):
    longest = longest_prompt(tasks)
    assert context_for_tasks(tasks, TINY, sampling=Sampling(max_tokens=500)) >= longest + 500
    # These answers are of 3 x 3 cells, which a task of 3 x 3 grids alone may double, and no more.
    assert longest + 3 * 4 <= context_for_tasks(tasks, TINY) <= 2 * (longest + 3 * 4) + 64


def test_vllm_gets_what_the_tasks_need_of_a_long_context(tasks, long_model):
    needed = context_for_tasks(tasks, long_model)
    for engine in ("vllm", "auto"):
        options = options_for_tasks(engine, long_model, {"seed": 1}, tasks)
        assert options == {"seed": 1, "max_model_len": needed}
    more = options_for_tasks("vllm", long_model, {}, tasks, sampling=Sampling(max_tokens=9000))
    assert more["max_model_len"] > needed + 7000


def test_adapters_ask_in_their_own_format_and_the_tokenizer_may_be_apart(
    tasks, long_model, tmp_path
):
    bare, adapter = tmp_path / "bare", tmp_path / "adapter"
    shutil.copytree(long_model, bare)
    (bare / "prompt_format.json").unlink()
    adapter.mkdir()
    words = {"encoder": ["json"], "template": {"name": "plain"}}  # a token a character and more
    (adapter / "prompt_format.json").write_text(json.dumps(words))
    in_words = options_for_tasks("vllm", bare, {}, tasks, prompt_format=words)
    adapters = dict.fromkeys(tasks, adapter)
    assert options_for_tasks("vllm", bare, {}, tasks, adapters=adapters) == in_words
    others = adapters | {"not-asked": TINY}  # of another format
    assert options_for_tasks("vllm", bare, {}, tasks, adapters=others) == in_words
    for file in bare.glob("tokenizer*"):
        file.unlink()
    apart = {"tokenizer": str(TINY)}
    assert options_for_tasks("vllm", bare, apart, tasks, adapters=adapters) == {**apart, **in_words}


def test_what_is_given_and_what_the_model_lacks_stay(tasks, long_model):
    given = {"max_model_len": 100_000}
    assert options_for_tasks("vllm", long_model, given, tasks) == given
    assert options_for_tasks("transformers", long_model, {}, tasks) == {}
    assert options_for_tasks("vllm", long_model, {}, {}) == {}
    beyond = {"sampling": Sampling(max_tokens=8000)}  # with a prompt, more than 8,192
    assert options_for_tasks("vllm", TINY, {}, tasks, **beyond) == {}
