"""A rule change makes a new task: one rule, the same for all pairs, still learnable."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from arc_airv.augment import sample_augmentations
from arc_airv.grids import as_grid, format_grid, parse_grid, same_grid
from arc_airv.tasks import Pair, Task, load_tasks
from arc_airv.training.examples import all_pairs
from arc_airv.training.maps import KEEPING, LOSING, MAPS, RECOLORINGS, apply_map
from arc_airv.training.rules import RuleChange, can_swap, change_rule, has_rule

BAGS = all_pairs(load_tasks("arc-agi-1/training"))
SEEDS = st.integers(0, 2**32 - 1)
COLORS = st.integers(0, 9)
NAMES = st.sampled_from(list(MAPS))
KEEPING_NAMES = st.sampled_from([name for maps in KEEPING.values() for name in maps])


def grids(max_side=10):
    return arrays(np.int8, array_shapes(min_dims=2, max_dims=2, max_side=max_side), elements=COLORS)


def bag(*texts):
    return [Pair(*map(parse_grid, text.split(" -> "))) for text in texts]


def changes_of_real_tasks(n_seeds=2):
    """Change every training task under some seeds: (pairs, change, changed pairs)."""
    for number, pairs in enumerate(BAGS.values()):
        for seed in range(n_seeds):
            yield pairs, *change_rule(pairs, np.random.default_rng([number, seed]))


# Maps --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("flip", "123|456", "321|654"),
        ("flop", "123|456", "456|123"),
        ("rot1", "123|456", "36|25|14"),
        ("rot2", "123|456", "654|321"),
        ("rot3", "123|456", "41|52|63"),
        ("transpose", "123|456", "14|25|36"),
        ("antitranspose", "123|456", "63|52|41"),
        ("exchange25", "0255", "0522"),
        ("cycle2", "0189", "0312"),
        ("upscale2", "12", "1122|1122"),
        ("upscale3", "1", "111|111|111"),
        ("widen2", "12|34", "1122|3344"),
        ("heighten2", "12", "12|12"),
        ("border3", "12", "3333|3123|3333"),
        ("mesh5", "12|34", "152|555|354"),
        ("mirror_right", "12|34", "1221|3443"),
        ("mirror_down", "12|34", "12|34|34|12"),
        ("mirror_both", "12", "1221|1221"),
        ("tile_right", "12", "1212"),
        ("tile_down", "12", "12|12"),
        ("tile_both", "12", "1212|1212"),
        ("roll_up", "1|2|3", "2|3|1"),
        ("roll_down", "1|2|3", "3|1|2"),
        ("roll_left", "123", "231"),
        ("roll_right", "123", "312"),
        ("paint4", "0120", "0440"),
        ("frame7", "111|121|111", "777|727|777"),
        ("halo3", "000|010|000|000", "030|313|030|000"),
        ("hollow", "1111|1221|1221|1111", "1111|1001|1001|1111"),
        ("hollow", "101|111|111", "101|111|111"),
        ("exchange_extremes", "0001", "1110"),
        ("exchange_extremes", "001122233", None),  # which is the rarest?
        ("exchange_extremes", "00011122", None),  # which is the most frequent?
        ("exchange_extremes", "000", None),
        ("fall_down", "12|03|00", "00|02|13"),
        ("fall_up", "00|02|13", "12|03|00"),
        ("fall_left", "0102", "1200"),
        ("fall_right", "1020", "0012"),
        ("overlay_flip", "100|023", "101|323"),
        ("overlay_flop", "10|02", "12|12"),
        ("crop", "111|121|111", "2"),
        ("crop", "11|11", None),
        ("trim", "0000|0120|0003", "120|003"),
        ("trim", "00|00", None),
        ("left_half", "12345", "123"),
        ("top_half", "1|2|3|4", "1|2"),
        ("thin", "123|456|789", "13|79"),
    ],
)
def test_a_map_does_what_its_name_says(name, before, after):
    mapped = apply_map(name, parse_grid(before))
    assert (mapped if mapped is None else format_grid(mapped)) == after


@given(NAMES, grids(max_side=30))
def test_a_map_makes_a_grid_or_does_not_apply_and_leaves_its_grid_alone(name, grid):
    before = grid.copy()
    mapped = apply_map(name, grid)
    assert same_grid(grid, before)
    if mapped is not None:
        assert mapped.dtype == np.int8
        assert same_grid(as_grid(mapped), mapped)


@given(KEEPING_NAMES, grids(), st.data())
def test_maps_for_inputs_keep_different_grids_different(name, grid, data):
    height, width = grid.shape
    other = grid.copy()
    other[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] += 1
    for different in (other % 10, grid[:, :-1], np.vstack([grid, grid]), np.tile(grid, (1, 3))):
        if different.size and apply_map(name, different) is not None:
            assert not same_grid(apply_map(name, grid), apply_map(name, different))


@pytest.mark.parametrize("name", [name for name in MAPS if name.rstrip("0123456789") == name])
@given(grids(max_side=6), SEEDS)
@settings(max_examples=20)
def test_a_map_that_names_no_colour_is_the_same_rule_in_a_recoloured_view(name, grid, seed):
    colors = np.concatenate([[0], 1 + np.random.default_rng(seed).permutation(9)]).astype(np.int8)
    mapped = apply_map(name, grid)
    expected = None if mapped is None else colors[mapped]
    assert same_grid(apply_map(name, colors[grid]), expected)


def test_a_map_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no map 'explode'; there are flip, flop"):
        apply_map("explode", parse_grid("1"))


# Changes of real tasks ---------------------------------------------------------------------------


def test_every_pair_of_a_changed_task_went_through_the_steps_in_its_key():
    for pairs, change, changed in changes_of_real_tasks():
        again = RuleChange.parse(str(change)).apply(pairs)
        assert changed == again
        for pair, new in zip(pairs, changed):  # by hand, each pair by itself
            source, target = (pair.output, pair.input) if change.swap else (pair.input, pair.output)
            if change.join == "beside":
                target = np.hstack([source, target])
            elif change.join == "below":
                target = np.vstack([source, target])
            elif change.join == "changes":
                target = target * (source != target)
            for name in change.inputs:
                source = MAPS[name](source)
            for name in change.outputs:
                target = MAPS[name](target)
            assert same_grid(new.input, source) and same_grid(new.output, target)


def test_a_changed_task_is_a_task():
    for pairs, _, changed in changes_of_real_tasks():
        assert len(changed) == len(pairs)
        for pair in changed:
            assert same_grid(as_grid(pair.input), pair.input)  # sides 1-30, colours 0-9
            assert same_grid(as_grid(pair.output), pair.output)
        answers = {}
        for pair in changed:
            assert same_grid(answers.setdefault(format_grid(pair.input), pair.output), pair.output)
        assert len(answers) == len({format_grid(pair.input) for pair in changed})


def test_a_changed_task_is_another_task_that_says_something():
    for pairs, change, changed in changes_of_real_tasks():
        if change == RuleChange():
            assert changed == pairs
            continue
        assert has_rule(changed)
        assert changed != pairs
        if not change.swap:  # no input was merged with another
            assert len({p.input.tobytes() for p in pairs}) == len(
                {p.input.tobytes() for p in changed}
            )


def test_nearly_every_task_can_be_changed_and_in_every_way():
    made = [change for _, change, _ in changes_of_real_tasks(5)]
    assert sum(change == RuleChange() for change in made) < 0.03 * len(made)
    parts = Counter(
        part
        for change in made
        for part in [
            *(["swap"] if change.swap else []),
            change.join,
            "inputs" if change.inputs else "",
            ("", "outputs", "composed")[len(change.outputs)],
        ]
    )
    for part in ("swap", "beside", "below", "changes", "inputs", "outputs", "composed"):
        assert parts[part] > 0.01 * len(made), part
    used = {name for change in made for name in (*change.inputs, *change.outputs)}
    assert all(used & set(maps) for maps in (KEEPING | LOSING).values())


@given(SEEDS, st.sampled_from(list(BAGS)), st.integers(2, 6))
@settings(max_examples=50)
def test_the_state_of_the_generator_fixes_the_change(seed, task_id, n):
    pairs = BAGS[task_id][:n]
    one, other = (change_rule(pairs, np.random.default_rng(seed)) for _ in range(2))
    assert one == other


@given(SEEDS, st.sampled_from(list(BAGS)))
@settings(max_examples=50)
def test_a_change_and_a_recolouring_augmentation_leave_a_task(seed, task_id):
    _, changed = change_rule(BAGS[task_id], np.random.default_rng(seed))
    task = Task(task_id, tuple(changed[:-1]), (changed[-1],))
    view = sample_augmentations(task, 2, seed=seed)[1].apply_task(task)
    assert has_rule((*view.train, *view.test)) == has_rule(changed)


def test_each_map_is_seen_in_two_pairs_and_no_colour_is_exchanged_that_one_pair_alone_shows():
    for pairs, change, _ in changes_of_real_tasks():
        start = RuleChange(swap=change.swap, join=change.join).apply(pairs)
        for names, side in ((change.inputs, "input"), (change.outputs, "output")):
            before = [getattr(pair, side) for pair in start]
            for name in names:
                after = [apply_map(name, grid) for grid in before]
                assert sum(not same_grid(a, b) for a, b in zip(before, after)) >= 2
                if name.startswith("exchange") and name in RECOLORINGS:
                    for color in map(int, name[-2:]):
                        assert sum(color in grid for grid in before) != 1
                before = after


# Where nothing applies ---------------------------------------------------------------------------


def test_pairs_without_a_rule_come_back_as_they_came():
    contradiction = bag("12|34 -> 1", "12|34 -> 2", "56|78 -> 3")
    constant = bag("12|34 -> 1", "13|34 -> 1", "56|78 -> 1")
    for pairs in (contradiction, constant):
        assert not has_rule(pairs)
        change, same = change_rule(pairs, np.random.default_rng(0))
        assert str(change) == "unchanged" and same == pairs
    assert not has_rule(bag("12 -> 12", "34 -> 34"))  # the identity


def test_input_and_output_change_places_only_where_nothing_is_lost():
    assert can_swap(bag("123 -> 321", "456 -> 654"))
    assert can_swap(bag("12|34 -> 1122|1122|3344|3344", "56|78 -> 5566|5566|7788|7788"))
    assert not can_swap(bag("123|456 -> 1", "456|789 -> 4"))  # a crop
    assert not can_swap(bag("12 -> 1111", "13 -> 1111", "45 -> 4444"))  # two inputs, one output


def test_a_step_that_does_not_apply_to_one_pair_gives_nothing():
    pairs = bag("12 -> 12|12", "34|56 -> 78|90")
    assert RuleChange(join="beside").apply(pairs) is None
    assert RuleChange(join="changes").apply(pairs) is None
    assert RuleChange(join="below").apply(pairs) is not None
    assert RuleChange(outputs=("crop",)).apply(pairs) is None
    wide = bag("1234567890123456 -> 1", "2 -> 2")
    assert RuleChange(inputs=("widen2",)).apply(wide) is None
    assert RuleChange(inputs=("heighten2", "widen2")).apply(wide) is None


# Keys --------------------------------------------------------------------------------------------


@given(
    st.builds(
        RuleChange,
        st.booleans(),
        st.sampled_from(["", "beside", "below", "changes"]),
        st.lists(KEEPING_NAMES, max_size=2).map(tuple),
        st.lists(NAMES, max_size=3).map(tuple),
    )
)
def test_a_key_is_read_back(change):
    assert RuleChange.parse(str(change)) == change


def test_a_key_spells_out_the_steps():
    change = RuleChange(True, "changes", ("upscale2",), ("flip", "border3"))
    assert str(change) == "swap.changes.in-upscale2.out-flip-border3"
    assert str(RuleChange()) == "unchanged"


@pytest.mark.parametrize(
    ("key", "fault"),
    [
        ("out-explode", "no map 'explode'"),
        ("explode", "join must be one of .*, got 'explode'"),
        ("in-trim", "inputs must keep their information, 'trim' may lose some"),
        ("out-flip.in-flip", "not the key"),
        ("in-flip.in-flip", "not the key"),
        ("swap-flip", "not the key"),
        ("beside-flip", "not the key"),
        ("in", "not the key"),
        ("", "join must be one of .*|not the key"),
    ],
)
def test_what_is_no_key_is_refused(key, fault):
    with pytest.raises(ValueError, match=fault):
        RuleChange.parse(key)
