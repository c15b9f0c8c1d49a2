"""The content of plots and charts. Their looks are for the eye: notebook 02 is their gallery."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from arc_airv.grids import as_grid, format_grid
from arc_airv.metrics.curves import metric_curves
from arc_airv.metrics.outputs import score_outputs
from arc_airv.metrics.tables import describe_outputs, metric_table, sort_tasks
from arc_airv.plots.charts import (
    plot_agreement,
    plot_curves,
    plot_metric_distribution,
    plot_output_sizes,
)
from arc_airv.plots.colors import RIGHT, WRONG
from arc_airv.plots.gallery import metrics_html, plot_gallery
from arc_airv.plots.grids import COLORMAP, NORM, plot_candidates, plot_grid, plot_task
from arc_airv.studies.charts import (
    plot_calibration,
    plot_costs,
    plot_gains,
    plot_right_ranks,
    plot_setting,
)
from arc_airv.studies.selection import calibration
from arc_airv.tasks import hide_outputs, load_tasks
from arc_airv.vote.rank import rank_candidates

ALL_TASKS = load_tasks("arc-agi-1/training")
TASKS = {task_id: ALL_TASKS[task_id] for task_id in ("007bbfb7", "ff28f65a", "25ff71a9")}
HIDDEN = hide_outputs(TASKS)
TASK = TASKS["ff28f65a"]  # 8 demonstrations, 3 tests
SOLUTION = format_grid(TASK.test[0].output)
PALETTE = "#000000 #0074d9 #ff4136 #2ecc40 #ffdc00 #aaaaaa #f012be #ff851b #7fdbff #870c25".split()


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *_, **__: pytest.fail("a plot was shown"))
    yield
    plt.close("all")


def predictions(grids, task_id="ff28f65a", test_index=0):
    """One prediction a grid; None is an invalid one."""
    return pd.DataFrame(
        [
            [task_id, test_index, grid, None if grid is None else -0.5, 10]
            for grid in grids
        ],
        columns=["task_id", "test_index", "grid", "cumulative_logprob", "n_tokens"],
    ).astype({"cumulative_logprob": float})  # fmt: skip


def pools():
    """Predictions for one output that is solved, one that is not; none for the others."""
    wrong = format_grid(np.zeros((9, 9), dtype=np.int8))
    unsolved = predictions([wrong, wrong, None, "1"], "007bbfb7")
    return pd.concat([predictions([SOLUTION] * 3 + ["0"]), unsolved], ignore_index=True)


def titles(figure):
    return [ax.get_title() for ax in figure.axes]


def texts(figure):
    inside = [text for ax in figure.axes for text in ax.texts]
    return [text.get_text() for text in [*figure.texts, *inside]]


def frames(figure):
    """For each axes, its frame: RIGHT, WRONG or None."""
    edges = [{to_hex(p.get_edgecolor()).upper() for p in ax.patches} for ax in figure.axes]
    return [next((c for c in (RIGHT, WRONG) if c in edge), None) for edge in edges]


# Grids --------------------------------------------------------------------------------------------


def test_colour_c_is_that_of_the_arc_testing_interface():
    assert [to_hex(COLORMAP(NORM(c))) for c in range(10)] == PALETTE
    image = plot_grid(as_grid([[0, 9]])).images[0]
    assert to_hex(image.cmap(image.norm(9))) == PALETTE[9]


def test_a_grid_has_its_shape_for_a_title_and_no_ticks():
    ax = plot_grid(as_grid([[1, 2, 3], [4, 5, 6]]))
    assert isinstance(ax, Axes)
    assert ax.get_title() == "2x3"
    assert not ax.get_xticklabels() and not ax.get_yticklabels()
    assert plot_grid(as_grid([[1]]), title="mine").get_title() == "mine"


def test_row_0_is_at_the_top_and_lines_lie_between_the_cells():
    ax = plot_grid(as_grid([[1, 2, 3], [4, 5, 6]]))
    assert ax.get_ylim() == (1.5, -0.5)
    rows, columns = ([line[0] for line in lines.get_segments()] for lines in ax.collections)
    assert [y for _, y in rows] == [-0.5, 0.5, 1.5]
    assert [x for x, _ in columns] == [-0.5, 0.5, 1.5, 2.5]


def test_a_grid_goes_where_it_is_told():
    _, (left, right) = plt.subplots(1, 2)
    assert plot_grid(as_grid([[1]]), ax=left) is left
    assert left.images and not right.images


# Tasks --------------------------------------------------------------------------------------------


def test_a_task_is_its_demonstrations_and_then_its_tests_inputs_over_outputs():
    figure = plot_task(TASK)
    assert isinstance(figure, Figure)
    names = [f"train {i}" for i in range(8)] + [f"test {i}" for i in range(3)]
    assert texts(figure)[:11] == names
    drawn = [format_grid(ax.images[0].get_array().data) for ax in figure.axes]
    pairs = [*TASK.train, *TASK.test]
    assert drawn == [format_grid(grid) for pair in pairs for grid in (pair.input, pair.output)]
    inputs, outputs = figure.axes[0::2], figure.axes[1::2]
    for above, below in zip(inputs, outputs):
        assert above.get_position().x0 == below.get_position().x0
        assert above.get_position().y0 > below.get_position().y1


def test_a_hidden_output_is_a_question_mark():
    figure = plot_task(HIDDEN["ff28f65a"])
    assert texts(figure).count("?") == 3
    assert sum(len(ax.images) for ax in figure.axes) == 8 * 2 + 3


@pytest.mark.parametrize("draw", [plot_task, lambda task: plot_candidates(EMPTY, task, 0)])
def test_every_cell_of_a_figure_has_one_size_and_every_grid_fits(draw):
    for task in list(ALL_TASKS.values())[:6]:
        figure = draw(task)
        sizes = []
        for ax in figure.axes:
            box = ax.get_position()
            assert 0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1
            across, down = np.ptp(ax.get_xlim()), np.ptp(ax.get_ylim())  # cells
            height, width = ax.images[0].get_array().shape
            assert across > width - 1e-6 and down > height - 1e-6
            sizes += list(np.array(box.size) * figure.get_size_inches() / (across, down))
        assert np.ptp(sizes) < 1e-6


def test_a_task_with_its_candidates_is_one_figure():
    ranked = rank_candidates(pools())
    figure = plot_task(TASK, ranked=ranked, n=2)
    heading = [text.get_text() for text in figure.texts if text.get_ha() == "left"]
    assert heading == ["test 0", "test 1", "no candidates", "test 2", "no candidates"]
    below = [ax.get_position().y1 for ax in figure.axes[8 * 2 + 3 * 2 :]]
    assert max(below) < min(ax.get_position().y0 for ax in figure.axes[: 8 * 2 + 3 * 2])
    assert frames(figure).count(RIGHT) == frames(figure).count(WRONG) == 1
    assert all(0 <= text.get_position()[1] <= 1 for text in figure.texts)


# Candidates ---------------------------------------------------------------------------------------

EMPTY = rank_candidates(predictions([]))


def test_the_right_candidate_is_framed_green_and_the_wrong_ones_red():
    ranked = rank_candidates(predictions(["1", "1", SOLUTION, None]))
    figure = plot_candidates(ranked, TASK, 0)
    assert isinstance(figure, Figure)
    assert frames(figure) == [None, WRONG, RIGHT]
    assert titles(figure) == ["3x3", "1x1", "3x3"]
    assert texts(figure) == [
        "solution", "#1", "2 votes", "−0.050 nats", "#2", "1 vote", "−0.050 nats",
    ]  # fmt: skip


def test_a_hidden_solution_leaves_candidates_without_frames():
    ranked = rank_candidates(predictions(["1", SOLUTION]))
    figure = plot_candidates(ranked, HIDDEN["ff28f65a"], 0)
    assert frames(figure) == [None, None]
    assert "solution" not in texts(figure)


def test_of_many_candidates_the_right_one_is_shown_however_low_it_ranks():
    many = [str(i % 10) * (1 + i // 10) for i in range(30)] * 2
    figure = plot_candidates(rank_candidates(predictions([*many, SOLUTION])), TASK, 0, n=4)
    assert frames(figure) == [None, WRONG, WRONG, WRONG, RIGHT]
    assert [text for text in texts(figure) if "#" in text] == ["#1", "#2", "#3", "#31"]


def test_only_the_candidates_of_the_output_are_shown():
    ranked = rank_candidates(pd.concat([predictions(["1"]), predictions(["2"], test_index=2)]))
    assert len(plot_candidates(ranked, TASK, 2).axes) == 2
    assert "no candidates" in texts(plot_candidates(ranked, TASK, 1))


def test_an_unknown_log_probability_is_not_shown():
    ranked = rank_candidates(predictions(["1"]).assign(cumulative_logprob=np.nan))
    assert not any("nats" in text for text in texts(plot_candidates(ranked, TASK, 0)))


@pytest.mark.parametrize(("test_index", "n"), [(3, 8), (-1, 8), (0, 0)])
def test_an_output_that_the_task_lacks_is_refused(test_index, n):
    with pytest.raises(ValueError, match=f"n={n}, test_index={test_index}"):
        plot_candidates(EMPTY, TASK, test_index, n=n)


# Metrics ------------------------------------------------------------------------------------------


def test_a_curve_ends_in_its_name_and_value():
    curves = metric_curves(pools(), TASKS)
    ax = plot_curves(curves, metrics=["pass_n", "accuracy"])
    assert ax.xaxis.get_transform().base == 2
    assert [label.get_text() for label in ax.get_xticklabels()] == ["1", "2", "4"]
    assert {text.get_text() for text in ax.texts} == {"pass_n  11.1%", "accuracy  8.3%"}
    assert len(ax.collections) == 2  # the bands
    assert ax.get_title(loc="right") == "mean over tasks"
    _, other = plt.subplots()
    plot_curves(curves, ax=other)
    assert len(other.lines) == curves["metric"].nunique()


def test_curves_of_nothing_right_begin_at_0_and_none_is_nan():
    curves = metric_curves(pools().assign(grid="0"), TASKS)
    assert curves[curves["metric"] == "voting_accuracy"]["value"].isna().all()
    ax = plot_curves(curves)
    assert len(ax.lines) == curves["metric"].nunique() - 1
    assert not any("nan%" in text.get_text() for text in ax.texts)
    bottom, top = ax.get_ylim()
    assert bottom == 0 and top > 0.05


def test_labels_of_curves_that_end_together_do_not_overlap():
    curves = pd.DataFrame(
        [[metric, n, 0.5, 0.4, 0.6] for metric in "abc" for n in (1, 2)],
        columns=["metric", "n", "value", "low", "high"],
    )
    ax = plot_curves(curves)
    ax.figure.canvas.draw()
    boxes = sorted((text.get_window_extent() for text in ax.texts), key=lambda box: box.y0)
    assert all(below.y1 <= above.y0 + 1 for below, above in zip(boxes, boxes[1:]))


def test_a_distribution_counts_every_output_and_marks_the_mean_of_the_tasks():
    ax = plot_metric_distribution(score_outputs(pools(), TASKS), "accuracy")
    assert sum(bar.get_height() for bar in ax.patches) == 6
    assert ax.get_title() == "accuracy, mean 8.3%"  # 0.75 of one of three outputs of one task of 3


def test_output_sizes_are_columns_across_and_rows_up_one_disc_a_size():
    task = ALL_TASKS["0520fde7"]  # its output is 3x3
    wide = ALL_TASKS["f8b3ba0a"]  # its output is 3x1
    tasks = {task.task_id: task, wide.task_id: wide}
    ax = plot_output_sizes(score_outputs(pools().iloc[:0], tasks), tasks, "unanswered")
    discs = ax.collections[0]
    assert sorted(discs.get_offsets().tolist()) == [[1, 3], [3, 3]]
    assert discs.get_array().tolist() == [1, 1]


def test_agreement_tells_right_from_wrong_from_hidden_and_counts_the_unanswered():
    def legend(ax):
        return [text.get_text() for text in ax.get_legend().get_texts()]

    ax = plot_agreement(describe_outputs(pools(), TASKS))
    assert legend(ax) == ["right", "wrong", "unanswered"]
    right, wrong, _, unanswered = ax.containers
    bars = [
        [round(bar.get_center()[0], 2) for bar in b if bar.get_height()] for b in (right, wrong)
    ]
    assert bars == [[0.75], [0.55]]  # 3 of 4 predictions; 2 of 4, one of which has no grid
    assert [bar.get_height() for bar in unanswered if bar.get_height()] == [4]
    _, other = plt.subplots()
    assert legend(plot_agreement(describe_outputs(pools(), HIDDEN), ax=other)) == [
        "hidden",
        "unanswered",
    ]


def test_no_outputs_have_no_mean():
    outputs = score_outputs(pools(), TASKS).iloc[:0]
    with pytest.raises(ValueError, match="no test outputs"):
        plot_metric_distribution(outputs, "accuracy")


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_metric_distribution(score_outputs(pools(), TASKS), "speed"),
        lambda: plot_output_sizes(score_outputs(pools(), TASKS), TASKS, "speed"),
        lambda: plot_curves(metric_curves(pools(), TASKS), metrics=["speed"]),
    ],
)
def test_an_unknown_metric_is_refused_with_those_there_are(draw):
    with pytest.raises(ValueError, match="speed.*pass_n"):
        draw()


def test_gains_are_dots_on_their_intervals_the_first_selector_on_top():
    compared = pd.DataFrame(
        {"vote_2": [0.2, 0.3], "gain": [0.0, 0.1], "low": [0.0, -0.05], "high": [0.0, 0.2]},
        index=["votes", "better"],
    )
    ax = plot_gains(compared, ax=plt.figure().add_subplot())
    dots = ax.get_lines()[0].get_xydata()
    assert dots.tolist() == [[0.0, 1], [0.1, 0]]
    assert [text.get_text() for text in ax.texts] == ["20.0%", "30.0%"]
    assert ax.get_xlabel() == "vote_2 less that of votes"


def test_calibration_has_a_disc_a_bin():
    table = calibration([0.1, 0.9, 0.9], [False, True, False], n_bins=2)
    ax = plot_calibration(table, ax=plt.figure().add_subplot())
    assert ax.collections[0].get_offsets().tolist() == [[0.1, 0.0], [0.9, 0.5]]


def test_right_ranks_are_bars_and_what_is_absent_is_said():
    ranks = pd.DataFrame({"rank": [1, 1, 2, 4, np.nan]})
    ax = plot_right_ranks(ranks, n=3, ax=plt.figure().add_subplot())
    assert [bar.get_height() for bar in ax.patches] == [2, 1, 0, 1]
    assert ax.get_title() == "not among the candidates: 1 of 5"


def test_a_setting_is_drawn_against_its_metrics():
    table = pd.DataFrame({"temperature": [0.0, 0.5, 1.0], "vote_2": [0.3, 0.4, 0.2]})
    ax = plot_setting(table, "temperature", "vote_2", ax=plt.figure().add_subplot())
    assert ax.get_lines()[0].get_xydata().tolist() == [[0, 0.3], [0.5, 0.4], [1, 0.2]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.5", "1"]
    with pytest.raises(ValueError, match="no metric .'width'. in"):
        plot_setting(table, "width", "vote_2")


def test_the_line_of_the_costs_joins_the_runs_that_no_cheaper_one_reaches():
    table = pd.DataFrame(
        {"seconds": [10.0, 20.0, 30.0, 40.0], "vote_2": [0.1, 0.3, 0.2, 0.4]}, index=list("abcd")
    )
    ax = plot_costs(table, "vote_2", ax=plt.figure().add_subplot())
    assert ax.get_lines()[0].get_xdata().tolist() == [10, 20, 40]
    assert [text.get_text() for text in ax.texts] == ["a", "b", "d"]


# The gallery --------------------------------------------------------------------------------------


def test_the_gallery_is_a_figure_a_task_in_the_order_given():
    order = sort_tasks(describe_outputs(pools(), TASKS), "vote_1", worst_first=False)
    shown = list(plot_gallery(order, TASKS, rank_candidates(pools())))
    assert [task_id for task_id, _, _ in shown] == ["ff28f65a", "007bbfb7", "25ff71a9"]
    assert shown[0][1] == "vote_1 33% · pass_n 33% · vote_2 33% · agreement 25% · unanswered 67%"
    assert not plt.get_fignums()  # all closed


def test_a_mean_that_there_is_not_has_no_bar():
    page = metrics_html(metric_table(describe_outputs(pools().assign(grid="0"), TASKS)))
    assert "nan%" not in page
    (row,) = [line for line in page.splitlines() if "voting_accuracy" in line]
    assert "#BCD0E5 0.0%" in row and ">–<" in row
