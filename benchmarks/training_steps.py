"""Times training steps, compared with Keras' own `fit`, and with their share of the augmentation.

`tem-pipeline train` makes the crops once. Each of the four trainings reads them again.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurements import Measurement, Timing, now, paired
from benchmarks.sizes import annotated_images
from tem_pipeline.annotation.augmentation import augment_images, read_shards, write_shards
from tem_pipeline.annotation.datasets import CORE_CLASSES, AnnotatedImage
from tem_pipeline.settings import Settings
from tem_pipeline.tables import LOSSES
from tem_pipeline.training.fitting import PROFILES, Profile, prepare_keras, train_network
from tem_pipeline.training.losses import make_loss
from tem_pipeline.training.networks import ds_unet

EPOCH_STEPS = {"quick": 20, "standard": 4, "paper": 2}
"""Number of steps that are timed together, per profile; they take a few seconds."""

EPOCHS, TURNS = 4, 2
AUGMENTED_CROPS = 128


def training_steps() -> list[Measurement]:
    """A training step of 8 crops, with the network and crops of each profile, base width 16, 32 and 64."""
    prepare_keras(Settings().threads)
    images = annotated_images(range(2))
    _augmented(images, 64)  # loads libraries, so that this time isn't counted for the crops
    measured = []
    for name, steps in EPOCH_STEPS.items():
        profile = replace(PROFILES[name], steps=EPOCHS * steps, epoch_steps=steps)
        crops, class_maps, making, reading = _augmented(images, profile.crop_px)
        turns = [
            (_by_train_network(crops, class_maps, profile), _by_keras(crops, class_maps, profile))
            for _ in range(TURNS)
        ]
        ours, keras = (np.concatenate(each) for each in zip(*turns, strict=True))
        # The crops are made once before the training, and used again until all steps are done.
        share = PROFILES[name].augmented_images / PROFILES[name].steps
        what = f"{name}: base {profile.base_width}, {profile.crop_px} × {profile.crop_px} px"
        measured += [
            paired(
                f"{what}, by `train_network`; it validates with one crop every {steps} steps",
                ours,
                "Keras `fit` with the same network and loss, without XLA",
                keras,
                at_most=1.05,
            ),
            paired(
                f"{what}, one of four losses on the same crops, with its share of crops: "
                f"{share / len(LOSSES):.3g} augmented and stored, {share:.3g} read",
                ours + share * (making / len(LOSSES) + reading),
                "the same with all crops in memory",
                ours,
                at_most=1.05,
            ),
            paired(
                f"{what}, one loss alone: {share:.3g} crops augmented, stored and read",
                ours + share * (making + reading),
                "the same with all crops in memory",
                ours,
            ),
        ]
    return measured


def _augmented(
    images: Sequence[AnnotatedImage], crop_px: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Make crops and read them from shards, as the platform does; also give both times per crop."""
    threads = Settings().threads
    with tempfile.TemporaryDirectory() as name:
        started = now()
        rows = augment_images(images, AUGMENTED_CROPS, crop_px, threads=threads)
        shards = write_shards(rows, Path(name), threads=threads)
        made = now()
        crops, class_maps = read_shards(shards, threads)
        times = np.diff([started, made, now()], axis=0) / AUGMENTED_CROPS
        return crops, class_maps, times[0], times[1]


def _by_train_network(crops: np.ndarray, class_maps: np.ndarray, profile: Profile) -> np.ndarray:
    """Train as the platform does; give the times per step, one row per epoch except the first."""
    ends: list[Timing] = []
    train_network(
        crops,
        class_maps,
        [(crops[0], class_maps[0])],
        classes=CORE_CLASSES,
        loss="dice",
        profile=profile,
        on_epoch=lambda epoch, metrics: ends.append(now()),
    )
    return np.diff(ends, axis=0) / profile.epoch_steps


def _by_keras(crops: np.ndarray, class_maps: np.ndarray, profile: Profile) -> np.ndarray:
    """Train as in Keras' guide; give the same times as `_by_train_network`."""
    import keras

    ends: list[Timing] = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            ends.append(now())

    model = ds_unet(profile.base_width, len(CORE_CLASSES), seed=0)
    model.compile(
        optimizer=keras.optimizers.Adam(profile.learning_rate),
        loss=make_loss("dice"),
        jit_compile=False,
    )
    seen = np.arange(profile.epoch_steps * profile.batch) % len(crops)
    model.fit(
        crops[seen][..., np.newaxis],
        class_maps[seen],
        batch_size=profile.batch,
        epochs=EPOCHS,
        callbacks=[Clock()],
        verbose=0,
    )
    return np.diff(ends, axis=0) / profile.epoch_steps
