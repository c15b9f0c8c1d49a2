"""Rule changes: new tasks out of old ones, because a few hundred rules are few to learn from.

An augmentation keeps the rule of a task and changes how it looks; a rule change makes another
rule. Every pair of a task goes through the same steps, so one rule still holds for all of them.
Knows what makes a bag of pairs a task; knows nothing of models or prompts.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np

from arc_airv.grids import MAX_SIDE, N_COLORS, Grid, same_grid
from arc_airv.tasks import Pair
from arc_airv.training.maps import KEEPING, LOSING, MAPS, RECOLORINGS, apply_map

TRIES = 12  # draws before a task is given back as it came
EVERY_COLOR = np.arange(N_COLORS, dtype=np.int8)[None]


def _stack(axis: int, a: Grid, b: Grid) -> Grid | None:
    fits = a.shape[1 - axis] == b.shape[1 - axis] and a.shape[axis] + b.shape[axis] <= MAX_SIDE
    return np.concatenate([a, b], axis) if fits else None


# The new output from the input and the output of a pair; None where their shapes do not allow it.
JOINS: dict[str, Callable[[Grid, Grid], Grid | None]] = {
    "beside": partial(_stack, 1),  # the input, and the output right of it
    "below": partial(_stack, 0),  # the input, and the output under it
    # The cells that the rule changed, the others black.
    "changes": lambda a, b: np.where(a != b, b, np.int8(0)) if a.shape == b.shape else None,
}


@dataclass(frozen=True)
class RuleChange:
    """Steps, the same for every pair, that make another task of a task.

    `swap`: input and output change places. `join`: the output is joined with the input by one of
    `JOINS`. `inputs` and `outputs` go through maps, by their names in
    `arc_airv.training.maps.MAPS`; inputs only through those that lose nothing: different inputs
    stay different, so the new task has a rule whenever the old one has. Any other name is a
    ValueError.

    Examples
    --------
    >>> str(RuleChange(outputs=("flip", "border3")))
    'out-flip-border3'
    >>> RuleChange.parse("swap.in-upscale2")
    RuleChange(swap=True, join='', inputs=('upscale2',), outputs=())
    """

    swap: bool = False
    join: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.join and self.join not in JOINS:
            raise ValueError(f"join must be one of {sorted(JOINS)}, got {self.join!r}")
        for name in (*self.inputs, *self.outputs):
            if name not in MAPS:
                raise ValueError(f"no map {name!r}; there are {', '.join(MAPS)}")
        for name in self.inputs:
            if not any(name in maps for maps in KEEPING.values()):
                raise ValueError(f"inputs must keep their information, {name!r} may lose some")

    def __str__(self) -> str:
        steps = ["swap" * self.swap, self.join]
        for side, names in (("in", self.inputs), ("out", self.outputs)):
            steps.append("-".join((side, *names)) if names else "")
        return ".".join(filter(None, steps)) or "unchanged"

    @classmethod
    def parse(cls, key: str) -> Self:
        """Read a rule change from its key, ``str(change)``; anything else raises ValueError."""
        steps = {head: tuple(names) for head, *names in (p.split("-") for p in key.split("."))}
        steps.pop("unchanged", None)
        swap = steps.pop("swap", None) is not None
        inputs, outputs = steps.pop("in", ()), steps.pop("out", ())
        change = cls(swap, "".join(steps), inputs, outputs)
        if str(change) != key:  # a part twice, in another order, or with names it does not take
            raise ValueError(f"not the key of a rule change: {key!r} (one looks like {change})")
        return change

    def apply(self, pairs: Sequence[Pair]) -> list[Pair] | None:
        """Return the pairs of the new task, or None where a step does not apply to one of them."""
        changed = []
        for pair in pairs:
            source, target = (pair.output, pair.input) if self.swap else (pair.input, pair.output)
            if self.join:
                target = JOINS[self.join](source, target)
            source, target = _through(self.inputs, source), _through(self.outputs, target)
            if source is None or target is None:
                return None
            changed.append(Pair(source, target))
        return changed


def change_rule(pairs: Sequence[Pair], rng: np.random.Generator) -> tuple[RuleChange, list[Pair]]:
    """Draw a rule change that makes another task of two or more known pairs of a task.

    The new pairs can teach the new task. It `has_rule`; each map changes at least two of the grids
    it is applied to and wipes out none; no colour is exchanged that one pair alone shows; input
    and output change places only where no pair loses information on the way.

    Returns
    -------
    change : RuleChange
        ``RuleChange()``, whose key is "unchanged", where nothing was found.
    pairs : list of Pair
        In the same order; where nothing was found, the pairs that came.
    """
    for _ in range(TRIES):
        change = _draw(pairs, rng)
        changed = change and change.apply(pairs)
        # Two maps may undo each other.
        if changed and has_rule(changed) and changed != list(pairs):
            return change, changed
    return RuleChange(), list(pairs)


def has_rule(pairs: Sequence[Pair]) -> bool:
    """Tell if the pairs can be those of a task: a function of the input that says something.

    Equal inputs have equal outputs; not every output equals its input; not all outputs are equal.
    """
    keys = {tuple((g.shape, g.tobytes()) for g in (pair.input, pair.output)) for pair in pairs}
    answers = dict(keys)
    says_something = len(set(answers.values())) > 1 and any(a != b for a, b in keys)
    return says_something and len(answers) == len(keys)


def can_swap(pairs: Sequence[Pair]) -> bool:
    """Tell if input and output may change places.

    The pairs alone cannot prove that the old output determines the old input, but a rule adds no
    information: an output that is easier to compress than its input has lost some of it.
    """
    swapped = RuleChange(swap=True).apply(pairs)
    sizes = [[len(zlib.compress(g.tobytes())) for g in (p.input, p.output)] for p in swapped]
    return has_rule(swapped) and all(source >= target for source, target in sizes)


def _draw(pairs: Sequence[Pair], rng: np.random.Generator) -> RuleChange | None:
    """Draw a change; None unless its every step applies to the pairs and is seen in them."""
    swap = rng.random() < 0.2
    join = list(JOINS)[rng.integers(3)] if rng.random() < 0.15 else ""
    n_inputs = int(rng.random() < 0.35)
    n_outputs = int(rng.choice(3, p=[0.25, 0.5, 0.25]))
    if swap and not can_swap(pairs):
        return None
    start = RuleChange(swap=swap, join=join).apply(pairs)
    if start is None:
        return None
    inputs = _draw_maps(n_inputs, KEEPING, [pair.input for pair in start], rng)
    outputs = _draw_maps(n_outputs, KEEPING | LOSING, [pair.output for pair in start], rng)
    # The same map on both sides is no other rule, or the same rule at another size.
    if inputs is None or outputs is None or (inputs == outputs and not swap and not join):
        return None
    return RuleChange(swap, join, inputs, outputs)


def _draw_maps(
    n: int, kinds: dict, grids: list[Grid], rng: np.random.Generator
) -> tuple[str, ...] | None:
    """Draw the names of n maps; None unless they apply in turn, each seen in the grids."""
    names = []
    for _ in range(n):
        maps = list(kinds[list(kinds)[rng.integers(len(kinds))]])
        name = maps[rng.integers(len(maps))]
        mapped = [apply_map(name, grid) for grid in grids]
        if any(grid is None for grid in mapped) or not _is_seen(name, grids, mapped):
            return None
        names.append(name)
        grids = mapped
    return tuple(names)


def _is_seen(name: str, before: list[Grid], after: list[Grid]) -> bool:
    """Tell if the demonstrations show the map, whichever of the pairs is the question."""
    if sum(not same_grid(a, b) for a, b in zip(before, after)) < 2:
        return False
    if any(np.ptp(b) == 0 < np.ptp(a) for a, b in zip(before, after)):
        return False  # it wiped out what the rule had drawn
    if name not in RECOLORINGS:
        return True
    moved = (apply_map(name, EVERY_COLOR) != EVERY_COLOR)[0]
    seen_in = sum(np.bincount(grid.ravel(), minlength=N_COLORS) > 0 for grid in before)
    return not (seen_in[moved] == 1).any()


def _through(names: tuple[str, ...], grid: Grid | None) -> Grid | None:
    for name in names:
        grid = None if grid is None else apply_map(name, grid)
    return grid
