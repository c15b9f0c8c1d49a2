"""Views: the plan of a run, the prompt of each view, and the predictions of its replies.

Between the plan of augmentations and the engine: makes the list of jobs, renders a job when it is
its turn, sizes its reply, sees to it that it fits the model's context, and turns replies into
predictions in the original frame.
"""

import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import arc_airv
from arc_airv.augment import Augmentation, Plan
from arc_airv.engines.adapters import base_of
from arc_airv.engines.base import Completion, Engine, Sampling
from arc_airv.engines.fingerprint import fingerprint
from arc_airv.grids import MAX_SIDE, format_grid
from arc_airv.prompts.format import (
    PromptFormat,
    choose_format,
    max_output_cells,
    varied_grid,
)
from arc_airv.prompts.replies import begins_thought
from arc_airv.prompts.tokens import find_fault
from arc_airv.records import PROMPT_TOO_LONG, UNPARSED, Prediction
from arc_airv.tasks import Task, check_flag

MOST_RENDERED = 32  # of the views of an output in a store, to see that they are of these tasks
REPLY_SLACK = 8  # tokens of a reply beside its grid: marks, end of text


@dataclass(frozen=True)
class Job:
    """One view to ask for one test output.

    `view` is its number in the plan of the task; `first_sample` the sample index of its first
    reply, above 0 only where the plan had to repeat an augmentation.
    """

    task: Task
    test_index: int
    view: int
    augmentation: str
    first_sample: int

    @property
    def output(self) -> tuple[str, int]:
        """The test output that it asks for."""
        return self.task.task_id, self.test_index

    def keys(self, n: int) -> list[tuple[str, int, str, int]]:
        """Return the keys of its n predictions in a store."""
        first = self.first_sample
        return [
            (self.task.task_id, self.test_index, self.augmentation, s)
            for s in range(first, first + n)
        ]


@dataclass(frozen=True)
class Question:
    """A job, ready to be sent."""

    job: Job
    prompt: str
    prompt_hash: str
    n_tokens: int  # of the prompt
    n_train: int  # demonstrations shown
    sampling: Sampling  # with the reply's own `max_tokens`, seed and stop strings
    fits: bool  # prompt and reply fit the model's context

    def predictions(
        self, completions: list[Completion], prompt_format: PromptFormat
    ) -> list[Prediction]:
        """Parse the replies, and revert their grids to the original frame."""
        augmentation = Augmentation.parse(self.job.augmentation)
        predictions = []
        for sample, completion in enumerate(completions):
            if completion.finish_reason is None and completion.n_tokens >= self.sampling.limit:
                completion = replace(completion, finish_reason="length")
            grid, status, n_grids = None, UNPARSED, -1  # of a prompt that was given up
            if completion.text is not None:
                grid, status, n_grids = prompt_format.read(
                    completion.text, completion.finish_reason, prompt=self.prompt
                )
            text = None if grid is None else format_grid(augmentation.revert_grid(grid))
            predictions.append(
                self._prediction(
                    sample, grid=text, status=status, n_grids=n_grids, **asdict(completion)
                )
            )
        return predictions

    def unsent(self, status: str = PROMPT_TOO_LONG) -> list[Prediction]:
        """Return what stands for the replies to a question that has none."""
        nothing = Completion(text=None, n_tokens=0, cumulative_logprob=None, finish_reason=None)
        return [
            self._prediction(sample, grid=None, status=status, **asdict(nothing))
            for sample in range(self.sampling.n)
        ]

    def _prediction(self, sample: int, **reply: Any) -> Prediction:
        return Prediction(
            task_id=self.job.task.task_id,
            test_index=self.job.test_index,
            augmentation=self.job.augmentation,
            sample_index=self.job.first_sample + sample,
            n_prompt_tokens=self.n_tokens,
            prompt_hash=self.prompt_hash,
            n_train=self.n_train,
            **reply,
        )


def plan_jobs(tasks: dict[str, Task], n_views: int, n_samples: int, plan: Plan) -> list[Job]:
    """Return the jobs of a run: the first views of every test output, n_samples replies to each.

    Raises
    ------
    ValueError
        If a task stands under another id than its own.
    """
    if strangers := [key for key, task in tasks.items() if task.task_id != key]:
        raise ValueError(f"tasks must be keyed by their task_id, these are not: {strangers[:5]}")
    jobs = []
    for task in tasks.values():
        seen: dict[str, int] = {}
        for view, augmentation in enumerate(plan.sample(task, n_views)):
            key = str(augmentation)
            first = seen.get(key, 0)
            seen[key] = first + n_samples
            jobs += [Job(task, i, view, key, first) for i in range(len(task.test))]
    return jobs


def own_format(
    engine: Engine, adapters: Mapping[str, str | Path] | None = None
) -> PromptFormat | None:
    """Return the format that what answers was trained in, if it tells: adapters, else the model.

    An adapter that tells none was trained in the model's own. A ValueError if they differ: one run
    asks all tasks in one format.
    """
    folders = sorted(set(map(str, (adapters or {}).values())))
    formats = [PromptFormat.load(folder) or engine.prompt_format for folder in folders]
    told = [found for found in formats if found is not None]
    if any(found != told[0] for found in told):
        raise ValueError(
            "the adapters were trained in different prompt formats (one without a "
            "prompt_format.json in the model's own): ask them apart"
        )
    if 0 < len(told) < len(formats):
        warnings.warn(
            f"of {len(formats)} adapters, {len(formats) - len(told)} do not tell in which prompt "
            f"format they were trained, nor does the model, such as {folders[formats.index(None)]}:"
            " they are asked in that of the others",
            stacklevel=4,
        )
    return told[0] if told else engine.prompt_format


class Renderer:
    """Turns jobs into questions for one engine.

    Parameters
    ----------
    engine : Engine
        Counts tokens; its `max_model_len`, if it has one, is the context to fit.
    prompt_format : PromptFormat or dict or None
        A dict is one as JSON values; None: that of the adapters or of the model.
    plan : Plan
        Its seed is the base of the sampling seeds, used where the temperature is above 0.
    sampling : Sampling
    drop_demonstrations : bool
        Drop the last demonstrations of a view until it fits.
    adapters : mapping of str to path, optional
        The LoRA adapter of each task, by its id.
    """

    def __init__(
        self,
        engine: Engine,
        prompt_format: PromptFormat | dict[str, Any] | None,
        plan: Plan,
        sampling: Sampling,
        *,
        drop_demonstrations: bool,
        adapters: Mapping[str, str | Path] | None = None,
    ) -> None:
        check_flag("drop_demonstrations", drop_demonstrations)
        self.engine = engine
        own = own_format(engine, adapters)
        self.format = choose_format(prompt_format, own, engine.tokenizer, engine.model)
        if hasattr(engine.tokenizer, "encode"):  # one of one's own may only have a chat template
            if fault := find_fault(engine.tokenizer, self.format.encoder):
                warnings.warn(f"{engine.model}: {fault}: it cannot answer", stacklevel=4)
        self.plan = plan
        self._warned = False
        self.own_stop = sampling.stop
        self.sampling = replace(sampling, stop=(*sampling.stop, *self.format.stop))
        self.drop_demonstrations = bool(drop_demonstrations)
        self.adapters = {task_id: str(path) for task_id, path in (adapters or {}).items()}
        self.context = engine.max_model_len or math.inf
        self.reply_tokens = lru_cache(self._reply_tokens)

    def render(self, job: Job) -> Question:
        """Return the question of a job, with demonstrations dropped if they may be and must."""
        view = Augmentation.parse(job.augmentation).apply_task(job.task)
        answer_tokens = self.reply_tokens(max_output_cells(job.task, job.test_index))
        while True:
            prompt = self.format.render(view, job.test_index, tokenizer=self.engine.tokenizer)
            begun = self.format.template.begins_answer(prompt)
            max_tokens = self._limit(answer_tokens, prompt, begun)
            n_tokens = self.engine.count_tokens([prompt])[0]
            fits = n_tokens + max_tokens <= self.context
            if fits or not self.drop_demonstrations or len(view.train) == 1:
                break
            view = replace(view, train=view.train[:-1])
        return Question(
            job,
            prompt,
            hash_text(prompt),
            n_tokens,
            len(view.train),
            replace(
                self.sampling,
                max_tokens=max_tokens,
                stop=self.sampling.stop if begun else self.own_stop,  # it stands in thoughts, too
                seed=self._seed(job),
                adapter=self.adapters.get(job.task.task_id),
            ),
            fits,
        )

    def hash_prompt(self, job: Job, n_train: int = -1) -> str:
        """Return the hash of a job's prompt, of so many demonstrations where that is known."""
        if n_train < 0 and self.drop_demonstrations:
            return self.render(job).prompt_hash
        view = Augmentation.parse(job.augmentation).apply_task(job.task)
        view = replace(view, train=view.train[: n_train if n_train >= 0 else None])
        return hash_text(self.format.render(view, job.test_index, tokenizer=self.engine.tokenizer))

    def check_store(
        self, path: Any, tasks: Iterable[Task], held: Iterable[tuple[tuple, str | None, int]]
    ) -> None:
        """Check that what a store holds answers the questions that these tasks ask.

        Parameters
        ----------
        path : str or Path or None
            Of the store.
        tasks : iterable of Task
        held : iterable of tuple
            (task_id, test_index, augmentation) of each record in the store, its prompt hash (None:
            not known), and the demonstrations that it showed (-1: not known).

        Raises
        ------
        ValueError
            If a view is of another prompt, or none of its task; the message names it.
        """
        known, n_unknown = {task.task_id: task for task in tasks}, 0
        views: dict[tuple, list[tuple]] = {}
        for view, prompt_hash, n_train in dict.fromkeys(held):
            if view[0] in known:
                n_unknown += prompt_hash is None
                views.setdefault(view[:2], []).append((view[2], prompt_hash, n_train))
        for (task_id, test_index), of_output in views.items():
            task = known[task_id]
            # Of very many, some that are spread over them are rendered.
            step = -(-len(of_output) // MOST_RENDERED)
            rendered = {len(of_output) - 1, *range(0, len(of_output), step)}
            for number, (key, prompt_hash, n_train) in enumerate(of_output):
                order = key.rpartition("order")[2]
                is_right = test_index < len(task.test)
                is_right &= not order or order.count("-") + 1 == len(task.train)
                if is_right and prompt_hash is not None and number in rendered:
                    job = Job(task, test_index, 0, key, 0)
                    is_right = prompt_hash == self.hash_prompt(job, n_train)
                if not is_right:
                    raise ValueError(
                        f"{path}: the store answers another prompt for "
                        f"{(task_id, test_index, key)}: the task, the tokenizer or the "
                        "model's context changed since. Use another store."
                    )
        if n_unknown:
            warnings.warn(
                f"{path}: {n_unknown} views do not tell their prompts: see to it that they are of "
                "these tasks",
                stacklevel=4,
            )

    def _limit(self, answer_tokens: int, prompt: str, begun: bool) -> int:
        """Return the most tokens of a reply."""
        if self.sampling.max_tokens is None:
            thinking_tokens = 0 if begun else self.format.template.thinking_tokens
            if not thinking_tokens and begins_thought(prompt):
                self._warn_once(
                    "The chat template begins a thought, and there is no room for one: set "
                    'ChatTemplate(thinking_tokens=...), or its options={"enable_thinking": False} '
                    "where the chat template knows that."
                )
            return answer_tokens + thinking_tokens
        if self.sampling.max_tokens < answer_tokens:
            self._warn_once(
                f"Sampling(max_tokens={self.sampling.max_tokens}) is less than the {answer_tokens} "
                "tokens that an answer may take: some replies will be truncated."
            )
        return self.sampling.max_tokens

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            warnings.warn(message, stacklevel=5)
        self._warned = True

    def describe_run(self, **settings: Any) -> dict[str, Any]:
        """Return a run description, with further `settings` that records of one store share."""
        if self.adapters:
            folders = {Path(path).parent.name for path in self.adapters.values()}
            settings["adapters"] = sorted(folders)
        contents = {"model": self.engine.fingerprint, **self._adapter_contents()}
        names = {
            f"adapter of {task_id}": Path(path).name for task_id, path in self.adapters.items()
        }
        return {
            "settings": {
                "model": Path(self.engine.model).name,
                "prompt_format": self.format.to_dict(),
                "plan": asdict(self.plan),
                "drop_demonstrations": self.drop_demonstrations,
                **settings,
            },
            "fingerprints": {k: content for k, content in contents.items() if content is not None},
            # Of adapters at a server of one's own, or with weights in a form that is not known.
            "names": {k: name for k, name in names.items() if contents[k] is None},
            "engine": self.engine.describe(),
            "arc_airv": arc_airv.__version__,
        }

    def _adapter_contents(self) -> dict[str, str | None]:
        """Return what tells the adapter of each task by its content."""
        read, read_base = lru_cache(None)(fingerprint), lru_cache(None)(base_of)  # many share one
        own = self.engine.fingerprint if self.adapters else None
        bases = {task_id: read_base(path) or own for task_id, path in self.adapters.items()}
        if own and (others := [task_id for task_id, base in bases.items() if base != own]):
            warnings.warn(
                f"the adapters of {len(others)} tasks were trained on another model than "
                f"{self.engine.model} (or on the same one before it was changed, as by "
                f"quantization), such as that of {others[0]}",
                stacklevel=4,
            )
        return {f"adapter of {task_id}": read(path) for task_id, path in self.adapters.items()}

    def _reply_tokens(self, n_cells: int) -> int:
        """Tokens that a grid of so many cells can take, in its longest form: 30 rows."""
        height = min(MAX_SIDE, n_cells)
        answer = self.format.render_answer(varied_grid(height, -(-n_cells // height)))
        return self.engine.count_tokens([answer])[0] + REPLY_SLACK

    def _seed(self, job: Job) -> int | None:
        """Return a seed that depends on the job alone: a resumed run draws the same.

        (In vLLM. Transformers draws a batch together.)
        """
        if self.sampling.temperature == 0:
            return None
        base = self.plan.seed if self.sampling.seed is None else self.sampling.seed
        text = f"{base}/{job.keys(1)[0]}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) % 2**31


def hash_text(text: str) -> str:
    """Return the hash by which records know a prompt."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def progress_bar(total: int, done: int, show: bool, unit: str = "prediction") -> Any:
    """Open a tqdm bar, or a stand-in where tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return nullcontext(_NoBar())
    # A committed notebook keeps every refresh of the bar in its log, so few of them.
    return tqdm(total=total, initial=done, unit=unit, mininterval=2.0, disable=not show)


class _NoBar:
    def update(self, n: int) -> None:
        pass
