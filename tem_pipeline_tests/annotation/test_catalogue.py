import numpy as np
import pytest

from tem_pipeline.annotation.catalogue import from_catalogue, to_catalogue
from tem_pipeline.annotation.datasets import AnnotatedImage, AnnotatedSet
from tem_pipeline.errors import UserError

CLASSES = ("background", "shell", "core")


def annotated_set() -> AnnotatedSet:
    rng = np.random.default_rng(0)
    images = tuple(
        AnnotatedImage(
            name,
            rng.normal(size=(20, 30)).astype(np.float32),
            rng.integers(0, 3, (20, 30), dtype=np.uint8),
            CLASSES,
            f"source {name}",
            f"pixels {name}",
            f"mask {name}",
            pixel_size_nm=(0.1, 0.1) if name == "a" else None,
        )
        for name in "abc"
    )
    return AnnotatedSet("set", images, CLASSES, "set hash")


def test_the_catalogue_returns_the_images_of_each_part_unchanged():
    images = annotated_set()
    catalogue = to_catalogue(images, ["training", "validation", "test"], 0)
    for part, image in zip(("training", "validation", "test"), images.images, strict=True):
        (back,) = from_catalogue(catalogue, part)
        assert np.allclose(back.image, image.image, atol=2e-4)
        assert np.array_equal(back.class_map, image.class_map)
        assert (back.name, back.group, back.pixel_sha256) == (image.name, image.group, image.pixel_sha256)
        assert (back.classes, back.pixel_size_nm) == (image.classes, image.pixel_size_nm)


def test_another_split_of_the_same_images_has_another_hash():
    images = annotated_set()
    first = to_catalogue(images, ["training", "validation", "test"], 0)["dataset_hash"].unique()
    again = to_catalogue(images, ["training", "validation", "test"], 0)["dataset_hash"].unique()
    other = to_catalogue(images, ["test", "validation", "training"], 1)["dataset_hash"].unique()
    assert len(first) == 1
    assert first == again
    assert first != other


def test_an_empty_part_says_what_to_do():
    catalogue = to_catalogue(annotated_set(), ["training", "training", "test"], 0)
    with pytest.raises(UserError, match="no validation image"):
        from_catalogue(catalogue, "validation")
