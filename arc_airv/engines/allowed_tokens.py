"""The tokens of answers: to keep a model from writing anything else."""

import re

import numpy as np

from arc_airv.engines.local import LocalEngine
from arc_airv.grids import MAX_SIDE, N_COLORS
from arc_airv.prompts.format import PromptFormat


def answer_tokens(
    engine: LocalEngine, prompt_format: PromptFormat | None = None
) -> tuple[int, ...]:
    """Return the tokens that an answer may hold: for the `allowed_tokens` of a `Sampling`.

    Those whose text is a piece of an answer, whatever its digits, and those that end a reply. A
    reply of them has the letters of a grid, but not necessarily its shape.

    Parameters
    ----------
    engine : TransformersEngine or VllmEngine
    prompt_format : PromptFormat, optional
        By default the one that the model folder carries; a ValueError if there is none.
    """
    prompt_format = prompt_format or engine.prompt_format
    if prompt_format is None:
        raise ValueError(f"{engine.model} carries no prompt format: give one")
    sides = (1, 3, 10, MAX_SIDE)
    grids = (np.indices((h, w)).sum(axis=0) % N_COLORS for h in sides for w in sides)
    answers = (prompt_format.render_answer(grid.astype(np.int8)) for grid in grids)
    pieces = "\0".join(re.sub(r"\d", "0", answer) for answer in answers)
    texts = ((i, engine.tokenizer.decode([i])) for i in range(len(engine.tokenizer)))
    inside = {i for i, text in texts if text and re.sub(r"\d", "0", text) in pieces}
    return tuple(sorted(inside | engine.eos_ids))
