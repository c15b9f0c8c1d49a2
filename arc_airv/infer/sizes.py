"""The context that a run needs: its longest prompt with its longest reply.

A model may read 262,144 tokens, and an engine sets aside memory for a request of that length; tasks
need a few thousand.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arc_airv.augment import Augmentation, Plan
from arc_airv.engines.base import Sampling
from arc_airv.engines.local import LocalEngine
from arc_airv.engines.model_folder import look_at_model
from arc_airv.infer.views import Job, Renderer
from arc_airv.prompts.format import PromptFormat, max_output_cells
from arc_airv.tasks import Task

SIZED = ("auto", "vllm")  # the engines that set memory aside for the longest request
MARGIN = 0.02  # a view of other colours may be some tokens longer than those that are measured
ROUNDED = 64


class _Counter(LocalEngine):
    """The tokenizer of a model, or one given apart from it, and no network."""

    def __init__(self, model: str | Path, tokenizer: str | None) -> None:
        from transformers import AutoTokenizer

        self.model, self.max_model_len = str(model), None
        self.folder = look_at_model(model, has_tokenizer=tokenizer is not None)
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer or self.folder.tokenizer)


def context_for_tasks(
    tasks: Mapping[str, Task],
    model: str | Path,
    *,
    prompt_format: PromptFormat | dict[str, Any] | None = None,
    sampling: Sampling | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    tokenizer: str | None = None,
) -> int:
    """Return the tokens of the longest prompt of some tasks, with its longest reply.

    The task as it is and a quarter turn of it are measured (rows and columns change places), for
    every test output that is half as large as the largest, and a margin is left for other colours.
    Nothing of a task is dropped.

    Parameters
    ----------
    tasks, prompt_format, sampling, adapters
        As for `arc_airv.infer.generate_predictions`.
    model : str or Path
        As for the engine.
    tokenizer : str, optional
        Folder or name of the one that counts, by default the model's.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself will say them
        renderer = Renderer(
            _Counter(model, tokenizer),
            prompt_format,
            Plan(0),
            sampling or Sampling(),
            drop_demonstrations=False,
            adapters=None if adapters is None else {key: adapters[key] for key in tasks},
        )
        sizes = {
            (task_id, index): _cells(task, index)
            for task_id, task in tasks.items()
            for index in range(len(task.test))
        }
        least, longest = max(sizes.values(), default=0) / 2, 0
        for (task_id, index), size in sizes.items():
            if size < least:  # no tokenizer writes it longer than the largest
                continue
            task = tasks[task_id]
            for turn in (0, 1):
                key = str(Augmentation(rot90=turn, train_order=tuple(range(len(task.train)))))
                question = renderer.render(Job(task, index, turn, key, 0))
                longest = max(longest, question.n_tokens + question.sampling.limit)
    return -(-int(longest * (1 + MARGIN)) // ROUNDED) * ROUNDED


def _cells(task: Task, index: int) -> int:
    """Return the cells of a prompt and its longest answer."""
    shown = sum(pair.input.size + pair.output.size for pair in task.train)
    return shown + task.test[index].input.size + max_output_cells(task, index)


def options_for_tasks(
    engine: str,
    model: str | Path,
    options: Mapping[str, Any],
    tasks: Mapping[str, Task],
    **settings: Any,
) -> dict[str, Any]:
    """Return the options of an engine with a ``max_model_len`` that suits the tasks.

    It is left to the model where it is given, the tasks need all that the model has, or the engine
    takes memory as it goes.

    Parameters
    ----------
    engine, model, options
        As for `arc_airv.engines.make_engine`.
    tasks, **settings
        As for `context_for_tasks`.
    """
    options = dict(options)
    if engine not in SIZED or options.get("max_model_len") or not tasks:
        return options
    tokenizer = options.get("tokenizer")
    config = look_at_model(model, has_tokenizer=tokenizer is not None).config
    limit = (config.get("text_config") or config).get("max_position_embeddings") or 0
    needed = context_for_tasks(tasks, model, tokenizer=tokenizer, **settings)
    return {**options, "max_model_len": needed} if needed < limit else options
