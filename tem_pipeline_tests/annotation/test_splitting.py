from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from tem_pipeline.annotation.splitting import PARTS, find_overlaps, source_groups, split_sources
from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.reading import read_micrographs
from tem_pipeline_tests.annotation.fields import exposed, field_of_discs


def members(groups: list[str], names: list[str]) -> set[frozenset[str]]:
    by_group: dict[str, set[str]] = {}
    for name, group in zip(names, groups, strict=True):
        by_group.setdefault(group, set()).add(name)
    return {frozenset(found) for found in by_group.values() if len(found) > 1}


def test_exactly_the_overlapping_crops_of_the_reference_set_are_found(reference_data):
    files = sorted((reference_data / "bright_field_particles" / "images").iterdir())
    images = [read_micrographs(file)[0].image for file in files]
    names = [file.stem.removeprefix("crop_") for file in files]
    pairs = {(names[o.first], names[o.second]) for o in find_overlaps(images)}
    assert pairs == {("02", "12"), ("02", "13"), ("12", "13"), ("11", "18")}
    assert members(source_groups(names, images), names) == {
        frozenset({"02", "12", "13"}),
        frozenset({"11", "18"}),
    }


def test_no_split_of_the_reference_set_separates_overlapping_crops(reference_data):
    files = sorted((reference_data / "bright_field_particles" / "images").iterdir())
    names = [file.stem.removeprefix("crop_") for file in files]
    groups = source_groups(names, [read_micrographs(file)[0].image for file in files])

    def parted(sources: list[str], seed: int) -> bool:
        part_of = dict(zip(names, split_sources(sources, seed), strict=True))
        return any(len({part_of[name] for name in crops}) > 1 for crops in (("02", "12", "13"), ("11", "18")))

    assert not any(parted(groups, seed) for seed in range(100))
    # Splitting by file separates overlapping crops in most cases.
    assert sum(parted(names, seed) for seed in range(100)) > 50


@pytest.mark.parametrize(
    "exposure",
    [{}, {"gain": 0.4}, {"gamma": 2.0, "noise": 8.0}, {"gain": 1.5, "gamma": 0.6, "noise": 15.0}],
    ids=["same", "darker", "contrast", "bright, noisy"],
)
@pytest.mark.parametrize("shift", [(0, 0), (60, -90), (-130, 100)])
def test_overlapping_crops_are_found_at_any_exposure_with_their_shift(exposure, shift):
    field, _ = field_of_discs(1, (480, 480))
    first = exposed(field[150:406, 150:406], seed=2)
    row, column = 150 + shift[0], 150 + shift[1]
    second = exposed(field[max(row, 0) : row + 226, column : column + 226], seed=3, **exposure)
    (overlap,) = find_overlaps([first, second])
    assert np.abs(np.subtract(overlap.shift_px, shift)).max() <= 4


def test_unrelated_images_of_similar_particles_do_not_overlap():
    images = [exposed(field_of_discs(seed, (256, 256))[0], seed) for seed in range(14)]
    assert find_overlaps(images) == []


def test_lattices_of_equal_period_do_not_overlap():
    def lattice(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[:256, :256] + rng.uniform(0, 24, (2, 1, 1))
        return np.cos(2 * np.pi * x / 24) + np.cos(2 * np.pi * y / 24) + 0.5 * rng.standard_normal((256, 256))

    assert find_overlaps([lattice(seed) for seed in range(6)]) == []


def test_equal_scale_bars_neither_cause_nor_hide_an_overlap():
    field, _ = field_of_discs(5, (300, 400))
    images = [exposed(field_of_discs(seed, (256, 256))[0], seed) for seed in range(4)]
    images += [exposed(field[:256, :256], 10), exposed(field[40:296, 130:386], 11)]
    for image in images:
        image[225:240, 20:120] = 255
        image[205:220, 30:110][:, ::6] = 0
    assert [(o.first, o.second) for o in find_overlaps(images)] == [(4, 5)]


def test_blank_images_overlap_with_no_image():
    field, _ = field_of_discs(0, (128, 128))
    assert find_overlaps([np.zeros((128, 128)), np.full((128, 128), 7.0), field]) == []


def test_the_shift_of_binned_images_is_in_pixels_of_the_images():
    field, _ = field_of_discs(3, (1100, 1000), radius_px=25, density=1.5e-4)
    images = [exposed(field[:800, :800], 1), exposed(field[300:1100, 150:1000], 2)]
    (overlap,) = find_overlaps(images)
    assert np.abs(np.subtract(overlap.shift_px, (300, 150))).max() <= 8


def crops_in_a_chain() -> list[np.ndarray]:
    """Give three crops of one field, each overlapping with the next, and an unrelated one."""
    field, _ = field_of_discs(8, (200, 520))
    crops = [exposed(field[:, start : start + 200], seed=start) for start in (0, 130, 260)]
    return [*crops, exposed(field_of_discs(9, (200, 200))[0], seed=4)]


def test_images_that_overlap_through_others_are_one_source():
    assert source_groups(["a", "b", "c", "d"], crops_in_a_chain()) == ["a", "a", "a", "d"]


def test_given_sources_are_kept():
    images = crops_in_a_chain()
    groups = source_groups(["a", "b", "c", "d"], images, ["one", "two", "two", "one"])
    assert groups == ["one", "two", "two", "one"]


def test_an_image_without_a_source_joins_the_source_it_overlaps_with():
    groups = source_groups(["a", "b", "c", "d"], crops_in_a_chain(), [None, "grid 3", "grid 3", None])
    assert groups == ["grid 3", "grid 3", "grid 3", "d"]


def test_a_found_source_never_has_the_name_of_a_given_one():
    images = [exposed(field_of_discs(seed, (128, 128))[0], seed) for seed in range(2)]
    groups = source_groups(["a", "b"], images, ["b", None])
    assert len(set(groups)) == 2


def test_overlaps_between_sets_are_found_even_if_both_name_sources():
    groups = source_groups(
        ["a", "b", "c", "d"], crops_in_a_chain(), ["one", "two", "three", "four"], ["x", "y", "x", "x"]
    )
    assert groups[0] == groups[1] == groups[2] != groups[3]


group_lists = st.lists(st.integers(1, 6), min_size=3, max_size=9).map(
    lambda sizes: [f"source {index}" for index, size in enumerate(sizes) for _ in range(size)]
)


@settings(max_examples=40, deadline=None)
@given(group_lists, st.integers(0, 10**6), st.randoms())
def test_a_split_keeps_sources_whole_and_does_not_depend_on_the_order(groups, seed, random):
    parts = split_sources(groups, seed)
    assert set(parts) == set(PARTS)
    part_of = dict(zip(groups, parts, strict=True))
    assert all(part_of[group] == part for group, part in zip(groups, parts, strict=True))
    shuffled = random.sample(groups, len(groups))
    assert [part_of[group] for group in shuffled] == list(split_sources(shuffled, seed))


@settings(max_examples=40, deadline=None)
@given(group_lists, st.integers(0, 1000))
def test_no_split_of_whole_sources_is_closer_to_the_fractions(groups, seed):
    fractions = np.array([0.64, 0.16, 0.20])
    sizes = np.array(list(Counter(groups).values()))[:7]
    groups = [f"source {index}" for index, size in enumerate(sizes) for _ in range(size)]
    target = fractions * len(groups)

    def error(counts: np.ndarray) -> float:
        return float(np.sum((counts - target) ** 2))

    best = min(
        error(np.bincount(choice, sizes, 3))
        for choice in product(range(3), repeat=len(sizes))
        if len(set(choice)) == 3
    )
    counted = Counter(split_sources(groups, seed).tolist())
    assert error(np.array([counted[part] for part in PARTS])) == pytest.approx(best)


def test_single_images_are_split_64_16_20():
    counted = Counter(split_sources([str(i) for i in range(100)], 0).tolist())
    assert counted == {"training": 64, "validation": 16, "test": 20}


def test_the_seed_decides_the_test_images_and_any_image_can_be_one():
    groups = [str(i) for i in range(20)]
    tested = [tuple(np.flatnonzero(split_sources(groups, seed) == "test")) for seed in range(60)]
    assert tested[0] == tuple(np.flatnonzero(split_sources(groups, 0) == "test"))
    assert {index for chosen in tested for index in chosen} == set(range(20))


def test_too_few_sources_are_refused():
    with pytest.raises(UserError, match=r"2 source micrograph.*at least 3"):
        split_sources(["a", "a", "b"])


def test_smoothing_one_of_two_crops_does_not_hide_their_overlap():
    field, _ = field_of_discs(6, (300, 300))
    first, second = field[:220, :220], gaussian_filter(field, 1.5)[60:280, 40:260]
    assert len(find_overlaps([exposed(first, 1), exposed(second, 2)])) == 1
