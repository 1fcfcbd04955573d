from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_pipeline.annotation.augmentation import (
    SHARD_SCHEMA,
    Transform,
    _prepare,
    _warp,
    augment_images,
    read_shards,
    write_shards,
)
from tem_pipeline.annotation.datasets import AnnotatedImage, read_annotated_set
from tem_pipeline.annotation.pixels import decode_image, encode_image
from tem_pipeline.annotation.splitting import split_sources
from tem_pipeline.errors import UserError
from tem_pipeline_tests.annotation.fields import field_of_discs

UNCHANGED = Transform(0, 0, False, 0, 1, 0, 1, 1, 0, 0)


def annotated(seed: int, size: int = 160, name: str | None = None) -> AnnotatedImage:
    """Give an image that equals its mask, -2 on particles and 0 elsewhere."""
    _, mask = field_of_discs(seed, (size, size))
    return AnnotatedImage(
        name=name or f"im{seed}",
        image=np.where(mask, -2, 0).astype(np.float32),
        class_map=mask.astype(np.uint8),
        classes=("background", "core"),
        group=f"source {seed}",
        pixel_sha256=f"sha {seed}",
        mask_sha256="",
    )


@settings(max_examples=25, deadline=None)
@given(
    st.builds(
        Transform,
        shift_y_px=st.floats(-60, 60),
        shift_x_px=st.floats(-60, 60),
        flip=st.booleans(),
        angle_deg=st.floats(0, 360),
        scale=st.floats(0.7, 1.4),
        blur_px=st.just(0.0),
        gamma=st.just(1.0),
        gain=st.just(1.0),
        offset=st.just(0.0),
        noise_sd=st.just(0.0),
    )
)
def test_image_and_mask_are_warped_by_the_same_geometry(transform):
    image, class_map = _warp(_prepare(annotated(3)), transform, 96)
    # The cubic image and the linear mask cross one half within a fraction of a pixel of one another.
    differ = (image < -1) != (class_map == 1)
    perimeter = np.count_nonzero(np.diff(class_map, axis=0)) + np.count_nonzero(np.diff(class_map, axis=1))
    assert np.count_nonzero(differ) <= 0.12 * perimeter + 2


def test_shift_and_scale_move_a_point_to_the_expected_pixel():
    image = replace(annotated(0, 101), image=np.zeros((101, 101), np.float32))
    image.image[60, 35] = -8
    source = _prepare(image)
    moved, _ = _warp(source, replace(UNCHANGED, shift_y_px=10, shift_x_px=-15), 41)
    assert np.unravel_index(moved.argmin(), moved.shape) == (20, 20)
    enlarged, _ = _warp(source, replace(UNCHANGED, shift_y_px=5, shift_x_px=-15, scale=2.0), 41)
    assert np.unravel_index(enlarged.argmin(), enlarged.shape) == (30, 20)


def test_a_turn_is_counter_clockwise_and_a_flip_comes_before_it():
    image = replace(annotated(0, 65), image=np.zeros((65, 65), np.float32))
    image.image[32, 52] = -8  # to the right of the centre
    source = _prepare(image)
    turned, _ = _warp(source, replace(UNCHANGED, angle_deg=90), 65)
    assert np.unravel_index(turned.argmin(), turned.shape) == (12, 32)  # on top
    flipped, _ = _warp(source, replace(UNCHANGED, angle_deg=90, flip=True), 65)
    assert np.unravel_index(flipped.argmin(), flipped.shape) == (52, 32)  # left, then turned to the bottom


def test_the_identity_transform_returns_image_and_mask_unchanged():
    source = replace(annotated(1), image=np.random.default_rng(0).normal(size=(160, 160)).astype(np.float32))
    image, class_map = _warp(_prepare(source), UNCHANGED, 160)
    np.testing.assert_allclose(image, source.image, atol=1e-4)
    np.testing.assert_array_equal(class_map, source.class_map)


def test_interpolation_keeps_areas_without_bias():
    whole = annotated(4, 200)
    inner = whole.class_map.copy()
    inner[:40], inner[-40:], inner[:, :40], inner[:, -40:] = 0, 0, 0, 0
    source = _prepare(replace(whole, class_map=inner))
    areas = [
        _warp(source, replace(UNCHANGED, angle_deg=angle), 200)[1].sum() for angle in np.linspace(3, 357, 25)
    ]
    assert np.mean(areas) / inner.sum() == pytest.approx(1, abs=0.005)


def test_warping_keeps_three_classes_in_order():
    y, x = np.mgrid[:160, :160] - 80
    radius = np.hypot(y, x)
    nested = (radius < 40).astype(np.uint8) + (radius < 20)
    image = replace(annotated(0), class_map=nested, classes=("background", "shell", "core"))
    _, warped = _warp(_prepare(image), replace(UNCHANGED, angle_deg=33, scale=1.2), 128)
    expected = np.hypot(*(np.mgrid[:128, :128] - 63.5 - 0.6)) / 1.2
    agreed = warped == (expected < 40).astype(np.uint8) + (expected < 20)
    assert agreed.mean() > 0.98
    assert set(np.unique(warped)) == {0, 1, 2}


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    images = [annotated(seed) for seed in range(3)]
    first, again = list(augment_images(images, 7, 48, 5)), list(augment_images(images[::-1], 7, 48, 5))
    for one, other in zip(first, again, strict=True):
        assert one.transform == other.transform
        assert one.source_image == other.source_image
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_array_equal(one.class_map, other.class_map)
    assert first[0].transform != next(iter(augment_images(images, 7, 48, 6))).transform


def test_rows_and_shards_do_not_depend_on_the_number_of_threads(tmp_path):
    images = [annotated(seed, 64) for seed in range(3)]
    shards = [
        write_shards(augment_images(images, 80, 32, threads=threads), tmp_path / str(threads), 30, threads)
        for threads in (1, 3)
    ]
    assert [shard.name for shard in shards[0]] == [shard.name for shard in shards[1]]
    for read, by_threads in zip(read_shards(shards[0]), read_shards(shards[1], 3), strict=True):
        assert len(read) == 80
        np.testing.assert_array_equal(read, by_threads)


def test_all_images_give_equally_many_rows():
    rows = list(augment_images([annotated(seed, 64) for seed in range(5)], 23, 16, 0))
    assert [row.row for row in rows] == list(range(23))
    counts = pd.Series([row.source_image for row in rows]).value_counts()
    assert set(counts) == {4, 5}
    assert len({row.transform for row in rows}) == 23


def test_half_of_the_crops_contain_foreground_even_if_it_is_rare():
    mask = np.zeros((600, 600), np.uint8)
    mask[300:312, 200:212] = 1
    image = replace(annotated(0, 600), class_map=mask)
    share = np.mean([row.class_map.any() for row in augment_images([image], 300, 48, 1)])
    assert 0.42 < share < 0.62


def test_crops_of_large_images_contain_no_mirrored_pixels():
    slope = 0.02
    ramp = (slope * np.indices((300, 300))[0]).astype(np.float32)
    image = replace(annotated(0, 300), image=ramp)
    source = _prepare(image)
    for row in augment_images([image], 60, 64, 2):
        crop, _ = _warp(source, row.transform, 64)
        # Mirrored, the ramp's slope changes its sign; at the border itself a spline only bends it.
        gradients = np.array(np.gradient(crop.astype(float))) * row.transform.scale / slope
        main = gradients[np.abs(gradients.mean(axis=(1, 2))).argmax()]
        assert main.min() > 0.3 or main.max() < -0.3


@pytest.mark.parametrize("size", [1, 20, 100])
def test_images_smaller_than_a_crop_give_full_crops(size):
    image = replace(
        annotated(0),
        image=np.ones((size, size), np.float32),
        class_map=np.ones((size, size), np.uint8),
    )
    for row in augment_images([image], 5, 64, 0):
        assert row.image.shape == row.class_map.shape == (64, 64)
        assert np.all(np.isfinite(row.image))
        assert np.all(row.class_map == 1)


def test_intensities_stay_finite_and_within_the_standardised_range():
    image = replace(
        annotated(1), image=np.random.default_rng(1).uniform(-8, 8, (160, 160)).astype(np.float32)
    )
    blank = replace(annotated(2), image=np.zeros((160, 160), np.float32))
    for row in augment_images([image, blank], 60, 64, 3):
        assert row.image.dtype == np.float32
        assert np.all(np.isfinite(row.image))
        assert np.abs(row.image).max() <= 8


def test_encoding_keeps_intensities_to_a_few_ten_thousandths():
    image = np.random.default_rng(0).uniform(-9, 9, (33, 20)).astype(np.float32)
    np.testing.assert_allclose(decode_image(encode_image(image)), np.clip(image, -8, 8), atol=1.3e-4)


def test_shards_return_the_rows_with_source_and_transform(tmp_path):
    rows = list(augment_images([annotated(seed, 64) for seed in range(3)], 11, 32, 0))
    shards = write_shards(iter(rows), tmp_path / "shards", rows_per_shard=4)
    assert [pq.ParquetFile(str(shard)).metadata.num_rows for shard in shards] == [4, 4, 3]
    images, class_maps = read_shards(shards)
    np.testing.assert_allclose(images, np.stack([row.image for row in rows]), atol=1.3e-4)
    np.testing.assert_array_equal(class_maps, np.stack([row.class_map for row in rows]))
    assert images.dtype == np.float32
    assert class_maps.dtype == np.uint8

    table = pq.ParquetFile(str(shards[0])).read()
    assert table.schema.equals(SHARD_SCHEMA)
    written = table.to_pylist()[2]
    assert written["transform"] == asdict(rows[2].transform)
    assert (written["source_image"], written["group"]) == (rows[2].source_image, rows[2].group)
    assert written["source_sha256"] == rows[2].source_sha256
    assert written["part"] == "training"
    assert written["image"].startswith(b"\x89PNG")


def test_equal_rows_make_equal_shards_and_no_other_files(tmp_path):
    images = [annotated(0, 64)]
    first = write_shards(augment_images(images, 6, 32, 0), tmp_path, 4)
    again = write_shards(augment_images(images, 6, 32, 0), tmp_path, 4)
    assert first == again
    assert sorted(tmp_path.iterdir()) == sorted(first)  # pyright: ignore[reportArgumentType]


def test_missing_damaged_and_empty_shards_are_reported(tmp_path):
    shards = write_shards(augment_images([annotated(0, 64)], 4, 32, 0), tmp_path, 4)
    with pytest.raises(UserError, match="no-such"):
        read_shards([tmp_path / "no-such.parquet"])
    damaged = tmp_path / "damaged.parquet"
    damaged.write_bytes(shards[0].read_bytes()[:500])
    with pytest.raises(UserError, match="missing or damaged"):
        read_shards([damaged])
    with pytest.raises(UserError, match="no rows"):
        read_shards([])


def test_augmenting_without_images_is_refused():
    with pytest.raises(UserError, match="no training image"):
        list(augment_images([], 5, 32))


def test_training_rows_have_no_source_in_validation_or_test(reference_data):
    images = read_annotated_set(reference_data / "bright_field_particles").images
    for seed in range(3):
        parts = split_sources([image.group for image in images], seed)
        training = [image for image, part in zip(images, parts, strict=True) if part == "training"]
        held = {image.group for image, part in zip(images, parts, strict=True) if part != "training"}
        used = {row.group for row in augment_images(training, len(training), 64, seed)}
        assert used
        assert not used & held


def test_the_paper_profile_makes_over_2000_rows_from_128_images():
    from tem_pipeline.training.fitting import PROFILES

    profile = PROFILES["paper"]
    assert profile.augmented_images > 2000
    # Small crops here: the number of rows and their spread over the images don't depend on the size.
    images = [annotated(0, 32, name=f"im{index}") for index in range(128)]
    rows = [row.source_image for row in augment_images(images, profile.augmented_images, 8, 0)]
    assert len(rows) == profile.augmented_images
    assert pd.Series(rows).value_counts().min() >= len(rows) // 128
