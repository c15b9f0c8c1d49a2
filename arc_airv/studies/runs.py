"""Whole runs side by side: what each store's predictions are worth, and what they cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.metrics.outputs import score_outputs
from arc_airv.records import NO_REPLY, read_stores
from arc_airv.storage import read_run, run_path
from arc_airv.studies.selection import compare_outputs
from arc_airv.tasks import Task
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
        Stores of `arc_airv.infer.generate_predictions`, by a name of its own. Predictions for other
        tasks are left out, see `arc_airv.records.read_stores`.
    **options
        As of `arc_airv.metrics.score_outputs`, such as the method that ranks the candidates.

    Returns
    -------
    DataFrame
        Indexed by name, with the columns

        temperature, n, beam_width, min_probability, alphabet, geometric, colors, train_order
            The run's settings: n replies to each view; beam_width is 1 without a beam search,
            min_probability NaN without a threshold (see `arc_airv.infer.threshold`); alphabet is
            True if only the tokens of a grid could be written.
        seconds
            In the engine; NaN where the run description does not tell.
        predictions, tokens_read, tokens_written
            Numbers of them; a prompt is read once for all its replies.
        accuracy, correct_size, ..., vote_1, vote_2, voting_accuracy, gain, low, high
            The metrics, and the gain.

    Raises
    ------
    ValueError
        If there is no store, or one has no run description.
    """
    if not stores:
        raise ValueError("stores must name at least one run, got none")
    settings, outputs = {}, {}
    for name, path in stores.items():
        predictions = read_stores([path], tasks=tasks)
        pools = index_pools(predictions)
        outputs[name] = score_outputs(pools, tasks, **options)
        # A view without a reply was read, too.
        sent = predictions[predictions["text"].notna() | (predictions["status"] == NO_REPLY)]
        views = sent.drop_duplicates([*POOL, "augmentation"])
        settings[name] = {
            **describe_run(path),
            "predictions": len(pools.predictions),
            "tokens_read": int(views["n_prompt_tokens"].sum()),
            "tokens_written": int(sent["n_tokens"].sum()),
        }
    compared = compare_outputs(outputs, average=average, n_resamples=n_resamples, seed=seed)
    settings = pd.DataFrame.from_dict(settings, orient="index").infer_objects()
    return settings.join(compared).rename_axis(columns=compared.columns.name)


def describe_run(path: str | Path) -> dict[str, Any]:
    """Return the settings of a store's run that a study may vary, and its seconds in the engine."""
    try:
        run = read_run(path)
        sampling, plan = run["settings"]["sampling"], run["settings"]["plan"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: no usable run description {run_path(path)} ({error})") from None
    return {
        **{name: sampling[name] for name in ("temperature", "n")},
        "beam_width": sampling.get("beam_width") or 1,
        "min_probability": sampling.get("min_probability", np.nan),
        "alphabet": sampling.get("allowed_tokens") is not None,
        **{kind: plan[kind] for kind in ("geometric", "colors", "train_order")},
        "seconds": sum(call["engine_seconds"] for call in run.get("calls", [])) or np.nan,
    }
