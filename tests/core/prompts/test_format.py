"""The prompt of a view, and the grid or the status of a reply."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from arc_airv.grids import as_grid, format_grid, same_grid
from arc_airv.prompts.encoders import STATUSES, make_encoder
from arc_airv.prompts.format import ChatTemplate, PlainTemplate, PromptFormat, max_output_cells
from arc_airv.tasks import Pair, Task, hide_outputs, load_tasks

shapes = array_shapes(min_dims=2, max_dims=2, max_side=30)
grids = arrays(np.int8, shapes, elements=st.integers(0, 9))

BARE = PromptFormat(make_encoder(["minimal"]), PlainTemplate())
CHAT = PromptFormat()
LETTERS = PromptFormat(make_encoder(["column_letter", "minimal"]), PlainTemplate())
SYMBOLS = PromptFormat(make_encoder(["row_number", "replace_number", "minimal"]), PlainTemplate())
NO_PREFILL = PromptFormat(template=ChatTemplate(prefill=""))
SYSTEMLESS = PromptFormat(make_encoder(["grid_code_block", "minimal"]), ChatTemplate(system=""))
JSON = PromptFormat(make_encoder(["json"]), ChatTemplate(prefill=""))
PREAMBLE = PromptFormat(make_encoder(["json"]), PlainTemplate(preamble="Puzzles.\n"))
FORMATS = {"bare": BARE, "JSON": JSON, "preamble": PREAMBLE,
           "letters": LETTERS, "symbols": SYMBOLS, "chat": CHAT,
           "no prefill": NO_PREFILL, "no system": SYSTEMLESS}  # fmt: skip
every_format = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)

TASK = Task(
    "22806e14",
    (Pair(as_grid([[1, 2]]), as_grid([[3]])), Pair(as_grid([[4]]), as_grid([[5], [6]]))),
    (Pair(as_grid([[7]]), as_grid([[8, 9]])), Pair(as_grid([[0]]))),
)
ROLES = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + ROLES
)


def make_tokenizer(chat_template):
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=model)
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(ROLES)


# Prompts -----------------------------------------------------------------------------------------


def test_a_plain_prompt_is_exactly_this():
    demonstrations = "<in>12<out>3<end><in>4<out>5\n6<end>"
    assert BARE.render(TASK) == demonstrations + "<in>7<out>"
    assert BARE.render(TASK, 1) == demonstrations + "<in>0<out>"
    assert BARE.render_answer(TASK.test[0].output) == "89<end>"


def test_a_preamble_may_name_the_task_whose_first_answer_is_learnt_then():
    named = PromptFormat(make_encoder(["minimal"]), PlainTemplate(preamble="<{task_id}>"))
    pair = Pair(as_grid([[1]]), as_grid([[2]]))
    task = Task("007bbfb7", (pair,), (pair,))
    assert named.render(task) == "<007bbfb7><in>1<out>2<end><in>1<out>"
    assert PromptFormat.from_dict(named.to_dict()) == named
    answers = [segment.text for segment in named.training_segments(task) if segment.is_answer]
    assert answers == ["2<end>", "2<end>"]
    without = replace(task, train=())
    assert named.render(without) == "<007bbfb7><in>1<out>"


def test_a_preamble_stands_before_the_first_pair():
    format = PromptFormat(make_encoder(["minimal"]), PlainTemplate(preamble="Go: "))
    assert format.render(TASK) == "Go: " + BARE.render(TASK)
    assert format.to_dict()["template"]["preamble"] == "Go: "
    # Stores that are older than the preamble can be resumed.
    assert "preamble" not in BARE.to_dict()["template"]


def test_a_chat_prompt_is_exactly_this(tokenizer):
    format = PromptFormat(template=ChatTemplate(system="Be good.", intro="Solve it."))
    assert format.render(TASK, tokenizer=tokenizer) == (
        "<system>Be good.</system><user>Solve it.\n\n"
        "## Example 1\n\n### Input\n\n```grid shape: 1x2\n1 12\n```\n\n"
        "### Output\n\n```grid shape: 1x1\n1 3\n```\n\n"
        "## Example 2\n\n### Input\n\n```grid shape: 1x1\n1 4\n```\n\n"
        "### Output\n\n```grid shape: 2x1\n1 5\n2 6\n```\n\n"
        "## Test case\n\n### Input\n\n```grid shape: 1x1\n1 7\n```</user>"
        "<assistant>### Output\n\n```grid"
    )


def test_a_template_without_system_role_gets_the_system_text_in_the_question(tokenizer):
    prompt = CHAT.render(TASK, tokenizer=make_tokenizer(NO_SYSTEM))
    assert prompt.startswith("<user>You are a helpful assistant.\n\nLet's see")
    assert SYSTEMLESS.render(TASK, tokenizer=tokenizer).startswith("<user>Let's see")


ANY_WORDS = {
    "only some roles": "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('Unknown role!') }}{% endif %}{% endfor %}",
    "alternation": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate: user, assistant') }}{% endif %}{% endfor %}",
    "left out": "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}",
}


@pytest.mark.parametrize("refusal", ANY_WORDS.values(), ids=ANY_WORDS)
def test_a_system_text_that_is_refused_in_any_words_is_in_the_question(refusal):
    prompt = CHAT.render(TASK, tokenizer=make_tokenizer(refusal + ROLES))
    assert prompt.startswith("<user>You are a helpful assistant.\n\nLet's see")
    assert prompt.count("You are a helpful") == 1


THINKS = ROLES.replace(
    "<assistant>",
    "<assistant><think>\n{% if enable_thinking is false %}\n</think>\n\n{% endif %}",
)


def test_nothing_is_prefilled_inside_an_open_thought():
    prompt = CHAT.render(TASK, tokenizer=make_tokenizer(THINKS))
    assert prompt.endswith("</user><assistant><think>\n")


def test_options_reach_the_chat_template_and_are_kept(tmp_path):
    format = PromptFormat(template=ChatTemplate(options={"enable_thinking": False}))
    prompt = format.render(TASK, tokenizer=make_tokenizer(THINKS))
    assert prompt.endswith("<think>\n</think>\n\n### Output\n\n```grid")
    format.save(tmp_path)
    assert PromptFormat.load(tmp_path) == format
    assert hash(PromptFormat.load(tmp_path)) == hash(format)
    assert "options" not in CHAT.to_dict()["template"]


@pytest.mark.parametrize(
    "options",
    [{"options": None}, {"options": {"tokenize": True}}, {"options": {"": 1}}, {"prefill": None},
     {"thinking_tokens": -1}, {"thinking_tokens": "9"}],
)  # fmt: skip
def test_a_chat_template_refuses_nonsense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ChatTemplate(**options)


def test_another_fault_of_a_chat_template_is_not_swallowed():
    broken = make_tokenizer("{{ raise_exception('no such luck') }}")
    with pytest.raises(Exception, match="no such luck"):
        CHAT.render(TASK, tokenizer=broken)


def test_a_chat_prompt_needs_a_tokenizer_with_a_chat_template():
    for tokenizer in (None, make_tokenizer(None)):
        with pytest.raises(ValueError, match="needs a tokenizer with a chat template"):
            CHAT.render(TASK, tokenizer=tokenizer)


@every_format
def test_a_prompt_holds_no_test_output(format, tokenizer):
    hidden = hide_outputs({"": TASK})[""]
    prompt = format.render(TASK, tokenizer=tokenizer)
    assert prompt == format.render(hidden, tokenizer=tokenizer)


def test_there_is_no_prompt_for_a_test_pair_that_is_not_there():
    for test_index in (-1, len(TASK.test)):
        with pytest.raises(ValueError, match=f"there is none {test_index}"):
            BARE.render(TASK, test_index)


@pytest.mark.parametrize("marks", [{"end_mark": ""}, {"input_mark": 5}, {"preamble": None}])
def test_a_mark_that_cannot_be_found_is_refused(marks):
    with pytest.raises(ValueError, match="must be a string"):
        PlainTemplate(**marks)


def test_only_a_block_may_have_begun_in_the_prefill():
    """Cut nothing from a bare grid, although its first symbol is the prefill's last letter."""
    letters = make_encoder([{"name": "replace_number", "symbols": "abcdefghij"}, "minimal"])
    format = PromptFormat(letters, ChatTemplate())
    assert format.template.prefill.endswith("d")
    assert format.render_answer(as_grid([[3, 1], [2, 3]])) == "db\ncd"


def test_prompt_and_answer_join_without_a_second_fence(tokenizer):
    answer = CHAT.render_answer(TASK.test[0].output)
    assert answer == " shape: 1x2\n1 89\n```"
    joined = CHAT.render(TASK, tokenizer=tokenizer) + answer
    assert joined.endswith("<assistant>### Output\n\n```grid shape: 1x2\n1 89\n```")
    assert NO_PREFILL.render_answer(as_grid([[8]])) == "```grid shape: 1x1\n1 8\n```"


@every_format
def test_training_segments_join_to_prompt_and_answer(format, tokenizer):
    segments = format.training_segments(TASK, tokenizer=tokenizer)
    answer = format.render_answer(TASK.test[0].output)
    joined = "".join(segment.text for segment in segments)
    assert joined == format.render(TASK, tokenizer=tokenizer) + answer
    assert segments[-1] == (answer, True)


def test_a_plain_format_also_trains_on_the_demonstrations_after_the_first():
    segments = BARE.training_segments(TASK)
    assert [s.text for s in segments if s.is_answer] == ["5\n6<end>", "89<end>"]


def test_a_hidden_output_cannot_be_trained_on():
    with pytest.raises(ValueError, match="task 22806e14: test output 1 is hidden"):
        BARE.training_segments(TASK, 1)


# Replies -----------------------------------------------------------------------------------------


@every_format
def test_the_answer_to_a_prompt_parses_to_its_grid(format):
    @settings(max_examples=15)
    @given(grids, st.sampled_from(["stop", None]))
    def check(grid, finish_reason):
        reply = format.render_answer(grid)
        parsed = format.parse(reply, finish_reason)
        assert parsed.status == "ok"
        assert same_grid(parsed.grid, grid)
        for stop in format.stop:  # an engine omits the stop string
            assert same_grid(format.parse(reply.removesuffix(stop), "stop").grid, grid)

    check()


def test_no_reply_is_no_grid():
    assert BARE.parse(None) == CHAT.parse(None) == (None, "unparsed")


@pytest.mark.parametrize("stopped", ["stop", "length", None])
@every_format
def test_parse_never_raises(format, stopped):
    long = "1" * 5000  # more digits than Python converts to an int
    pieces = ["```", "grid", " shape: 2x2", "1 01", "01", "\n", "0a1b", "<end>", long, f"{long} 1"]
    pieces += [f"shape: {long}x2\n"]

    @settings(max_examples=25)
    @given(st.text() | st.lists(st.sampled_from(pieces) | st.text(max_size=3)).map("".join))
    def check(reply):
        grid, status = format.parse(reply, stopped)
        assert status in STATUSES
        assert (status == "ok") == (grid is not None)

    check()


SHAPE = " shape: 2x2\n1 01\n2 23"


@pytest.mark.parametrize(
    ("format", "reply", "stop", "length", "unknown"),
    [
        # whole, whatever the engine says
        (CHAT, SHAPE + "\n```", "ok", "ok", "ok"),
        (BARE, "01\n23<end>", "ok", "ok", "ok"),
        (BARE, "01\n23\nDone.\n", "ok", "ok", "ok"),
        # without its closing mark, whole only if the model stopped by itself
        (CHAT, SHAPE, "ok", "truncated", "truncated"),
        (BARE, "01\n23", "ok", "truncated", "ok"),
        (BARE, "01\n2", "ragged", "truncated", "ragged"),
        (CHAT, " shape: 2x2\n1 01", "ragged", "truncated", "ragged"),
        (LETTERS, "0a1b\n2", "ok", "truncated", "ok"),
        # nothing yet
        (BARE, "", "unparsed", "truncated", "unparsed"),
        (CHAT, "I think that", "unparsed", "truncated", "unparsed"),
        # no further text can complete these
        (CHAT, SHAPE.replace("2x2", "3x2") + "\n```", "ragged", "ragged", "ragged"),
        (CHAT, SHAPE.replace("2 23", "9 23"), "ragged", "ragged", "ragged"),
        (BARE, "0\n" * 31, "too_large", "too_large", "too_large"),
        (BARE, "sorry<end>01", "unparsed", "unparsed", "unparsed"),
    ],
)
def test_the_status_depends_on_why_the_reply_ended(format, reply, stop, length, unknown):
    assert format.parse(reply, "stop").status == stop
    assert format.parse(reply, "length").status == length
    assert format.parse(reply, "abort").status == length  # or any word that is not "stop"
    assert format.parse(reply).status == unknown


@every_format
def test_a_reply_that_was_cut_is_never_taken_for_a_smaller_grid(format):
    grid = as_grid(np.arange(36).reshape(12, 3) % 10)
    answer = format.render_answer(grid)
    for end in range(len(answer)):
        parsed = format.parse(answer[:end], "length")
        assert parsed.grid is None or same_grid(parsed.grid, grid)
        assert parsed.status in ("ok", "truncated")


def test_text_around_the_answer_is_passed_over():
    grid, status = CHAT.parse(f"### Output\n\n```grid{SHAPE}\n```\nHope this helps!", "length")
    assert (format_grid(grid), status) == ("01|23", "ok")


# The format of a model ---------------------------------------------------------------------------


@every_format
def test_a_model_folder_carries_its_format(format, tmp_path):
    assert PromptFormat.load(tmp_path) is None
    assert format.save(tmp_path) == tmp_path / "prompt_format.json"
    assert PromptFormat.load(tmp_path) == format


PLAIN = {"name": "plain"}


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "Expecting"),
        ("[]", "'encoder' and 'template'"),
        ({"encoder": ["minimal"]}, "'encoder' and 'template'"),
        ({"encoder": ["minimal"], "template": PLAIN, "x": 1}, "'encoder' and 'template'"),
        ({"encoder": ["base_64"], "template": PLAIN}, "unknown encoder 'base_64'"),
        ({"encoder": "minimal", "template": PLAIN}, "list of names"),
        ({"encoder": ["minimal"], "template": "plain"}, "a template is an object"),
        ({"encoder": ["minimal"], "template": {"name": "fancy"}}, "unknown template 'fancy'"),
        ({"encoder": ["minimal"], "template": {"name": ["plain"]}}, "unknown template"),
        ({"encoder": ["minimal"], "template": {**PLAIN, "prefill": ""}}, "'prefill'"),
    ],
)
def test_a_malformed_format_file_is_refused_by_path_and_fault(tmp_path, content, fault):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "prompt_format.json").write_text(text)
    with pytest.raises(ValueError, match=rf"prompt_format\.json: .*{fault}"):
        PromptFormat.load(tmp_path)


# The token budget --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["arc-agi-1/training", "arc-agi-1/evaluation"])
def test_max_output_cells_is_never_less_than_the_output(source):
    for task in load_tasks(source).values():
        for i, pair in enumerate(task.test):
            assert pair.output.size <= max_output_cells(task, i) <= 900
