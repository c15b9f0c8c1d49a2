"""A tiny causal language model for ARC prompts: its tokenizer and its blank Qwen3 network.

The vocabulary is complete for one prompt format: a token for each (colour, column), one for each
row number, and three marks. A grid of h x w costs h * (w + 1) tokens, and every token says
where it stands. The result is an ordinary Hugging Face model, without code of its own.
"""

import itertools
import re
from collections.abc import Iterable
from itertools import product
from operator import attrgetter, itemgetter
from typing import Any

from arc_airv.grids import MAX_SIDE, N_COLORS
from arc_airv.prompts import PlainTemplate, PromptFormat, make_encoder
from arc_airv.prompts.encoders import COLUMN_LETTERS
from arc_airv.prompts.format import TASK_ID

PAD = "<pad>"
NEWLINE = "\n"
CELL = r"\n?\d[a-zA-D]{1,2}"  # a colour, the letter of its row or none, and that of its column


def tiny_prompt_format(*, rows: bool = False, task_ids: bool = False) -> PromptFormat:
    """Return the format of the models trained from scratch: row numbers, column letters, marks.

    With `rows`, a cell has the letter of its row and there are no row numbers; with `task_ids`, a
    prompt begins with its task's id, such as ``<007bbfb7>``.
    """
    cells = [{"name": "column_letter", "rows": True}] if rows else ["row_number", "column_letter"]
    preamble = f"<{TASK_ID}>" if task_ids else ""
    return PromptFormat(make_encoder([*cells, "minimal"]), PlainTemplate(preamble=preamble))


def build_tokenizer(*, rows: bool = False, task_ids: Iterable[str] = ()) -> Any:
    """Build the tokenizer of a `tiny_prompt_format`, as a Hugging Face fast tokenizer.

    A row number is one token with its newline before and its space after ("\\n2 "), a cell is one
    token with its column letter ("5c"). With `rows` a cell is one token with both its letters, and
    with the newline before it: 9,000 tokens, and a grid of h x w costs h * w. Each of `task_ids`
    has a token; any other is the padding token, which then says that the task is unknown.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = PlainTemplate()
    if rows:
        numbers = []
        cells = [
            f"{NEWLINE if row != 'a' and column == 'a' else ''}{color}{row}{column}"
            for color, row, column in product(range(N_COLORS), COLUMN_LETTERS, COLUMN_LETTERS)
        ]
    else:
        numbers = ["1 ", *(f"\n{i} " for i in range(2, MAX_SIDE + 1))]
        cells = [f"{color}{letter}" for color, letter in product(range(N_COLORS), COLUMN_LETTERS)]
    tasks = [f"<{task_id}>" for task_id in task_ids]
    words = [PAD, marks.input_mark, marks.output_mark, marks.end_mark, *numbers, *cells, *tasks]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=PAD))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(rf"<\w*>|\n?\d+ |{CELL}"), behavior="isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=marks.end_mark,
        pad_token=PAD,
        unk_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: Any,
    *,
    width: int = 192,
    layers: int = 8,
    heads: int = 3,
    kv_heads: int | None = None,
    context: int = 8192,
    dropout: float = 0.0,
) -> Any:
    """Build a blank Qwen3 network for the tokenizer, with tied embeddings.

    A Llama whose queries and keys are normalized: that bears a higher learning rate, and at equal
    tokens its loss fell faster. The size of a head, `width` / `heads`, must be even; several heads
    may share the keys and values of one of `kv_heads`; `context` is the longest sequence that an
    engine will accept, not what was trained on; `dropout` is of the attention, in training.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=-(-8 * width // 3 // 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads or heads,
        head_dim=width // heads,
        max_position_embeddings=context,
        attention_dropout=dropout,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def factor_embeddings(model: Any, tokenizer: Any, *, blank: bool = True) -> Any:
    """Make the vector of a cell token the sum of a colour's and its places', while training.

    So each step teaches all tokens of a colour, not only those of the columns that it met: at
    equal tokens the loss fell about twice as fast. The model, of the tokens of `build_tokenizer`,
    is changed in place, and returned; `plain_copy` gives the ordinary one. `blank` draws new
    vectors; otherwise they are those whose sums are nearest to the model's own: exactly them where
    it was trained like this.
    """
    import torch
    from torch.nn.utils import parametrize

    # By id: the order of the vocabulary changes from process to process, and a checkpoint of the
    # factors would be resumed with their meanings exchanged.
    words = [word for word, _ in sorted(tokenizer.get_vocab().items(), key=itemgetter(1))]
    factored = [_factors(word) if re.fullmatch(CELL, word) else (word,) for word in words]
    factors = list(dict.fromkeys(itertools.chain(*factored)))

    class SumOfFactors(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mixing = [[float(factor in parts) for factor in factors] for parts in factored]
            self.register_buffer("mixing", torch.tensor(mixing))

        def forward(self, vectors: torch.Tensor) -> torch.Tensor:
            return self.mixing @ vectors

        def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
            if blank:
                return weight.new_empty(len(factors), weight.shape[1]).normal_(std=0.02)
            # A constant may move from the colours to the columns: of those, the smallest.
            return torch.linalg.pinv(self.mixing) @ weight

    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    # A weight of its own for each, or registering one parametrization would undo the other's.
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    for module in (embedding, head):
        parametrize.register_parametrization(module, "weight", SumOfFactors())
    head.parametrizations.weight.original = embedding.parametrizations.weight.original
    return model


def has_cells(tokenizer: Any) -> bool:
    """Tell if the tokens are those of a `build_tokenizer`, so that embeddings can be factored."""
    return not {"0a", "0aa"}.isdisjoint(tokenizer.get_vocab())


def _factors(cell: str) -> tuple[str, ...]:
    """Return the names of a cell's colour, column and, if it tells, row."""
    color, *row, column = cell.strip()
    return (color, f"column {column}", *(f"row {letter}" for letter in row))


def plain_copy(model: Any) -> Any:
    """Return the ordinary model that a model with factored embeddings computes."""
    plain = type(model)(model.config)
    plain.load_state_dict({name: attrgetter(name)(model) for name in plain.state_dict()})
    return plain
