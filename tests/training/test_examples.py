"""Training data: mixtures by name and weight, without solutions of evaluation tests."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arc_airv.augment import Augmentation
from arc_airv.grids import format_grid
from arc_airv.prompts import ChatTemplate, PromptFormat, make_encoder
from arc_airv.tasks import NAMED_SOURCES, Pair, Task, load_tasks, save_tasks
from arc_airv.training.examples import (
    ExampleSizes,
    ExampleStream,
    Source,
    all_pairs,
    demonstrations,
    tokenize,
)
from arc_airv.training.rules import RuleChange
from arc_airv.training.sources import (
    load_source,
    parse_mixture,
    recognize_tests,
    without_tasks,
)

pytest.importorskip("transformers")

from arc_airv.training.tiny import build_tokenizer, tiny_prompt_format


@pytest.fixture(scope="module")
def evaluation_tasks():
    return load_tasks("arc-agi-1/evaluation")


@pytest.fixture(scope="module")
def make_stream():
    tokenizer = build_tokenizer()

    def make(sources, *, max_tokens=512, seed=0):
        return ExampleStream(
            sources, tiny_prompt_format(), tokenizer, max_tokens=max_tokens, seed=seed
        )

    return make


@pytest.fixture(scope="module")
def pairs(training_tasks):
    return all_pairs(dict(list(training_tasks.items())[:100]))


# Named sources -----------------------------------------------------------------------------------


@pytest.mark.parametrize("evaluation", ["arc-agi-1/evaluation", "arc-agi-2/evaluation"])
@pytest.mark.parametrize("name", NAMED_SOURCES)
def test_no_named_source_holds_a_test_pair_of_an_evaluation_task(name, evaluation):
    tests = {pair for task in load_tasks(evaluation).values() for pair in task.test}
    learnt = {pair for bag in load_source(name).pairs.values() for pair in bag}
    assert len(learnt) > 300
    assert not learnt & tests


def test_training_sources_hold_no_task_of_arc_agi_1_evaluation_under_any_id(evaluation_tasks):
    taken = {pair for task in evaluation_tasks.values() for pair in (*task.train, *task.test)}
    for name in ("arc-agi-1/training", "arc-agi-2/training"):
        source = load_source(name)
        assert not set(source.pairs) & set(evaluation_tasks)
        assert not {pair for bag in source.pairs.values() for pair in bag} & taken


def test_arc_agi_2_training_loses_the_376_tasks_that_it_shares_and_no_other(evaluation_tasks):
    tasks = load_tasks("arc-agi-2/training")
    source = load_source("arc-agi-2/training")
    assert len(set(tasks) & set(evaluation_tasks)) == 376
    # The one beside them holds a test pair, see below.
    assert set(source.pairs) == set(tasks) - set(evaluation_tasks) - {"caa06a1f"}
    assert source.pairs["00d62c1b"] == all_pairs(tasks)["00d62c1b"]


def test_arc_agi_1_training_loses_the_one_task_that_is_an_evaluation_task_under_another_id(
    training_tasks, evaluation_tasks
):
    one, other = training_tasks["40853293"], evaluation_tasks["070dd51e"]
    assert (one.train, one.test) == (other.train, other.test)
    left_out = set(training_tasks) - set(load_source("arc-agi-1/training").pairs)
    assert left_out == {"40853293", "caa06a1f"}  # the other holds a test pair, see below


@pytest.mark.parametrize("name", ["arc-agi-1/evaluation", "arc-agi-2/evaluation"])
def test_of_evaluation_tasks_the_demonstrations_alone_are_learnt(name):
    assert load_source(name).pairs == demonstrations(load_tasks(name))


def test_a_task_is_recognised_by_one_pair_that_it_shares(training_tasks):
    tasks = dict(list(training_tasks.items())[:5])
    ids = list(tasks)
    again = {"renamed": tasks[ids[0]], ids[3]: tasks[ids[4]]}
    assert list(without_tasks(tasks, again)) == [ids[1], ids[2]]
    assert without_tasks(tasks, {}) == tasks


def test_a_test_pair_in_other_colours_is_one_of_a_training_task(training_tasks, evaluation_tasks):
    (test,) = evaluation_tasks["50a16a69"].test
    recoloured = Augmentation(colors="0126385749")
    assert Pair(*map(recoloured.apply_grid, (test.input, test.output))) in {
        *training_tasks["caa06a1f"].train,
        *training_tasks["caa06a1f"].test,
    }


@settings(max_examples=30)
@given(st.data())
def test_a_test_pair_is_recognised_however_it_is_turned_and_recoloured(evaluation_tasks, data):
    ids = data.draw(st.lists(st.sampled_from(sorted(evaluation_tasks)), min_size=1, max_size=3))
    tasks = {task_id: evaluation_tasks[task_id] for task_id in ids}
    test = data.draw(st.sampled_from(tasks[ids[0]].test))
    view = Augmentation(
        data.draw(st.booleans()),
        data.draw(st.integers(0, 3)),
        tuple(data.draw(st.permutations(range(10)))),
    )
    turned = Pair(*map(view.apply_grid, (test.input, test.output)))
    assert recognize_tests(tasks)(turned)


# A user's own sources ----------------------------------------------------------------------------


def test_a_folder_and_a_file_of_tasks_give_every_known_pair(training_tasks, tmp_path):
    tasks = dict(list(training_tasks.items())[:2])
    file = save_tasks(tasks, tmp_path / "tasks.json")
    folder = tmp_path / "folder"
    folder.mkdir()
    for task_id in tasks:
        (folder / f"{task_id}.json").write_text(json.dumps(json.loads(file.read_text())[task_id]))
    for path in (file, folder, str(folder)):
        source = load_source(path, weight=2, rule_change=0.5)
        assert source == Source(str(path), all_pairs(tasks), 2, 0.5)


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.jsonl.gz"])
def test_pairs_are_read_from_json_lines(name, tmp_path):
    opener = gzip.open if name.endswith("gz") else open
    with opener(tmp_path / name, "wt") as file:
        file.write('{"task_id": "a", "pairs": [["01", "1"]]}\n')
    ((pair,),) = load_source(tmp_path / name).pairs.values()
    assert (format_grid(pair.input), format_grid(pair.output)) == ("01", "1")


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="arc-agi-3/training is neither .*arc-agi-1"):
        load_source("arc-agi-3/training")
    with pytest.raises(FileNotFoundError, match="none.jsonl"):
        load_source(tmp_path / "none.jsonl")
    (tmp_path / "tasks.json").write_text('{"a": {"train": []}}')
    with pytest.raises(ValueError, match="tasks.json: task a: 'train' must be"):
        load_source(tmp_path / "tasks.json")


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"weight": -1}, "source a: weight must be at least 0, got -1"),
        ({"weight": float("nan")}, "source a: weight must be at least 0, got nan"),
        ({"weight": float("inf")}, "source a: weight must be at least 0, got inf"),
        ({"rule_change": 1.5}, "source a: rule_change must be 0 to 1, got 1.5"),
        ({"rule_change": float("nan")}, "source a: rule_change must be 0 to 1, got nan"),
    ],
)
def test_a_bad_value_of_a_source_is_refused(values, fault):
    with pytest.raises(ValueError, match=fault):
        Source("a", {}, **values)


# Mixtures ----------------------------------------------------------------------------------------


def test_a_mixture_is_read_as_it_is_written_on_a_command_line(tmp_path):
    path = tmp_path / "my pairs=1.jsonl"
    path.write_text('{"task_id": "a", "pairs": [["01", "1"]]}\n')
    parts = ["arc-agi-1/evaluation=0.3", f"{path}=2:0.25"]
    sources = parse_mixture(parts)
    assert [source.name for source in sources] == ["arc-agi-1/evaluation", str(path)]
    assert [source.weight for source in sources] == [0.3, 2]
    assert [source.rule_change for source in sources] == [0, 0.25]
    assert parse_mixture(f"{parts[0]}  '{parts[1]}'") == sources
    assert list(sources[1].pairs) == ["a"]


@pytest.mark.parametrize(
    ("mixture", "fault"),
    [
        ("arc-agi-1/training", "'arc-agi-1/training' is no part of a mixture: it must be NAME=W"),
        ("arc-agi-1/training=", "'arc-agi-1/training=' is no part"),
        ("arc-agi-1/training=much", "'arc-agi-1/training=much' is no part"),
        ("arc-agi-1/training=0", "weight above 0"),
        ("arc-agi-1/training=-1", "weight above 0"),
        ("arc-agi-1/training=nan", "weight above 0"),
        ("arc-agi-1/training=inf", "arc-agi-1/training: weight must be at least 0, got inf"),
        ("=1", "'=1' is no part"),
        ("arc-agi-1/training=1:0.5:0.5", "is no part"),
        ("arc-agi-1/training=1:half", "is no part"),
        ("arc-agi-1/training=1:2", "arc-agi-1/training: rule_change must be 0 to 1, got 2"),
        ("", "at least one part"),
        ([], "at least one part"),
    ],
)
def test_a_malformed_mixture_is_refused_by_name(mixture, fault):
    with pytest.raises(ValueError, match=fault):
        parse_mixture(mixture)


# Streams with changed rules ----------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_examples_with_another_rule_is_as_asked(pairs, make_stream, share):
    stream = make_stream([Source("training", pairs, rule_change=share)], max_tokens=1000)
    changed = np.mean([stream[i].rule_change != "unchanged" for i in range(400)])
    assert 0.85 * share - 0.05 <= changed <= share + 0.05  # some do not fit the token limit


def test_each_source_has_its_own_share(pairs, make_stream):
    bag = {
        "a": [Pair(np.full((1, 2), i, np.int8), np.full((1, 2), 9 - i, np.int8)) for i in (1, 2)]
    }
    stream = make_stream([Source("still", bag), Source("training", pairs, rule_change=1.0)])
    still = [e for e in (stream[i] for i in range(100)) if len(e.token_ids) < 40]
    assert still and {e.rule_change for e in still} == {"unchanged"}
    assert any(stream[i].rule_change != "unchanged" for i in range(20))


@pytest.mark.parametrize("max_tokens", [120, 300])
def test_examples_with_another_rule_keep_the_token_limit(pairs, make_stream, max_tokens):
    stream = make_stream([Source("training", pairs, rule_change=1.0)], max_tokens=max_tokens)
    examples = [stream[i] for i in range(200)]
    assert max(len(example.token_ids) for example in examples) <= max_tokens
    keys = {example.rule_change for example in examples}
    assert len(keys) > 20
    assert all(str(RuleChange.parse(key)) == key for key in keys)


def test_a_stream_with_rule_changes_is_the_same_from_any_position(pairs, make_stream):
    sources = [Source("training", pairs, rule_change=0.5)]
    stream, again = make_stream(sources), make_stream(sources)
    assert [stream[i] for i in range(20)] == [again[i] for i in reversed(range(20))][::-1]
    other = make_stream(sources, seed=1)
    assert [stream[i] for i in range(20)] != [other[i] for i in range(20)]


# The token limit ---------------------------------------------------------------------------------


def square(color, side=3):
    return np.full((side, side), color, np.int8)


class TwoTokensACharacter:
    """A tokenizer with a chat template, to which every character is two tokens."""

    chat_template = "yes"

    def encode(self, text, **options):
        return [0, 1] * len(text)

    def apply_chat_template(self, chat, **options):
        return "".join(f"<{message['role']}>{message['content']}" for message in chat)


FORMATS = {
    "plain": tiny_prompt_format(),
    "fence": PromptFormat(template=ChatTemplate(intro="?", system="")),
    "json": PromptFormat(make_encoder(["json"]), ChatTemplate(intro="?", prefill="")),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_tokens_of_an_example_are_told_from_the_shapes_of_its_grids(name, training_tasks):
    sizes = ExampleSizes(FORMATS[name], TwoTokensACharacter())
    for task in list(training_tasks.values())[:30]:
        example = tokenize(task, FORMATS[name], TwoTokensACharacter())
        assert sizes.example([*task.train, task.test[0]]) == len(example.token_ids)


def test_a_task_is_admitted_by_the_tokens_of_the_format_and_the_tokenizer(training_tasks):
    tasks = demonstrations(dict(list(training_tasks.items())[:60]))
    for prompt_format in FORMATS.values():
        source, tokenizer = Source("training", tasks), TwoTokensACharacter()
        stream = ExampleStream([source], prompt_format, tokenizer, max_tokens=1500)
        (kept,) = stream.sources
        assert 0 < len(stream.left_out) < len(tasks)
        assert set(stream.left_out) == set(tasks) - set(kept.pairs)
        for pairs in kept.pairs.values():  # any two of them make an example
            longest = sorted(pairs, key=stream.sizes.pair)[-2:]
            example = tokenize(Task("", *((pair,) for pair in longest)), prompt_format, tokenizer)
            assert len(example.token_ids) <= 1500
        assert max(len(stream[i].token_ids) for i in range(50)) <= 1500


def test_a_source_of_which_nothing_fits_tells_the_limit_that_would_do(make_stream):
    bag = {"a": [Pair(square(1), square(2)), Pair(square(3), square(4))]}
    assert len(make_stream([Source("s", bag)], max_tokens=54)[0].token_ids) == 54
    with pytest.raises(ValueError, match="source s: .* max_tokens=53 .*; from 54 on some do"):
        make_stream([Source("s", bag)], max_tokens=53)
    with pytest.raises(ValueError, match="source s: no two pairs of a task to learn from"):
        make_stream([Source("s", {"a": bag["a"][:1]})])


def test_an_estimate_that_is_too_low_is_an_error_and_no_endless_search(make_stream):
    bag = {"a": [Pair(square(1), square(2)), Pair(square(3), square(4))]}
    stream = make_stream([Source("s", bag)], max_tokens=54)
    encode = stream.tokenizer.encode
    stream.tokenizer = SimpleNamespace(encode=lambda text, **options: 2 * encode(text, **options))
    with pytest.raises(ValueError, match="no example fits 54 tokens of this tokenizer"):
        stream[0]


def test_sources_without_any_weight_are_refused(pairs, make_stream):
    with pytest.raises(ValueError, match="total weight above 0"):
        make_stream([Source("training", pairs, weight=0)])
