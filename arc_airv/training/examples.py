"""Training examples: the tasks that a model learns from, and the endless stream of their views.

A `Source` is a named, weighted set of tasks, each a bag of known pairs. The stream draws a task,
some of its pairs, perhaps a rule change, and an augmentation, fresh every time; it knows nothing
of models or optimizers. Solutions of evaluation test pairs never enter: `demonstrations` drops all
test pairs. `arc_airv.training.sources` reads sources by name.
"""

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arc_airv.augment import sample_augmentations
from arc_airv.grids import Grid, stack_grids
from arc_airv.prompts import PromptFormat
from arc_airv.tasks import Pair, Task
from arc_airv.training.rules import change_rule

IGNORED = -100  # the label that a loss passes over (PyTorch's convention)
# Drawn until one fits the token limit; `pair_tokens` is too low for some tokenizers and formats.
EXAMPLE_TRIES, RULE_TRIES = 1000, 4


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
    with opener(path, "rt") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                texts = [text for i, o in row["pairs"] for text in (i, o)]
                grids = _parse_grids(texts)
                pairs = list(map(Pair, grids[::2], grids[1::2]))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}: line {number}: {error}") from None
            bags.setdefault(row["task_id"], []).extend(pairs)
    return bags


def _parse_grids(texts: Sequence[str]) -> list[Grid]:
    """Read many grids, in a third of the time that one after the other takes."""
    grids = dict(pair for rows, stack in stack_grids(texts) for pair in zip(rows.tolist(), stack))
    return [grids[i] for i in range(len(texts))]


def pair_tokens(pair: Pair) -> int:
    """Count the tokens of a pair at one a cell and one a row: exact for the shipped tokenizer."""
    return sum(grid.size + grid.shape[0] for grid in (pair.input, pair.output)) + 3


@dataclass(frozen=True)
class Example:
    """One tokenized training example; both tuples have one entry a token.

    `rule_change` is the key of what made its task of another one, or "unchanged".
    """

    token_ids: tuple[int, ...]
    labels: tuple[int, ...]
    rule_change: str = "unchanged"


class ExampleStream:
    """An endless, seeded stream of training examples of up to `max_tokens`.

    Example number `i` depends only on the seed and `i`, so a stream resumes at any position.
    Tasks with fewer than two pairs that fit are left out; a source without any other is a
    ValueError.
    """

    def __init__(
        self,
        sources: list[Source],
        prompt_format: PromptFormat,
        tokenizer: Any,
        *,
        max_tokens: int,
        seed: int = 0,
    ) -> None:
        self.format, self.tokenizer = prompt_format, tokenizer
        self.max_tokens, self.seed = max_tokens, seed
        self.sources: list[Source] = []
        for source in sources:
            # Any two of these fit together.
            fitting = {
                task_id: [pair for pair in pairs if pair_tokens(pair) <= max_tokens / 2]
                for task_id, pairs in source.pairs.items()
            }
            bags = {task_id: pairs for task_id, pairs in fitting.items() if len(pairs) > 1}
            if not bags:
                raise ValueError(f"source {source.name}: no two pairs within {max_tokens} tokens")
            self.sources.append(replace(source, pairs=bags))
        weights = np.array([source.weight for source in sources], dtype=float)
        if not weights.sum() > 0:
            raise ValueError("the sources must have a total weight above 0")
        self.weights = weights / weights.sum()

    def __getitem__(self, i: int) -> Example:
        rng = np.random.default_rng([self.seed, i])
        for _ in range(EXAMPLE_TRIES):
            source = self.sources[rng.choice(len(self.sources), p=self.weights)]
            task_id = list(source.pairs)[rng.integers(len(source.pairs))]
            pairs = self._draw(source.pairs[task_id], rng)
            change = "unchanged"
            # Nothing is drawn at a share of 0: such a stream keeps its numbers.
            if source.rule_change and rng.random() < source.rule_change:
                change, pairs = self._change_rule(pairs, rng)
            task = Task(task_id, tuple(pairs[:-1]), (pairs[-1],))
            # Plan entry 1 is a random augmentation; entry 0 is the identity.
            plan = sample_augmentations(task, 2, seed=int(rng.integers(2**31)))
            example = self.encode(plan[rng.random() < 0.95].apply_task(task))
            if len(example.token_ids) <= self.max_tokens:
                return replace(example, rule_change=change)
        raise ValueError(f"no example fits {self.max_tokens} tokens of this tokenizer and format")

    def encode(self, view: Task) -> Example:
        """Tokenize one view, with the loss on its answers."""
        ids: list[int] = []
        labels: list[int] = []
        for segment in self.format.training_segments(view, tokenizer=self.tokenizer):
            tokens = self.tokenizer.encode(segment.text, add_special_tokens=False)
            ids += tokens
            labels += tokens if segment.is_answer else [IGNORED] * len(tokens)
        return Example(tuple(ids), tuple(labels))

    def _draw(self, pairs: list[Pair], rng: np.random.Generator) -> list[Pair]:
        """Draw pairs within the token limit, at least 3 where there are."""
        most = rng.integers(min(3, len(pairs)), min(len(pairs), 6) + 1)
        chosen, total = [], 0
        for i in rng.permutation(len(pairs)):
            cost = pair_tokens(pairs[i])
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
            if sum(map(pair_tokens, changed)) <= self.max_tokens:
                return str(change), changed
        return "unchanged", pairs
