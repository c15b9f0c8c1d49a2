"""Which grid of a free reply is the answer, in the notations that models and people write."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from arc_airv.augment import Augmentation
from arc_airv.grids import as_grid, format_grid, same_grid
from arc_airv.prompts.encoders import FENCE, STATUSES, make_encoder
from arc_airv.prompts.format import ChatTemplate, PromptFormat
from arc_airv.records import read_predictions
from arc_airv.storage import read_run

DUMPS = Path(__file__).parents[3] / "res" / "dumps"


def free(*names):
    """A format whose prompt does not open the grid."""
    return PromptFormat(make_encoder(list(names)), ChatTemplate(prefill=""))


BARE = free("minimal")
SPACES = {"name": "grid_with_separation", "separator": " "}
FORMATS = {
    "bare": BARE,
    "block": free("grid_shape", "row_number", "minimal"),
    "spaces": free("grid_code_block", SPACES),
    "commas": free({"name": "grid_with_separation", "separator": ", "}),
    "letters": free("row_number", "column_letter", "minimal"),
    "symbols": free("replace_number", "minimal"),
    "numbers and spaces": free("row_number", SPACES),
    "letters of rows": free({"name": "column_letter", "rows": True}, "minimal"),
    "repeated": free({"name": "repeat_number", "n": 3}),
    "letters in a block": free("grid_shape", "column_letter", "minimal"),
    "repeated in a block": free("grid_shape", {"name": "repeat_number", "n": 2}),
}
every_format = pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)


def read(text, finish_reason="stop", format=BARE, **options):
    """The grid of a reply in short, or the status that says why there is none."""
    grid, status, _ = format.read(text, finish_reason, **options)
    return status if grid is None else format_grid(grid)


# Notations ---------------------------------------------------------------------------------------


def rows(grid):
    return [list(map(str, row)) for row in grid.tolist()]


def lines(grid, cell="", row="{}"):
    return "\n".join(row.format(cell.join(r)) for r in rows(grid))


def numbered(grid, form, cell="", first=1):
    return "\n".join(form.format(i, cell.join(r)) for i, r in enumerate(rows(grid), first))


def table(grid):
    head, *rest = [f"| {' | '.join(r)} |" for r in rows(grid)]
    return "\n".join([head, "|" + "---|" * grid.shape[1], *rest])


def table_with_header(grid, name="Col {}"):
    head = [name.format(i) for i in range(grid.shape[1])]
    body = [f"| {' | '.join(r)} |" for r in rows(grid)]
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * grid.shape[1], *body])


def table_with_index(grid):
    head = "|   | " + " | ".join(map(str, range(grid.shape[1]))) + " |"
    body = [f"| {i} | {' | '.join(r)} |" for i, r in enumerate(rows(grid))]
    return "\n".join([head, "|" + "---|" * (grid.shape[1] + 1), *body])


def pandas_print(grid):
    return str(pd.DataFrame(grid).to_string())


def latex(grid):
    return (
        "\\begin{bmatrix}\n"
        + " \\\\\n".join(" & ".join(r) for r in rows(grid))
        + "\n\\end{bmatrix}"
    )


def whole_numpy(grid, convert=str):
    with np.printoptions(threshold=10_000, linewidth=200):
        return convert(grid)


def fence(text, label=""):
    return f"```{label}\n{text}\n```"


# Each reads back whatever the grid is.
NOTATIONS = {
    "digits": lines,
    "spaces": lambda g: lines(g, " "),
    "two spaces": lambda g: lines(g, "  "),
    "tabs": lambda g: lines(g, "\t"),
    "commas": lambda g: lines(g, ","),
    "commas and spaces": lambda g: lines(g, ", "),
    "pipes": lambda g: lines(g, "|"),
    "pipes and spaces": lambda g: lines(g, " | "),
    "closed pipes": lambda g: lines(g, "|", "|{}|"),
    "semicolons": lambda g: lines(g, ";"),
    "indented": lambda g: lines(g, " ", "    {}"),
    "quoted": lambda g: lines(g, " ", "> {}"),
    "JSON": lambda g: json.dumps(g.tolist()),
    "dense JSON": lambda g: json.dumps(g.tolist(), separators=(",", ":")),
    "indented JSON": lambda g: json.dumps(g.tolist(), indent=2),
    "list of lines": lambda g: "[" + lines(g, ", ", "[{}],").rstrip(",").replace("\n", "\n ") + "]",
    "trailing commas": lambda g: "[\n" + lines(g, ", ", "  [{}],") + "\n]",
    "rows of lists": lambda g: lines(g, ", ", "[{}]"),
    "rows of lists with commas": lambda g: lines(g, ", ", "[{}],"),
    "rows of bare numpy": lambda g: lines(g, " ", "[{}]"),
    "tuples": lambda g: "(" + ",".join("(" + ",".join(r) + ",)" for r in rows(g)) + ",)",
    "texts": lambda g: json.dumps(["".join(r) for r in rows(g)]),
    "texts with spaces": lambda g: json.dumps([" ".join(r) for r in rows(g)]),
    "list of list of texts": lambda g: json.dumps(rows(g)),
    "numpy print": whole_numpy,
    "numpy repr": lambda g: whole_numpy(g, repr),
    "numpy floats": lambda g: whole_numpy(g.astype(float)),
    "JSON floats": lambda g: json.dumps(g.astype(float).tolist()),
    "wrapped list": lambda g: json.dumps([g.tolist()]),
    "JSON object": lambda g: json.dumps({"output": g.tolist()}),
    "indented object": lambda g: json.dumps({"why": "It grows.", "output": g.tolist()}, indent=1),
    "object, output first": lambda g: json.dumps({"output": g.tolist(), "input": [[1, 0], [0, 1]]}),
    "object of texts": lambda g: json.dumps({"answer": ["".join(r) for r in rows(g)]}),
    "object of one text": lambda g: json.dumps({"output_grid": lines(g, " ")}),
    "assignment": lambda g: f"output = {g.tolist()}",
    "Row 1: spaces": lambda g: numbered(g, "Row {}: {}", " "),
    "Row 1: digits": lambda g: numbered(g, "Row {}: {}"),
    "row 0: list": lambda g: numbered(g, "row {}: [{}]", ", ", 0),
    "bold rows": lambda g: numbered(g, "**Row {}:** {}", " "),
    "listed rows": lambda g: numbered(g, "- Row {}: {}", " "),
    "R1 pipes": lambda g: numbered(g, "R{} | {}", " "),
    "1: digits": lambda g: numbered(g, "{}: {}"),
    "0: spaces": lambda g: numbered(g, "{}: {}", " ", 0),
    "1) spaces": lambda g: numbered(g, "{}) {}", " "),
    "1. spaces": lambda g: numbered(g, "{}. {}", " "),
    "latex": latex,
    "latex rows on one line": lambda g: latex(g).replace("\n", " "),
    "table with a header": table_with_header,
    "table": table,
    "fence": lambda g: fence(lines(g)),
    "fence of spaces": lambda g: fence(lines(g, " "), "text"),
    "fence named grid": lambda g: fence(lines(g), "grid"),
    "fence of JSON": lambda g: fence(json.dumps(g.tolist()), "json"),
    "fence of Python": lambda g: fence(f"output = {g.tolist()}", "python"),
    "fence of csv": lambda g: fence(lines(g, ","), "csv"),
    "fence of numpy": lambda g: fence(whole_numpy(g)),
    "shape in a fence": lambda g: fence(lines(g), "grid shape: {}x{}".format(*g.shape)),
    "shape line": lambda g: "shape: {}x{}\n".format(*g.shape) + lines(g, " "),
    "shape line in a fence": lambda g: fence("Shape: ({}, {})\n".format(*g.shape) + lines(g)),
    "numbered fence": lambda g: fence(
        numbered(g, "{} {}"), "grid shape: {}x{}".format(*g.shape)
    ),
    "numbered from 0, with a shape": lambda g: fence(
        numbered(g, "{} {}", " ", 0), "grid shape: {} x {}".format(*g.shape)
    ),
    "boxed": lambda g: f"\\boxed{{{g.tolist()}}}",
    "boxed digits": lambda g: f"\\boxed{{\n{lines(g)}\n}}",
    "boxed latex": lambda g: f"\\[\\boxed{{{latex(g)}}}\\]",
    "answer marks": lambda g: f"<answer>\n{lines(g, ' ')}\n</answer>",
}  # fmt: skip

# These are told from a wider grid by their numbers, so they need at least two rows and columns.
WIDE = {
    "numbered digits": lambda g: numbered(g, "{} {}"),
    "numbered from 0": lambda g: numbered(g, "{} {}", "", 0),
    "number and pipe": lambda g: numbered(g, "{} | {}", " "),
    "pandas": pandas_print,
    "table with an index": table_with_index,
    "double spaced": lambda g: lines(g, " ").replace("\n", "\n\n"),
}


def grids(least):
    shapes = array_shapes(min_dims=2, max_dims=2, min_side=least, max_side=30)
    return arrays(np.int8, shapes, elements=st.integers(0, 9))


INPUT = "10\n01\n11"
CONTEXTS = [
    "{}",
    "The output is:\n{}",
    "Sure! Here you go.\n\n{}\n\nDone.",
    "### Output\n\n{}\n\nHope this helps, 42 times!",
    "There are 3 red cells.\nstep 1. Mirror.\nstep 2. See (1, 2), (2, 3).\n\nAnswer:\n\n{}\n",
    "Number of objects:\n3\n\nOutput:\n{}\n\nOn 2024-05-17 I checked 12 cells.",
    f"Test input:\n{INPUT}\n\nOutput:\n{{}}",
    f"Input:\n```\n{INPUT}\n```\n\nOutput:\n\n{{}}\n\nThe cells at (0, 1), (1, 1) changed.",
    "The input [[1, 0], [0, 1]] has 2 rows. The result:\n\n{}\n",
    f"<think>\nMaybe\n{INPUT}\n</think>\n\n{{}}",
    f"hm\n{INPUT}\n</think>\n\n{{}}",
    f"analysisWe see\n{INPUT}assistantfinal\n{{}}",
]


@pytest.mark.parametrize("name", [*NOTATIONS, *WIDE])
def test_any_grid_reads_back_in_any_notation_with_anything_around_it(name):
    # Under rows that carry numbers, "1 2" in spaces could be either: `WIDE` tells them apart.
    format = st.sampled_from([BARE, FORMATS["commas"], FORMATS["symbols"], FORMATS["spaces"]])
    write, least = (WIDE[name], 2) if name in WIDE else (NOTATIONS[name], 1)

    @settings(max_examples=25, deadline=None)
    @given(grids(least), st.sampled_from(CONTEXTS), format)
    def check(grid, context, format):
        parsed = format.parse(context.replace("{}", write(grid)), "stop")
        assert parsed.status == "ok"
        assert same_grid(parsed.grid, grid)

    check()


@every_format
def test_any_grid_reads_back_in_the_notation_of_the_format(format):
    @settings(max_examples=25, deadline=None)
    @given(grids(1), st.sampled_from(CONTEXTS))
    def check(grid, context):
        parsed = format.parse(context.replace("{}", format.render_answer(grid)), "stop")
        assert parsed.status == "ok"
        assert same_grid(parsed.grid, grid)

    check()


@pytest.mark.parametrize(
    "before", ["", f"Test input:\n{INPUT}\n\nOutput:\n"], ids=["alone", "after"]
)
@pytest.mark.parametrize("name", [*NOTATIONS, *WIDE])
def test_a_reply_that_was_cut_gives_its_grid_or_none(name, before):
    grid = (np.arange(12).reshape(4, 3) % 10).astype(np.int8)
    text = before + {**NOTATIONS, **WIDE}[name](grid) + "\n\nDone."
    for end in range(len(before), len(text) + 1):
        assert read(text[:end], "length") in (format_grid(grid), "truncated")


# Broken rows -------------------------------------------------------------------------------------

NO_CELLS = ["null", "None", "nan", "-1", "1.5", "10", "1?", "?", "..."]  # "1x2" is a shape
NO_ROWS = ["...", "…", "null", "(repeat)", "(same as row 1)", "# 3 more rows"]


def place(write, grid, i, j):
    """Where the cell stands in the text, told by writing another there."""
    other = grid.copy()
    other[i, j] = (grid[i, j] + 1) % 10
    return next(k for k, (a, b) in enumerate(zip(write(grid), write(other))) if a != b)


def broken(write, grid, data):
    """A grid as text, in which a cell or a row is none, or half a row is not there."""
    text, (height, width) = write(grid), grid.shape
    i = data.draw(st.sampled_from([0, height // 2, height - 1]), "row")
    j = data.draw(st.integers(0, width - 1), "column")
    start, cell, end = (place(write, grid, i, column) for column in (0, j, width - 1))
    ways = {
        "cell": lambda: text[:cell] + data.draw(st.sampled_from(NO_CELLS)) + text[cell + 1 :],
        "row": lambda: text[:start] + data.draw(st.sampled_from(NO_ROWS)) + text[end + 1 :],
        "half": lambda: text[:start] + text[place(write, grid, i, (width + 1) // 2) :],
    }
    if text[place(write, grid, 0, width - 1) : place(write, grid, 1, 0)].count("\n") == 1:
        line = text.find("\n", place(write, grid, max(i, 1) - 1, width - 1))
        between = [*NO_ROWS, "# a comment", *[""] * (FENCE in text)]
        ways["line"] = lambda: text[: line + 1] + data.draw(st.sampled_from(between)) + text[line:]
    return ways[data.draw(st.sampled_from(sorted(ways)), "way")]()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_what_a_broken_row_leaves_of_a_grid_is_no_answer(data):
    name = data.draw(st.sampled_from([*NOTATIONS, *WIDE]))
    write = {**NOTATIONS, **WIDE}[name]
    shapes = array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=7)
    grid = data.draw(arrays(np.int8, shapes, elements=st.integers(0, 9)), "grid")
    context = data.draw(st.sampled_from(CONTEXTS), "context")
    parsed = BARE.parse(context.replace("{}", broken(write, grid, data)), "stop")
    assert parsed.grid is None or same_grid(parsed.grid, grid)


@every_format
def test_a_broken_row_in_the_notation_of_the_format_is_no_answer_either(format):
    @settings(max_examples=40, deadline=None)
    @given(grids(2), st.sampled_from(CONTEXTS), st.data())
    def check(grid, context, data):
        lines = format.render_answer(grid).split("\n")
        rows = [i for i, line in enumerate(lines) if not line.startswith(FENCE)]
        i = data.draw(st.sampled_from([rows[0], rows[-1], *rows]))
        # A cell is the last of its row, its separator or its letter: all are rows no more.
        lines[i] = data.draw(st.sampled_from([lines[i][:-1] + "?", lines[i] + "-1", "..."]))
        parsed = format.parse(context.replace("{}", "\n".join(lines)), "stop")
        assert parsed.grid is None or same_grid(parsed.grid, grid)

    check()


ABOVE = ["Output (2x2):", "2x2", "2 x 2:", "10 x 10 grid", "Step 1", "**Step 3**", "Grid 2:", "=>",
         "There are 2 red cells", "0 → 3, 1 → 4", "t = 1", "Let me write it...", "---",
         "Repeating this for the test input:", "The rest is zero:", "I keep rows 1, 2 and 3.",
         "(2 rows, 2 columns)", "2024-05-17", "Columns 0 1", "# Output", "输出："]  # fmt: skip
BELOW = ["Done.", "(2x2)", "4 cells changed", "Total: 4", "100%", "2/2", "Confidence: 0.9", "---",
         "1. Mirror\n2. Rotate", "- 3 red\n- 4 blue", "0: black\n1: blue", "0 = black, 1 = blue",
         "Each row is repeated.", "I repeated rows 1 and 2.", "(the rest is 0)", "```", "}",
         "(1, 2), (2, 3)", "Row 1 is the same as row 3."]  # fmt: skip


@pytest.mark.parametrize("name", ["digits", "spaces", "rows of lists", "closed pipes", "JSON"])
def test_a_line_that_stands_next_to_a_grid_is_no_broken_row(name):
    grid = np.array([[2, 0], [0, 2]], dtype=np.int8)
    for line in ABOVE:
        assert read(f"{line}\n{NOTATIONS[name](grid)}\n") == G, line
    for line in BELOW:
        assert read(f"{NOTATIONS[name](grid)}\n{line}\n") == G, line


G = "20|02"


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        # the last one, or the boxed one
        ("10\n01\n\n20\n02", G),
        ("f([[1,0],[0,1]]) = [[2,0],[0,2]]", G),
        ("\\boxed{[[2,0],[0,2]]} since\n10\n01", G),
        ("<answer>20\n02</answer> since\n10\n01", G),
        ("\\boxed{\\begin{array}{cc}2 & 0\\\\0 & 2\\end{array}} since\n10\n01", G),
        ("```\n20\n02\n```\n\\boxed{the grid above}", G),
        # digits of prose
        ("20\n02\n\n4", G),
        ("20\n02\n\nTotal cells:\n4", G),
        ("```\n20\n02\n```\n4", G),
        ("20\n02\nDate:\n2024", G),
        ("20\n02\nstep 1.\nstep 2.", G),
        ("20\n02\n\nCoordinates:\n- (0, 1)\n- (1, 0)", G),
        ("20\n02\nI changed [(0, 1), (1, 0)].", G),
        ("20\n02\n\nCells at [[0, 1], [1, 0]] changed.", G),
        ('{"output": [[2, 0], [0, 2]], "input": [[1, 0], [0, 1]]}', G),
        ("Input:\n10\n01\n\nSo the result is:\n\n012", "012"),
        ("Input:\n10\n01\n\nOutput: 3", "3"),
        ("3", "3"),
        ("There are 3 red cells.", "unparsed"),
        ("", "unparsed"),
        # how rows end, and what is around them
        ("20\n02<|im_end|>", G),
        ("20\n02</s>", G),
        ("20\n02.", G),
        ("2 0<br>0 2", G),
        ("[2 0; 0 2]", G),
        ("Row 1 (top): 2 0\n\nRow 2 (bottom): 0 2", G),
        ("00: 2 0\n01: 0 2", G),
        ("First row: 2 0\nSecond row: 0 2", G),
        ("+---+---+\n| 2 | 0 |\n+---+---+\n| 0 | 2 |\n+---+---+", G),
        ("| Row | c1 | c2 |\n|---|---|---|\n| **1** | 2 | 0 |\n| **2** | 0 | 2 |", G),
        ("```\n20\n02", G),
        ("20\r\n02\r\n", G),
        # a shape that is declared
        ("Output grid (shape 2x2):\n20\n02", G),
        ("Size 3x3 becomes size 2x2:\n20\n02", G),
        ("shape: 2x2\n1 2 0\n2 0 2", G),
        ("```grid shape: 3x3\n1 20\n2 02\n```", "ragged"),
        ("Shape: 3x3\n```\n20\n02\n```", "ragged"),
        ("shape: (2, 3)\n20\n02", "ragged"),
        # what is no grid
        ("Input:\n10\n01\n\nOutput:\n20\n0", "ragged"),
        ("```\nRow 1: 20\nRow 3: 02\n```", "ragged"),
        ("0\n" * 31, "too_large"),
        ("0" * 31 + "\n" + "0" * 31, "too_large"),
        (str([[0] * 31] * 2), "too_large"),
        # broken rows
        ("[[1, 2],\n [null, 2],\n [5, 6],\n [7, 8]]", "ragged"),
        ("[[1,2],[null,2],[5,6],[7,8]]", "ragged"),
        ("[[1, 2],\n [5, 6],\n [7, 8],\n ...]", "ragged"),
        ("[[1,2]],[5,6],[7,8]]", "ragged"),
        ("[[1,2],[[5,6],[7,8]]", "ragged"),
        ('["12", "1x", "34"]', "ragged"),
        ('{"output": [[2, null], [0, 2]], "input": [[1, 0], [0, 1]]}', "ragged"),
        ('{"output": "2 0 red\\n0 2 0"}', "ragged"),
        ("Input:\n10\n01\n\nOutput:\n2 x\n0 2", "ragged"),
        ("Input:\n10\n01\n\nOutput:\n2 10\n0 2", "ragged"),
        ("Input:\n10\n01\n\nOutput:\n1 null 3", "unparsed"),
        ("10\n01\n\\boxed{[[2,null],[0,2]]}", "ragged"),
        ("<answer>20\n0x</answer> since\n10\n01", "ragged"),
        ("```\n12\n34\n\n56\n78\n```", "ragged"),
        ("```\n12\n34\n# and so on\n```", "ragged"),
        ("20\n02\n(repeat 3 more times)", "ragged"),
        ("Row 1: 2 0\nRow 2: 0 2\nRow 3: the same", "ragged"),
        ("| 2 | 0 |\n|---|---|\n| 0 | 2 |\n| etc. |", "ragged"),
        ("| 2 |   | 1 |\n|   | 2 | 1 |", "unparsed"),
        ("1 0 | 2 0\n0 1 | 0 2", "unparsed"),
        ("1 0    2 0\n0 1    0 2", "unparsed"),
        ("[[2, 0],  # the first row\n [0, 2]]  # the second", G),
        # what was given is no answer
        ("Input:\n10\n01\n\nI do not know.", "unparsed"),
        ("Input:\n10\n01\n\nOutput:\n🟥⬛\n⬛🟥", "unparsed"),
        ("Output:\n20\n02\n\nFor comparison, the input:\n10\n01", G),
        # what follows an answer
        ("```\n20\n02\n```\n```python\nfor x, y in [(0, 1), (1, 0)]:\n    f(x)\n```", G),
        ("```\n20\n02\n```\n```python\nreturn [[0] * 3 for _ in range(3)]\n```", G),
        ("20\n02\n\nLegend:\n0: 2\n1: 3", G),
        ("20\n02\n\nCounts:\n- 0: 2\n- 2: 2", G),
        ("20\n02\n\n12:30", G),
        ("10\n01\n***\n20\n02", G),
        ("<table><tr><td>2</td><td>0</td></tr>\n<tr><td>0</td>\n<td>2</td></tr></table>", G),
        ("20\n02\n\nThe rule:\n1 -> 3\n2 -> 4", G),
        ("20\n02\n\n**Rule**:\n* 1 → 5\n* 2 → 6", G),
        ("20\n02\n\n| from | to |\n|---|---|\n| 1 | 3 |\n| 2 | 4 |", G),
        ("20\n02\n\nBounding box: [[0, 0], [1, 1]]", G),
        ("20\n02\n\nI moved it from [[0, 1], [1, 1]] to the corner.", G),
        ("20\n02\n\nThe rotation matrix is [[0, 1], [1, 0]].", G),
        ("20\n02\n\nConfidence:\n9", G),
        ("```\n20\n02\n```\n```python\nmoves = [[0, 1], [1, 0]]\n```", G),
        # another sign for a colour
        ("```\n.....\n..3..\n23232\n```", "ragged"),
        ("```\n--3--\n23232\n-----\n```", "ragged"),
        ("```\n2 # 3\n# # #\n2 3 2\n```", "ragged"),
        # thoughts
        ("20\n02\n<think>\n10\n01\n</think>\nThat is it.", G),
        ("<thinking>10\n01</thinking>\n20\n02", G),
        ("<reasoning>10\n01</reasoning>\n20\n02", G),
        ("[THINK]10\n01[/THINK]20\n02", G),
        ("◁think▷10\n01◁/think▷20\n02", G),
        ("<seed:think>10\n01</seed:think>20\n02", G),
        ("<|begin_of_thought|>10\n01<|end_of_thought|>\n<|begin_of_solution|>20\n02", G),
        ("<|START_THINKING|>10\n01<|END_THINKING|>20\n02", G),
        ("<|channel|>analysis<|message|>10\n01<|end|><|start|>assistant"
         "<|channel|>final<|message|>20\n02<|return|>", G),
        ("<|channel>thought\n10\n01<channel|>20\n02", G),
        ("analysisLet me\n10\n01assistantfinal20\n02", G),
        ("20\n02<|end|>", G),  # an end token of a model without channels
        ("[Reasoning]\nIt grows.\n[Output]\n20\n02", G),
        # no row is lost above the others
        ("The answer is 0 1 2\n3 4 5\n6 7 8", "ragged"),
        ("So we get 0 1 2\n3 4 5\n6 7 8", "ragged"),
        ("Answer: 3 1 2\n3 4 5", "312|345"),
        ("```grid 012\n345\n678\n```", "ragged"),
        ("Col 0 1 2\n3 4 5\n6 7 8", "345|678"),
        ("The colours are 1 2 3\n3 4 5\n6 7 8", "345|678"),
        # what a rule gives, what a change leaves, and two grids side by side
        ("Example 1 output:\n11\n22\n\nThe rule on the test input gives:\n\n0 3 4", "034"),
        ("Example 1 output:\n[[1,1]]\n\nSo the result is\n```text\n((3,4),(5,6))\n```", "34|56"),
        ("<input>\n10\n01\n</input>\n<output>\n11\n11\n</output>\n\nFinal answer:\n20\n02", G),
        ("```diff\n- 10\n- 01\n+ 20\n+ 02\n```", "ragged"),
        ("Input\tOutput\n0 1 2\t2 1 0\n3 4 5\t5 4 3", "unparsed"),
        ("maybe\n10\n01\n</think>\nI do not know.", "unparsed"),
    ],
)  # fmt: skip
def test_this_is_the_answer(reply, answer):
    assert read(reply) == answer


REASONED = """In the first example, the output is

```
0 3
3 0
```

The test input:

```
1 0
2 2
```

After flipping it:

```
0 1
2 2
```

Now the rows change places. So the final grid is as follows.

"""


def test_a_grid_that_is_quoted_on_the_way_is_no_answer_of_a_reply_that_was_cut():
    right = REASONED + "```\n2 2\n0 1\n```"
    assert read(right, "length") == read(right) == "22|01"
    ends = {read(REASONED[:n], "length"): n for n in range(len(REASONED))}
    assert ends.keys() <= {"truncated", "01|22"}
    # Cut where a grid ends, nothing tells it from the answer.
    assert REASONED[: ends.get("01|22", 0)].rstrip("` \n").endswith("2 2")


@pytest.mark.parametrize(
    "reply",
    ["20\n02\n\nThe two\nchanges", "Here is the output:\n```\n20\n02\n```\nEach cell is",
     "Input:\n10\n01\n\nThe final answer:\n20\n02\n\nsince\nthe",
     "\\boxed{[[2,0],[0,2]]} since the"],
)  # fmt: skip
def test_an_answer_that_is_explained_stays_one_where_the_explanation_is_cut(reply):
    assert read(reply, "length") == G


@pytest.mark.parametrize("names", [["json"], ["minimal"], ["row_number", "minimal"], [SPACES]])
@pytest.mark.parametrize("prefill", ["### Output\n\n```grid", "```\n", "The grid:\n```json\n"])
def test_a_prefilled_fence_opens_the_grid_in_any_notation(names, prefill):
    format = PromptFormat(make_encoder(names), ChatTemplate(prefill=prefill))
    assert format.stop == ["\n```"]
    again = "\n```\nAs in example 1:\n```\n1 0\n0 1\n```\n"
    grid = np.array([[2, 0], [0, 2]])
    reply = "\n" + format.render_answer(grid) + again
    assert read(reply, format=format, prompt=prefill) == G


@pytest.mark.parametrize(
    "mark",
    ["<think>", "<thinking>", "<reasoning>", "[THINK]", "◁think▷", "<|channel|>analysis<|message|>",
     "20\n02\n<think>", "<think>a</think><think>", "analysisWe see "],
)  # fmt: skip
@every_format
def test_a_thought_that_never_ends_is_no_answer(format, mark):
    text = f"{mark}\nLet me see.\n10\n01\n```\n[[1, 0], [0, 1]]\n```\nHmm"
    assert read(text, "length", format) == "truncated"
    assert read(text, "stop", format) == read(text, None, format) == "unparsed"


def test_the_prompt_tells_if_a_thought_or_a_block_was_begun_there():
    format = PromptFormat()
    prefill = format.template.prefill
    assert read("1 20\n2 02\n01 1", prompt="<assistant><think>\n") == "unparsed"
    assert read("10\n01</think>20\n02", prompt="<assistant><think>\n") == G
    assert read("20\n02", prompt="In <think> marks, please!" + " " * 99) == G
    two = " shape: 1x1\n1 2\n```\n```grid shape: 1x1\n1 3\n```"
    assert read(two, format=format, prompt=f"<assistant>{prefill}") == "2"
    assert read("```grid" + two, format=format, prompt="<assistant>") == "3"


def test_a_prefilled_model_that_begins_anew_is_read_too():
    format = PromptFormat()
    assert read(f"<think>```\n{INPUT}\n```</think>```\n2 0\n0 2\n```", format=format) == G
    assert read("\n[[2, 0], [0, 2]]\n```", format=format) == G
    assert read(" shape: 3x2\n1 20\n2 02\n```", format=format) == "ragged"


def test_what_follows_a_broken_grid_that_the_prompt_opened_is_no_answer():
    """As where a base model goes on with a pair of its own."""
    pair = "\n```\n\n### Output\n\n```grid shape: 1x2\n1 55\n```\n"
    for begun in (" shape: 2x2\n1 01\n2 1", " shape: 3x2\n1 01\n2 11"):
        assert read(begun + pair, format=PromptFormat()) == "ragged"


@pytest.mark.parametrize("names", [["minimal"], ["grid_code_block", "minimal"], ["json"], [SPACES]])
def test_a_first_row_on_the_line_of_a_prefilled_fence_is_read_or_breaks_the_grid(names):
    format = PromptFormat(make_encoder(names))
    assert read(" 012\n345\n678\n```", format=format) == "012|345|678"
    for begun in (": 012", " shape: 3x3 012"):
        assert read(f"{begun}\n345\n678\n```", format=format) == "ragged"


@pytest.mark.parametrize("label", ["3x3:", "Output 12x12:", "3x3 grid", "```grid shape: 12x12"])
@every_format
def test_a_label_with_digits_is_no_row_of_the_format(format, label):
    grid = as_grid(np.arange(9).reshape(3, 3) if "3x3" in label else np.eye(12, dtype=int))
    text = "\n".join(x for x in format.render_answer(grid).split("\n") if not x.startswith(FENCE))
    assert read(f"{label}\n{text}\n", format=format) == format_grid(grid)


def test_rows_that_begin_with_their_number_count_from_1():
    """The format's own do: a first column that counts from 0 is one."""
    numbered = FORMATS["block"]
    for format in (numbered, BARE):
        assert read("Final answer:\n0 5\n1 3\n2 4", format=format) == "05|13|24"
    assert read("Final answer:\n1 5\n2 3", format=numbered) == "5|3"


def test_a_row_whose_row_before_is_missing_is_no_first_row():
    format = FORMATS["letters of rows"]
    assert read("Output:\n0aa0ab\n0ba0bb", format=format) == "00|00"
    assert read("Output:\n0ba0bb\n0ca0cb", format=format) == "ragged"
    assert read("Output:\n0aa0ab\n0ca0cb", format=format) == "ragged"


@pytest.mark.parametrize(
    ("reply", "n_grids"),
    [
        ("20\n02", 1),
        ("20\n02\n\nthat is\n[[2, 0], [0, 2]]", 1),
        ("10\n01\n\n20\n02\n\n3", 2),
        ("<think>11\n11\n</think>10\n01\n\n20\n02", 2),
        ("I do not know", 0),
    ],
)
def test_distinct_grids_outside_thoughts_are_counted(reply, n_grids):
    assert BARE.read(reply, "stop").n_grids == n_grids


@every_format
def test_reading_never_raises(format):
    pieces = ["```", "grid", " shape: 2x2", "[[", "]", "01", "\n", "|", "<think>", "</think>",
              "Row 1:", "\\boxed{", "}", "1" * 5000, "٣", "²", "\ud800", "\x00", "0 1", "(", ")",
              '"', "- ", ";", "|---|", "Output:", "<answer>", "\\begin{array}"]  # fmt: skip

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from(pieces) | st.text(max_size=3)).map("".join))
    def check(reply):
        for finish_reason in ("stop", "length", None):
            grid, status = format.parse(reply, finish_reason)
            assert status in STATUSES
            assert (status == "ok") == (grid is not None)

    check()


@pytest.mark.parametrize(
    "piece",
    ["1", "0 ", "0\n", "0123456789\n", "1\nx\n", "[", "]", "[[", "[0],", "[[0],", "(", "|", "|0",
     "| 0 |\n", "|-", "```", "```\n", "```\n0\n", "<", "<think>", "</think>", "<think></think>",
     "[THINK]", "\n", " ", '"', "\\boxed{", "}", "\\boxed{0}", "Row 1: 2 0\n", "[[1,2],[3,4]]\n",
     "shape: 2x2\n", "1. ", "<|channel|>final", "assistantfinal", "{", "Output: 1\n", "a", "row ",
     '{"output": "1\\n2"}', "1 ", "null,", "1x\n", "1\n...\n", "[[1],[[",
     "[[1,2],[null,3]]", "output:```", "#"],
)  # fmt: skip
def test_a_reply_of_100_kB_is_read_in_a_moment(piece):
    reply = piece * (100_000 // len(piece))

    def seconds(format):
        start = time.process_time()
        format.parse(reply, "length")
        return time.process_time() - start

    for format in (BARE, PromptFormat()):
        # 0.1 s at most on a machine that does other things; quadratic time would take minutes.
        assert min(seconds(format) for _ in range(5)) < 0.3


# Replies that are stored --------------------------------------------------------------------------


STEP = 20  # rows of a store that stand for one; with 1, all of them are read


def stores():
    return sorted(path for path in DUMPS.rglob("*.jsonl.gz") if path.name != "scores.jsonl.gz")


@pytest.mark.parametrize("path", stores(), ids=lambda path: str(path.relative_to(DUMPS)))
def test_stored_replies_parse_to_what_their_store_says(path):
    run = read_run(path.with_suffix(""))
    format = PromptFormat.from_dict(run["settings"]["prompt_format"])
    frame = read_predictions(path)[::STEP]
    frame = frame[frame["text"].notna() & (frame["status"] != "no_reply")]
    for row in frame.itertuples():
        grid, status = format.parse(row.text, row.finish_reason)
        assert status == row.status
        if grid is not None:
            reverted = Augmentation.parse(row.augmentation).revert_grid(grid)
            assert format_grid(reverted) == row.grid
    assert len(frame)


def test_there_are_stores_of_replies():
    assert len(stores()) > 20
