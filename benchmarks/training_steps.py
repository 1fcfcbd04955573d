"""Training steps: by the platform's path beside Keras' own `fit`, and with their share of augmentation.

`tem-pipeline train` makes the crops once and trains four losses on them, each reading them anew.
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
"""By profile, the steps that are timed together: some seconds each."""

EPOCHS, TURNS = 4, 2
AUGMENTED_CROPS = 128


def training_steps() -> list[Measurement]:
    """A training step of 8 crops, with the network and crops of each profile, base width 16, 32 and 64."""
    prepare_keras(Settings().threads)
    images = annotated_images(range(2))
    _augmented(images, 64)  # what loads at first isn't a crop's cost
    measured = []
    for name, steps in EPOCH_STEPS.items():
        profile = replace(PROFILES[name], steps=EPOCHS * steps, epoch_steps=steps)
        crops, class_maps, making, reading = _augmented(images, profile.crop_px)
        turns = [
            (_by_train_network(crops, class_maps, profile), _by_keras(crops, class_maps, profile))
            for _ in range(TURNS)
        ]
        ours, keras = (np.concatenate(each) for each in zip(*turns, strict=True))
        # A training's crops are made once, before it, and seen again until its steps are done.
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
    """Make crops by way of shards, as the platform does; give them, and what making and reading one takes."""
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
    """Train as the platform does; give the times of a step, a row for each epoch but the first."""
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
    """Train as Keras' guide says; give the same."""
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
