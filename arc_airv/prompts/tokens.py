"""A tokenizer on grids: the tokens of a cell, and neighbours that melt into one token.

A model that sees "12" as one token has to learn a hundred pairs instead of ten digits, and cannot
point at a cell. Run this check before choosing a grid encoder for a model.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from arc_airv.grids import MAX_SIDE, N_COLORS
from arc_airv.prompts.encoders import GridCodeBlock, GridEncoder, RowNumber


@dataclass(frozen=True)
class TokenReport:
    """The cost of a 30 x 30 grid, the longest output there is.

    Attributes
    ----------
    tokens_per_cell : float
        With all that the encoder puts around the cells.
    max_grid_tokens : int
        Of the whole grid.
    merges_cells : bool
        True if some token covers more than one cell.
    example : str
        The beginning of a row, its tokens separated by ``·``.
    """

    tokens_per_cell: float
    max_grid_tokens: int
    merges_cells: bool
    example: str


def tokenization_report(tokenizer: Any, encoder: GridEncoder) -> TokenReport:
    """Report how `tokenizer` reads the grids of `encoder`."""
    rng = np.random.default_rng(0)
    grid = rng.integers(N_COLORS, size=(MAX_SIDE, MAX_SIDE), dtype=np.int8)
    grid[: MAX_SIDE // 2] = 0  # runs of one digit merge most
    cells = encoder
    while isinstance(cells, (GridCodeBlock, RowNumber)):
        cells = cells.base
    n_tokens = len(tokenizer.encode(encoder.encode(grid), add_special_tokens=False))
    rows = [_pieces(tokenizer, line) for line in cells.encode(grid).splitlines()]
    symbols = {char for c in range(N_COLORS) for char in cells.encode_row([c], 0)}
    per_cell = sum(char in symbols for char in cells.encode_row([0], 0))
    merges = any(sum(char in symbols for char in piece) > per_cell for row in rows for piece in row)
    return TokenReport(
        tokens_per_cell=n_tokens / grid.size,
        max_grid_tokens=n_tokens,
        merges_cells=merges,
        example="·".join(rows[-1][:12]),
    )


def find_fault(tokenizer: Any, encoder: GridEncoder) -> str | None:
    """Tell what is wrong if a tokenizer reads grids of different colours as the same tokens.

    (For a Qwen2 whose tokenizer is not Qwen's, Transformers 5.19 makes one that gives no tokens at
    all.)
    """
    texts = [encoder.encode(np.full((1, 1), c, np.int8)) for c in range(N_COLORS)]
    if len({tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts}) == N_COLORS:
        return None
    return (
        f"its tokenizer, loaded as a {type(tokenizer).__name__}, does not tell the colours of a "
        f"grid apart, such as {texts[0]!r} and {texts[1]!r}"
    )


def _pieces(tokenizer: Any, line: str) -> list[str]:
    return [tokenizer.decode([i]) for i in tokenizer.encode(line, add_special_tokens=False)]
