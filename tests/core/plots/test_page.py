"""The content of a page: its data, its limits, its policy. `tests/page` sees it in a browser."""

import base64
import hashlib
import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arc_airv.augment import sample_augmentations
from arc_airv.grids import format_grid
from arc_airv.metrics import describe_outputs, metric_table
from arc_airv.plots import browse
from arc_airv.plots.colors import PALETTES
from arc_airv.plots.page import _describe_by, largest_cap
from arc_airv.records import to_frame
from arc_airv.tasks import hide_outputs, load_tasks
from arc_airv.vote import METHODS, rank_candidates

ALL_TASKS = load_tasks("arc-agi-1/training")
TASKS = {task_id: ALL_TASKS[task_id] for task_id in ("25ff71a9", "ff28f65a")}
RIGHT = format_grid(TASKS["25ff71a9"].test[0].output)


def make_store(answers=((RIGHT, -3.0), ("1", -1.0), (RIGHT, -2.0), (None, -9.0))):
    views = sample_augmentations(TASKS["25ff71a9"], len(answers), seed=0)
    return to_frame(
        {
            **{"task_id": "25ff71a9", "test_index": 0, "augmentation": str(view)},
            **{"sample_index": 0, "grid": grid, "status": "ok" if grid else "ragged"},
            **{"text": f"<{i}>", "cumulative_logprob": logprob, "n_tokens": 2},
            **{"n_prompt_tokens": 9, "finish_reason": "stop", "prompt_hash": "0"},
        }
        for i, (view, (grid, logprob)) in enumerate(zip(views, answers))
    )


def data_of(page):
    (packed,) = re.findall(r'id="data">([^<]+)<', page.html)
    return json.loads(zlib.decompress(base64.b64decode(packed)))


def test_a_candidate_brings_its_numbers_and_its_predictions_the_likeliest_first():
    data = data_of(browse(make_store(), TASKS))
    output, hidden = data["runs"][0]["tasks"][0]
    assert (output["n"], output["bad"][0]) == (4, 1)
    by_grid = {grid: rest for grid, *rest in output["c"]}
    votes, likeliest, mean, symmetries, ranks, left_out, predictions = by_grid[RIGHT]
    assert (votes, likeliest, mean, left_out) == (2, -2.0, -1.25, 0)
    assert bin(symmetries).count("1") == 2 and bin(output["seen"]).count("1") == 4
    assert ranks[0] == 1  # by votes
    assert [row[2] for row in predictions] == [-2.0, -3.0]
    assert [row[5] for row in predictions] == ["<2>", "<0>"]
    assert output["entropy"] == pytest.approx(0.9183, abs=1e-4)  # of 2 votes and 1
    assert output["bad"][1][0][4:] == ["ragged", "<3>"]
    assert hidden["n"] == 0 and hidden["c"] == [] and hidden["entropy"] is None


@pytest.mark.parametrize("method", [m for m, s in METHODS.items() if not s.needs_scores])
@pytest.mark.parametrize("tasks", [TASKS, hide_outputs(TASKS)], ids=["known", "hidden"])
def test_metrics_by_every_selector_are_those_of_its_own_outputs(method, tasks):
    store = make_store()
    outputs = describe_outputs(store, tasks)
    ranked = rank_candidates(store, method=method)
    expected = describe_outputs(store, tasks, method=method)
    pd.testing.assert_frame_equal(_describe_by(ranked, outputs, tasks), expected)
    rows = data_of(browse(store, tasks))["runs"][0]["metrics"][method]
    table = metric_table(expected)
    assert [row[0] for row in rows] == list(table.index)
    values = [np.nan if row[1] is None else row[1] for row in rows]
    assert values == pytest.approx(table["value"].tolist(), abs=1e-4, nan_ok=True)


def test_a_reply_that_repeats_another_has_no_vote_and_is_listed_all_the_same(monkeypatch):
    """Equal prompts at temperature 0 vote once, and their reply may revert to two grids."""
    others = [(str(number), -1.0) for number in range(20, 50)]
    store = make_store(((RIGHT, -3.0), ("1", -3.0), (None, -9.0), *others))
    texts = ["a", "a", *(f"b{number}" for number in range(31))]
    store = store.assign(model="m", temperature=0.0, text=texts)
    for most in (20_000, 1):
        monkeypatch.setattr("arc_airv.plots.page.MOST_CANDIDATES", most)
        output = data_of(browse(store, TASKS))["runs"][0]["tasks"][0][0]
        by_grid = {grid: (votes, left, made) for grid, votes, *_, left, made in output["c"]}
        assert output["entropy"] == pytest.approx(np.log2(31))  # of one vote each for 31 grids
        assert all(left == 0 and len(made) == 1 for _, left, made in by_grid.values())
        assert len(by_grid) + output["rest"][0] == 32
        assert sum(votes for votes, *_ in by_grid.values()) + output["rest"][1] == 31
    assert output["rest"][0] > 0


def test_the_order_of_the_rows_does_not_matter():
    store = make_store()
    assert browse(store.iloc[::-1], TASKS).html == browse(store, TASKS).html


def test_a_store_without_predictions_or_log_probabilities_has_a_page():
    data = data_of(browse(make_store().iloc[:0], TASKS))
    assert data["runs"][0]["curves"] is None
    frame = make_store().assign(cumulative_logprob=np.nan, text=None)
    output = data_of(browse(frame, TASKS))["runs"][0]["tasks"][0][0]
    assert output["c"][0][2] is None and output["c"][0][-1][0][5] is None
    data_of(browse(make_store().assign(n_tokens=0), TASKS))  # minus infinity per token


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "best"}, "method must be one of .*'best'"),
        ({"method": "votes_plus_score"}, "method must be"),
        ({"metric": "speed"}, "no metric 'speed'"),
        ({"predictions": make_store().drop(columns="text")}, "lack the columns .'text'"),
        ({"predictions": make_store().assign(test_index=7)}, "not in the tasks"),
        ({"predictions": {}}, "no predictions"),
    ],
)
def test_a_mistake_is_one_sentence(change, message):
    with pytest.raises(ValueError, match=message):
        browse(**{"predictions": make_store(), "tasks": TASKS, **change})


def test_it_is_one_file_that_allows_its_own_script_and_style_alone(tmp_path):
    page = browse(make_store(), TASKS, title="<b>&\ud800")
    html = page.save(tmp_path / "p.html").read_text("utf-8")
    assert "<title>&lt;b&gt;&amp;&#55296;</title>" in html
    (policy,) = re.findall('Content-Security-Policy" content="([^"]+)"', html)
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for kind, tag in (("script", "script"), ("style", "style")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert "innerHTML" not in text and "eval(" not in text
        assert set(re.findall(r"https?://[^\s\"]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert html.count("<script") == 2 and not re.search(r'\b(?:src|href)="', html)


def test_a_notebook_shows_it_in_a_frame_of_its_own():
    frame = browse(make_store(), TASKS, height=500)._repr_html_()
    assert frame.startswith('<iframe sandbox="allow-scripts"') and "500px" in frame
    assert frame.count('"') == 2 * frame.count('="') and frame.count("<") == 2


@given(st.lists(st.integers(0, 50), max_size=8), st.integers(1, 200))
def test_the_largest_cap_is_within_the_budget_and_one_more_is_not(sizes, budget):
    sizes = np.array(sizes, dtype=int)
    cap = largest_cap(sizes, budget)
    assert cap == 1 or np.minimum(sizes, cap).sum() <= budget
    assert cap >= sizes.max(initial=0) or np.minimum(sizes, cap + 1).sum() > budget


# How colour-blind eyes see linear RGB: Machado, Oliveira and Fernandes, 2009, severity 1.
BLIND = {
    "protan": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deutan": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


def closest_colors(palette, kind):
    """Return the distance of the two closest colours, in CIELAB, as such eyes see them."""
    codes = [int(color[i : i + 2], 16) / 255 for color in palette.split() for i in (1, 3, 5)]
    rgb = np.array(codes).reshape(-1, 3)
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLIND[kind]).T, 0, 1)
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    ratio = seen @ np.transpose(xyz) / [0.9505, 1.0, 1.089]
    f = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    lab = np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    return distance[np.triu_indices(len(lab), 1)].min()


@pytest.mark.parametrize("kind", BLIND)
def test_colour_blind_eyes_tell_the_safe_palette_better_apart(kind):
    assert closest_colors(PALETTES["safe"], kind) > closest_colors(PALETTES["arc"], kind)
    assert closest_colors(PALETTES["safe"], kind) > 15
