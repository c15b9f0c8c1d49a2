"""The page: every prediction of one or several stores, to browse in one HTML file.

Ranks and measures here, and writes the result into `page.html`, as data that `page.js` draws in the
style of `page.css`. The file needs no network and no server. What tasks and models wrote is data:
it is compressed, never markup, and the page lets no script run but its own.
"""

import json
import zlib
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import pandas as pd

from arc_airv.grids import format_grid
from arc_airv.metrics.curves import metric_curves
from arc_airv.metrics.outputs import add_votes
from arc_airv.metrics.solutions import number_outputs
from arc_airv.metrics.tables import (
    STATUS_MEANINGS,
    Results,
    describe_outputs,
    metric_table,
    sort_tasks,
)
from arc_airv.plots.colors import PALETTES
from arc_airv.storage import write_atomically
from arc_airv.tasks import AVERAGES, Task, has_hidden, outputs_of
from arc_airv.vote.candidates import (
    CANDIDATE,
    POOL,
    Pools,
    candidate_features,
    check_columns,
    index_pools,
    reply_logprob,
)
from arc_airv.vote.filters import Filter
from arc_airv.vote.rank import rank_candidates
from arc_airv.vote.selectors import METHODS

NEEDED = [*POOL, "augmentation", "sample_index", "grid", "status", "text", "cumulative_logprob"]
NEEDED += ["n_tokens"]
BY_METHOD = ("vote_1", "vote_2", "agreement")  # of a task: the script finds them from the ranks
CURVES = ("pass_n", "vote_2", "vote_1", "accuracy")
# Of one store, over all its tasks. More is summed up or shortened, and the page says so.
MOST_CANDIDATES, MOST_PREDICTIONS, MOST_CHARACTERS = 20_000, 20_000, 12_000_000


@dataclass(frozen=True)
class Page:
    """A page that is made: shown where a notebook displays it, or saved as a file.

    Attributes
    ----------
    html : str
        The whole document.
    height : int, default 800
        In a notebook's output (pixels).
    """

    html: str
    height: int = 800

    def save(self, path: str | Path) -> Path:
        """Write the file, which any browser opens."""
        write_atomically(path, self.html)
        return Path(path)

    def _repr_html_(self) -> str:
        """Return a frame that holds the page and can reach nothing of the notebook."""
        style = f"width: 100%; height: {self.height}px; border: 0"
        return (
            f'<iframe sandbox="allow-scripts" title="Predictions" style="{style}" '
            f'srcdoc="{escape(self.html)}"></iframe>'
        )


def browse(
    predictions: pd.DataFrame | Results | Mapping[str, pd.DataFrame | Results],
    tasks: dict[str, Task],
    *,
    title: str = "Predictions",
    method: str = "votes",
    filters: Sequence[str | Filter] = (),
    metric: str = "correct_pixels",
    worst_first: bool = True,
    height: int = 800,
) -> Page:
    """Make the page of predictions: tasks sorted by any metric, candidates, every reply.

    Parameters
    ----------
    predictions : DataFrame or Results, or several by name
        A table counts for all `tasks`; `arc_airv.metrics.read_results` brings the tasks that were
        asked, and notes. Of several, the page shows the last against the first, and lets choose.
    tasks : dict of str to Task
        Where solutions are hidden, nothing is right or wrong, and the rest is the same.
    method : str, default "votes"
        The selector at first. The page holds the ranks by every one that needs no re-scores.
    filters : sequence, default ()
        As of `arc_airv.vote.rank_candidates`, for every selector.
    metric : str, default "correct_pixels"
        Sort the tasks by this at first, as `arc_airv.metrics.sort_tasks` does.
    height : int, default 800
        In a notebook's output (pixels).

    Raises
    ------
    ValueError
        If a name is unknown, a column is missing, predictions are for outputs of no task, or
        results were read against other tasks.
    """
    methods = [name for name, selector in METHODS.items() if not selector.needs_scores]
    if method not in methods:
        raise ValueError(f"method must be one of {methods}, got {method!r}")
    methods.sort(key=lambda name: name != method)
    named = predictions if isinstance(predictions, Mapping) else {title: predictions}
    if not named:
        raise ValueError("no predictions to browse")
    if len(set(map(str, named))) < len(named):
        raise ValueError(f"the names must differ as text, got {list(named)}")
    results = {
        str(name): given if isinstance(given, Results) else Results(given, tasks, [])
        for name, given in named.items()
    }
    for name, result in results.items():
        if others := [id_ for id_, task in result.tasks.items() if tasks.get(id_) != task]:
            raise ValueError(f"{name!r} was read against other tasks than these: {others[:5]}")
    shown = {id_: tasks[id_] for id_ in tasks if any(id_ in r.tasks for r in results.values())}
    outputs, runs = None, []
    for name, result in results.items():
        run, outputs = _describe_run(name, result, list(shown), methods, filters)
        runs.append(run)
    order = sort_tasks(outputs, metric, worst_first=worst_first)
    data = {
        "title": title,
        "sort": order.columns[0],
        "ascending": worst_first != (order.columns[0] == "unanswered"),
        "methods": [[name, METHODS[name].about] for name in methods],
        "palettes": {name: colors.split() for name, colors in PALETTES.items()},
        "statuses": STATUS_MEANINGS,
        "tasks": [_describe_task(task) for task in shown.values()],
        "runs": runs,
    }
    return Page(_fill_template(title, data), height)


def _fill_template(title: str, data: dict[str, Any]) -> str:
    room = resources.files("arc_airv.plots")
    page, script, style = (
        room.joinpath(f"page.{suffix}").read_text("utf-8") for suffix in ("html", "js", "css")
    )
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Template(page).substitute(
        # It may hold what UTF-8 cannot (a lone surrogate).
        title=escape(title).encode("ascii", "xmlcharrefreplace").decode(),
        script=script,
        style=style,
        script_hash=_hash(script),
        style_hash=_hash(style),
        data=b64encode(zlib.compress(text.encode())).decode(),
    )


def _hash(text: str) -> str:
    return "sha256-" + b64encode(sha256(text.encode()).digest()).decode()


def _describe_task(task: Task) -> dict[str, Any]:
    def texts(pair: Any) -> list[str | None]:
        return [grid if grid is None else format_grid(grid) for grid in (pair.input, pair.output)]

    train, test = (list(map(texts, pairs)) for pairs in (task.train, task.test))
    return {"id": task.task_id, "train": train, "test": test}


def _describe_run(
    name: str, result: Results, ids: list[str], methods: list[str], filters: Sequence[str | Filter]
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return what the page holds of a store, and its outputs by the first of the methods."""
    check_columns(result.predictions, NEEDED)
    pools, tasks = index_pools(result.predictions), result.tasks
    number = number_outputs(pools.pools, tasks)
    options = {"filters": filters, "tasks": tasks}
    rankings = {method: rank_candidates(pools, method=method, **options) for method in methods}
    outputs = describe_outputs(pools, tasks, ranked=rankings[methods[0]])
    tables = {m: metric_table(_describe_by(r, outputs, tasks)) for m, r in rankings.items()}
    content, limits = _describe_pools(pools, tasks, rankings)
    fixed = [m for m in tables[methods[0]].index if m in outputs and m not in BY_METHOD]
    values = outputs[fixed].round(5).to_numpy(float).tolist()
    places = dict(zip(number.tolist(), content))
    empty = {"n": 0, "c": [], "rest": [0, 0], "bad": [0, []], "seen": 0, "entropy": None}
    by_task: dict[str, list[dict[str, Any]]] = {id_: [] for id_ in tasks}
    for i, (id_, _) in enumerate(outputs_of(tasks)):
        by_task[id_].append({**places.get(i, empty), "v": values[i]})
    curves = None
    if len(pools.predictions) and not has_hidden(tasks):
        table = metric_curves(pools, tasks).set_index("metric")
        curves = {
            m: table.loc[[m], ["n", "value", "low", "high"]].round(5).to_numpy().tolist()
            for m in CURVES
        }
    run = {
        "name": name,
        "notes": result.notes,
        "limits": limits,
        "average": AVERAGES["task"],
        "fixed": fixed,
        "metrics": {method: _rows(table) for method, table in tables.items()},
        "curves": curves,
        "tasks": [by_task.get(id_) for id_ in ids],
    }
    return run, outputs


def _describe_by(
    ranked: pd.DataFrame, outputs: pd.DataFrame, tasks: dict[str, Task]
) -> pd.DataFrame:
    """Return `describe_outputs` by another ranking than that of these outputs."""
    votes = ranked[ranked["rank"] == 1].set_index(POOL)["votes"]
    first = outputs.join(votes, on=POOL)["votes"].fillna(0)
    outputs = outputs if has_hidden(tasks) else add_votes(outputs, ranked, tasks)
    return outputs.assign(agreement=first / outputs["n_predictions"].clip(lower=1))


def _rows(table: pd.DataFrame) -> list[list[Any]]:
    rows = table[["value", "low", "high", "share_of"]].itertuples()
    return [[metric, *map(_number, values), of] for metric, *values, of in rows]


def _describe_pools(
    pools: Pools, tasks: dict[str, Task], rankings: dict[str, pd.DataFrame]
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what the page holds of each pool, and sentences about what it leaves out.

    A candidate is [grid, votes, likeliest reply (nats), mean per token (nats), symmetries (bits),
    ranks by the methods, number of predictions left out, predictions], a prediction
    [augmentation, sample, log-probability (nats), tokens, status or 0, text].
    """
    notes = []
    table = _join_rankings(pools, rankings)
    pool = table["pool"].to_numpy()
    # The candidates that a selector ranks high; the right one always.
    solutions = [tasks[t].test[i].output for t, i in pools.pools[POOL].itertuples(index=False)]
    texts = np.array(["" if s is None else format_grid(s) for s in solutions], dtype=object)
    ranks = table[[f"rank_by_{method}" for method in rankings]]
    best = ranks.where(ranks > 0, len(table) + 1).min(axis=1)
    best = best.mask(table["grid"].to_numpy() == texts[pool], 0)
    place = np.empty(len(table), dtype=np.int64)
    place[np.lexsort((best, pool))] = _count_within(np.sort(pool))
    # At least the first of each selector, which the numbers of a task are of, and the right one.
    cap = max(largest_cap(np.bincount(pool, minlength=1), MOST_CANDIDATES), len(rankings) + 1)
    kept = place < cap
    if not kept.all():
        notes += [
            f"Of an output with more than {_count(cap, 'candidate')}, those are listed that a "
            "selector ranks highest, and the right one; the others are counted."
        ]

    frame = pools.predictions
    logprob = reply_logprob(pools, per_token=False)
    given = np.flatnonzero(table["candidate"] >= 0)
    row = np.append(given, -1)[pools.candidate]  # in the table; -1: no grid
    # A candidate owns its predictions, and a pool those without a grid.
    owner = np.where(row >= 0, row, len(table) + pools.pool)
    owned = np.bincount(owner, minlength=len(table) + len(pools.pools)).tolist()
    listed = np.append(kept, np.ones(len(pools.pools), dtype=bool))[owner]
    order = np.lexsort((np.where(np.isnan(logprob), np.inf, -logprob), owner))  # stable
    order = order[listed[order]]
    within = _count_within(owner[order])
    sizes = np.bincount(owner[order], minlength=1)
    most = largest_cap(sizes, MOST_PREDICTIONS)
    if (within >= most).any():
        notes += [
            f"Of a candidate with more than {_count(most, 'prediction')}, the likeliest are "
            "listed; its numbers are of all."
        ]
    order = order[within < most]
    texts, shortened = _shorten(frame["text"].to_numpy(dtype=object)[order], MOST_CHARACTERS)
    if shortened:
        notes += [f"Of a reply with more than {shortened} characters, the middle is left out."]
    predictions: dict[int, list[Any]] = {}
    columns = ["augmentation", "sample_index", "n_tokens", "status"]
    values = frame[columns].astype({"n_tokens": "float64"}).iloc[order].itertuples(index=False)
    for key, text, nats, (view, sample, n_tokens, status) in zip(
        owner[order].tolist(), texts, logprob[order].tolist(), values
    ):
        status = 0 if key < len(table) else _text(status)
        made = [_text(view), int(sample), _number(nats), _number(n_tokens), status, text]
        predictions.setdefault(key, []).append(made)

    symmetry = _symmetries(frame["augmentation"])
    seen = np.zeros(len(pools.pools), dtype=np.int64)
    np.bitwise_or.at(seen, pools.pool, symmetry)
    gave = np.zeros(len(table), dtype=np.int64)
    np.bitwise_or.at(gave, row[row >= 0], symmetry[row >= 0])

    counts = np.bincount(pools.pool, minlength=len(pools.pools)).tolist()
    invalid = owned[len(table) :]
    content = [
        {"n": n, "c": [], "rest": [0, 0], "seen": int(s), "entropy": _number(e),
         "bad": [bad, predictions.get(len(table) + i, [])]}
        for i, (n, s, e, bad) in enumerate(zip(counts, seen, _entropies(pools), invalid))
    ]  # fmt: skip
    numbers = table[["max_reply_logprob", "mean_token_logprob"]].to_numpy(float).tolist()
    places = ranks.to_numpy().tolist()
    counted = table["votes"].tolist(), numbers, gave.tolist(), places
    rows = zip(pool.tolist(), table["grid"], *counted)
    for i, (owner_pool, grid, votes, nats, bits, rank) in enumerate(rows):
        if kept[i]:
            made = predictions.get(i, [])
            cells = [grid, votes, *map(_number, nats), bits, rank, owned[i] - len(made), made]
            content[owner_pool]["c"].append(cells)
        elif owned[i]:
            rest = content[owner_pool]["rest"]
            content[owner_pool]["rest"] = [rest[0] + 1, rest[1] + votes]
    return content, notes


def _join_rankings(pools: Pools, rankings: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return every candidate, a composed one too, with rank_by_{method} for each (0: none)."""
    features = ["votes", "max_reply_logprob", "mean_token_logprob"]
    table = candidate_features(pools, features=features).set_index(CANDIDATE)
    table["candidate"] = range(len(table))
    for method, ranked in rankings.items():
        rank = ranked.set_index(CANDIDATE)["rank"]
        if METHODS[method].compose:
            table = table.reindex(table.index.union(rank.index))
        table[f"rank_by_{method}"] = rank
    unknown = {"candidate": -1, "votes": 0, **{f"rank_by_{method}": 0 for method in rankings}}
    table = table.reset_index().fillna(unknown).astype(dict.fromkeys(unknown, "int64"))
    known = pd.MultiIndex.from_frame(pools.pools)
    return table.assign(pool=known.get_indexer(pd.MultiIndex.from_frame(table[POOL])))


def largest_cap(sizes: np.ndarray, budget: int) -> int:
    """Return the largest cap with which the sizes, none above it, add up to at most a budget.

    At least 1, and at most the largest size.

    Examples
    --------
    >>> largest_cap(np.array([1, 5, 9]), 9)
    4
    """
    low, high = 1, max(1, int(sizes.max(initial=0)))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if np.minimum(sizes, middle).sum() <= budget else (low, middle - 1)
        )
    return low


def _shorten(texts: np.ndarray, budget: int) -> tuple[list[str | None], int]:
    """Leave out the middle of the longest texts; return them, and the length of the longest left.

    The length is 0 if all are whole.
    """
    sizes = np.array([len(text) if isinstance(text, str) else 0 for text in texts], dtype=np.int64)
    cap = largest_cap(sizes, budget)
    out = []
    for text, size in zip(texts, sizes.tolist()):
        if size > cap:
            gap = f"\n[... {size - 2 * (cap // 2):,} characters are left out here ...]\n"
            text = text[: cap // 2] + gap + text[size - cap // 2 :]
        out.append(_text(text))
    return out, cap if (sizes > cap).any() else 0


def _entropies(pools: Pools) -> np.ndarray:
    """Return the entropy of the votes of each pool over its candidates (bits); NaN without any."""
    n = len(pools.pools)
    valid = np.bincount(pools.pool_of, weights=pools.votes, minlength=n)
    votes, pool = pools.votes[pools.votes > 0], pools.pool_of[pools.votes > 0]
    share = votes / valid[pool]
    entropy = np.bincount(pool, weights=-share * np.log2(share), minlength=n)
    return np.where(valid > 0, entropy + 0.0, np.nan)


def _symmetries(keys: pd.Series) -> np.ndarray:
    """Return the bit of the symmetry (flip and quarter turns) of each augmentation; 0: unknown."""
    codes, distinct = pd.factorize(keys)
    parts = pd.Series(distinct, dtype=object).str.extract(r"^flip([01])\.rot([0-3])\.")
    numbers = parts.astype(float)[0] * 4 + parts.astype(float)[1]
    bits = [0 if np.isnan(number) else 1 << int(number) for number in numbers]
    return np.array([*bits, 0], dtype=np.int64)[codes]  # the code of a missing key is -1


def _count_within(sorted_groups: np.ndarray) -> np.ndarray:
    """Number the members of each group, 0, 1, ..., where the groups are sorted."""
    _, first, sizes = np.unique(sorted_groups, return_index=True, return_counts=True)
    return np.arange(len(sorted_groups)) - np.repeat(first, sizes)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'s' * (n != 1)}"


def _number(value: float) -> float | None:
    """Return what JSON can hold: no NaN, and no infinity (a reply of no tokens)."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
