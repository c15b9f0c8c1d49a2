"""What a model is asked and how long it may answer: chat, base and reasoning models."""

import warnings

import pytest

from arc_airv.engines.base import Completion, Engine, Sampling
from arc_airv.engines.local import LocalEngine
from arc_airv.grids import as_grid
from arc_airv.infer.generate import generate_predictions
from arc_airv.prompts import ChatTemplate, PlainTemplate, PromptFormat, make_encoder
from arc_airv.records import read_predictions
from arc_airv.storage import read_run
from arc_airv.tasks import Pair, Task

GRID = as_grid([[2, 0], [0, 2]])
TASK = Task("22806e14", (Pair(GRID, GRID),), (Pair(as_grid([[1, 0], [0, 1]])),))
THOUGHT = "Maybe\n10\n01\n```\n[[1, 0], [0, 1]]\n```\n</think>\n\n20\n02"


class ChatTokenizer:
    """A chat template that begins a thought, or none."""

    def __init__(self, thinks):
        self.chat_template = "there is one"
        self.begin = "<assistant><think>\n" if thinks else "<assistant>"

    def apply_chat_template(self, messages, *, enable_thinking=True, **_):
        text = "".join(message["content"] for message in messages)
        return text + (self.begin if enable_thinking else "<assistant>")


class Chatter(Engine):
    """Says the same to all, and keeps what it was asked; one token a character."""

    model = "chatter"

    def __init__(self, reply, thinks=False, chat=True, own=None):
        self.reply, self.prompt_format = reply, own
        self.tokenizer = ChatTokenizer(thinks) if chat else None
        self.asked = []

    def count_tokens(self, prompts):
        return list(map(len, prompts))

    def generate(self, prompts, sampling):
        self.asked += [(prompt, sampling) for prompt in prompts]
        text = self.reply[: sampling.max_tokens]
        reason = "stop" if len(text) == len(self.reply) else "length"
        return [[Completion(text, len(text), -1.0, reason)] for _ in prompts]


def ask(engine, store, **options):
    generate_predictions({TASK.task_id: TASK}, engine, n_predictions=1, seed=0, store=store,
                         progress=False, **options)  # fmt: skip
    (record,) = read_predictions(store).to_dict("records")
    return record


def chat(**options):
    return PromptFormat(make_encoder(["minimal"]), ChatTemplate(**options))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "predictions.jsonl"


def test_a_thought_has_tokens_of_its_own_and_is_not_the_answer(store):
    engine = Chatter(THOUGHT, thinks=True)
    format = PromptFormat(template=ChatTemplate(thinking_tokens=500))
    record = ask(engine, store, prompt_format=format)
    (prompt, sampling), = engine.asked  # fmt: skip
    assert prompt.endswith("<think>\n")
    assert sampling.stop == ()  # a fence is no end of a thought
    assert sampling.max_tokens > 500
    assert (record["grid"], record["status"], record["n_grids"]) == ("20|02", "ok", 1)


def test_a_thought_that_does_not_end_within_its_tokens_is_truncated(store):
    record = ask(
        Chatter("Hm\n10\n01\n" * 500, thinks=True),
        store,
        prompt_format=chat(thinking_tokens=200),
    )
    assert record["status"] == "truncated"


def test_an_answer_that_is_begun_leaves_no_room_for_a_thought(store):
    engine = Chatter(" shape: 2x2\n1 20\n2 02\n```", thinks=True)
    options = {"enable_thinking": False}
    format = PromptFormat(template=ChatTemplate(options=options, thinking_tokens=9000))
    assert ask(engine, store, prompt_format=format)["grid"] == "20|02"
    (prompt, sampling), = engine.asked  # fmt: skip
    assert prompt.endswith("```grid")
    assert sampling.stop == ("\n```",)
    assert sampling.max_tokens < 9000


def test_a_thought_without_tokens_of_its_own_is_a_warning(store):
    with pytest.warns(UserWarning, match=r"begins a thought.*thinking_tokens.*enable_thinking"):
        ask(Chatter(THOUGHT, thinks=True), store, prompt_format=chat())


def test_an_open_thought_is_known_from_the_prompt_alone(store):
    record = ask(Chatter("10\n01", thinks=True), store, prompt_format=chat(thinking_tokens=99))
    assert (record["grid"], record["status"]) == (None, "unparsed")


def test_max_tokens_are_kept_to_and_said_to_be_few(store, tmp_path):
    with pytest.warns(UserWarning, match=r"Sampling\(max_tokens=4\) is less than the \d+ tokens"):
        record = ask(Chatter("20\n02"), store, prompt_format=chat(prefill=""),
                     sampling=Sampling(max_tokens=4))  # fmt: skip
    assert record["n_tokens"] == 4
    assert record["status"] == "truncated"
    engine = Chatter("20\n02")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = tmp_path / "other.jsonl"
        ask(engine, other, prompt_format=chat(prefill=""), sampling=Sampling(max_tokens=700))
    assert engine.asked[0][1].max_tokens == 700
    assert read_run(other)["settings"]["sampling"]["max_tokens"] == 700
    assert "max_tokens" not in Sampling().settings()  # stores of before can be resumed


@pytest.mark.parametrize(
    ("has_chat", "fallback"), [(True, "no chat template"), (False, "a chat template")]
)
def test_a_model_without_a_format_is_a_warning_with_the_fallback(store, has_chat, fallback):
    engine = Chatter("1", chat=has_chat)
    with pytest.warns(UserWarning, match=r"no prompt_format\.json.*'encoder'.*save\(folder\)") as w:
        ask(engine, store)
    assert fallback not in str(w[0].message)
    used = PromptFormat.from_dict(read_run(store)["settings"]["prompt_format"])
    assert used == PromptFormat(template=ChatTemplate() if has_chat else PlainTemplate())


def test_a_format_may_be_given_as_its_json(store):
    format = PromptFormat(make_encoder(["json"]), PlainTemplate(preamble="Go.\n"))
    engine = Chatter("[[2,0],[0,2]]<end>", chat=False)
    record = ask(engine, store, prompt_format=format.to_dict())
    assert record["grid"] == "20|02"
    assert engine.asked[0][0].startswith("Go.\n<in>[[2,0],[0,2]]<out>")


class Ending:
    """A tokenizer of characters that appends its end token to what it is given, as T5's does."""

    bos_token, eos_token_id, sep_token_id = None, 1, None

    def encode(self, text, *, add_special_tokens=True):
        text = text.removesuffix("</s>")
        return list(map(ord, text)) + [1] * add_special_tokens

    def convert_ids_to_tokens(self, token):
        return "</s>"


def test_an_end_token_that_a_tokenizer_appends_to_a_prompt_is_left_out_and_told_once():
    engine = LocalEngine()
    engine.tokenizer = Ending()
    with pytest.warns(UserWarning, match="appends its end token") as caught:
        assert engine.encode(["ab", "cd"]) == [[97, 98], [99, 100]]
        assert engine.count_tokens(["abc"]) == [3]
    assert len(caught) == 1
    assert engine.encode(["ab</s>"]) == [[97, 98, 1]]  # it was written
