"""Replies: which grid of a free text is the answer, in the notations that models and people write.

For replies whose prompt did not open the grid. What a closed thought holds is dropped; of the rest,
the boxed grid is the answer, else the last one. Every step takes time linear in the text.
"""

import re
from bisect import bisect
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from arc_airv.grids import MAX_SIDE, Grid, as_grid
from arc_airv.prompts.encoders import (
    FENCE,
    GridCodeBlock,
    GridEncoder,
    Json,
    Minimal,
    ReplyError,
    RowNumber,
)
from arc_airv.records import OK, RAGGED, TOO_LARGE, TRUNCATED, UNPARSED

# Thoughts ----------------------------------------------------------------------------------------

_WORDS = ("think", "thought", "reason", "reflect", "scratch", "monologue", "analysis")
_NAME = rf"[\w:]{{0,16}}?(?:{'|'.join(_WORDS)})[\w:]{{0,16}}\|?[>▷]"
_THOUGHT = re.compile(
    rf"[<◁]\|?(?P<close>/|end[_ ](?:of[_ ])?)?{_NAME}|(?-i:\[(?P<close_square>/)?THINK\])"
    # Two families have marks of their own; in the first, an engine may leave out its signs.
    r"|(?P<harmony><\|channel\|>\s*final\b[^<]{0,40}(?:<\|message\|>)?|assistant\s?final)"
    r"|<\|channel\|?>\s*(?:analysis|commentary|thought)\b|\Aanalysis(?=\w)"
    r"|(?P<unused><unused95>|<channel\|>)|<unused94>",
    re.IGNORECASE,
)
_CLOSING = ("close", "close_square", "harmony", "unused")
_SIGNS = (*_WORDS, "channel", "assistant", "unused9")


def begins_thought(prompt: str) -> bool:
    """Tell if a prompt ends inside an open thought: what it begins, it begins at its very end."""
    return _answer_part(prompt[-60:]) is None


def has_thought(text: str) -> bool:
    """Tell if a text holds a mark that begins or ends a thought."""
    return next(_marks(text), None) is not None


def _marks(text: str) -> Iterator[re.Match]:
    lower = text.lower()
    return _THOUGHT.finditer(text) if any(sign in lower for sign in _SIGNS) else iter(())


def _answer_part(text: str, thinking: bool = False) -> str | None:
    """Return a text without its thoughts; None if the last one never ends.

    A closing mark without its opening ends a thought that began with the text, as where the prompt
    holds the opening.
    """
    parts, start = [], None if thinking else 0  # where the answer goes on; None: in a thought
    for mark in _marks(text):
        if any(mark.group(*_CLOSING)):
            if start is not None:
                parts.clear()
            start = mark.end()
        elif start is not None:
            parts.append(text[start : mark.start()])
            start = None
    return None if start is None else "\n".join([*parts, text[start:]])


# Notations ---------------------------------------------------------------------------------------

_CELL = r"(?:\d(?:\.0*+)?|\"\d\"|'\d')"
_LIST_ROW = rf"[\[(]\s*+{_CELL}(?:[\s,;]++{_CELL})*+[\s,]*+[\])]"
_TEXT_ROW = r"\"[\d ,|]++\"|'[\d ,|]++'"
_LIST = re.compile(rf"[\[(]\s*+(?:(?:{_LIST_ROW}|{_TEXT_ROW})[\s,;]*+)++[\])]")
_ROW_OF_LIST = re.compile(rf"{_LIST_ROW}|{_TEXT_ROW}")
_FLOAT = re.compile(r"\.0*")

_NUMBER = (  # of a row: "Row 1:", "r1 |", "1:", "1)", "1. ", "[1] "; "1 012" is told by the others
    r"(?:(?:row|line|r)[ _#]?[*_]*+(?P<named>\d++)[*_]*+(?: \([^()\n]{0,20}\))?[ \t]*+"
    r"(?:[:=|)\-–.]|->|→)?|"
    r"(?P<listed>\d++)(?:[:)]|\.(?=[ \t])|[ \t]*+(?:->|→|=))|"
    r"\[(?P<bracketed>\d++)\](?=[ \t]*+[\[\d])|"
    r"(?:\w++ row|row \w++)[*_]*+:)[*_]*+"
)
_LABEL = (
    r"(?P<label>\{?[\"']?(?:[a-z]++[_ ])?(?:output|answer|result|solution)(?:[_ ]grid)?"
    r"[*_\"']*+ ?[:=][*_]*+)"
)
_LINE = (
    rf"(?!\|?-+$)[ \t>|*•`+]*+(?:- )?(?:{_LABEL}[ \t]*+)?(?:{_NUMBER}[ \t]*+)?[ \t|\[(\"'`]*+"
    r"(?P<body>\d++(?:[ \t\"',;|&*]++\d++)*+)[ \t|\])}\"',;`*]*+\.?[ \t]*+"
)
_OWN_NUMBER = re.compile(r"\s*+\d+ \d+\s*+")
_RULE = r"[ \t]*+[|+:\-=][ \t|+:\-=]*+"  # between the lines of a table
_ROW = re.compile(_LINE, re.IGNORECASE)
_PLAIN_LINE = re.sub(r"\(\?P<\w+>", "(?:", _LINE)
_RUN = re.compile(rf"(?:^{_PLAIN_LINE}$\n?(?:^{_RULE}$\n?)?)++", re.IGNORECASE | re.MULTILINE)
_SHAPE = re.compile(
    r"\b(?:shape|size|dim\w{0,7})\b[\s:=*]*[\[(]?\s?(\d{1,9})"
    r"(?:\s?[x×,]\s?| by | rows? (?:x|by|and) )(\d{1,9})(?!\d)",
    re.IGNORECASE,
)
_LATEX = re.compile(r"\\(?:begin|end)\{\w+\}(?:\{[clr|]*\})?|\\\\(?:\[\w*\])?|\\hline")
_ESCAPED = re.compile(r"(?<=:)\s?(?=\"[\d ,|]{1,99}\\n)|(?<=[\d|\] ,])\\n(?=[\d|\[ ])")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{|<(?:answer|output|solution)>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>\s]{1,40}>")  # an end token, a line break
_INDEX = re.compile(  # the first cell of a table's header, above the numbers of its rows
    r"\s*\|[ *]*(?:(?:row|r|y)\s?[\\/]\s?\w+|rows?|r|y|i|#|index|idx|)[ *]*\|", re.IGNORECASE
)
_KEY = re.compile(r"[\"'](\w{1,40})[\"']\s*:\s*[\"']?$")
_SAYS_OUTPUT = re.compile(
    r"output|answer|result|solution|predict|final|attempt|grid|becom|transform", re.IGNORECASE
)
_ANNOUNCES = re.compile(r"\b(?:output|answer|result|solution|boxed)\b", re.IGNORECASE)
_SAYS_COUNT = re.compile(
    r"number|count|how many|total|object|size|height|width|shape|colou?r|cell|step|date|year|rows"
    r"|columns|index|score|length|area|input|example|case",
    re.IGNORECASE,
)
_SAYS_PLACE = re.compile(
    r"coord|position|location|indices|points|cells|pixels|\bat\b", re.IGNORECASE
)


MOST = 300  # lists, and runs of rows, that are looked at: the last ones


@dataclass(frozen=True)
class _Found:
    """A grid in a text, or the status that says why it is none."""

    start: int
    end: int
    grid: Grid | None
    status: str
    sure: bool  # False: may be a count or a list of places
    ended: bool  # nothing could follow that belongs to it


class Reading(NamedTuple):
    """The grid of a reply, its status, and how many distinct grids stand outside its thoughts."""

    grid: Grid | None
    status: str
    n_grids: int


def read_reply(
    text: str, finish_reason: str | None, encoder: GridEncoder, *, thinking: bool = False
) -> Reading:
    """Read the answer out of a reply in any notation. Never raises.

    Parameters
    ----------
    text : str
    finish_reason : {"stop", "length", None}
    encoder : GridEncoder
        The format's own notation, read beside all others.
    thinking : bool, default False
        The prompt has begun a thought.
    """
    cut = finish_reason == "length"
    answer = _answer_part(text, thinking)
    if answer is None:
        return Reading(None, TRUNCATED if cut else UNPARSED, 0)
    answer = "\n".join(answer.splitlines()) + ("\n" if answer[-1:] in ("\r", "\n") else "")
    answer = _ESCAPED.sub("\n", answer)
    if "\\begin{" in answer:
        answer = _LATEX.sub("\n", answer)
    answer = _own_rows(answer, encoder)
    numbered = _cells_of(encoder)[1]
    boxes = list(_BOXED.finditer(answer))
    if boxes:
        start = boxes[-1].end()
        end = re.compile(r"\}(?=[^}\d]*+$)|\}|</\w+>").search(answer, start)
        found = _find(answer[start : end.start() if end else None], numbered)
        if end and (grids := [each for each in found if each.grid is not None]):
            return Reading(grids[-1].grid, OK, len({_key(each.grid) for each in grids}))
    answer = _TAG.sub("\n", answer)
    found = _find(answer, numbered)
    sure = [each for each in found if each.sure] or [
        each for each in found if each.grid is not None
    ]
    n_grids = len({_key(each.grid) for each in sure if each.grid is not None})
    if cut and _goes_on(answer, sure[-1] if sure else None):
        return Reading(None, TRUNCATED, n_grids)
    if not (sure or found):
        return Reading(None, TRUNCATED if cut else UNPARSED, 0)
    last = (sure or found)[-1]
    in_fence = finish_reason is None and answer.count(FENCE, 0, last.start) % 2
    if not last.ended and (cut or in_fence):
        return Reading(None, TRUNCATED, n_grids)
    return Reading(last.grid, last.status, n_grids)


def _key(grid: Grid) -> tuple:
    return grid.shape, grid.tobytes()


def _goes_on(text: str, last: _Found | None) -> bool:
    """Tell if a text that was cut had announced or begun a grid after its last, or around it."""
    start, end = (last.start, last.end) if last else (0, 0)
    tail = text[max(end, len(text) - 300) :]
    before = text[max(0, start - 100) : start].rstrip()[-1:]
    return (
        (before in ("[", ",") and text.count("]") < text.count("["))
        or (text.count(FENCE) % 2 == 1 and text.rfind(FENCE) >= end)
        or "[[" in "".join(tail.split())
        or _ANNOUNCES.search(tail) is not None
    )


def _cells_of(encoder: GridEncoder) -> tuple[GridEncoder, bool]:
    """Return the encoder of the cells alone, and True if rows carry numbers."""
    numbered = False
    while isinstance(encoder, (GridCodeBlock, RowNumber)):
        numbered = numbered or isinstance(encoder, RowNumber)
        encoder = encoder.base
    return encoder, numbered


def _own_rows(text: str, encoder: GridEncoder) -> str:
    """Rewrite the rows of an encoder that writes more than bare digits as digits."""
    cells, numbered = _cells_of(encoder)
    if isinstance(cells, (Minimal, Json)) or not set(vars(cells).get("separator", "~")) - set(
        " \t,;|&"
    ):
        return text
    longest = 2 * len(cells.encode_row([0] * MAX_SIDE, 0))

    def rewrite(line: str) -> str | None:
        number, space, rest = line.strip().partition(" ") if numbered else ("", "", line.strip())
        if not rest or len(rest) > longest or (space and not number.isdecimal()):
            return None
        try:
            row = cells.decode_row(rest, 0)
        except ReplyError:
            return None
        return None if row is None else f"{number}{space}{''.join(map(str, row))}"

    lines: list[str] = []
    for are_digits, run in groupby(text.split("\n"), lambda line: line.strip().isdecimal()):
        old = list(run)
        new = list(map(rewrite, old))
        if are_digits and None in new:  # these are plain digits
            lines += old
        else:
            lines += [a if b is None else b for a, b in zip(old, new)]
    return "\n".join(lines)


def _find(text: str, numbered: bool) -> list[_Found]:
    """Return the grids of a text in their order, those that are faulty among them."""
    found, rest, end = [], [], 0
    fences = [match.start() for match in re.finditer(FENCE, text)]
    for match in deque(_LIST.finditer(text), MOST):
        rows = [_digits(row) for row in _ROW_OF_LIST.findall(match.group(), 1)]
        places = len(rows[0]) == 2 and _ROW_OF_LIST.search(match.group(), 1).group()[0] == "("
        around = _lines_before(text, match.start())
        fenced = bisect(fences, match.start()) % 2 == 1
        found.append(_judge(match.span(), rows, around, fenced=fenced, places=places, nested=True))
        rest += [text[end : match.start()], "\x00" * len(match.group())]
        end = match.end()
    text = "".join([*rest, text[end:]])
    for start, end, lines in _runs(text):
        label, before = _lines_before(text, start)
        declared = _declared(label) or (_declared(before) if _is_fence(label, before) else None)
        shape = tuple(map(int, declared.groups())) if declared else None
        rows = _read_rows(lines, numbered, _INDEX.match(before) is not None, shape)
        if rows is None:
            continue
        around = (_ROW.match(lines[0])["label"] or label, before)
        places = len(rows) > 0 and len(rows[0]) == 2 and lines[0].lstrip(" \t-*•>")[:1] == "("
        after = text[end : end + 300].lstrip()  # the last line may be a row that was cut short
        ended = after.startswith(FENCE) or "\n" in after or len(after) > 200
        # In a block, under the rule of a table, or under a shape.
        fenced = bisect(fences, start) % 2 == 1 or label.lstrip()[:1] == "|" or shape
        found.append(
            _judge(
                (start, end), rows, around, fenced=fenced, places=places, ended=ended, shape=shape
            )
        )
    return sorted(found, key=lambda each: each.start)


def _is_fence(*lines: str) -> bool:
    return any(line.lstrip().startswith(FENCE) for line in lines)


def _declared(line: str) -> re.Match | None:
    """Find the shape that a line declares: a fence's, or one that says nothing else."""
    found = _SHAPE.search(line)
    alone = found and not re.search(r"\w", line[found.end() :])
    few = found and len(line[: found.start()].split()) < 4
    return found if _is_fence(line) or (alone and few) else None


def _digits(row: str) -> list[int]:
    return [int(c) for c in _FLOAT.sub("", row) if c.isdecimal()]


def _runs(text: str) -> list[tuple[int, int, list[str]]]:
    """Return start, end and lines of the runs of lines that may be rows."""
    runs: list[tuple[int, int, list[str]]] = []
    single = False  # the last run has a blank line between any two of its lines
    for match in deque(_RUN.finditer(text), MOST):
        lines = [line for line in match.group().split("\n") if any(map(str.isdecimal, line[:99]))]
        pieces: list[list[str]] = []
        for line in lines[: 2 * MAX_SIDE]:
            if not pieces or _ROW.match(line)["label"]:
                pieces.append([])
            pieces[-1].append(line)
        is_single = len(lines) == 1
        blank = runs and text[runs[-1][1] : match.start()].isspace()
        if blank and is_single and single and not _ROW.match(lines[0])["label"]:
            start, _, before = runs.pop()
            before += lines
            runs.append((start, match.end(), before))
        else:
            runs += [(match.start(), match.end(), piece) for piece in pieces]
        single = is_single
    return runs


def _read_rows(
    lines: list[str], numbered: bool, indexed: bool, shape: tuple[int, int] | None
) -> list[list[int]] | None:
    """Return the rows of some lines, [] if they are misnumbered, None if they are no rows."""
    numbers, tokens = [], []
    for line in lines:
        match = _ROW.match(line)
        number = match["named"] or match["listed"] or match["bracketed"]
        body = match["body"]
        if number is None and (
            piped := re.fullmatch(r"(\d+)[ \t]*\|[ \t|]*([\d \t,]+)", body)
        ):  # "0 | 2 0"
            if len(piped[2].split()) > 1 or len(piped[2]) > 1:
                number, body = piped.groups()
        if len(body) > 8 * MAX_SIDE:
            return [[0] * (MAX_SIDE + 1)]
        numbers.append(number)
        if len(lines) == 1 and ";" in body and re.search(r"\d[ ,]+\d", body):  # "2 0; 0 2"
            return [[int(c) for c in re.findall(r"\d", part)] for part in body.split(";")]
        tokens.append(re.findall(r"\d+", body))
    first, others = tokens[0], tokens[1:]
    if (
        others
        and _counts(first)
        and len(first) > 1
        or (others and first in (["0"], ["1"], ["00"], ["01"]))
    ):
        inner = [t if n else t[1:] for n, t in zip(numbers[1:], others)]
        names = [n or t[0] for n, t in zip(numbers[1:], others)]
        if numbers[0] is None and _counts(names) and all(len(t) == len(first) for t in inner):
            if all(len(c) == 1 for row in inner for c in row):
                return [list(map(int, row)) for row in inner]  # below a line of column numbers
    plain = [_cells(row) for row in tokens]
    if None not in numbers:
        return None if None in plain else plain if _counts(numbers) else []
    inner = [_cells(row[1:]) for row in tokens]
    ways = [plain] if None not in plain else []
    misnumbered = False
    if None not in inner:
        if _counts([row[0] for row in tokens]):
            own = numbered and all(map(_OWN_NUMBER.fullmatch, lines))
            ways.insert(0 if own or indexed else 1, inner)
        else:
            misnumbered = numbered and not ways
    if misnumbered:
        return []
    good = [rows for rows in ways if len(set(map(len, rows))) == 1]
    fitting = [rows for rows in good if (len(rows), len(rows[0])) == shape]
    return next(iter(fitting or good or ways), None)


def _cells(tokens: list[str]) -> list[int] | None:
    if len(tokens) == 1:
        return list(map(int, tokens[0]))
    return list(map(int, tokens)) if tokens and all(len(t) == 1 for t in tokens) else None


def _counts(numbers: list[str]) -> bool:
    """Tell if numbers count from 0 or from 1."""
    n, numbers = len(numbers), [number.lstrip("0") or "0" for number in numbers]
    return numbers in ([str(i) for i in range(n)], [str(i + 1) for i in range(n)])


def _lines_before(text: str, start: int) -> tuple[str, str]:
    """Return the last two lines before a place that are not blank, as far as 300 characters."""
    lines = [line for line in text[max(0, start - 300) : start].split("\n") if line.strip()]
    return tuple((["", ""] + lines)[:-3:-1])


def _judge(
    span: tuple[int, int],
    rows: list[list[int]],
    around: tuple[str, str],
    *,
    fenced: bool,
    places: bool,
    nested: bool = False,
    ended: bool = True,
    shape: tuple[int, int] | None = None,
) -> _Found:
    """Tell if some rows are a grid, and by the line before them how sure that is."""
    label = around[0]
    key = _KEY.search(label)
    says_output = bool(_SAYS_OUTPUT.search(key[1] if key else label))
    widths = set(map(len, rows))
    if not rows:
        return _Found(*span, None, RAGGED, True, True)
    if len(rows) > MAX_SIDE or max(widths) > MAX_SIDE:
        return _Found(*span, None, TOO_LARGE, len(rows) > 1, True)
    thin = len(rows) == 1 or widths == {1}
    if key:
        sure = says_output
    elif fenced or says_output:
        sure = not (places and _SAYS_PLACE.search(label))
    elif thin and not nested:
        sure = label.rstrip(" *_").endswith(":") and not _SAYS_COUNT.search(label)
    else:
        sure = not (places or (widths == {2} and _SAYS_PLACE.search(label)))
    if len(widths) > 1:
        return _Found(*span, None, RAGGED, sure, ended)
    if shape is not None and shape != (len(rows), *widths):
        return _Found(*span, None, RAGGED, True, ended)
    return _Found(*span, as_grid(np.array(rows)), OK, sure, ended)
