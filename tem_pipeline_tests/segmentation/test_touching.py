from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.segmentation import watershed

from tem_pipeline.micrographs.frame import labels_on_frame
from tem_pipeline.segmentation import touching
from tem_pipeline.segmentation.instances import label_instances
from tem_pipeline.segmentation.touching import split_touching
from tem_pipeline.simulation.projection import rasterise
from tem_pipeline.simulation.specimens import Population, place_particles
from tem_pipeline.training.metrics import match_instances

Range = tuple[float, float]


def simulated_clusters(seed: int, diameter_px: float, relative_sd: float, neck: Range) -> np.ndarray:
    """True label image of a field in which every particle is part of a cluster of 2 to 6; 1 px is 1 nm."""
    population = Population(
        mean_nm=diameter_px,
        sd_nm=relative_sd * diameter_px,
        bare_fraction=1,
        shell_nm=0,
        shell_sd_nm=0,
        touching_fraction=1,
        cluster_size=(2, 6),
        neck=neck,
        coverage=(0.35, 0.35),
        core_gap_nm=3,
    )
    side = round(16 * diameter_px)
    placement = place_particles(np.random.default_rng(seed), (side, side), population)
    return rasterise(placement, (side, side), 1.0)[0]


def whole(labels: np.ndarray) -> np.ndarray:
    return np.setdiff1d(labels, np.append(labels_on_frame(labels), 0))


def f1(truth: np.ndarray, found: np.ndarray) -> tuple[int, int]:
    """Twice the number of matched pairs, and the particles of both images, without those cut by the frame."""
    pairs = match_instances(truth, found)
    whole_truth, whole_found = whole(truth), whole(found)
    pairs = pairs[np.isin(pairs[:, 0], whole_truth)]
    return 2 * len(pairs), len(whole_truth) + len(np.union1d(whole_found, pairs[:, 1]))


@pytest.mark.parametrize("neck", [(0.2, 0.65), (0.6, 0.65)])
def test_simulated_clusters_of_two_to_six_are_split(neck):
    hits = particles = 0
    for seed, (diameter, relative_sd) in enumerate([(14, 0.05), (20, 0.15), (36, 0.25)]):
        truth = simulated_clusters(100 + seed, diameter, relative_sd, neck)
        assert 2 * np.sqrt(np.bincount(truth.ravel())[whole(truth)].min() / np.pi) >= 11.5
        found, split = split_touching(label_instances(truth > 0, 1))
        got, of = f1(truth, found)
        hits, particles = hits + got, particles + of
        assert len(split) > 0.8 * len(np.unique(truth))
    assert particles > 300
    assert hits / particles >= 0.95


def grid(rng: np.random.Generator, extent: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in px around a random point within a pixel, turned by a random angle."""
    side = int(extent) + 8
    y, x = np.mgrid[:side, :side] - (side / 2 + rng.uniform(-0.5, 0.5, 2))[:, None, None]
    angle = rng.uniform(0, 2 * np.pi)
    return y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)


def an_ellipse(rng: np.random.Generator) -> np.ndarray:
    major, aspect = rng.uniform(8, 70), rng.uniform(0.5, 1)
    along, across = grid(rng, major)
    return np.hypot(2 * along / major, 2 * across / (major * aspect)) <= 1


def a_facetted_particle(rng: np.random.Generator) -> np.ndarray:
    corners, diameter, aspect = rng.integers(3, 9), rng.uniform(10, 60), rng.uniform(0.5, 1)
    along, across = grid(rng, diameter)
    directions = 2 * np.pi * np.arange(corners) / corners
    reach = diameter / 2 * np.cos(np.pi / corners)
    sides = [along * np.cos(t) + across / aspect * np.sin(t) <= reach for t in directions]
    return np.logical_and.reduce(sides)


def a_dumbbell(rng: np.random.Generator, neck: float) -> np.ndarray:
    """Two discs of at least 12 px whose common chord is `neck` times the smaller diameter."""
    radii = rng.uniform(12, 40) / 2 * np.array([1, rng.uniform(1, 2)])
    half = neck * radii[0]
    first, second = np.sqrt(radii**2 - half**2)
    along, across = grid(rng, 2 * radii.sum() + first + second)
    return (np.hypot(along + first, across) <= radii[0]) | (np.hypot(along - second, across) <= radii[1])


def pieces(mask: np.ndarray) -> int:
    return int(split_touching(label_instances(np.pad(mask, 2), 20))[0].max())


@pytest.mark.parametrize("shape", [an_ellipse, a_facetted_particle])
def test_convex_particles_stay_whole_in_any_orientation(shape):
    rng = np.random.default_rng(200)
    assert np.mean([pieces(shape(rng)) == 1 for _ in range(400)]) >= 0.99


def test_concave_particles_with_a_wide_neck_stay_whole():
    rng = np.random.default_rng(201)
    assert np.mean([pieces(a_dumbbell(rng, rng.uniform(0.75, 0.95))) == 1 for _ in range(250)]) >= 0.99


def test_the_width_of_the_neck_decides():
    rng = np.random.default_rng(202)
    split = [np.mean([pieces(a_dumbbell(rng, neck)) == 2 for _ in range(60)]) for neck in (0.3, 0.65, 0.75)]
    assert split[0] == 1
    assert split[1] > 0.85
    assert split[2] < 0.15


def test_curved_and_hollow_particles_stay_whole():
    y, x = np.mgrid[-40:41, -40:41]
    radius = np.hypot(y + 0.2, x - 0.3)
    assert pieces((radius < 30) & (radius > 18)) == 1
    assert pieces((radius < 30) & (np.hypot(y, x - 12) > 14)) == 1
    assert pieces((radius < 30) & (radius > 18) & (x < 5)) == 1


@pytest.mark.parametrize("count", [3, 4, 5])
@pytest.mark.parametrize("radius_px", [12, 17, 30])
def test_particles_that_enclose_a_gap_are_split(count: int, radius_px: int):
    gaps = 0
    for neck in (0.2, 0.4, 0.6):
        circle_px = radius_px * np.sqrt(1 - neck**2) / np.sin(np.pi / count)
        y, x = np.indices((2 * round(circle_px + 1.5 * radius_px),) * 2) - (circle_px + 1.5 * radius_px)
        turns = 0.3 + np.arange(count) * 2 * np.pi / count
        discs = [np.hypot(y - circle_px * np.sin(t), x - circle_px * np.cos(t)) <= radius_px for t in turns]
        mask = np.logical_or.reduce(discs)
        gap_px = (ndimage.binary_fill_holes(mask) & ~mask).sum()
        if gap_px < 9:  # a smaller one can't be told from a flaw
            continue
        gaps += 1
        assert len(split_touching(label_instances(mask, 1))[1]) == count, neck
    assert gaps


def test_a_hole_in_the_mask_does_not_split_a_particle():
    y, x = np.mgrid[-20:21, -20:21]
    mask = np.hypot(y / 8, x / 16) <= 1
    mask[19:22, 19:22] = False
    labels = label_instances(mask, 1)
    found, split = split_touching(labels)
    assert np.array_equal(found, labels)
    assert len(split) == 0


def test_a_closed_loop_of_particles_is_split_and_its_gap_stays_empty():
    y, x = np.mgrid[:120, :120]
    mask = np.zeros(y.shape, bool)
    for angle in np.arange(6) * np.pi / 3:
        mask |= np.hypot(y - 60 - 30 * np.sin(angle), x - 60 - 30 * np.cos(angle)) < 15.5
    found, split = split_touching(label_instances(mask, 1))
    assert found.max() == 6
    assert split.tolist() == [1, 2, 3, 4, 5, 6]
    assert np.array_equal(found > 0, mask)


def test_a_spur_is_not_a_particle():
    y, x = np.mgrid[:60, :60]
    mask = np.hypot(y - 30, x - 25) < 14
    mask[28:32, 38:46] = True
    mask[29:31, 46:50] = True
    assert pieces(mask) == 1


def test_numbers_have_no_gaps_and_only_particles_of_clusters_are_flagged():
    mask = np.zeros((80, 150), bool)
    y, x = np.indices(mask.shape)
    for row, column, diameter in [(20, 20, 20), (20, 37, 20), (20, 80, 24), (60, 100, 20), (60, 117, 20)]:
        mask |= np.hypot(y - row - 0.3, x - column - 0.2) < diameter / 2
    labels = label_instances(mask, 1)
    before = labels.copy()
    found, split = split_touching(labels)
    assert np.array_equal(labels, before)
    assert found.dtype == np.uint16
    assert np.array_equal(np.unique(found), np.arange(6))
    assert np.array_equal(found > 0, mask)
    flagged = np.isin(found, split)
    assert np.array_equal(flagged, mask & ~(labels == labels[20, 80]))


def test_a_particle_cut_by_the_frame_is_separated_from_its_neighbour():
    mask = np.zeros((60, 60), bool)
    y, x = np.indices(mask.shape)
    mask |= np.hypot(y - 2, x - 30) < 12
    mask |= np.hypot(y - 23, x - 30) < 12
    found, _ = split_touching(label_instances(mask, 1))
    assert found.max() == 2
    assert found[1, 30] != found[23, 30]


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (30, 40)])
def test_an_image_without_particles_stays_empty(shape):
    found, split = split_touching(np.zeros(shape, np.uint16))
    assert found.shape == shape
    assert not found.any()
    assert len(split) == 0


def test_every_piece_belongs_to_one_particle_and_no_pixel_is_lost():
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(200, 180)), 4)
    labels = label_instances(noise > 0, 20)
    found, split = split_touching(labels)
    assert np.array_equal(found > 0, labels > 0)
    assert len(np.unique(found)) == found.max() + 1
    owners = [np.unique(labels[found == number]) for number in range(1, found.max() + 1)]
    assert all(len(owner) == 1 for owner in owners)
    shared = np.bincount(np.concatenate(owners))
    assert split.tolist() == [k for k, owner in enumerate(owners, start=1) if shared[owner[0]] > 1]


def test_only_touching_particles_are_split_in_real_hand_drawn_masks(reference_data: Path):
    cut = {}
    for file in sorted((reference_data / "bright_field_particles" / "masks").glob("*.png")):
        mask = np.asarray(Image.open(file)) > 127
        cut[file.stem] = len(split_touching(label_instances(mask, 20))[1])
    assert {name for name, pieces in cut.items() if pieces} == {"crop_17"}
    assert cut["crop_17"] == 2


@pytest.mark.parametrize("lie", ["transposed", "every other column", "read-only"])
def test_labels_may_have_any_memory_layout(lie: str):
    labels = label_instances(simulated_clusters(3, 20, 0.2, (0.3, 0.9)) > 0, 1)
    expected, expected_split = split_touching(labels)
    given = {
        "transposed": np.ascontiguousarray(labels.T).T,
        "every other column": labels.repeat(2, axis=1)[:, ::2],
        "read-only": labels.copy(),
    }[lie]
    given.flags.writeable = lie != "read-only"
    found, split = split_touching(given)
    assert np.array_equal(found, expected)
    assert np.array_equal(split, expected_split)
    assert np.array_equal(given, labels)


def cut_alone(mask: np.ndarray, framed: list[tuple[bool, bool]]) -> np.ndarray:
    """Split one region in its own picture, always by flooding its distance map."""
    margin = [(min(mask.shape) // 2 * low, min(mask.shape) // 2 * high) for low, high in framed]
    drawn = np.pad(np.pad(mask, margin, mode="edge"), 1)
    filled = ndimage.binary_fill_holes(drawn)
    radius = ndimage.distance_transform_edt(filled).max()
    scale = 3 if 2 * radius < 48 else 1
    top, left = (scale * (1 + low) + scale // 2 for low, _ in margin)

    def flooded(drawn: np.ndarray) -> np.ndarray:
        fine = np.kron(drawn, np.ones((scale, scale))) > 0
        smooth = ndimage.gaussian_filter(fine.astype(np.float32), 0.5 * scale) > 0.5
        distance = ndimage.distance_transform_edt(smooth).astype(np.float32) / scale
        basins = watershed(-distance, mask=fine)
        return touching._join(distance - 0.5 / scale, basins, 8.0 if scale > 1 else 16.0)[basins]

    owner = flooded(drawn)
    holes, count = ndimage.label(filled & ~drawn)
    for hole in (holes == number for number in range(1, count + 1)):
        around = owner[scale // 2 :: scale, scale // 2 :: scale][
            ndimage.binary_dilation(hole, np.ones((3, 3)))
        ]
        if hole.sum() <= 0.1 * np.pi * radius**2 and len(set(around) - {0}) < 3:
            drawn = drawn | hole
    seen = flooded(drawn)[top::scale, left::scale][: mask.shape[0], : mask.shape[1]]
    return np.where(mask, seen + 1, 0)


@pytest.mark.parametrize("sheet_px", [2**17, 3000])
def test_regions_on_a_sheet_are_split_as_if_alone(monkeypatch, sheet_px):
    monkeypatch.setattr(touching, "_SHEET_PX", sheet_px)
    cut = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        noise = ndimage.gaussian_filter(rng.normal(size=(190, 230)), rng.uniform(2, 12))
        labels = label_instances(noise + 0.3 * noise.std() * rng.normal(size=noise.shape) > noise.std(), 20)
        labels = labels if seed % 3 else label_instances(simulated_clusters(seed, 20, 0.2, (0.3, 0.9)) > 0, 1)
        found, split = split_touching(labels)
        cut += len(split)
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            mask = labels[box] == number
            framed = [
                (part.start == 0, part.stop == side) for part, side in zip(box, labels.shape, strict=True)
            ]
            ours, alone = found[box][mask], cut_alone(mask, framed)[mask]
            if len(np.unique(ours)) > 1 or not touching._are_convex(np.pad(mask, 1).astype(int), 1)[1]:
                pairs = np.unique(np.column_stack((ours, alone)), axis=0)
                assert len(pairs) == len(np.unique(ours)) == len(np.unique(alone)), (seed, number)
    assert cut > 100


def test_vertical_and_horizontal_bars_share_no_large_sheet(monkeypatch):
    sizes = []
    lay_out = touching._laid_out

    def spy(drawn: list[np.ndarray]) -> tuple:
        sheet, places = lay_out(drawn)
        sizes.append(sheet.size)
        return sheet, places

    monkeypatch.setattr(touching, "_laid_out", spy)
    notched = np.arange(1400) % 9 > 1
    labels = np.zeros((1500, 1500), np.int32)
    labels[5:1405, 20:32], labels[1450:1462, 5:1405] = 1, 2
    labels[5:1405, 20][~notched] = labels[1450, 5:1405][~notched] = 0
    found, split = split_touching(labels)
    assert np.array_equal(found, labels)
    assert len(split) == 0
    assert sizes
    assert max(sizes) < 1.3 * 1400 * 12


@pytest.mark.parametrize("strip_px", [2**20, 500])
def test_a_particle_is_convex_if_every_line_enters_it_at_most_once(monkeypatch, strip_px):
    monkeypatch.setattr(touching, "_STRIP_PX", strip_px)
    for seed, sigma in enumerate((0.7, 1.5, 4)):
        noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(120, 150)), sigma)
        labels = label_instances(noise > 0.5 * noise.std(), 1)
        count = int(labels.max())
        found = touching._are_convex(labels, count)
        for number in range(1, count + 1):
            mask = np.pad(labels == number, 1)
            mirrored, entered = mask[:, ::-1], []
            for lines in (
                mask,
                mask.T,
                [mask.diagonal(k) for k in range(-len(mask) + 1, mask.shape[1])],
                [mirrored.diagonal(k) for k in range(-len(mask) + 1, mask.shape[1])],
            ):
                entered += [np.count_nonzero(np.diff(line.astype(int)) == 1) for line in lines]
            assert found[number] == (max(entered) <= 1), (seed, number)
        assert 0 < found[1:].sum() < count
