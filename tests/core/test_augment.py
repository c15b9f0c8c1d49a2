"""Augmentations are exactly reversible; the plan of a task is fixed by its seed."""

import json
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from itertools import product

import numpy as np
import pytest

from arc_airv.augment import SYMMETRIES, Augmentation, Plan, sample_augmentations
from arc_airv.grids import as_grid, same_grid
from arc_airv.tasks import NAMED_SOURCES, Pair, Task, hide_outputs, load_tasks

GRID = as_grid([[1, 2, 3], [4, 5, 6]])
SWAP_1_AND_2 = (0, 2, 1, 3, 4, 5, 6, 7, 8, 9)
GEOMETRIC_ONLY = {"colors": False, "train_order": False}


def make_task(n_train=3, task_id="22806e14"):
    train = tuple(Pair(as_grid([[i, 1, 2]]), as_grid([[i]])) for i in range(n_train))
    return Task(task_id, train, (Pair(GRID, as_grid([[7, 8]])), Pair(GRID.T)))


@pytest.fixture(scope="module")
def arc_task():
    return load_tasks("arc-agi-1/training")["007bbfb7"]


# One augmentation --------------------------------------------------------------------------------


@pytest.mark.parametrize("source", NAMED_SOURCES)
def test_grids_of_every_task_come_back_through_the_eight_symmetries(source):
    for task in load_tasks(source).values():
        plan = sample_augmentations(task, 8, seed=0)  # with random permutations
        assert {(a.flip, a.rot90) for a in plan} == set(SYMMETRIES)
        for i, augmentation in enumerate(plan):
            stored = Augmentation.parse(json.loads(json.dumps(str(augmentation))))
            assert stored == augmentation
            for pair in (task.train[i % len(task.train)], *task.test):  # demonstrations in turn
                for grid in (pair.input, pair.output):
                    assert same_grid(stored.revert_grid(augmentation.apply_grid(grid)), grid)


def test_every_pair_of_a_view_reverts_to_its_pair_of_the_task(arc_task):
    for augmentation in sample_augmentations(arc_task, 32, seed=0):
        view = augmentation.apply_task(arc_task)
        original = [arc_task.train[i] for i in augmentation.train_order] + list(arc_task.test)
        for mapped, pair in zip(view.train + view.test, original, strict=True):
            assert same_grid(augmentation.revert_grid(mapped.input), pair.input)
            assert same_grid(augmentation.revert_grid(mapped.output), pair.output)


def test_the_default_is_the_identity():
    assert same_grid(Augmentation().apply_grid(GRID), GRID)
    assert Augmentation().apply_task(make_task()) == make_task()
    assert str(Augmentation()) == "flip0.rot0.colors0123456789.order"


def test_flip_mirrors_left_and_right_and_rot90_turns_counter_clockwise():
    assert Augmentation(flip=True).apply_grid(GRID).tolist() == [[3, 2, 1], [6, 5, 4]]

    assert Augmentation(rot90=1).apply_grid(GRID).tolist() == [[3, 6], [2, 5], [1, 4]]
    assert Augmentation(rot90=2).apply_grid(GRID).tolist() == [[6, 5, 4], [3, 2, 1]]
    assert Augmentation(rot90=3).apply_grid(GRID).tolist() == [[4, 1], [5, 2], [6, 3]]


def test_colour_c_becomes_colors_c():
    cycle = (1, 2, 3, 4, 5, 6, 7, 8, 9, 0)
    assert Augmentation(colors=cycle).apply_grid(GRID).tolist() == [[2, 3, 4], [5, 6, 7]]
    assert Augmentation(colors=cycle).revert_grid(GRID).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_flip_comes_before_the_turn_and_the_colours():
    # [[1 2 3], [4 5 6]] -> flip [[3 2 1], [6 5 4]] -> turn [[1 4], [2 5], [3 6]] -> colours
    augmentation = Augmentation(flip=True, rot90=1, colors=SWAP_1_AND_2)
    assert augmentation.apply_grid(GRID).tolist() == [[2, 4], [1, 5], [3, 6]]
    assert same_grid(augmentation.revert_grid(as_grid([[2, 4], [1, 5], [3, 6]])), GRID)
    assert augmentation.apply_grid(GRID).dtype == augmentation.revert_grid(GRID).dtype == np.int8


def test_a_view_shows_demonstration_train_order_i_as_number_i():
    view = Augmentation(train_order=(2, 0, 1)).apply_task(make_task())
    assert [pair.output.tolist() for pair in view.train] == [[[2]], [[0]], [[1]]]
    assert view.task_id == "22806e14"


def test_a_view_maps_the_test_pairs_in_their_order_and_hidden_outputs_stay_hidden():
    augmentation = Augmentation(flip=True, rot90=3, colors=SWAP_1_AND_2, train_order=(2, 0, 1))
    view = augmentation.apply_task(make_task())
    assert same_grid(view.test[0].input, augmentation.apply_grid(GRID))
    assert same_grid(view.test[0].output, augmentation.apply_grid(as_grid([[7, 8]])))
    assert same_grid(view.test[1].input, augmentation.apply_grid(GRID.T))
    assert view.test[1].output is None


def test_an_order_for_another_number_of_demonstrations_is_refused():
    with pytest.raises(ValueError, match="for 2 demonstrations, task 22806e14 has 3"):
        Augmentation(train_order=(1, 0)).apply_task(make_task())


@pytest.mark.parametrize("kind", [tuple, list, np.array, lambda c: "".join(map(str, c))])
def test_colors_may_be_any_sequence_of_digits(kind):
    augmentation = Augmentation(colors=kind(SWAP_1_AND_2))
    assert augmentation == Augmentation(colors=SWAP_1_AND_2)
    assert hash(augmentation) == hash(Augmentation(colors=SWAP_1_AND_2))
    assert str(augmentation) == "flip0.rot0.colors0213456789.order"


def test_numpy_values_make_the_same_augmentation():
    from_numpy = Augmentation(np.True_, np.int64(3), train_order=np.array([1, 0]))
    assert from_numpy == Augmentation(True, 3, train_order=(1, 0))
    assert str(from_numpy) == "flip1.rot3.colors0123456789.order1-0"


def test_an_augmentation_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Augmentation().flip = True


@pytest.mark.parametrize(
    ("name", "value"),
    [("flip", v) for v in ("0", 2, None)]
    + [("rot90", v) for v in (4, -1, 1.5, "x", None)]
    + [("colors", v) for v in ("012345678", "0123456788", range(1, 11), "abcdefghij", (), None, 5)]
    + [("colors", [0.5, *range(1, 10)])]
    + [("train_order", v) for v in ((1, 2), (0, 0), (0, -1), (0, 0.5), 3, "x")],
)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        Augmentation(**{name: value})


KEY = "flip1.rot3.colors0213456789.order2-0-1"


def test_a_key_spells_out_the_four_values():
    augmentation = Augmentation(True, 3, SWAP_1_AND_2, (2, 0, 1))
    assert str(augmentation) == KEY
    assert Augmentation.parse(KEY) == augmentation


@pytest.mark.parametrize(
    "key",
    ["", "identity", None, 7, float("nan"), KEY + "\n", " " + KEY, KEY.upper(), KEY + "-"]
    + ["flip2.rot0.colors0123456789.order", "flip0.rot4.colors0123456789.order"]
    + ["flip0.rot0.colors012345678.order", "flip0.rot0.colors0023456789.order"]
    + ["flip0.rot0.colors0123456789.order2", "flip0.rot0.colors0123456789.order0-01"]
    + ["flip0.rot0.colors٠١٢٣٤٥٦٧٨٩.order"],
)
def test_what_is_no_key_is_refused(key):
    with pytest.raises(ValueError):
        Augmentation.parse(key)


# The plan of a task ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 9, 32, 100])
def test_a_plan_holds_exactly_n_different_augmentations(arc_task, n):
    plan = sample_augmentations(arc_task, n, seed=0)
    assert len(plan) == len(set(plan)) == n


def test_a_negative_n_is_refused(arc_task):
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        sample_augmentations(arc_task, -1, seed=0)


@pytest.mark.parametrize(("geometric", "colors", "order"), [*product([True, False], repeat=3)])
def test_the_identity_comes_first(arc_task, geometric, colors, order):
    kinds = {"geometric": geometric, "colors": colors, "train_order": order}
    (first,) = sample_augmentations(arc_task, 1, seed=3, **kinds)
    assert first.apply_task(arc_task) == arc_task


def test_a_kind_that_is_switched_off_does_not_vary(arc_task):
    geometric = sample_augmentations(arc_task, 8, seed=0, **GEOMETRIC_ONLY)
    assert len({(a.flip, a.rot90) for a in geometric}) == 8
    assert {(a.colors, a.train_order) for a in geometric} == {(tuple(range(10)), tuple(range(5)))}
    still = sample_augmentations(arc_task, 50, seed=0, geometric=False)
    assert {(a.flip, a.rot90) for a in still} == {(False, 0)}
    assert len(set(still)) == 50


@pytest.mark.parametrize(
    ("kinds", "n_distinct"),
    [
        (GEOMETRIC_ONLY, 8),
        ({"geometric": False, "colors": False}, 6),
        ({"colors": False}, 48),
        ({"geometric": False, **GEOMETRIC_ONLY}, 1),
    ],
)
def test_none_repeats_while_distinct_ones_remain(kinds, n_distinct):
    plan = sample_augmentations(make_task(n_train=3), 3 * n_distinct, seed=0, **kinds)
    for start in (0, n_distinct, 2 * n_distinct):
        assert set(plan[start : start + n_distinct]) == set(plan)
    assert len(set(plan)) == n_distinct


@pytest.mark.parametrize("kinds", [{}, GEOMETRIC_ONLY, {"colors": False}])
def test_the_eight_symmetries_are_balanced_at_every_length(kinds):
    plan = sample_augmentations(make_task(), 100, seed=5, **kinds)
    counts = Counter(dict.fromkeys(SYMMETRIES, 0))
    for augmentation in plan:
        counts[augmentation.flip, augmentation.rot90] += 1
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize("kinds", [{}, GEOMETRIC_ONLY, {"geometric": False}])
def test_a_longer_plan_starts_with_the_shorter(arc_task, kinds):
    plan = sample_augmentations(arc_task, 64, seed=0, **kinds)
    assert all(plan[:n] == sample_augmentations(arc_task, n, seed=0, **kinds) for n in range(65))


@pytest.mark.parametrize("seed", [1.5, 1.0, "0", None, float("nan")])
def test_a_seed_that_is_no_integer_is_refused(arc_task, seed):
    with pytest.raises(ValueError, match="seed must be an integer, got"):
        sample_augmentations(arc_task, 1, seed=seed)


def test_a_seed_of_numpy_is_the_same_seed(arc_task):
    assert Plan(np.int64(3)) == Plan(3)
    assert Plan(np.int64(3)).sample(arc_task, 8) == Plan(3).sample(arc_task, 8)


def test_the_seed_and_the_task_fix_the_plan(arc_task):
    plan = sample_augmentations(arc_task, 16, seed=0)
    assert plan == sample_augmentations(arc_task, 16, seed=0)
    assert plan == sample_augmentations(hide_outputs({"": arc_task})[""], 16, seed=0)
    assert plan[1:] != sample_augmentations(arc_task, 16, seed=1)[1:]
    assert plan[1:] != sample_augmentations(replace(arc_task, task_id="other"), 16, seed=0)[1:]


def test_black_is_kept_in_about_nine_of_ten_views(arc_task):
    plan = sample_augmentations(arc_task, 1000, seed=0)
    assert 0.87 < np.mean([a.colors[0] == 0 for a in plan]) < 0.94


def test_the_plan_is_the_same_on_every_machine(arc_task):
    assert [str(a) for a in sample_augmentations(arc_task, 10, seed=0)] == GOLDEN


GOLDEN = [
    "flip0.rot0.colors0123456789.order0-1-2-3-4",
    "flip0.rot1.colors0481259736.order2-3-1-0-4",
    "flip1.rot0.colors0397428615.order1-4-0-2-3",
    "flip1.rot2.colors0495312678.order0-2-4-3-1",
    "flip0.rot2.colors0493785621.order4-3-1-2-0",
    "flip1.rot3.colors0167894325.order0-2-3-4-1",
    "flip0.rot3.colors0194837526.order1-2-4-3-0",
    "flip1.rot1.colors0512934867.order3-4-0-2-1",
    "flip0.rot1.colors0976125483.order2-0-4-3-1",
    "flip1.rot2.colors0653492718.order4-2-0-3-1",
]
