"""Grid encoders: how a grid becomes lines of text, and how such lines are read back.

Two kinds compose. A *row encoder* writes one row: a leaf (`Minimal`, `GridWithSeparation`,
`RepeatNumber`) or one around another (`ReplaceNumber`, `RowNumber`, `ColumnLetter`). A *block
encoder* (`GridCodeBlock`, `GridShape`) puts all rows between fences. They are named in a JSON file,
outermost first: ``["grid_shape", "row_number", "minimal"]``. Knows nothing of tasks or models.

Reading is strict about the grid and lenient about what surrounds it: any fault raises `ReplyError`
with the status that the prediction will carry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from arc_airv.grids import MAX_SIDE, N_COLORS, Grid, as_grid

# The reply statuses that a parser gives; "prompt_too_long" is given before there is a reply.
OK, UNPARSED, RAGGED, TOO_LARGE, TRUNCATED = "ok", "unparsed", "ragged", "too_large", "truncated"
PROMPT_TOO_LONG = "prompt_too_long"
STATUSES = (OK, UNPARSED, RAGGED, TOO_LARGE, TRUNCATED, PROMPT_TOO_LONG)

FENCE = "```"
COLUMN_LETTERS = "abcdefghijklmnopqrstuvwxyzABCD"  # one for each of the 30 columns


class ReplyError(ValueError):
    """A reply holds no valid grid; `status` says why.

    `final` is False where the reply might only have been cut short: more text could mend it.
    """

    def __init__(self, status: str, message: str, *, final: bool = True) -> None:
        super().__init__(message)
        self.status = status
        self.final = final


class GridEncoder:
    """A grid as text and back.

    A subclass gives `encode_row` and `decode_row`, or wraps the lines of a `base` encoder.
    """

    closing: str | None = None
    """The mark that ends an encoded grid, where the encoding has one."""

    def encode_row(self, values: list[int], index: int) -> str:
        """Row number `index` (from 0) as one line."""
        raise TypeError(f"{type(self).__name__} does not encode rows")

    def decode_row(self, line: str, index: int) -> list[int] | None:
        """The cells of a line, or None if it is not a row of this encoding.

        Raises
        ------
        ReplyError
            If the line is such a row, but not row number `index`.
        """
        raise TypeError(f"{type(self).__name__} does not decode rows")

    def encode(self, grid: Grid) -> str:
        """The grid as text, without a trailing newline."""
        return "\n".join(self.encode_row(row, i) for i, row in enumerate(grid.tolist()))

    def decode(self, text: str) -> tuple[Grid, bool]:
        """The first grid in `text`, and whether its end was seen.

        The grid is the first run of lines that are rows; its end is a line that is not a row
        (for a block encoder: the closing fence).

        Raises
        ------
        ReplyError
            With the status "unparsed", "ragged" or "too_large".
        """
        rows: list[list[int]] = []
        ended = False
        for line in text.splitlines():
            row = self.decode_row(line.strip(), len(rows))
            if row is not None:
                rows.append(row)
            elif rows and line.strip():  # a blank line between rows is passed over
                ended = True
                break
        return _rectangle(rows, final=ended), ended


@dataclass(frozen=True)
class Minimal(GridEncoder):
    """One digit a cell: ``012``."""

    def encode_row(self, values, index):
        return "".join(map(str, values))

    def decode_row(self, line, index):
        return [int(c) for c in line] if line.isascii() and line.isdigit() else None


@dataclass(frozen=True)
class GridWithSeparation(GridEncoder):
    """Digits with a separator between them: ``0|1|2``."""

    separator: str = "|"

    def __post_init__(self):
        if not self.separator or any(c.isdigit() or c == "\n" for c in self.separator):
            raise ValueError(f"separator must hold no digit or newline, got {self.separator!r}")

    def encode_row(self, values, index):
        return self.separator.join(map(str, values))

    def decode_row(self, line, index):
        cells = [cell.strip() for cell in line.split(self.separator)]
        if all(len(c) == 1 and c.isascii() and c.isdigit() for c in cells):
            return [int(c) for c in cells]
        return None


@dataclass(frozen=True)
class RepeatNumber(GridEncoder):
    """Each digit `n` times (for tokenizers that read digits in threes): ``000111222``."""

    n: int = 3

    def __post_init__(self):
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")

    def encode_row(self, values, index):
        return "".join(str(v) * self.n for v in values)

    def decode_row(self, line, index):
        if not (line.isascii() and line.isdigit() and len(line) % self.n == 0):
            return None
        groups = [line[i : i + self.n] for i in range(0, len(line), self.n)]
        return [int(g[0]) for g in groups] if all(len(set(g)) == 1 for g in groups) else None


@dataclass(frozen=True)
class ReplaceNumber(GridEncoder):
    """The digits of a base encoder replaced by ten other symbols."""

    base: GridEncoder
    symbols: str = "ñò÷ûąćďęĚĞ"

    def __post_init__(self):
        if len(set(self.symbols)) != N_COLORS or len(self.symbols) != N_COLORS:
            raise ValueError(f"symbols must be 10 different characters, got {self.symbols!r}")
        if any(c.isspace() or c.isdigit() for c in self.symbols):
            raise ValueError(f"symbols must be no digits and no spaces, got {self.symbols!r}")
        if isinstance(self.base, (RowNumber, ColumnLetter)):
            raise ValueError(f"replace_number goes inside {type(self.base).__name__}, not around")

    def encode_row(self, values, index):
        digits = self.base.encode_row(values, index)
        return digits.translate({ord("0") + i: s for i, s in enumerate(self.symbols)})

    def decode_row(self, line, index):
        if any(c.isdigit() for c in line):
            return None
        digits = line.translate({ord(s): str(i) for i, s in enumerate(self.symbols)})
        return self.base.decode_row(digits, index)


@dataclass(frozen=True)
class ColumnLetter(GridEncoder):
    """Each digit followed by the letter of its column: ``0a1b2c``.

    With a tokenizer that reads such a pair as one token, every cell says where it stands, which
    spares a small model from counting.
    """

    base: GridEncoder

    def __post_init__(self):
        if not isinstance(self.base, Minimal):
            raise ValueError("column_letter takes the base minimal")

    def encode_row(self, values, index):
        return "".join(f"{v}{letter}" for v, letter in zip(values, COLUMN_LETTERS))

    def decode_row(self, line, index):
        digits, letters = line[::2], line[1::2]
        if len(digits) != len(letters) or not (letters.isascii() and letters.isalpha()):
            return None
        row = self.base.decode_row(digits, index)
        if row is not None and letters != COLUMN_LETTERS[: len(letters)]:
            raise ReplyError(RAGGED, f"row {index + 1} has the columns {letters!r}")
        return row


@dataclass(frozen=True)
class RowNumber(GridEncoder):
    """Each row after its number, from 1: ``1 012``."""

    base: GridEncoder

    def encode_row(self, values, index):
        return f"{index + 1} {self.base.encode_row(values, index)}"

    def decode_row(self, line, index):
        number, _, rest = line.partition(" ")
        if not (number.isascii() and number.isdigit()):
            return None
        row = self.base.decode_row(rest.strip(), index)
        if row is not None and int(number) != index + 1:
            raise ReplyError(RAGGED, f"row {index + 1} carries the number {number}")
        return row


@dataclass(frozen=True)
class GridCodeBlock(GridEncoder):
    """The rows of a base encoder in a fenced block named ``grid``."""

    base: GridEncoder
    closing = FENCE

    def __post_init__(self):
        if isinstance(self.base, GridCodeBlock):
            raise ValueError("a fenced block goes around rows, not around another block")

    def header(self, grid: Grid) -> str:
        """What follows ``grid`` on the opening line."""
        return ""

    def check(self, grid: Grid, block: str, ended: bool) -> None:
        """Raise a ReplyError if `grid` is not what the text of its block declares."""

    def encode(self, grid):
        return f"{FENCE}grid{self.header(grid)}\n{self.base.encode(grid)}\n{FENCE}"

    def decode(self, text):
        # The opening fence may stand in the reply, or may have been the end of the prompt; so
        # the grid is in the first stretch between fences that holds rows.
        blocks = text.split(FENCE)
        for i, block in enumerate(blocks):
            ended = i < len(blocks) - 1
            try:
                grid, _ = self.base.decode(block)
            except ReplyError as error:
                if error.status == UNPARSED:
                    continue
                raise ReplyError(error.status, str(error), final=error.final or ended) from None
            self.check(grid, block, ended)
            return grid, ended
        raise ReplyError(UNPARSED, "no block with rows found", final=len(blocks) > 2)


@dataclass(frozen=True)
class GridShape(GridCodeBlock):
    """A fenced block that declares the shape: ````` ```grid shape: 2x3 `````."""

    def header(self, grid):
        return " shape: {}x{}".format(*grid.shape)

    def check(self, grid, block, ended):
        declared = re.search(r"shape:\s*(\d+)\s*x\s*(\d+)", block)
        if declared is None:
            raise ReplyError(UNPARSED, "the block declares no shape")
        shape = tuple(map(int, declared.groups()))
        if grid.shape != shape:
            raise ReplyError(RAGGED, f"declared {shape}, wrote {grid.shape}", final=ended)


ENCODERS: dict[str, type[GridEncoder]] = {
    "minimal": Minimal,
    "grid_with_separation": GridWithSeparation,
    "repeat_number": RepeatNumber,
    "replace_number": ReplaceNumber,
    "column_letter": ColumnLetter,
    "row_number": RowNumber,
    "grid_code_block": GridCodeBlock,
    "grid_shape": GridShape,
}


def make_encoder(spec: list[str | dict[str, Any]]) -> GridEncoder:
    """Build an encoder from its names, outermost first.

    Parameters
    ----------
    spec : list of str or dict
        Names of `ENCODERS`; one with options is a dict, ``{"name": "repeat_number", "n": 2}``.

    Examples
    --------
    >>> make_encoder(["row_number", {"name": "grid_with_separation", "separator": " "}])
    RowNumber(base=GridWithSeparation(separator=' '))

    Raises
    ------
    ValueError
        If a name or an option is unknown, or the order makes no sense.
    """
    if not isinstance(spec, list) or not spec:
        raise ValueError(f"an encoder is a list of names of {sorted(ENCODERS)}, got {spec!r}")
    encoder: GridEncoder | None = None
    for part in reversed(spec):
        options = dict(part) if isinstance(part, dict) else {"name": part}
        name = options.pop("name", None)
        if name not in ENCODERS:
            raise ValueError(f"unknown encoder {name!r}; known are {sorted(ENCODERS)}")
        cls = ENCODERS[name]
        allowed = {field.name for field in fields(cls)} - {"base"}
        if not set(options) <= allowed:
            raise ValueError(f"{name} takes the options {sorted(allowed)}, got {sorted(options)}")
        wraps = any(field.name == "base" for field in fields(cls))
        if wraps != (encoder is not None):
            raise ValueError(f"{name} {'needs' if wraps else 'takes no'} base encoder in {spec}")
        encoder = cls(encoder, **options) if wraps else cls(**options)
    return encoder


def encoder_spec(encoder: GridEncoder) -> list[str | dict[str, Any]]:
    """The names of an encoder, outermost first: what `make_encoder` reads."""
    names = {cls: name for name, cls in ENCODERS.items()}
    spec: list[str | dict[str, Any]] = []
    current: GridEncoder | None = encoder
    while current is not None:
        options = {f.name: getattr(current, f.name) for f in fields(current) if f.name != "base"}
        changed = {
            f.name: options[f.name]
            for f in fields(current)
            if f.name != "base" and options[f.name] != f.default
        }
        name = names[type(current)]
        spec.append({"name": name, **changed} if changed else name)
        current = getattr(current, "base", None)
    return spec


def _rectangle(rows: list[list[int]], *, final: bool) -> Grid:
    if not rows:
        raise ReplyError(UNPARSED, "no row of a grid found", final=final)
    widths = {len(row) for row in rows}
    if len(rows) > MAX_SIDE or max(widths) > MAX_SIDE:
        raise ReplyError(TOO_LARGE, f"{len(rows)} rows of up to {max(widths)} cells")
    if len(widths) > 1:
        raise ReplyError(RAGGED, f"rows of {sorted(widths)} cells", final=final)
    return as_grid(np.array(rows))
