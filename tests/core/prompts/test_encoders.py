"""Writing a grid as text, and reading text back as a grid."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from arc_airv.grids import as_grid, format_grid, same_grid
from arc_airv.prompts.encoders import ENCODERS, ReplyError, encoder_spec, make_encoder

quick = settings(max_examples=15)
shapes = array_shapes(min_dims=2, max_dims=2, max_side=30)
grids = arrays(np.int8, shapes, elements=st.integers(0, 9))

DIGITS = [
    ["minimal"],
    ["grid_with_separation"],
    [{"name": "grid_with_separation", "separator": " "}],
    [{"name": "grid_with_separation", "separator": ", "}],
    ["repeat_number"],
    [{"name": "repeat_number", "n": 2}],
]
SYMBOLS = {"name": "replace_number", "symbols": "abcdefghij"}
ROWS = DIGITS + [["replace_number", *spec] for spec in DIGITS] + [[SYMBOLS, "minimal"]]
PLACES = {"name": "column_letter", "rows": True}
ROWS += [["column_letter", "minimal"], [PLACES, "minimal"]]
ROWS += [["row_number", *spec] for spec in ROWS]
BLOCKS = [[b, *spec] for b in ("grid_code_block", "grid_shape") for spec in [*ROWS, ["json"]]]
COMPOSITIONS = [*ROWS, ["json"], *BLOCKS]

GRID = as_grid([[0, 1, 2], [3, 4, 5]])


def read(names, text):
    """Return the grid in `text` in short form, or the status that says why there is none."""
    try:
        grid, _ = make_encoder(names.split()).decode(text)
    except ReplyError as error:
        return error.status
    return format_grid(grid)


# Writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("minimal", "012\n345"),
        ("grid_with_separation", "0|1|2\n3|4|5"),
        ("repeat_number", "000111222\n333444555"),
        ("replace_number minimal", "ñò÷\nûąć"),
        ("row_number minimal", "1 012\n2 345"),
        ("json", "[[0,1,2],[3,4,5]]"),
        ("grid_code_block json", "```grid\n[[0,1,2],[3,4,5]]\n```"),
        ("grid_code_block minimal", "```grid\n012\n345\n```"),
        ("grid_shape minimal", "```grid shape: 2x3\n012\n345\n```"),
        ("column_letter minimal", "0a1b2c\n3a4b5c"),
        ("grid_shape row_number minimal", "```grid shape: 2x3\n1 012\n2 345\n```"),
        ("row_number replace_number repeat_number", "1 ñññòòò÷÷÷\n2 ûûûąąąććć"),
    ],
)
def test_an_encoder_writes_exactly_this_and_reads_it_back(names, text):
    assert make_encoder(names.split()).encode(GRID) == text
    assert read(names, text) == "012|345"


@pytest.mark.parametrize("spec", COMPOSITIONS, ids=str)
def test_every_composition_reads_back_what_it_wrote(spec):
    encoder = make_encoder(spec)

    @quick
    @given(grids)
    def check(grid):
        decoded, ended = encoder.decode(encoder.encode(grid))
        assert same_grid(decoded, grid)
        assert ended == (encoder.closing is not None)

    check()


@pytest.mark.parametrize("spec", COMPOSITIONS, ids=str)
def test_a_composition_is_named_in_json_and_built_again(spec):
    encoder = make_encoder(json.loads(json.dumps(spec)))
    assert encoder_spec(encoder) == spec
    assert make_encoder(encoder_spec(encoder)) == encoder


def test_every_encoder_takes_part_in_these_tests():
    parts = [part for spec in COMPOSITIONS for part in spec]
    assert {part for part in parts if isinstance(part, str)} == set(ENCODERS)


@pytest.mark.parametrize(
    "spec",
    [
        # not a list of names
        [], None, "minimal", ["base_64"], [None], [["minimal"]], [{}], [{"n": 2}],
        # an option of another encoder, or of a wrong value
        [{"name": "minimal", "n": 2}],
        *([{"name": "repeat_number", "n": n}] for n in (0, "3", 1.5)),
        *([{"name": "grid_with_separation", "separator": s}]
          for s in ("", "0", "\n", "\r", "```", 1)),
        *([{"name": "replace_number", "symbols": s}, "minimal"]
          for s in ("abc", "aacdefghij", "9876543210", " bcdefghij", "`bcdefghij", None)),
        [{"name": "replace_number", "symbols": "|bcdefghij"}, "grid_with_separation"],
        [{"name": "row_number", "base": "minimal"}],
        # an unexpected base, a missing one, or a wrong one
        ["minimal", "minimal"], ["repeat_number", "minimal"], ["row_number"], ["grid_shape"],
        ["column_letter", "repeat_number"], ["column_letter", "replace_number", "minimal"],
        ["json", "minimal"], ["row_number", "json"], ["replace_number", "json"],
        *(["replace_number", base, "minimal"]
          for base in ("row_number", "column_letter", "replace_number", "grid_code_block")),
        ["row_number", "row_number", "minimal"], ["row_number", "grid_shape", "minimal"],
        ["grid_shape", "grid_code_block", "minimal"],
    ],
    ids=str,
)  # fmt: skip
def test_a_nonsense_composition_is_refused(spec):
    with pytest.raises(ValueError):
        make_encoder(spec)


def test_the_error_for_an_unknown_encoder_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown encoder 'base_64'; known are .*'minimal'"):
        make_encoder(["base_64"])


# Reading is lenient about what surrounds the grid ------------------------------------------------

BLOCK = "```grid\n01\n23\n```"
SHAPE = "```grid shape: 2x2\n1 01\n2 23\n```"


@pytest.mark.parametrize("names", ["minimal", "grid_code_block minimal"])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: f"Sure! The output is:\n\n{text}",
        lambda text: f"{text}\n\nHope this helps, 42 times.",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "  \n"),
        lambda text: text.replace("\n", "\n  "),
        lambda text: text.replace("\n", "\n\n"),
    ],
    ids=["text before", "text after", "CRLF", "trailing spaces", "indented", "blank lines"],
)
def test_what_surrounds_the_grid_does_not_matter(names, change):
    text = make_encoder(names.split()).encode(as_grid([[0, 1], [2, 3]]))
    assert read(names, change(text)) == "01|23"


@pytest.mark.parametrize(
    "text",
    [
        BLOCK,
        "\n01\n23\n```",  # the prompt ended with ```grid
        "01\n23\n```",
        "```\n01\n23\n```",
        "```text\n01\n23\n```",
        "No grid in `this` one:\n```\nprint()\n```\nbut here:\n" + BLOCK,
        BLOCK + "\nAnd another:\n```grid\n9\n```",  # the first one counts
    ],
)
def test_the_opening_fence_may_be_in_the_prompt_or_in_the_reply_or_bare(text):
    assert read("grid_code_block minimal", text) == "01|23"


@pytest.mark.parametrize(
    "text",
    [SHAPE, SHAPE.removeprefix("```grid"), f"Here:\n{SHAPE}\nBye", SHAPE.replace("2x2", "2 x 2")],
)
def test_a_declared_shape_is_read_wherever_the_fence_is(text):
    assert read("grid_shape row_number minimal", text) == "01|23"


def test_the_end_is_seen_at_the_closing_fence_or_at_the_next_whole_line():
    def ended(names, text):
        return make_encoder(names.split()).decode(text)[1]

    assert ended("grid_code_block minimal", "01\n23\n```")
    assert not ended("grid_code_block minimal", "01\n23\n``")
    assert ended("minimal", "01\n23\nDone.\n")
    assert not ended("minimal", "01\n23\n")
    assert not ended("row_number minimal", "1 01\n2 23\n3")  # may be a third row, cut short


# ... and strict about the grid -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "text", "status"),
    [
        ("minimal", "", "unparsed"),
        ("minimal", "I do not know.", "unparsed"),
        ("minimal", "٣٤", "unparsed"),
        ("minimal", "01\n2", "ragged"),
        ("minimal", "0\n" * 31, "too_large"),
        ("minimal", "0" * 31, "too_large"),
        ("grid_with_separation", "0|1\n10|2", "01"),  # the second line is not a row
        ("grid_with_separation", "10|2", "unparsed"),
        ("repeat_number", "00011", "unparsed"),
        ("repeat_number", "000112", "unparsed"),
        ("replace_number minimal", "012", "unparsed"),
        ("column_letter minimal", "0a1c", "ragged"),
        ("row_number minimal", "1 01\n3 23", "ragged"),
        ("row_number minimal", "0 01", "ragged"),
        ("row_number minimal", "1" * 5000 + " 01", "ragged"),
        ("grid_code_block minimal", "```grid\nnothing\n```", "unparsed"),
        ("grid_code_block minimal", "```grid\n01\n2\n```", "ragged"),
        ("grid_code_block minimal", "```grid\n" + "0\n" * 31 + "```", "too_large"),
        ("grid_shape row_number minimal", SHAPE.replace("2x2", "2x3"), "ragged"),
        ("grid_shape row_number minimal", SHAPE.replace("2 23", "3 23"), "ragged"),
        ("grid_shape minimal", "```grid shape: 3x2\n01\n23\n```", "ragged"),
        ("grid_shape minimal", BLOCK, "unparsed"),  # it declares no shape
        ("grid_shape minimal", "shape: " + "1" * 5000 + "x2\n01\n```", "unparsed"),
    ],
)
def test_a_fault_in_the_grid_has_its_status(names, text, status):
    assert read(names, text) == status


def test_letters_of_another_row_are_ragged():
    places = make_encoder([PLACES, "minimal"])
    assert places.encode(GRID) == "0aa1ab2ac\n3ba4bb5bc"
    assert format_grid(places.decode("0aa1ab\n2ba3bb")[0]) == "01|23"
    for text in ("0aa1ab\n2aa3ab", "0aa1bb", "0ba"):
        with pytest.raises(ReplyError) as raised:
            places.decode(text)
        assert raised.value.status == "ragged"


@pytest.mark.parametrize(
    ("text", "grid"),
    [
        ("so [[0, 1],\n [2, 3]] and [[4]]", "01|23"),
        ("[\n  [\n    0,\n    1\n  ]\n]", "01"),
        ("[[0,1],[2]]", "ragged"),
        ("[[0,12]]", "unparsed"),
        ("[[]]", "unparsed"),
        ("[0,1]", "unparsed"),
        ("[[0,1],[2,", "unparsed"),
        (str([[0] * 31]), "too_large"),
    ],
)
def test_json_is_read_however_it_is_spaced(text, grid):
    assert read("json", text) == grid
