"""Whole runs side by side: what each store's predictions are worth, and what they cost.

Reads stores with their run descriptions, and knows solutions, as `arc_airv.metrics.outputs` does.
For what selects best within one run, see `arc_airv.studies.selection`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.metrics.outputs import average_outputs, bootstrap_interval, score_outputs
from arc_airv.records import NO_REPLY, read_predictions
from arc_airv.storage import read_run, run_path
from arc_airv.tasks import AVERAGES, Task
from arc_airv.vote.candidates import POOL, index_pools


def compare_runs(
    stores: Mapping[str, str | Path],
    tasks: dict[str, Task],
    *,
    average: str = "task",
    n_resamples: int = 2000,
    seed: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Compare runs over the same tasks, each with the first.

    Parameters
    ----------
    stores : mapping of str to path
        Stores of `arc_airv.infer.generate_predictions`, by a name of its own. The first is the
        baseline. Predictions for other tasks are left out.
    tasks : dict of str to Task
        With their test outputs; one without predictions counts as 0.
    average : {"task", "output", "all"}, default "task"
        See `arc_airv.metrics.average_outputs`.
    n_resamples, seed : int
        Of the bootstrap over tasks.
    **options
        Of `arc_airv.metrics.score_outputs`, such as the method that ranks the candidates.

    Returns
    -------
    DataFrame
        Indexed by name, with the columns

        temperature, n, beam_width, min_probability, alphabet, geometric, colors, train_order
            The run's settings: `n` replies to each view; beam_width is 1 without a beam search,
            min_probability NaN without a threshold (see `arc_airv.infer.threshold`); `alphabet`,
            whether only the tokens of a grid could be written.
        predictions, tokens_read, tokens_written
            Numbers of them; a prompt is read once for all its replies.
        seconds
            In the engine; NaN where the run description does not tell.
        accuracy, correct_size, ..., vote_1, vote_2, voting_accuracy
            The metrics.
        gain, low, high
            vote_2 less that of the first run, and its 95% interval: both on the same resampled
            tasks.

    Raises
    ------
    ValueError
        If there is no store, or one has no run description.
    """
    if not stores:
        raise ValueError("stores must name at least one run, got none")
    rows, baseline = {}, None
    for name, path in stores.items():
        predictions = read_predictions(path)
        predictions = predictions[predictions["task_id"].isin(tasks)]
        pools = index_pools(predictions)
        outputs = score_outputs(pools, tasks, **options)
        baseline = outputs if baseline is None else baseline
        gain = bootstrap_interval(
            outputs, baseline=baseline, average=average, n_resamples=n_resamples, seed=seed
        )
        rows[name] = {
            **describe_run(path),
            "predictions": len(pools.predictions),
            **_count_tokens(predictions),
            **average_outputs(outputs, average=average),
            **gain.loc["vote_2"].rename({"value": "gain"}),
        }
    table = pd.DataFrame.from_dict(rows, orient="index").infer_objects()
    return table.rename_axis(columns=AVERAGES[average])


def describe_run(path: str | Path) -> dict[str, Any]:
    """Return the settings of a store's run that a study may vary, and its seconds in the engine.

    Raises
    ------
    ValueError
        If the store has no run description, or one that lacks its settings.
    """
    try:
        run = read_run(path)
        sampling, plan = run["settings"]["sampling"], run["settings"]["plan"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: no usable run description {run_path(path)} ({error})") from None
    return {
        "temperature": sampling["temperature"],
        "n": sampling["n"],
        "beam_width": sampling.get("beam_width") or 1,
        "min_probability": sampling.get("min_probability", np.nan),
        "alphabet": sampling.get("allowed_tokens") is not None,
        **{kind: plan[kind] for kind in ("geometric", "colors", "train_order")},
        "seconds": sum(call["engine_seconds"] for call in run.get("calls", [])) or np.nan,
    }


def _count_tokens(predictions: pd.DataFrame) -> dict[str, int]:
    # A view without a reply was read, too.
    sent = predictions[predictions["text"].notna() | (predictions["status"] == NO_REPLY)]
    views = sent.drop_duplicates([*POOL, "augmentation"])
    return {
        "tokens_read": int(views["n_prompt_tokens"].sum()),
        "tokens_written": int(sent["n_tokens"].sum()),
    }
