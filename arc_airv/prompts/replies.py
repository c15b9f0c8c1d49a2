"""Replies: which grid of a free text is the answer, in the notations that models and people write.

For replies whose prompt did not open the grid. What a closed thought holds is dropped; of the rest,
the boxed grid is the answer, else the last one. What looks like a row and is none belongs to the
rows next to it, and makes their grid a broken one. Every step takes time linear in the text.
"""

import re
from bisect import bisect
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple

import numpy as np

from arc_airv.grids import MAX_SIDE, N_COLORS, Grid, as_grid
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
_LAST_CELLS = re.compile(r"(?<=[\s:])\d++(?:[ \t,;|&]++\d++)*+(?=[\s,.|]*$)")
_DIGIT = re.compile(r"\d")
_FLOAT = re.compile(r"\.0*")

# What may stand where a cell should: a token with a digit in it, or one that says it is none.
_CHAR = r"[^\s,;|&*\[\](){}\"'`]"
_TOKEN = re.compile(rf"{_CHAR}+")
_PART = (
    rf"(?:(?:(?!\d){_CHAR}){{0,9}}+\d{_CHAR}{{0,40}}+|(?:null|none|nan|n/?a|undefined|unknown|blank|"
    rf"empty|x{{1,2}}|\?{{1,3}}|_{{1,2}}|\.++|…)(?!{_CHAR}))"
)
_IS_PART = re.compile(_PART, re.IGNORECASE)
_BRACKETS = re.compile(  # and what is between them in a list of lists, be it good or broken
    rf"(?<!\\)[\[(](?:[\[\](), ;\t]|\n(?![ \t]*\n)|{_PART}|\"[^\"\n]{{0,99}}\"|'[^'\n]{{0,99}}'"
    r"|(?:(?<=[\[(,])|(?<=, ))[\w ]{1,30}(?=[,\])])|(?:#|//)[^\n]{0,200}|[-#*~.]{1,2})*+",
    re.IGNORECASE,
)
_NEST = re.compile(r"(?P<opens>[\[(]\s*[\[(\"'])|[\])\"']\s*[\])]")
_LIST_BEFORE = re.compile(r"\[[^\[\]{}]{1,300}\]\s*,\s*$")
_LIST_AFTER = re.compile(r"\s*,\s*\[[^\[\]{}]{1,300}\]")

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
    rf"(?!\n|\|?-+$)[ \t>|*•`+]*+(?:- )?(?:{_LABEL}[ \t]*+)?(?:{_NUMBER}[ \t]*+)?[ \t|\[(\"'`]*+"
    r"(?P<body>\d++(?:[ \t\"',;|&*]++\d++)*+)[ \t|\])}\"',;&`*]*+(?:(?<!\s)\.)?[ \t]*+"
)
_BLANK = re.compile(r"(?:\A|\n)[ \t]*\n")  # a line between two runs
_PIPED = re.compile(r"(\d+)[ \t]*\|[ \t|]*(\d[\d \t,]*\d)")  # "0 | 2 0"
_HOLE = re.compile(r"([,;|&])[ \t\"'*]*\1|\d[ \t]\d+[ \t]+\|[ \t]*\d")  # no cell, or two grids
_RULE = r"(?=[^\n]*[|+])(?=[^\n]*[-=])[ \t]*+[|+:\-=][ \t|+:\-=]*+"  # between the lines of a table
_ROW = re.compile(_LINE, re.IGNORECASE)
_PLAIN_LINE = re.sub(r"\(\?P<\w+>", "(?:", _LINE)
_RUN = re.compile(rf"^(?:{_PLAIN_LINE}$\n?(?:{_RULE}$\n?)?)++", re.IGNORECASE | re.MULTILINE)
_SIDES = re.compile(r"[(\[]?(\d{1,2})(?:[x×]| [x×] )(\d{1,2})\b[)\]:]?")  # "3x3"
_TELLS = re.compile(
    r"\b(?:same as|repeat|more\b|etc\b|and so on|ditto|contin|remaining|omit|skip|truncat|rest of)",
    re.IGNORECASE,
)
_LEFT_OUT = re.compile(  # rows that are told, not written: "...", "# 3 more", "etc.", "[]", "| |"
    rf"(?:\d+\W+)?(?:\W*(?:\.{{3}}|…)|[(\[#/<*{{ ]*[(\[#/<{{][^\n]{{0,60}}?{_TELLS.pattern}"
    r"|(?:same|repeat\w*|etc|ditto|and so on)\b(?: \w+){0,3}\W*$|\"?\[\s*\]|\|[|\s]*\|$)",
    re.IGNORECASE,
)
_NO_ROW = re.compile(  # what stands next to rows, and has digits for a reason of its own
    rf"^{FENCE}|[:：]$|->|[→⇒=%]|\d/\d|\d{{4}}-\d\d-\d\d|\d\),? \(\d"
    r"|^[(\[]?\d{1,2}(?:[x×]| [x×] )\d{1,2}\b(?![ \t,|]*\d)"
)
_NUMBERED = re.compile(rf"[ \t>|*•`+]*+(?:- )?{_NUMBER}", re.IGNORECASE)
_SHAPE = re.compile(
    r"\b(?:shape|size|dim\w{0,7})\b[\s:=*]*[\[(]?\s?(\d{1,9})"
    r"(?:\s?[x×,]\s?| by | rows? (?:x|by|and) )(\d{1,9})(?!\d)",
    re.IGNORECASE,
)
_LATEX = re.compile(r"\\(?:begin|end)\{\w+\}(?:\{[clr|]*\})?|\\\\(?:\[\w*\])?[ \t]*\n?|\\hline")
_ESCAPED = re.compile(  # a text of lines in JSON, and line breaks of digits elsewhere
    r"(?<=:)\s?\"(?:[^\"\\\n]{0,99}\\n)++[^\"\\\n]{0,99}|(?<=[\d|\] ,])\\n(?=[\d|\[ ])"
)
_BOXED = re.compile(r"\\(?:boxed|fbox)\s?\{|<(?:answer|output|solution)>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>\s]{1,40}>")  # an end token, a line break
_CELL_TAG = re.compile(r"</?t[dh]\b[^<>]{0,40}>\s*", re.IGNORECASE)
_COMMENT = re.compile(r"(?:(?<=\])|(?<=\],))[ \t]*+(?:#|//)[^\n]*")  # behind a row of a list
_INDEX = re.compile(  # the first cell of a table's header, above the numbers of its rows
    r"\s*\|[ *]*(?:(?:row|r|y)\s?[\\/]\s?\w+|rows?|r|y|i|#|index|idx|)[ *]*\|", re.IGNORECASE
)
_KEY = re.compile(r"[\"'](\w{1,40})[\"']\s*:\s*[\"']?$")
_SAYS_OUTPUT = re.compile(
    r"output|answer|result|solution|predict|final|attempt|grid|becom|transform|\b(?:gives|yields)\b",
    re.IGNORECASE,
)
_ANNOUNCES = re.compile(r"\b(?:output|answer|result|solution|boxed)\b", re.IGNORECASE)
_BEGINS = (  # what looks like the beginning of a grid
    r"(?:(?:[\w.]{1,20}\()?\[|\(\(|[{|]|[* ]*row \d++:"
    rf"|(?!\d++ ?[x×]){_PART}(?:[ \t,|&]+(?:{_PART}|\S(?=[\s,|]))|[ \t]*$))"
)
_BEGUN = re.compile(rf"\s*{_BEGINS}", re.IGNORECASE | re.MULTILINE)
_ANSWER = re.compile(  # and an answer that begins so
    r"\b(?:output|answer|result|solution)(?:[_ ]grid)?[\"']?(?: \([^()\n]{0,40}\))?[*_ ]*:[*_]*\s*"
    rf"(?:(?:{FENCE}|shape)[^\n]{{0,99}}\n\s*){{0,2}}{_BEGINS}",
    re.IGNORECASE | re.MULTILINE,
)
_NAMES_ANSWER = re.compile(r"\b(?:final|answer|solution|predict)", re.IGNORECASE)
_QUOTES = re.compile(r"\b(?:example|input|demo|train|pair|case)|^\W*(?:input|in)\b", re.IGNORECASE)
_SAYS_COUNT = re.compile(
    r"number|count|how many|total|object|size|height|width|shape|colou?r|cell|step|date|year|rows"
    r"|columns|index|score|length|area|input|example|case|legend|mapping|palette|\bsum|check"
    r"|confiden|certain|probab|rating|moves",
    re.IGNORECASE,
)
_INPUT_WORDS = frozenset(  # of the label of a grid that is no answer
    "again as compare compared comparison example for given grid here input is original test the "
    "this to was".split()
)
_NAMES_COLUMNS = re.compile(  # of a table of two that is no grid
    rf"{_SAYS_COUNT.pattern}|\|[ *]*(?:from|to|old|new|before|after|was|is|output)[ *]*\|",
    re.IGNORECASE,
)
_SAYS_PLACE = re.compile(
    r"coord|position|location|indices|points|cells|pixels|corner|bounding|\bbox\b|matrix|kernel"
    r"|offset|direction|vector|\b(?:at|from|moved?)\b",
    re.IGNORECASE,
)
_MAPS = re.compile(r"\W*\d[ \t]*(?:->|→|⇒|=>?)[ \t]*\d\W*")


_LIST_FILL, _BROKEN_FILL = "\x00", "\x01"  # in place of a list that was found
_AFTER_GRID = "`\"'*_.,;:)]} \n\t"  # what may stand behind the answer
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
    given: bool  # the input, repeated
    label: str  # the line before it, or its key


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
        Any other is taken for "length": the engine did not say that the reply is whole.
    encoder : GridEncoder
        The format's own notation, read beside all others.
    thinking : bool, default False
        The prompt has begun a thought.
    """
    cut = finish_reason not in ("stop", None)
    answer = _answer_part(text, thinking)
    if answer is None:
        return Reading(None, TRUNCATED if cut else UNPARSED, 0)
    answer = "\n".join(answer.splitlines()) + ("\n" if answer[-1:] in ("\r", "\n") else "")
    answer = _ESCAPED.sub(lambda match: "\n" + match.group().replace("\\n", "\n").strip(), answer)
    if "\\begin{" in answer:
        answer = _LATEX.sub("\n", answer)
    answer = _own_rows(_COMMENT.sub("", answer), encoder)
    own = _own_number(encoder)
    boxes = [box for box in _BOXED.finditer(answer) if not _is_quoted(answer, box)]
    if boxes:
        start = boxes[-1].end()
        end = re.compile(r"\}(?=[^}\d]*+$)|\}|</\w+>").search(answer, start)
        found = _find(answer[start : end.start() if end else None], own)
        grids = [each for each in found if each.sure or each.grid is not None]
        if end and grids:
            return Reading(grids[-1].grid, grids[-1].status, _n_distinct(grids))
        if end and _BEGUN.match(answer[start : end.start()]):
            return Reading(None, RAGGED, 0)
    answer = _TAG.sub("\n", _CELL_TAG.sub(" ", answer))
    found = _find(answer, own)
    n_grids = _n_distinct([each for each in found if each.sure] or found)
    first = found[:1]
    found = [each for each in found if not each.given]
    found = [each for each in found if each.sure] or found
    if cut and _goes_on(answer, found[-1] if found else None):
        return Reading(None, TRUNCATED, n_grids)
    if not found:
        return Reading(None, TRUNCATED if cut else UNPARSED, 0)
    last = found[-1]
    goes_on = answer[last.end :].strip(_AFTER_GRID) or _QUOTES.search(last.label)
    if cut and goes_on and not _is_answer(last, first):
        return Reading(None, TRUNCATED, n_grids)
    in_fence = finish_reason is None and answer.count(FENCE, 0, last.start) % 2
    if not last.ended and (cut or in_fence):
        return Reading(None, TRUNCATED, n_grids)
    if last.grid is not None and _ANSWER.search(answer, last.end if last.sure else 0):
        return Reading(None, RAGGED, n_grids)
    return Reading(last.grid, last.status, n_grids)


def _is_quoted(text: str, box: re.Match) -> bool:
    """Tell an output tag of an example, whose input stands before it, from that of the answer."""
    before = _lines_before(text, box.start())[0]
    return box.group().lower() == "<output>" and _QUOTES.search(before) is not None


def _n_distinct(found: list[_Found]) -> int:
    grids = [each.grid for each in found if each.grid is not None]
    return len({(grid.shape, grid.tobytes()) for grid in grids})


def _is_answer(grid: _Found, first: list[_Found]) -> bool:
    """Tell a grid that is the answer from one that is quoted on the way to it.

    In a text that was cut after it: it is called so, or it begins the text.
    """
    says_output = not grid.label or _SAYS_OUTPUT.search(grid.label) is not None
    names_answer = _NAMES_ANSWER.search(grid.label) is not None
    return not _QUOTES.search(grid.label) and (names_answer or (says_output and grid in first))


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


def _own_number(encoder: GridEncoder) -> re.Pattern | None:
    """Return what a row of an encoder looks like in digits, if it carries its number."""
    cells, numbered = _cells_of(encoder)
    between = "" if _is_rewritten(cells) else re.escape(vars(cells).get("separator", ""))
    return re.compile(rf"\s*+\d+ \d(?:{between}\d)*+\s*+") if numbered else None


def _is_rewritten(cells: GridEncoder) -> bool:
    separator = set(vars(cells).get("separator", "~"))
    return not isinstance(cells, (Minimal, Json)) and not separator <= set(" \t,;|&")


def _own_rows(text: str, encoder: GridEncoder) -> str:
    """Rewrite the rows of an encoder that writes more than bare digits as digits."""
    cells, numbered = _cells_of(encoder)
    if not _is_rewritten(cells):
        return text
    longest = 2 * len(cells.encode_row([0] * MAX_SIDE, 0))
    each = [set(cells.encode_row([c], 0)) for c in range(N_COLORS)]
    symbols = set.union(*each) - set.intersection(*each)

    def rewrite(line: str, indices: list[int]) -> tuple[str | None, int]:
        number, space, rest = line.strip().partition(" ") if numbered else ("", "", line.strip())
        if not rest or len(rest) > longest or (space and not number.isdecimal()):
            return None, -1
        for index in indices:
            try:
                row = cells.decode_row(rest, index)
            except ReplyError:
                continue
            digits = f"{number}{space}{''.join(map(str, row))}" if row else None
            return digits, index if row else -1
        return None, -1

    old, new, n_rows = text.split("\n"), [], 0
    for line in old:  # the next row, or the first of another grid, or one whose row before is none
        row, index = rewrite(line, [n_rows, *range(MAX_SIDE)])
        new.append(row if index in (-1, 0, n_rows) else f"{_BROKEN_FILL}\n{row}")
        n_rows = index + 1
    lines: list[str] = []
    for are_digits, run in groupby(zip(old, new), lambda pair: pair[0].strip().isdecimal()):
        pairs = list(run)
        n_known = sum(row is not None for _, row in pairs)
        plain = are_digits and 2 * n_known <= len(pairs)  # digits that were not meant so
        lines += [a if plain or b is None else b for a, b in pairs]
    for i, line in enumerate(old):
        heads = _is_fence(line) or line.rstrip(" *_").endswith(":") or _SIDES.match(line.strip())
        near = len(line) <= longest and any(new[max(0, i - 1) : i + 2])
        if new[i] is None and near and not heads:
            n_symbols = sum(map(line.count, symbols))
            if line == lines[i] and 5 * n_symbols >= len(line.strip()) > 0:
                lines[i] = _BROKEN_FILL  # next to rows, and much like one
    return "\n".join(lines)


def _find(text: str, own: re.Pattern | None) -> list[_Found]:
    """Return the grids of a text in their order, those that are faulty among them."""
    fences = [match.start() for match in re.finditer(FENCE, text)]
    found, text = _find_lists(text, fences)
    for run in _runs(text, fences):
        first, last = run.lines[0], run.lines[-1]
        label, before = _lines_before(text, run.start)
        within = _ROW.match(first)["label"]
        fenced = bisect(fences, run.start) % 2 == 1
        in_table = re.fullmatch(_RULE, label) is not None
        after = text[run.end : run.end + 300]
        rest = after.strip()  # if there is none, the last line may be a row that was cut short
        ended = rest.startswith(FENCE) or "\n" in rest or len(rest) > 200
        # The lines next to it, in the same block.
        line_above = text[max(0, run.start - 99) : run.start].split("\n")[-2:][0]
        near = fenced or run.apart or line_above.strip()
        if near and not within and _spoils(before if in_table else label, first, -1):
            label, run.broken = before, True
        run.broken |= bool(near and not within) and _ends_in_row(label, first)
        below = (rest if fenced or run.apart else after).partition("\n")[0]
        run.broken |= _spoils(below, last, 1)
        declared = [_declared(before) if _is_fence(label, before) else None, _declared(label)]
        declared = declared[:: -1 if _is_fence(label) else 1]
        if fenced or not after.startswith("\n"):
            declared.append(None if _is_fence(below) else _declared(below))
        shape = next((tuple(map(int, each.groups())) for each in declared if each), None)
        rows = _read_rows(run.lines, own, _INDEX.match(before) is not None, shape)
        rows += [[]] * run.broken
        if all(map(_MAPS.fullmatch, run.lines)):  # "1 -> 3": what becomes of a colour
            continue
        counts = in_table and _NAMES_COLUMNS.search(before) is not None  # "| color | count |"
        places = counts or first.lstrip(" \t-*•>")[:1] == "("
        # In a block, under the rule of a table, or under a shape.
        fenced = fenced or (in_table and not counts) or shape
        span, around = (run.start, run.end), (within or label, before)
        grid = _judge(span, rows, around, fenced=fenced, places=places, ended=ended, shape=shape)
        if any(rows) or grid.sure:
            found.append(grid)
    return sorted(found, key=lambda each: each.start)


def _find_lists(text: str, fences: list[int]) -> tuple[list[_Found], str]:
    """Return the lists of lists in a text, and the text without them."""
    good, found = list(deque(_LIST.finditer(text), MOST)), []
    rest = _without(text, good, _LIST_FILL)
    bad = [each for each in deque(_BRACKETS.finditer(rest), MOST) if _is_broken_list(each.group())]
    for match, broken in [*((match, False) for match in good), *((match, True) for match in bad)]:
        start, end = match.span()
        broken = (
            broken
            or _LIST_BEFORE.search(text[max(0, start - 300) : start]) is not None
            or _LIST_AFTER.match(text, end) is not None
        )
        inner = match.group()[1 : 3000 if broken else None]
        rows = [_digits(row) for row in _ROW_OF_LIST.findall(inner)] + [[]] * broken
        is_open = sum(map(inner.count, "[(")) >= sum(map(inner.count, "])"))
        found.append(
            _judge(
                (start, end),
                rows,
                _lines_before(text, start),
                fenced=bisect(fences, start) % 2 == 1,
                places=inner.lstrip()[:1] == "(",
                nested=True,
                ended=not (broken and is_open and len(text) - end < 20),
            )
        )
    return found, _without(rest, bad, _BROKEN_FILL)


def _without(text: str, matches: list[re.Match], fill: str) -> str:
    ends = [0, *(match.end() for match in matches)]
    parts = [text[end : m.start()] + fill * len(m.group()) for end, m in zip(ends, matches)]
    return "".join(parts) + text[ends[-1] :]


def _is_broken_list(text: str) -> bool:
    """Tell if some brackets, which are no list of lists, have cells in them as one has."""
    nest, text = _NEST.search(text), text[:3000]
    tokens = _TOKEN.findall(text) if nest else []
    n_words = sum(_IS_PART.fullmatch(token) is None for token in tokens)
    return (
        any(map(str.isdigit, text))
        and len(tokens) > (1 if nest and nest["opens"] else 3)
        and (text.count(",") > 1 or len(re.findall(r"[\[(]|\"[\d ,|]+\"", text)) > 2)
        and (3 * n_words <= len(tokens) or _TELLS.search(text) is not None)
    )


def _is_fence(*lines: str) -> bool:
    return any(line.lstrip().startswith(FENCE) for line in lines)


def _declared(line: str) -> re.Match | None:
    """Find the shape that a line declares: a fence's, or one that says nothing else."""
    if alone := _SIDES.fullmatch(line.strip(" \t>*\"'}")):
        return alone
    found = _SHAPE.search(line)
    alone = found and not re.search(r"\w", line[found.end() :])
    few = found and len(line[: found.start()].split()) < 4
    return found if _is_fence(line) or (alone and few) else None


def _digits(row: str) -> list[int]:
    return [int(c) for c in _FLOAT.sub("", row) if c.isdecimal()]


@dataclass
class _Run:
    """Lines that may be the rows of a grid."""

    start: int
    end: int
    lines: list[str]
    apart: bool  # with a blank line between any two
    broken: bool = False  # there is a row among them that is none


def _runs(text: str, fences: list[int]) -> list[_Run]:
    """Return the runs of lines that may be rows."""
    runs: list[_Run] = []
    for match in deque(_RUN.finditer(text), MOST):
        lines = (line for line in match.group().split("\n") if any(map(str.isdecimal, line[:99])))
        lines = list(islice(lines, 2 * MAX_SIDE))
        pieces: list[list[str]] = []
        for line in lines:
            if not pieces or _ROW.match(line)["label"]:
                pieces.append([])
            pieces[-1].append(line)
        apart = len(lines) == 1
        gap = text[runs[-1].end : match.start()] if runs else FENCE
        if FENCE not in gap and not _ROW.match(lines[0])["label"]:
            last, between = runs[-1], [line for line in gap[-400:].split("\n") if line.strip()][-5:]
            spoilt = [_spoils(line, lines[0]) for line in between]
            double = apart and last.apart and all(spoilt)
            in_block = bisect(fences, match.start()) % 2 == 1 or not _BLANK.search(gap)
            new = any(_introduces(line) for line, bad in zip(between, spoilt) if not bad)
            if double or (
                in_block and not new
            ):  # one grid, and broken if more than blanks divide it
                last.end = match.end()
                last.lines += pieces.pop(0)
                last.apart = double
                last.broken |= bool(between) or not double
        runs += [_Run(match.start(), match.end(), piece, apart) for piece in pieces]
    return runs


def _spoils(line: str, row: str, step: int = 0) -> bool:
    """Tell if a line next to a row, `step` lines away, is a broken row or stands for others."""
    line = line.strip(" \t>*•\"'").removeprefix("- ")
    if not line or _NO_ROW.search(line) or _ROW.fullmatch(line):
        return False
    if _BROKEN_FILL in line or _LEFT_OUT.match(line) or _LEFT_OUT.match(line.strip("| ")):
        return True
    if step > 0 and re.fullmatch(r"[\s\[(,]*[\[(]", line):  # of a row, this is all there is
        return True
    found = _ROW.fullmatch(row)
    number, other = _number(found), _number(_NUMBERED.match(line))
    if number and other:
        return not step or _counts_on(number, other, step)
    tokens = _TOKEN.findall(line)
    columns = [re.sub(r"^[A-Za-z]+(?=\d)", "", token) for token in tokens[1:]]
    titled = len(columns) > 1 and _counts(columns) and not _IS_PART.fullmatch(tokens[0])
    if number or ":" in line or (step < 0 and titled):
        return False
    marks = "".join(set(",;|&\t") & set(row.strip(" \t,|")))
    if "|" in marks and "|" in line and step > 0:  # a table goes on
        return True
    if marks:
        parts = re.split(f"[{marks}]", line.rstrip(" ,;|").lstrip("|"))
        tokens = [part.strip(" \t[]()\"'") for part in parts]
    n, n_digits = len(re.findall(r"\d+", found["body"])), sum(map(str.isdigit, line))
    width = len(found["body"])
    if n == 1 and width > 1 and len(line) == width and not re.search(r"[^\W\d_]{2}|\s", line):
        return True  # another sign for some colour: "..3.."
    # One for a cell among others that are written apart: "- - 3 -".
    signs = len(tokens) == n > 1
    is_part = [bool(_IS_PART.fullmatch(t) or (signs and re.fullmatch(r"\W|_", t))) for t in tokens]
    if not n_digits:
        return all(is_part) and (len(tokens) == n or len(line) > 2)
    if n == 1:  # digits that touch
        alike = width - 2 < n_digits < width + 3 and len(line) < width + 10
        return alike and (width > 2 or all(is_part))
    if len(tokens) == 1:
        return all(is_part) and 0 <= n_digits - sum(map(str.isdigit, found["body"])) < 3
    n_words = sum(len(token) > 1 and not part for part, token in zip(is_part, tokens))
    few = n_words <= max(1, len(tokens) // 4) and (marks or 2 * n_words < len(tokens))
    alike = few and abs(len(tokens) - n) < 2 and max(map(len, tokens)) < 13
    begins = len(tokens) > n and all(map(str.isdigit, tokens[:n]))
    return bool(all(is_part) or begins or alike)


def _ends_in_row(line: str, row: str) -> bool:
    """Tell if words, or the mark of a block, stand before a row on the line above the others."""
    body = _ROW.fullmatch(row)["body"]
    found = _LAST_CELLS.search(line, max(0, len(line) - 5 * MAX_SIDE))
    if found is None or len(body) < 3 or _DIGIT.sub("0", found[0]) != _DIGIT.sub("0", body):
        return False
    words = line[: found.start()]
    if _is_fence(line) or not words.strip(" \t|,"):
        return _is_fence(line)
    titled = re.fullmatch(r"[ -~]*", words) and len(words.split()) < 2  # the numbers of its columns
    header = titled and _counts(found[0].split()) and not re.search("[=>]", words)
    return _SAYS_OUTPUT.search(words) is not None or not (header or _SAYS_COUNT.search(words))


def _introduces(line: str) -> bool:
    """Tell if a line between two grids says that they are two."""
    line = line.strip()
    return (
        line.rstrip("*_").endswith((":", "："))
        or _LIST_FILL in line
        or _SHAPE.search(line) is not None
        or re.fullmatch(_RULE, line) is not None
        or _SAYS_OUTPUT.search(line) is not None
        or re.search(r"[-=]>|[→↓⇒⬇=]|^##|^([-*_~])\1\1", line) is not None
        or re.match(r"[*_]*(?![a-z])[^\W\d_]|[*_]*[a-z]\S* \S+ \S", line) is not None
    )


def _read_rows(
    lines: list[str], own: re.Pattern | None, indexed: bool, shape: tuple[int, int] | None
) -> list[list[int]]:
    """Return the rows of some lines, an empty one for what is none, or not the next."""
    numbers, tokens = [], []
    piped = all(_PIPED.fullmatch(_ROW.fullmatch(line)["body"]) for line in lines[1:])
    for line in lines:
        match = _ROW.match(line)
        number = _number(match)
        body = match["body"]
        if number is None and piped and (parts := _PIPED.fullmatch(body)):
            number, body = parts.groups()
        if len(body) > 8 * MAX_SIDE:
            return [[0] * (MAX_SIDE + 1)]
        numbers.append(number)
        if len(lines) == 1 and ";" in body and re.search(r"\d[ ,]+\d", body):  # "2 0; 0 2"
            return [[int(c) for c in re.findall(r"\d", part)] for part in body.split(";")]
        row = re.findall(r"\d+", body)
        header = not tokens and len(lines) > 1 and _counts(row)
        gaps = re.search(r"\d \d", body) and re.search(r"\d(?:[ \t]{3,}|\t)\d", body)  # two grids
        tokens.append([""] if gaps or (_HOLE.search(line) and not header) else row)
    first, others = tokens[0], tokens[1:]
    if {line.lstrip()[:1] for line in lines} >= {"-", "+"}:  # what a change takes away, and adds
        return [[0], []]
    if (
        others
        and _counts(first)
        and len(first) > 1
        or (
            len(others) > 1
            and first in (["0"], ["1"], ["00"], ["01"])
            and not lines[0][0].isdigit()
        )
    ):
        inner = [t if n else t[1:] for n, t in zip(numbers[1:], others)]
        names = [n or t[0] for n, t in zip(numbers[1:], others)]
        if numbers[0] is None and _counts(names) and all(len(t) == len(first) for t in inner):
            if all(len(c) == 1 for row in inner for c in row):
                return [list(map(int, row)) for row in inner]  # below a line of column numbers
    plain = [_cells(row) for row in tokens]
    cells = [row or [] for row in plain]
    misnumbered = [*cells, []] if len(cells) > 1 else [[]]
    if None in numbers and any(numbers):
        return misnumbered
    if None not in numbers:
        return cells if _counts(numbers) else misnumbered
    inner = [_cells(row[1:]) for row in tokens]
    ways = [plain] if None not in plain else []
    if None not in inner:
        if _counts([row[0] for row in tokens]):
            # A format's own numbers count from 1.
            first = indexed or (own and tokens[0][0] == "1" and all(map(own.fullmatch, lines)))
            ways.insert(0 if first else 1, inner)
        elif own and not ways:
            return misnumbered
    good = [rows for rows in ways if len(set(map(len, rows))) == 1]
    fitting = [rows for rows in good if (len(rows), len(rows[0])) == shape]
    return next(iter(fitting or good or ways), cells)


def _number(match: re.Match | None) -> str | None:
    return match and (match["named"] or match["listed"] or match["bracketed"])


def _cells(tokens: list[str]) -> list[int] | None:
    if len(tokens) == 1:
        return list(map(int, tokens[0]))
    return list(map(int, tokens)) if tokens and all(len(t) == 1 for t in tokens) else None


def _counts(numbers: list[str]) -> bool:
    """Tell if numbers count from 0 or from 1."""
    n, numbers = len(numbers), [number.lstrip("0") or "0" for number in numbers]
    return numbers in ([str(i) for i in range(n)], [str(i + 1) for i in range(n)])


def _counts_on(number: str, other: str, step: int) -> bool:
    return max(len(number), len(other)) < 4 and int(other) == int(number) + step


def _lines_before(text: str, start: int) -> tuple[str, str]:
    """Return the last two lines before a place that are not blank, as far as 900 characters."""
    above = text[max(0, start - 900) : start].rstrip().rsplit("\n", 1)
    return above[-1], "".join(above[:-1]).rstrip().rpartition("\n")[2]


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
    label, before = around
    key = _KEY.search(label)
    text = key[1] if key else before if _is_fence(label) else label
    words = re.findall("[a-z]+", text.lower())
    given = "input" in words and _INPUT_WORDS.issuperset(words)
    says_output = bool(_SAYS_OUTPUT.search(text) or (not key and _SAYS_OUTPUT.search(label)))
    widths = set(map(len, rows))
    large = len(rows) > MAX_SIDE or max(widths) > MAX_SIDE
    ragged = len(widths) > 1 or 0 in widths or shape not in (None, (len(rows), *widths))
    thin = len(rows) == 1 or widths <= {0, 1}
    places = places and widths <= {0, 2}
    # Rows that are none may be something else.
    counts = 0 in widths and shape is None and _SAYS_COUNT.search(label.rpartition(". ")[2])
    if large:
        sure = len(rows) > 1 and any(rows)
    elif shape is not None and ragged:
        sure = True
    elif key:
        sure = says_output
    elif fenced or says_output:
        code = nested and not says_output  # "[(0, 1), (1, 0)]" in a program
        if code and re.search(r"(?:\w ?=|\bin) ?$", label):  # "moves = [[0, 1], [1, 0]]"
            places = widths <= {0, 2}
        sure = not (places and (code or _SAYS_PLACE.search(label) or 0 in widths))
        sure = sure and (any(rows) or not counts)
    elif thin and not nested:
        sure = label.rstrip(" *_").endswith(":") and not _SAYS_COUNT.search(label)
    else:
        sure = not (places or counts or (widths <= {0, 2} and _SAYS_PLACE.search(label)))
        sure = sure and any(rows)
    status = TOO_LARGE if large else RAGGED if ragged else OK
    grid = as_grid(np.array(rows)) if status == OK else None
    return _Found(*span, grid, status, bool(sure), ended or large, given, text)
