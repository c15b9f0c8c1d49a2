"""A run of the submission notebook: whatever happens in it, a valid submission is on disk."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from arc_airv.engines.adapters import adapter_options
from arc_airv.engines.auto import ENGINES
from arc_airv.engines.gpus import engine_options as suited_options
from arc_airv.engines.gpus import find_gpus, gpus_for_model, require_gpus
from arc_airv.engines.model_folder import adapter_rank, check_lendable, look_at_model
from arc_airv.grids import Grid
from arc_airv.kaggle.clock import Deadline
from arc_airv.kaggle.finetune import supervise_finetuning
from arc_airv.kaggle.inputs import is_rerun
from arc_airv.kaggle.log import Log
from arc_airv.kaggle.process import Limits, store_size
from arc_airv.kaggle.supervise import (
    KEPT,
    degrade,
    find_stores,
    store_paths,
    supervise_generation,
)
from arc_airv.records import mend_store, read_stores
from arc_airv.storage import check_store_name, has_run, other_contents, read_run
from arc_airv.submission import (
    build_submission,
    count_answered,
    score_submission,
    validate_submission,
    write_submission,
)
from arc_airv.tasks import check_count, has_hidden, load_tasks, outputs_of, read_challenges
from arc_airv.vote.rank import rank_candidates, select_attempts

RERUN_MINUTES = 11.5 * 60  # of the 12 hours that Kaggle gives
TRIAL_MINUTES = 15
TOO_SLOW = (
    "too slow for this: only {} of {} outputs were asked before the time was up. Give it more "
    "MINUTES, fewer tasks (N_TASKS), a smaller model or a faster machine"
)
# What of the options given for vLLM means the same to Transformers' engine.
TRANSFORMERS_OPTIONS = (*KEPT, "batch_tokens")
VOTE_SECONDS = 60  # between two submissions of plain votes


class Run:
    """A run that must end well: its steps may fail, and what they had is submitted.

    Making it writes the fallback submission, ``[[0]]`` for every answer, before anything else. A
    malformed entry of the challenges file keeps it.

    Parameters
    ----------
    tasks : str or Path
        As `arc_airv.tasks.read_challenges` takes it.
    minutes : float, optional
        The time limit, since the kernel's start; by default 11.5 hours in the scored rerun and 15
        minutes elsewhere.
    gpus : str, optional
        Such as "2xT4": the machine to insist on, but for the scored rerun.
    n_tasks : int, optional
        Ask only the first so many tasks, but for the scored rerun. The submission has all.
    engine, engine_options : optional
        By default those that suit the machine; options are added to these.

    Attributes
    ----------
    tasks : dict of str to Task
        The well-formed ones: those that are asked.
    log : Log
    deadline : Deadline
    limits : Limits
        Of the supervisors.
    model : str or Path
        The fine-tuned one after a joint `finetune`.
    configuration : dict
        As `arc_airv.engines.engine_options` gives it.

    Raises
    ------
    ValueError
        If the challenges file holds no tasks at all, or `n_tasks` is below 1.
    RuntimeError
        If this is not the machine that `gpus` names, nor the scored rerun.
    """

    def __init__(
        self,
        tasks: str | Path,
        *,
        model: str | Path,
        submission: str | Path,
        minutes: float | None = None,
        gpus: str | None = None,
        n_tasks: int | None = None,
        engine: str | None = None,
        engine_options: Mapping[str, Any] | None = None,
    ) -> None:
        if n_tasks is not None:
            check_count("n_tasks", n_tasks)
        self.log = Log()
        self.source, self.path, self.model = tasks, Path(submission).resolve(), model
        self.challenges = read_challenges(tasks)
        self.n_tasks = None if is_rerun() else n_tasks
        self.tasks = dict(list(self.challenges.tasks.items())[: self.n_tasks])
        answered = self._write({})
        asked = "" if self.n_tasks is None else f", of which {len(self.tasks)} will be asked"
        self.log.add("fallback", f"{len(self.challenges.all)} tasks{asked}; {answered}")
        for fault in self.challenges.faults.values():
            self.log.add("challenges", fault, failed=True)
        seconds = 60 * (minutes or (RERUN_MINUTES if is_rerun() else TRIAL_MINUTES))
        self.deadline = Deadline(seconds)
        self.limits = Limits(
            startup_seconds=min(1200, 0.5 * seconds),
            hang_seconds=min(900, 0.25 * seconds),
            grace_seconds=min(30, 0.05 * seconds),
        )
        found = []
        with self.step("GPUs"):
            found = find_gpus()
        if gpus and not is_rerun():
            require_gpus(found, gpus)
        options = dict(engine_options or {})
        # An engine on each GPU; only a model that does not fit one is spread over several.
        together = options.get("tensor_parallel_size") or gpus_for_model(model, found)
        together = max(1, min(together, len(found)))

        def configure(rank: int | None = None) -> dict[str, Any]:
            """Return the configuration for answers without adapters, or with those of a rank."""
            suited = suited_options(found, tensor_parallel_size=together, adapters=bool(rank))
            given = options
            if engine not in (None, suited["engine"]):
                suited |= {"engine": engine, "options": {}}
            elif engine is None and suited["engine"] == "transformers":  # in place of vLLM
                given = {k: v for k, v in options.items() if k in TRANSFORMERS_OPTIONS}
            needed = adapter_options(suited["engine"], rank) if rank else {}
            return {**suited, "options": {**suited["options"], **needed, **given}}

        self._configure = configure
        self.configuration = configure()
        self.adapters: dict[str, str] | None = None
        self.stores: list[Path] = []
        self._voted = -math.inf, 0  # when, and on how many bytes
        names = ", ".join(gpu.name for gpu in found) or "no GPU"
        left = f"{self.deadline.seconds_left / 60:.1f} minutes left"
        self.log.add("machine", f"{names}; {left}; {self.configuration}")

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Run a step that may fail: its exception goes to the log, and the run goes on.

        The submission is valid afterwards: if the step has broken the file, the last one that was
        submitted is put back.
        """
        with self.log.step(name):
            yield
        with self.log.step(name):
            try:
                validate_submission(self.path, self.challenges.all)
            except Exception:
                write_submission(self._submitted, self.path)
                raise

    def finetune(
        self,
        mode: str | None,
        *,
        share: float = 0.4,
        folder: str | Path = "finetuned",
        seed: int = 0,
        **options: Any,
    ) -> None:
        """Fine-tune on the demonstrations until a share of the time limit is used.

        The mode is "joint" or "per_task", and the options are of `supervise_finetuning`; None does
        nothing. If this fails, the model answers as it is.
        """
        if not mode:
            return
        with self.step("fine-tune"):
            rank = options.get("rank", 16)
            self._configure(rank)  # a rank that is too large is told before the training
            self.model, learnt = supervise_finetuning(
                self.tasks,
                mode=mode,
                model=self.model,
                folder=folder,
                deadline=self.deadline.at(share),
                seed=seed,
                devices=self.configuration["devices"],
                limits=self.limits,
                log=self.log,
                **options,
            )
            if learnt is not None:
                self.adapters = {task_id: str(path) for task_id, path in learnt.items()}

    def generate(self, n_predictions: int, *, seed: int, store: str | Path, **options: Any) -> None:
        """Fill stores with predictions, and submit plain votes on them meanwhile and at the end.

        At most `n_predictions` of every test output: as many as the time allows. The options are of
        `supervise_generation` and `arc_airv.infer.generate_predictions`.

        What earlier calls left in other stores votes, too, also that of the model as it was before
        `finetune`: each model's replies are predictions of their own, and the column model of
        `read_predictions` tells them apart. A store that another model began before this run is
        refused and does not vote. What the same model left with another number of devices does.
        """
        store = Path(store).resolve()
        earlier, submitted = self.stores, self._submitted
        paths = store_paths(store, len(self.configuration["devices"]))
        self.stores = list(dict.fromkeys([*earlier, *paths]))
        end = self.deadline.at(reserve=min(120, 0.1 * self.deadline.seconds))
        options = {"adapters": self.adapters, **options}
        with self.step("generate"):
            check_store_name(store)
            options["adapters"] = self._suit_adapters(options["adapters"])
            paths = supervise_generation(
                self.tasks,
                model=self.model,
                configurations=degrade(self.configuration),
                devices=self.configuration["devices"],
                store=store,
                n_predictions=n_predictions,
                seed=seed,
                deadline=end,
                limits=self.limits,
                log=self.log,
                watch=self._vote_now_and_then,
                **options,
            )
        with self.step("other stores"):
            asked, others = set(self.stores), self._find_others(store, paths)
            self.stores = list(dict.fromkeys([*earlier, *paths, *others]))
            if others:
                names = ", ".join(path.name for path in others)
                self.log.add("generate", f"{names} of another number of devices vote, too")
            left = sorted(asked.union(find_stores(store)).difference(self.stores))
            if left := [path for path in left if path.exists()]:
                names = ", ".join(path.name for path in left)
                text = f"{names}: not made with these settings, so no vote: use another store"
                self.log.add("generate", text, failed=True)
                self._submitted = submitted  # for one may have voted meanwhile
                write_submission(submitted, self.path)
        with self.step("mend"):  # no worker runs any more
            for path in self.stores:
                mend_store(path)
        self._vote()
        with self.step("speed"):
            asked = self.read_predictions()[["task_id", "test_index"]].drop_duplicates()
            n, n_asked = len(outputs_of(self.tasks)), len(asked)
            if n_asked < n and time.time() > end - 2 * self.limits.grace_seconds:
                self.log.add("generate", TOO_SLOW.format(n_asked, n), failed=True)

    def _find_others(self, store: Path, paths: Sequence[Path]) -> list[Path]:
        """Find other stores of this name with the settings, the model and the adapters of these."""

        def made_by(path: Path) -> tuple[Any, dict[str, str]]:
            run = read_run(path) if has_run(path) else {}
            return run.get("settings"), run.get("fingerprints", {})

        own = [made_by(path) for path in paths if has_run(path)]

        def agrees(path: Path) -> bool:
            settings, contents = made_by(path)
            return any(
                settings == those and contents.get("model") == known.get("model")
                for those, known in own
            ) and not any(other_contents(known, contents) for _, known in own)

        others = [path for path in find_stores(store) if path not in self.stores]
        return [path for path in others if agrees(path)]

    def _suit_adapters(
        self, adapters: Mapping[str, str | Path] | None
    ) -> Mapping[str, str | Path] | None:
        """Configure the engine for the adapters of the tasks, and for a model that is one.

        Return the adapters, or None if one of them cannot be used: the model answers alone then.
        """
        ranks, folders = [], set(map(str, (adapters or {}).values()))
        try:
            for folder in folders:
                check_lendable(folder)
                ranks.append(adapter_rank(folder))
        except ValueError as error:
            self.log.add("adapters", f"{error}; the model answers without them", failed=True)
            adapters, ranks = None, []
        before, options = self.configuration["engine"], self.configuration["options"]
        if before in ENGINES:
            own = look_at_model(self.model, has_tokenizer="tokenizer" in options).adapter
            ranks += [adapter_rank(own)] if own else []
        if not ranks:
            return adapters
        self.configuration = self._configure(max(ranks))
        after, is_cpu = self.configuration["engine"], self.configuration["devices"] == [None]
        if after != before:
            self.log.add("machine", f"{after} answers, for {before} is slow with adapters on a CPU")
        elif after == "vllm" and is_cpu:
            self.log.add("machine", "vllm is slow with adapters on a CPU: try 'transformers'")
        return adapters

    def read_predictions(self) -> pd.DataFrame:
        """Read all predictions, as `arc_airv.records.read_predictions` gives them."""
        return read_stores(self.stores, tasks=self.tasks)

    def submit(self, attempts: dict[str, list[list[Grid]]]) -> None:
        """Write the submission from attempts, as `arc_airv.vote.select_attempts` gives them.

        Raises ValueError as `arc_airv.submission.build_submission` does; the file stays as it is.
        """
        self.log.add("submission", self._write(attempts))

    def finish(self, *, solutions: str | Path | None = None) -> None:
        """Check the submission, score it where solutions are known, and print what went wrong."""
        with self.step("check"):
            submission = validate_submission(self.path, self.challenges.all)
            self.log.add("check", f"{self.path.name} is valid; {count_answered(submission)}")
        with self.step("score"):
            self.log.add("score", self._score(solutions))
        failures = self.log.failures
        print("", *failures, f"{len(failures)} things went wrong (marked !)", sep="\n")

    def _score(self, solutions: str | Path | None) -> str:
        tasks = self.challenges.all
        if solutions:
            tasks = load_tasks(self.source, solutions=solutions)
        if self.n_tasks is not None:
            tasks = {task_id: tasks[task_id] for task_id in self.tasks}
        if not tasks or has_hidden(tasks):
            return "nothing to score against, the solutions are hidden"
        written = validate_submission(self.path, self.challenges.all)
        submission = {task_id: written[task_id] for task_id in tasks}
        if submission == build_submission({}, tasks):
            return "none, because nothing was answered"
        asked = "tasks" if self.n_tasks is None else f"{len(tasks)} tasks that were asked"
        return f"{score_submission(submission, tasks):.1%}, the mean over {asked}"

    def _write(self, attempts: dict[str, list[list[Grid]]]) -> str:
        submission = build_submission(attempts, self.challenges.all)
        write_submission(submission, self.path)
        self._submitted = submission
        return count_answered(submission)

    def _vote(self) -> None:
        with self.step("plain votes"):
            predictions = self.read_predictions()
            if predictions.empty:
                return
            answered = self._write(select_attempts(rank_candidates(predictions), self.tasks))
            n_models = predictions.groupby("task_id")["model"].nunique().max()
            by = f" by {n_models} models" if n_models > 1 else ""
            self.log.add("plain votes", f"{len(predictions)} predictions{by}; {answered}")

    def _vote_now_and_then(self) -> None:
        size, (when, before) = sum(map(store_size, self.stores)), self._voted
        if size > before and time.monotonic() - when >= VOTE_SECONDS:
            self._vote()
            self._voted = time.monotonic(), size
