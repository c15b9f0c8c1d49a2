"""Asking a judge: the words of a question about proposed outputs, and what its answers are worth.

What `arc_airv.studies.judge` asks with. Knows nothing of pools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arc_airv.augment import Augmentation
from arc_airv.engines.base import Engine
from arc_airv.grids import Grid
from arc_airv.infer.views import choose_format
from arc_airv.prompts.encoders import GridEncoder
from arc_airv.prompts.format import ChatTemplate
from arc_airv.tasks import Task

CHUNK = 256  # prompts a call of the engine
SLACK = 8  # tokens by which a prompt may be longer than that of the two longest grids


@dataclass(frozen=True)
class JudgeTemplate:
    """The words around the grids, in Markdown.

    With a chat template, the message is the user's and the answer opens the assistant's turn;
    without one, `cue` follows the message, and the answer after a space.

    Attributes
    ----------
    system, intro : str
        What comes before the demonstrations.
    yes_no, a_or_b : str
        The two questions.
    yes_no_answers, a_or_b_answers : tuple of str
        What to answer for yes and no, for the first and the second.
    cue : str
    """

    system: str = ChatTemplate.system
    intro: str = (
        "Below are some input grids and the output grids that one rule makes of them. "
        "Find the rule and judge what is proposed as the output of the test case."
    )
    yes_no: str = (
        "Is the proposed output exactly what the rule makes of the test input? Answer Yes or No."
    )
    a_or_b: str = (
        "Which of the two proposed outputs is what the rule makes of the test input? Answer A or B."
    )
    yes_no_answers: tuple[str, str] = ("Yes", "No")
    a_or_b_answers: tuple[str, str] = ("A", "B")
    cue: str = "Answer:"

    def render(
        self,
        view: Task,
        test_index: int,
        proposed: Sequence[Grid],
        encoder: GridEncoder,
        *,
        tokenizer: Any = None,
    ) -> str:
        """The prompt that asks about one proposed output, or about two.

        Parameters
        ----------
        view : Task
            A task, or a task under an augmentation.
        test_index : int
        proposed : sequence of grid
            In the frame of the view: one for yes or no, two for A or B.
        encoder : GridEncoder
        tokenizer : Hugging Face tokenizer, optional
            If it has a chat template, the prompt is a chat.
        """
        chat = ChatTemplate(self.system, self.intro, prefill="")
        parts = [chat.question(view, test_index, encoder)]
        names = [""] if len(proposed) == 1 else [" A", " B"]
        for name, grid in zip(names, proposed):
            parts.append(f"### Proposed output{name}\n\n{encoder.encode(grid)}")
        parts.append(self.yes_no if len(proposed) == 1 else self.a_or_b)
        message = "\n\n".join(parts)
        if getattr(tokenizer, "chat_template", None):
            return chat.chat(message, tokenizer)
        return f"{message}\n\n{self.cue}"


class Referee:
    """An engine that is asked about proposed outputs.

    Parameters
    ----------
    engine : Engine
        With `score`.
    template : JudgeTemplate, optional
        The words.
    encoder : GridEncoder, optional
        How grids are written; by default as in the engine's prompt format.

    Raises
    ------
    ValueError
        If the engine has no `score`.
    """

    def __init__(
        self,
        engine: Engine,
        template: JudgeTemplate | None = None,
        encoder: GridEncoder | None = None,
    ) -> None:
        if not hasattr(engine, "score"):
            raise ValueError(f"a judge needs an engine with score, got {type(engine).__name__}")
        self.engine, self.template = engine, template or JudgeTemplate()
        self.encoder = encoder or choose_format(engine, None).encoder
        self.tokenizer = getattr(engine, "tokenizer", None)
        self.context = getattr(engine, "max_model_len", None) or float("inf")
        space = "" if getattr(self.tokenizer, "chat_template", None) else " "
        self.yes_no = [space + answer for answer in self.template.yes_no_answers]
        self.a_or_b = [space + answer for answer in self.template.a_or_b_answers]

    def render(
        self, task: Task, test_index: int, view: Augmentation, proposed: Sequence[Grid]
    ) -> str:
        """The prompt about one grid or two, all in the original frame, under a view."""
        return self.template.render(
            view.apply_task(task),
            test_index,
            [view.apply_grid(grid) for grid in proposed],
            self.encoder,
            tokenizer=self.tokenizer,
        )

    def fit_each(self, prompts: Sequence[str]) -> bool:
        """Whether the context holds each of some yes/no prompts and its answer."""
        return self._fits(max(self.engine.count_tokens(prompts)), self.yes_no)

    def fit_pairs(
        self, task: Task, test_index: int, view: Augmentation, grids: Sequence[Grid]
    ) -> bool:
        """Whether the context holds the prompt of any two of the grids and its answer."""
        texts = [self.encoder.encode(view.apply_grid(grid)) for grid in grids]
        longest = np.argsort(self.engine.count_tokens(texts))[-2:]
        prompt = self.render(task, test_index, view, [grids[k] for k in longest])
        return self._fits(self.engine.count_tokens([prompt])[0] + SLACK, self.a_or_b)

    def _fits(self, n_tokens: int, answers: Sequence[str]) -> bool:
        return n_tokens + max(self.engine.count_tokens(answers)) < self.context

    def ask(
        self, prompts: Sequence[str], answers: Sequence[str], bar: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Read the probabilities of two answers to each prompt.

        Parameters
        ----------
        prompts : sequence of str
        answers : sequence of str
            `yes_no` or `a_or_b`.
        bar : progress bar

        Returns
        -------
        log_odds, mass : ndarray of shape (n_prompts,), dtype float64
            ln P(first) - ln P(second) in nats, and P(first) + P(second). NaN where the model
            overflowed.
        """
        scores: list[list[float]] = []
        for start in range(0, len(prompts), CHUNK):
            chunk = prompts[start : start + CHUNK]
            scores += self.engine.score(chunk, [list(answers)] * len(chunk))
            bar.update(len(chunk))
        first, second = np.array(scores, dtype=float).reshape(-1, 2).T
        return first - second, np.exp(first) + np.exp(second)
