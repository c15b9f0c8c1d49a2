"""Each kind of model of docs/your-model.md: its prompt to the letter, and a random one asked."""

import ast
import re
import warnings
from pathlib import Path

import pytest

from arc_airv.prompts import STATUSES, PromptFormat
from arc_airv.records import OK, TRUNCATED, read_predictions
from arc_airv.tasks import Pair, Task

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from arc_airv.engines import TransformersEngine  # noqa: E402
from arc_airv.infer import generate_predictions  # noqa: E402
from arc_airv.training.examples import ExampleSizes, tokenize  # noqa: E402
from arc_airv.training.tiny import build_model  # noqa: E402

PAGE = (Path(__file__).parents[2] / "docs" / "your-model.md").read_text()
(CODE,) = re.findall(r"^FORMATS = (\{.*?^\})$", PAGE, re.MULTILINE | re.DOTALL)
FORMATS = {name: PromptFormat.from_dict(d) for name, d in ast.literal_eval(CODE).items()}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = CHAT.replace("assistant\n", "assistant\n<think>\n")
SWITCHED = CHAT.replace(
    "assistant\n", "assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>", "</s>")
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghjklmnpqrstuvwxyz"
# The end of each prompt, and the reply of a perfect model; its answer is 5 over 6.
EXPECTED = {
    "chat": (CHAT, "[[1,2]]<|im_end|>\n<|im_start|>assistant\n", "[[5],[6]]"),
    "reasoning": (
        THINKING,
        "[[1,2]]<|im_end|>\n<|im_start|>assistant\n<think>\n",
        "It may be [[1]].\n</think>\n[[5],[6]]",
    ),
    "no thought": (SWITCHED, "<think>\n\n</think>\n\n", "[[5],[6]]"),
    "base": (None, "Input:\n1 2\nOutput:\n", "5\n6\n\n"),
    "arc24": (
        CHAT,
        "### Input\n\n```grid shape: 1x2\n1 12\n```<|im_end|>\n<|im_start|>assistant\n"
        "### Output\n\n```grid",
        " shape: 2x1\n1 5\n2 6\n```",
    ),
    "ARChitects": (None, f"{LETTERS}I34\n+/-=O4\n</s>I12\n+/-=O", "5\n6\n</s>"),
    "NVARC": (
        None,
        "<|im_start|>user\n34<|im_end|><|im_start|>assistant\n4<|im_end|>"
        "<|im_start|>user\n12<|im_end|><|im_start|>assistant\n",
        "5\n6<|im_end|>",
    ),
}


def grid(*rows):
    import numpy as np

    return np.array(rows, dtype=np.int8)


TASK = Task(
    "a",
    (Pair(grid([3, 4]), grid([4])),),
    (Pair(grid([1, 2]), grid([5], [6])),),
)


def make_tokenizer(chat_template):
    """Make a tokenizer with a token for each character, and those that end a turn."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", *SPECIAL, "\n", *map(chr, range(32, 127))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="</s>" if chat_template is None else "<|im_end|>",
        pad_token="<pad>",
        unk_token="<pad>",
        additional_special_tokens=list(SPECIAL),
        clean_up_tokenization_spaces=False,
        chat_template=chat_template,
    )


def test_the_page_has_a_row_for_each_format():
    assert list(FORMATS) == list(EXPECTED)
    assert all(f'`"{name}"`' in PAGE for name in FORMATS)


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_model_of_this_kind_is_asked_read_and_trained(kind, tmp_path):
    chat_template, end, reply = EXPECTED[kind]
    prompt_format, tokenizer = FORMATS[kind], make_tokenizer(chat_template)
    prompt = prompt_format.render(TASK, tokenizer=tokenizer)
    assert prompt.endswith(end)
    read = prompt_format.read(reply, "stop", prompt=prompt)
    assert read.status == OK and read.grid.tolist() == [[5], [6]]
    # An engine leaves the special tokens out.
    for token in SPECIAL:
        reply = reply.replace(token, "")
    assert prompt_format.read(reply, "stop", prompt=prompt).grid.tolist() == [[5], [6]]
    assert prompt_format.read("1\n0", "length", prompt=prompt).status in (TRUNCATED, "unparsed")
    example = tokenize(TASK, prompt_format, tokenizer)
    sizes = ExampleSizes(prompt_format, tokenizer)
    assert sizes.example([*TASK.train, *TASK.test]) == len(example.token_ids)
    torch.manual_seed(0)
    network = build_model(tokenizer, width=32, layers=1, heads=2, context=4096)
    network.generation_config.eos_token_id = tokenizer.eos_token_id
    engine = TransformersEngine(network.eval(), tokenizer=tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate_predictions(
            {"a": TASK},
            engine,
            n_predictions=2,
            seed=0,
            store=tmp_path / "p.jsonl",
            prompt_format=prompt_format,
            progress=False,
        )
    predictions = read_predictions(tmp_path / "p.jsonl")
    assert len(predictions) == 2 and set(predictions["status"]) <= set(STATUSES)
