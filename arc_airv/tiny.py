"""A tiny causal language model for ARC prompts: its tokenizer and its blank Llama network.

The vocabulary is complete for one prompt format: a token for each (colour, column), one for each
row number, and three marks. A grid of h x w costs h * (w + 1) tokens, and every token says
where it stands. The result is an ordinary Hugging Face model, without code of its own.
"""

from __future__ import annotations

from typing import Any

from arc_airv.encoders import COLUMN_LETTERS, make_encoder
from arc_airv.grids import MAX_SIDE, N_COLORS
from arc_airv.prompts import PlainTemplate, PromptFormat

PAD = "<pad>"


def tiny_prompt_format() -> PromptFormat:
    """Row numbers, column letters, plain marks: the format of the models trained from scratch."""
    return PromptFormat(make_encoder(["row_number", "column_letter", "minimal"]), PlainTemplate())


def build_tokenizer(prompt_format: PromptFormat | None = None) -> Any:
    """The tokenizer of `tiny_prompt_format`, as a Hugging Face fast tokenizer.

    A row number is one token with its newline before and its space after ("\\n2 "), a cell is one
    token with its column letter ("5c").
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    marks = PlainTemplate()
    rows = ["1 ", *(f"\n{i} " for i in range(2, MAX_SIDE + 1))]
    cells = [f"{color}{letter}" for color in range(N_COLORS) for letter in COLUMN_LETTERS]
    words = [PAD, marks.input_mark, marks.output_mark, marks.end_mark, *rows, *cells]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=PAD))
    core.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"<\w+>|\n?\d+ |\d[a-zA-D]"), behavior="isolated"
    )
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=marks.end_mark,
        pad_token=PAD,
        unk_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: Any, *, width: int = 192, layers: int = 8, heads: int = 6, context: int = 8192
) -> Any:
    """A blank Llama network for the tokenizer, with tied embeddings.

    Parameters
    ----------
    tokenizer : Hugging Face tokenizer
    width, layers, heads : int
        Hidden size, number of blocks, attention heads (the head size must be even).
    context : int, default 8192
        Longest sequence that an engine will accept; not what was trained on.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=-(-8 * width // 3 // 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)
