"""Compares networks of three base widths on the same data, and int8 with floating point."""

import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurements import Measurement, compared
from benchmarks.networks import exported, micrograph, new_folder, precision
from tem_pipeline.annotation.augmentation import augment_images
from tem_pipeline.annotation.datasets import CORE_CLASSES, AnnotatedImage
from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline.segmentation.inference import predict_classes
from tem_pipeline.segmentation.merging import merge_up_convolutions
from tem_pipeline.segmentation.models import NETWORK_STRIDE_PX, SegmentationModel, load_model
from tem_pipeline.settings import Settings
from tem_pipeline.simulation.micrographs import simulate_micrograph
from tem_pipeline.training.fitting import Profile, prepare_keras, train_network
from tem_pipeline.training.metrics import confusion_counts, scores

BASE_WIDTHS = (16, 32, 64)
IMAGE_PX, CROP_PX, CROPS = 512, 128, 512
STEPS, EPOCH_STEPS = 100, 25
TRAINING, VALIDATION, HELD_OUT = range(12), range(12, 18), range(18, 26)


def sizes_of_network() -> list[Measurement]:
    """Base widths 16, 32 and 64, each trained for 100 steps of 8 crops of the same simulated images."""
    measured = []
    for base_width in BASE_WIDTHS:
        folder, parameters = _trained_alike(base_width)
        found = dice(load_model(folder, Settings().threads), annotated_images(HELD_OUT))
        measured += [
            Measurement(f"base {base_width}: Dice on {len(HELD_OUT)} held-out images", found, ""),
            Measurement(f"base {base_width}: parameters", parameters / 1e6, "million"),
        ]
    models = [load_model(_trained_alike(width)[0], Settings().threads) for width in BASE_WIDTHS]
    image = micrograph(2048)
    return measured + [
        compared(
            f"base {base_width}: 2048 × 2048 px",
            lambda model=model: predict_classes(model, image),
            f"base {BASE_WIDTHS[-1]}",
            lambda: predict_classes(models[-1], image),
            5,
        )
        for base_width, model in zip(BASE_WIDTHS[:-1], models, strict=False)
    ]


def int8() -> list[Measurement]:
    """Post-training quantisation to int8 by NNCF, calibrated on training images, two base widths."""
    measured = []
    image, validation = micrograph(2048), annotated_images(VALIDATION)
    for base_width in (BASE_WIDTHS[0], BASE_WIDTHS[-1]):
        folder, _ = _trained_alike(base_width)
        model = load_model(folder, Settings().threads)
        quantised = load_model(_quantised(folder), Settings().threads)
        dice_before = dice(model, validation)
        measured += [
            compared(
                f"base {base_width} in int8, 2048 × 2048 px",
                lambda model=quantised: predict_classes(model, image),
                f"in {precision()}",
                lambda model=model: predict_classes(model, image),
                5,
            ),
            Measurement(
                f"base {base_width}: pixels with another class in int8",
                100 * np.mean(predict_classes(quantised, image)[0] != predict_classes(model, image)[0]),
                "%",
            ),
            Measurement(
                f"base {base_width} in {precision()}: Dice on {len(validation)} validation images",
                dice_before,
                "",
            ),
            Measurement(
                f"base {base_width}: Dice lost on them in int8 (above 0.002 it can't become the default)",
                dice_before - dice(quantised, validation),
                "",
            ),
        ]
    return measured


def annotated_images(numbers: Sequence[int]) -> list[AnnotatedImage]:
    """Simulate one annotated micrograph per number, with pixels of 0.1 nm."""
    images = []
    for number in numbers:
        drawn = simulate_micrograph(np.random.default_rng((3, number)), shape=(IMAGE_PX, IMAGE_PX))
        name = f"image_{number:02}"
        images.append(
            AnnotatedImage(
                name,
                standardise(drawn.image, drawn.mode),
                (drawn.cores > 0).astype(np.uint8),
                CORE_CLASSES,
                group=name,
                pixel_sha256=name,
                mask_sha256=name,
                pixel_size_nm=(drawn.pixel_size_nm, drawn.pixel_size_nm),
            )
        )
    return images


def dice(model: SegmentationModel, images: Sequence[AnnotatedImage]) -> float:
    """Compute the Dice of the cores, pooled over the pixels of all images."""
    core = model.card.classes.index("core")
    counts = [
        confusion_counts(each.class_map == core, predict_classes(model, each.image)[0] == core)
        for each in images
    ]
    return scores(counts)["dice"]


@cache
def _crops() -> tuple[np.ndarray, np.ndarray]:
    rows = list(augment_images(annotated_images(TRAINING), CROPS, CROP_PX))
    return np.stack([row.image for row in rows]), np.stack([row.class_map for row in rows])


@cache
def _trained_alike(base_width: int) -> tuple[Path, int]:
    """Train a network on the crops; give its model folder and the number of its parameters."""
    prepare_keras(Settings().threads)
    network = train_network(
        *_crops(),
        [(image.image, image.class_map) for image in annotated_images(VALIDATION[:2])],
        classes=CORE_CLASSES,
        loss="dice",
        profile=Profile("bench", base_width, CROP_PX, CROPS, STEPS, EPOCH_STEPS, learning_rate=3e-3),
    )
    return exported(network, base_width), network.model.count_params()


def _quantised(folder: Path) -> Path:
    """Make a copy of a model folder with int8 operations, calibrated on the training images."""
    import nncf
    import openvino

    copy = new_folder() / "int8"
    shutil.copytree(folder, copy)
    # Augmented crops are not used: their changed contrast widens the ranges and lowers the Dice.
    calibration = [image.image[np.newaxis, ..., np.newaxis] for image in annotated_images(TRAINING)]
    (source,) = folder.glob("*/model.xml")
    network = openvino.Core().read_model(str(source))
    merge_up_convolutions(network, NETWORK_STRIDE_PX)
    quantised: Any = nncf.quantize(network, nncf.Dataset(calibration), subset_size=len(calibration))
    openvino.save_model(quantised, str(copy / source.relative_to(folder)))
    return copy
