"""Training examples: the tasks that a model learns from, and the endless stream of their views.

A `Source` is a named, weighted set of tasks, each a bag of known pairs. The stream draws a task,
some of its pairs, perhaps a rule change, and an augmentation, fresh every time; it knows nothing
of models or optimizers. Solutions of evaluation test pairs never enter: `demonstrations` drops all
test pairs. `arc_airv.training.sources` reads sources by name.
"""

import gzip
import hashlib
import json
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arc_airv.augment import Augmentation, sample_augmentations
from arc_airv.grids import Grid, stack_grids
from arc_airv.prompts import PromptFormat
from arc_airv.prompts.format import varied_grid
from arc_airv.tasks import Pair, Task, check_count
from arc_airv.training.rules import change_rule

IGNORED = -100  # the label that a loss passes over (PyTorch's convention)
# Drawn until one fits the token limit: what `ExampleSizes` estimates may be too low, if seldom.
EXAMPLE_TRIES, RULE_TRIES = 100, 4
BLOCK = 1024  # examples; without replacement, each has the sources in fixed shares


@dataclass(frozen=True)
class Source:
    """A named set of tasks as bags of known pairs, drawn with a relative weight.

    A share `rule_change` (0-1) of its examples is a new task made of the drawn pairs, see
    `arc_airv.training.rules`; where no new task fits the token limit, an example keeps its pairs.
    """

    name: str
    pairs: dict[str, list[Pair]]
    weight: float = 1.0
    rule_change: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"source {self.name}: weight must be at least 0, got {self.weight}")
        if not 0 <= self.rule_change <= 1:
            raise ValueError(
                f"source {self.name}: rule_change must be 0 to 1, got {self.rule_change}"
            )


def all_pairs(tasks: dict[str, Task]) -> dict[str, list[Pair]]:
    """Return every known pair of each task, test pairs too: for training tasks only."""
    return {
        task_id: [pair for pair in (*task.train, *task.test) if pair.output is not None]
        for task_id, task in tasks.items()
    }


def demonstrations(tasks: dict[str, Task]) -> dict[str, list[Pair]]:
    """Return each task's demonstrations: all that may be learnt from a task to be answered."""
    return {task_id: list(task.train) for task_id, task in tasks.items()}


def load_pairs(path: str | Path) -> dict[str, list[Pair]]:
    """Read extra pairs: JSON lines of ``{"task_id", "pairs": [["012|345", "0|1"], ...]}``.

    A malformed line raises a ValueError that names the file and the line.
    """
    opener = gzip.open if str(path).endswith(".gz") else open
    bags: dict[str, list[Pair]] = {}
    number = 0
    try:
        with opener(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):  # noqa: B007 (a fault tells it)
                row = json.loads(line)
                texts = [text for i, o in row["pairs"] for text in (i, o)]
                grids = _parse_grids(texts)
                bag = bags.setdefault(row["task_id"], [])
                bag += map(Pair, grids[::2], grids[1::2])
    except KeyError as error:
        raise ValueError(f"{path}: line {number}: there is no {error}") from None
    except (ValueError, TypeError, AttributeError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: line {number}: {error}") from None
    return bags


def _parse_grids(texts: Sequence[str]) -> list[Grid]:
    """Read many grids, in a third of the time that one after the other takes."""
    grids = dict(pair for rows, stack in stack_grids(texts) for pair in zip(rows.tolist(), stack))
    return [grids[i] for i in range(len(texts))]


@dataclass(frozen=True)
class Example:
    """One tokenized training example; both tuples have one entry a token.

    `rule_change` is the key of what made its task of another one, or "unchanged".
    """

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]
    rule_change: str = "unchanged"


def tokenize(view: Task, prompt_format: PromptFormat, tokenizer: Any) -> Example:
    """Tokenize one view, with the loss on its answers."""
    ids: list[int] = []
    labels: list[int] = []
    for segment in prompt_format.training_segments(view, tokenizer=tokenizer):
        tokens = tokenizer.encode(segment.text, add_special_tokens=False)
        ids += tokens
        labels += tokens if segment.is_answer else [IGNORED] * len(tokens)
    return Example(tuple(ids), tuple(labels))


class ExampleSizes:
    """The tokens of examples in one format and tokenizer, told from the shapes of their grids.

    Exact where each cell has its own tokens. Where a tokenizer merges cells, an estimate that is
    seldom too low, because neighbours differ in the grids that are counted.
    """

    def __init__(self, prompt_format: PromptFormat, tokenizer: Any) -> None:
        self.format, self.tokenizer = prompt_format, tokenizer
        self._grids: dict[tuple[int, ...], int] = {}
        cell = varied_grid(1, 1)
        pair = Pair(cell, cell)
        one, two = (
            len(tokenize(Task("", (pair,) * n, (pair,)), prompt_format, tokenizer).token_ids)
            for n in (1, 2)
        )
        self._marks = two - one - 2 * self._grid(cell)
        self._rest = one - 2 * (two - one)

    def pair(self, pair: Pair) -> int:
        """Return the tokens that a pair adds to an example."""
        return self._grid(pair.input) + self._grid(pair.output) + self._marks

    def example(self, pairs: Iterable[Pair]) -> int:
        """Return the tokens of an example of these pairs."""
        return self._rest + sum(map(self.pair, pairs))

    def _grid(self, grid: Grid) -> int:
        if grid.shape not in self._grids:
            text = self.format.encoder.encode(varied_grid(*grid.shape))
            tokens = self.tokenizer.encode(text, add_special_tokens=False)
            self._grids[grid.shape] = len(tokens)
        return self._grids[grid.shape]


class ExampleStream:
    """An endless, seeded stream of training examples of up to `max_tokens`.

    Example number `i` depends only on the seed and `i`, so a stream resumes at any position.

    Parameters
    ----------
    n_pairs : (int, int)
        Least and most pairs of an example, its question among them, where a task has as many. A
        least of 1 leaves out the demonstrations of some: for a format with task ids.
    n_views : int, optional
        Draw without replacement: every task of a source once before any twice, and of a task so
        many views, each once before any twice. By default every example is a new draw.

    Attributes
    ----------
    left_out : list of str
        The tasks without two pairs that fit, in the tokens of this format and tokenizer.

    Raises
    ------
    ValueError
        If all tasks of a source are left out, or no source has a weight.
    """

    def __init__(
        self,
        sources: list[Source],
        prompt_format: PromptFormat,
        tokenizer: Any,
        *,
        max_tokens: int,
        seed: int = 0,
        n_pairs: tuple[int, int] = (3, 6),
        n_views: int | None = None,
    ) -> None:
        if not 1 <= n_pairs[0] <= n_pairs[1]:
            raise ValueError(f"n_pairs must be (least, most) from 1 on, got {n_pairs}")
        if n_views is not None:
            check_count("n_views", n_views)
        self.n_pairs, self.n_views = n_pairs, n_views
        self._plans: dict[str, list[Augmentation]] = {}
        self.format, self.tokenizer = prompt_format, tokenizer
        self.max_tokens, self.seed = max_tokens, seed
        self.sizes = ExampleSizes(prompt_format, tokenizer)
        self.sources: list[Source] = []
        self.left_out: list[str] = []
        for source in sources:
            # Any two of these fit together.
            fitting = {
                task_id: [pair for pair in pairs if self.sizes.example((pair, pair)) <= max_tokens]
                for task_id, pairs in source.pairs.items()
            }
            bags = {task_id: pairs for task_id, pairs in fitting.items() if len(pairs) > 1}
            if not bags:
                raise ValueError(self._nothing_fits(source))
            self.left_out += [task_id for task_id in fitting if task_id not in bags]
            self.sources.append(replace(source, pairs=bags))
        weights = np.array([source.weight for source in sources], dtype=float)
        if not weights.sum() > 0:
            raise ValueError("the sources must have a total weight above 0")
        self.weights = weights / weights.sum()

    def __getitem__(self, i: int) -> Example:
        rng = np.random.default_rng([self.seed, i])
        for k in range(EXAMPLE_TRIES):
            # An example that is too long is replaced by a draw.
            if turn := None if k or self.n_views is None else self.turn(i):
                source, task_id, view = turn
            else:
                source = self.sources[rng.choice(len(self.sources), p=self.weights)]
                task_id = list(source.pairs)[rng.integers(len(source.pairs))]
            # A rule that is changed has no name: only demonstrations tell it.
            least = max(3, self.n_pairs[0]) if source.rule_change else self.n_pairs[0]
            pairs = self._draw(source.pairs[task_id], rng, least)
            change = "unchanged"
            # Nothing is drawn at a share of 0: such a stream keeps its numbers.
            if source.rule_change and rng.random() < source.rule_change:
                change, pairs = self._change_rule(pairs, rng)
            known = task_id if change == "unchanged" else ""
            task = Task(known, tuple(pairs[:-1]), (pairs[-1],))
            if turn is None:
                # Plan entry 1 is a random augmentation; entry 0 is the identity.
                plan = sample_augmentations(task, 2, seed=int(rng.integers(2**31)))
                view = plan[rng.random() < 0.95]
            example = self.encode(view.apply_task(task))
            if len(example.token_ids) <= self.max_tokens:
                return replace(example, rule_change=change)
        raise ValueError(f"no example fits {self.max_tokens} tokens of this tokenizer and format")

    def describe(self) -> dict[str, Any]:
        """Return what the examples depend on, in JSON values; the pairs are told by a hash."""
        digest = hashlib.sha256(str(len(self.tokenizer)).encode())
        for source in self.sources:
            digest.update(json.dumps([source.weight, source.rule_change]).encode())
            for task_id, pairs in source.pairs.items():
                grids = [grid for pair in pairs for grid in (pair.input, pair.output)]
                digest.update(json.dumps([task_id, [grid.shape for grid in grids]]).encode())
                digest.update(b"".join(grid.tobytes() for grid in grids))
        return {
            "data": digest.hexdigest()[:16],
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "n_pairs": list(self.n_pairs),
            "n_views": self.n_views,
            "prompt_format": self.format.to_dict(),
        }

    def turn(self, i: int) -> tuple[Source, str, Augmentation]:
        """Return whose turn example i is without replacement: its source, its task, its view."""
        block, place = divmod(i, BLOCK)
        # How often each source comes in a block is fixed, so its draws before i can be counted.
        bounds = np.round(np.cumsum(self.weights) * BLOCK).astype(int)
        counts = np.diff(bounds, prepend=0)
        order = np.repeat(np.arange(len(counts)), counts)
        order = np.random.default_rng([self.seed, block]).permutation(order)
        number = order[place]
        drawn = block * counts[number] + np.count_nonzero(order[:place] == number)
        source = self.sources[number]
        task_ids = list(source.pairs)
        cycle, place = divmod(int(drawn), len(task_ids))
        shuffled = np.random.default_rng([self.seed, number, cycle]).permutation(len(task_ids))
        task_id = task_ids[shuffled[place]]
        if task_id not in self._plans:
            bare = Task(task_id, (), ())  # the order of its demonstrations is drawn
            self._plans[task_id] = sample_augmentations(bare, self.n_views, seed=self.seed)
        return source, task_id, self._plans[task_id][cycle % self.n_views]

    def encode(self, view: Task) -> Example:
        """Tokenize one view, with the loss on its answers."""
        return tokenize(view, self.format, self.tokenizer)

    def _draw(self, pairs: list[Pair], rng: np.random.Generator, least: int) -> list[Pair]:
        """Draw pairs within the token limit, at least so many where there are."""
        highest = max(least, self.n_pairs[1])
        most = rng.integers(min(least, len(pairs)), min(len(pairs), highest) + 1)
        chosen, total = [], self.sizes.example(())
        for i in rng.permutation(len(pairs)):
            cost = self.sizes.pair(pairs[i])
            if total + cost <= self.max_tokens:
                chosen.append(pairs[i])
                total += cost
            if len(chosen) == most:
                break
        return chosen

    def _change_rule(self, pairs: list[Pair], rng: np.random.Generator) -> tuple[str, list[Pair]]:
        """Return a rule change's key and its pairs, within the token limit; else these pairs."""
        for _ in range(RULE_TRIES):
            change, changed = change_rule(pairs, rng)
            if self.sizes.example(changed) <= self.max_tokens:
                return str(change), changed
        return "unchanged", pairs

    def _nothing_fits(self, source: Source) -> str:
        """Say why a source has no task to learn from, and what would help."""
        seconds = [sorted(map(self.sizes.pair, bag))[1] for bag in source.pairs.values() if bag[1:]]
        if not seconds:
            return f"source {source.name}: no two pairs of a task to learn from"
        needed = self.sizes.example(()) + 2 * min(seconds)
        return (
            f"source {source.name}: no two pairs of a task fit within max_tokens={self.max_tokens}"
            f" in this format and tokenizer; from {needed} on some do"
        )
