"""Judging: an instruct LLM is asked of each candidate whether it is right, yes or no.

Measure first: the published judges won offline and lost on the leaderboard (see `judge_yes_no`),
and they had been fine-tuned to judge. A small model that never was is likely worse.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.augment import Plan
from arc_airv.engines.base import Engine, as_engine
from arc_airv.grids import Grid, parse_grid
from arc_airv.infer.views import progress_bar
from arc_airv.prompts.encoders import GridEncoder
from arc_airv.prompts.format import ChatTemplate, choose_format, has_chat_template
from arc_airv.tasks import Task, check_output
from arc_airv.vote.candidates import POOL


@dataclass(frozen=True)
class JudgeTemplate:
    """The words around the grids, in Markdown: `system` and `intro` before the demonstrations.

    With a chat template, the message is the user's and the answer opens the assistant's turn;
    without one, `cue` follows the message, and the answer after a space.
    """

    system: str = ChatTemplate.system
    intro: str = (
        "Below are some input grids and the output grids that one rule makes of them. "
        "Find the rule and judge what is proposed as the output of the test case."
    )
    question: str = (
        "Is the proposed output exactly what the rule makes of the test input? Answer Yes or No."
    )
    yes: str = "Yes"
    no: str = "No"
    cue: str = "Answer:"

    def render(
        self, view: Task, test_index: int, proposed: Grid, encoder: GridEncoder, tokenizer: Any
    ) -> str:
        """Return the prompt about a grid in the frame of the view."""
        chat = ChatTemplate(self.system, self.intro, prefill="")
        shown = f"### Proposed output\n\n{encoder.encode(proposed)}"
        message = "\n\n".join([chat.question(view, test_index, encoder), shown, self.question])
        if has_chat_template(tokenizer):
            return chat.chat(message, tokenizer)
        return f"{message}\n\n{self.cue}"

    def answers(self, tokenizer: Any) -> list[str]:
        """Return the texts that may follow a prompt: yes, and no."""
        space = "" if has_chat_template(tokenizer) else " "
        return [f"{space}{self.yes}", f"{space}{self.no}"]


def judge_yes_no(
    candidates: pd.DataFrame,
    tasks: dict[str, Task],
    engine: Engine,
    *,
    n_views: int = 4,
    seed: int = 0,
    encoder: GridEncoder | None = None,
    template: JudgeTemplate | None = None,
    progress: bool = True,
    **kinds: bool,
) -> pd.DataFrame:
    """Ask of every candidate, under several views of its task, whether it is right.

    The model writes nothing: the probabilities of both answers are read, of n_views prompts a
    candidate.

    Parameters
    ----------
    engine : Engine
        With `score`: of any instruct LLM; not necessarily the one that predicted.
    n_views, seed, **kinds
        Views of each task, the same for all its candidates: see `arc_airv.augment.Plan`.
    encoder : GridEncoder, optional
        Writes the grids; by default that of the engine's prompt format.

    Returns
    -------
    DataFrame
        The candidates, for `arc_airv.vote.rank_by_score`, with the columns

        score
            Geometric mean of P(yes) / (P(yes) + P(no)) over the views; NaN without any.
        n_views
            The number of those. A view counts for all candidates of an output or for none: it is
            left out, with a warning, if the context cannot hold the prompt of one of them.
        answer_mass
            Mean of P(yes) + P(no). Where it is near 0 the model had other things to say than yes
            or no, and the score means little.

    Raises
    ------
    ValueError
        If `n_views` is below 1, or a candidate is of no given task.

    Notes
    -----
    The verifier of ironbar/arc24, fine-tuned for it, had 59.3 (first candidate) and 77.4 (one of
    the first two) percent of the tasks whose answer is in the pool, where voting had 60.0 and 70.0;
    on the leaderboard, after test-time fine-tuning, 33 against voting's 37 to 38.

    Examples
    --------
    ::

        judged = judge_yes_no(ranked[ranked["rank"] <= 8], tasks, engine)
        ranked = rank_by_score(judged)
    """
    if n_views < 1:
        raise ValueError(f"n_views must be at least 1, got {n_views}")
    engine, plan, template = as_engine(engine), Plan(seed, **kinds), template or JudgeTemplate()
    tokenizer, answers = engine.tokenizer, template.answers(engine.tokenizer)
    encoder = encoder or choose_format(None, engine.prompt_format, tokenizer, engine.model).encoder
    room = (engine.max_model_len or math.inf) - max(engine.count_tokens(answers))
    views: list[np.ndarray] = []  # the rows of the candidates that each is asked about
    prompts, n_too_long = [], 0
    for (task_id, test_index), rows in candidates.groupby(POOL, sort=False).indices.items():
        check_output(tasks, task_id, test_index)
        task, grids = tasks[task_id], list(map(parse_grid, candidates["grid"].iloc[rows]))
        # Few kinds may give fewer views: one that comes again would only count twice.
        for augmentation in dict.fromkeys(plan.sample(task, n_views)):
            view, shown = augmentation.apply_task(task), map(augmentation.apply_grid, grids)
            asked = [template.render(view, test_index, grid, encoder, tokenizer) for grid in shown]
            if max(engine.count_tokens(asked)) < room:
                views.append(rows)
                prompts += asked
            else:
                n_too_long += 1
    logprobs = np.full((len(prompts), 2), np.nan)
    with progress_bar(len(prompts), 0, progress, unit="prompt") as bar:
        for finished in engine.stream_scores((prompt, answers) for prompt in prompts):
            for number, pair in finished:
                logprobs[number] = pair
            bar.update(len(finished))
    with np.errstate(invalid="ignore"):  # NaN is where the model overflowed
        yes = -np.logaddexp(0, logprobs[:, 1] - logprobs[:, 0])  # ln P(yes), of yes or no
    each = np.stack([yes, np.exp(logprobs).sum(axis=1), np.ones(len(yes))], axis=1)
    sums, start, n_lost = np.zeros((len(candidates), 3)), 0, 0
    for rows in views:
        of_view, start = each[start : start + len(rows)], start + len(rows)
        if np.isnan(of_view).any():
            n_lost += 1
        else:
            sums[rows] += of_view
    if n_too_long:
        lost = f"{n_too_long} of {n_too_long + len(views)} views do not fit the model's context"
        warnings.warn(f"{lost} with their longest candidate: they were not asked", stacklevel=2)
    if n_lost:
        warnings.warn(f"{n_lost} views gave no number and do not count", stacklevel=2)
    *sums, n = sums.T
    yes, mass = sums / np.where(n > 0, n, np.nan)
    return candidates.assign(score=np.exp(yes), n_views=n.astype(int), answer_mass=mass)
