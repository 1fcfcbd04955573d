"""Two protocols that make training, validation and test data: the platform's and the paper's.

The paper's protocol is only for comparison. It is outside the package `tem_pipeline`, so no command and no
asset can train with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tem_pipeline.annotation.augmentation import AugmentedRow, augment_images
from tem_pipeline.annotation.datasets import AnnotatedImage
from tem_pipeline.annotation.splitting import split_sources
from tem_pipeline.training.fitting import Profile

TRAINING_SHARE = 0.8
"""Share of the augmented crops that the paper uses for training; the others are for validation."""


@dataclass(frozen=True, eq=False)
class Material:
    """Training, validation and test data of one training.

    Attributes
    ----------
    crops : ndarray, (n, crop_px, crop_px), float32
    class_maps : ndarray, (n, crop_px, crop_px), uint8
    validation : list of (image, class_map)
        The weights are chosen by their score.
    test : list of AnnotatedImage
        From other sources than training and validation; the same for both protocols.
    training_images, validation_images : frozenset of str
        Names of the images that the crops and the validation come from.
    """

    crops: np.ndarray
    class_maps: np.ndarray
    validation: list[tuple[np.ndarray, np.ndarray]]
    test: list[AnnotatedImage]
    training_images: frozenset[str]
    validation_images: frozenset[str]


def split_then_augment(images: Sequence[AnnotatedImage], profile: Profile, seed: int) -> Material:
    """Split by source micrograph, then augment the training images, as `tem-pipeline train` does.

    Parameters
    ----------
    images : sequence of AnnotatedImage
    profile : Profile
    seed : int
        Seed of the split and the augmentation.
    """
    training, validation, test = _parts(images, seed)
    rows = list(augment_images(training, profile.augmented_images, profile.crop_px, seed))
    return Material(
        *_stacked(rows),
        [(image.image, image.class_map) for image in validation],
        test,
        frozenset(row.source_image for row in rows),
        frozenset(image.name for image in validation),
    )


def augment_then_split(images: Sequence[AnnotatedImage], profile: Profile, seed: int) -> Material:
    """Augment, then split the crops at random, as the paper did; for comparison only.

    Training and validation contain crops of the same images. The test images of `split_then_augment` are
    held out first, so that both protocols are tested on the same images; the paper held out none. The number
    of training crops is the same in both protocols, but here they also come from the validation images.

    Parameters
    ----------
    images, profile, seed
        As in `split_then_augment`.
    """
    training, validation, test = _parts(images, seed)
    count = round(profile.augmented_images / TRAINING_SHARE)
    rows = list(augment_images([*training, *validation], count, profile.crop_px, seed))
    order = np.random.default_rng(seed).permutation(count)
    trained = [rows[index] for index in order[: profile.augmented_images]]
    validated = [rows[index] for index in order[profile.augmented_images :]]
    return Material(
        *_stacked(trained),
        [(row.image, row.class_map) for row in validated],
        test,
        frozenset(row.source_image for row in trained),
        frozenset(row.source_image for row in validated),
    )


PROTOCOLS: dict[str, Callable[[Sequence[AnnotatedImage], Profile, int], Material]] = {
    "split_then_augment": split_then_augment,
    "augment_then_split": augment_then_split,
}


def crops_of(images: Sequence[AnnotatedImage], count: int, crop_px: int, seed: int) -> list[AnnotatedImage]:
    """Make augmented crops to evaluate on, as the paper does for validation.

    Returns
    -------
    list of AnnotatedImage
        Each crop keeps the source of its image.
    """
    by_name = {image.name: image for image in images}
    return [
        replace(
            by_name[row.source_image],
            name=f"{row.source_image}/{row.row}",
            image=row.image,
            class_map=row.class_map,
            instances=None,
        )
        for row in augment_images(images, count, crop_px, seed)
    ]


def _parts(images: Sequence[AnnotatedImage], seed: int) -> list[list[AnnotatedImage]]:
    parts = split_sources([image.group for image in images], seed)
    return [
        [image for image, given in zip(images, parts, strict=True) if given == part]
        for part in ("training", "validation", "test")
    ]


def _stacked(rows: Sequence[AugmentedRow]) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([row.image for row in rows]), np.stack([row.class_map for row in rows])
