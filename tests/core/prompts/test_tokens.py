"""The check of a tokenizer's reading of grids."""

import pytest

from arc_airv.prompts.encoders import make_encoder
from arc_airv.prompts.tokens import tokenization_report

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def merging_tokenizer():
    """Make a byte-level BPE tokenizer that merges digits, as GPT-2's does."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    core = ByteLevelBPETokenizer()
    core.train_from_iterator(["000000 0000 111 12 34 56 78 90 12 21"] * 50, vocab_size=300)
    return PreTrainedTokenizerFast(tokenizer_object=core._tokenizer)


def test_the_tiny_tokenizer_takes_one_token_a_cell_and_a_row():
    from arc_airv.training.tiny import build_tokenizer, tiny_prompt_format

    report = tokenization_report(build_tokenizer(), tiny_prompt_format().encoder)
    assert not report.merges_cells
    assert report.max_grid_tokens == 30 * 31
    assert report.tokens_per_cell == pytest.approx(31 / 30)


def test_merging_digits_is_flagged_and_a_separator_prevents_it(merging_tokenizer):
    assert tokenization_report(merging_tokenizer, make_encoder(["minimal"])).merges_cells
    separated = make_encoder(["grid_shape", "row_number", "grid_with_separation"])
    report = tokenization_report(merging_tokenizer, separated)
    assert not report.merges_cells
    assert report.tokens_per_cell > 1.9


def test_a_repeated_digit_read_as_one_token_is_no_merge(merging_tokenizer):
    merging_tokenizer.add_tokens([str(d) * 3 for d in range(10)])
    report = tokenization_report(
        merging_tokenizer, make_encoder([{"name": "repeat_number", "n": 3}])
    )
    assert not report.merges_cells
    assert report.tokens_per_cell < 1.1
