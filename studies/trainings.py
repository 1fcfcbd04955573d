"""The trainings of the study and their rows of results.

Uses the platform's functions for training, without Dagster and MLflow.
"""

import ast
import base64
import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from studies.protocols import PROTOCOLS, crops_of
from tem_pipeline.annotation.datasets import CORE_CLASSES, AnnotatedSet, read_annotated_set
from tem_pipeline.annotation.pixels import encode_class_map
from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.inference import predict_classes
from tem_pipeline.segmentation.models import load_model
from tem_pipeline.simulation.sessions import simulate_annotated_set
from tem_pipeline.simulation.specimens import Population
from tem_pipeline.training.baseline import otsu_watershed
from tem_pipeline.training.evaluation import compare_cores, evaluate_model, summarise_evaluation
from tem_pipeline.training.fitting import (
    NETWORKS,
    Profile,
    TrainedNetwork,
    export_model,
    prepare_keras,
    train_network,
)
from tem_pipeline.training.networks import ds_unet, unet

SIMULATED, REAL = "simulated_core_shell", "bright_field_particles"
CLASSICAL = "otsu_watershed"

# Table 1 of the paper implies its share of foreground. With accuracy A and Dice D, FP + FN = 1 − A and
# TP = D (1 − A) / (2 (1 − D)) as shares of all pixels. If FP = FN, the share of foreground, TP + FN, is
# TP + (1 − A) / 2: 8.4 to 9.1 % for the four losses. The simulated cores cover 8.8 %.
SIMULATED_POPULATION = Population(shell_nm=1.4, shell_sd_nm=0.25, coverage=(0.35, 0.55))
SIMULATED_IMAGES = 24
SIMULATED_PX = 256
SIMULATED_SEED = 2021

HELD_OUT_CROPS = 128

# A row is computed again if the code of one of these modules changes, apart from comments and docstrings.
CODE = (
    "tem_pipeline.annotation.augmentation",
    "tem_pipeline.annotation.splitting",
    "tem_pipeline.micrographs.intensity",
    "tem_pipeline.training.baseline",
    "tem_pipeline.training.evaluation",
    "tem_pipeline.segmentation.inference",
    "tem_pipeline.segmentation.instances",
    "tem_pipeline.segmentation.models",
    "tem_pipeline.segmentation.tiling",
    "tem_pipeline.training.losses",
    "tem_pipeline.training.metrics",
    "tem_pipeline.training.networks",
    "tem_pipeline.segmentation.touching",
    "tem_pipeline.training.fitting",
    "studies.protocols",
    "studies.trainings",
)
PACKAGES = ("keras", "numpy", "openvino", "scipy", "tensorflow")


@dataclass(frozen=True)
class Training:
    """Everything that decides the numbers of one training, apart from its data and the code.

    `seed` is used for the split, the augmentation, the initial weights and the order of the crops.
    """

    data: str
    loss: str
    profile: Profile
    seed: int = 0
    network: str = "ds_unet"
    protocol: str = "split_then_augment"

    def key(self, data_sha256: str) -> str:
        """Give the name of this training's row. It changes if anything that decides the numbers changes."""
        return row_key({**asdict(self), "data_sha256": data_sha256, "code": code_sha256()})


def row_key(decided_by: dict[str, Any]) -> str:
    """Give the name of a row from everything that decides its numbers."""
    return hashlib.sha256(json.dumps(decided_by, sort_keys=True).encode()).hexdigest()[:24]


@cache
def code_sha256(*others: str) -> str:
    """Hash the code of `CODE` and of other modules, and the versions of `PACKAGES`."""
    digest = hashlib.sha256(repr([(name, version(name)) for name in PACKAGES]).encode())
    for name in (*CODE, *others):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        digest.update(_code_alone(Path(spec.origin).read_text(encoding="utf-8")).encode())
    return digest.hexdigest()


def _code_alone(source: str) -> str:
    """Give a program without comments, layout, docstrings and other string statements."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]  # type: ignore[attr-defined]
    return ast.dump(tree)


def _is_text(line: ast.stmt) -> bool:
    return (
        isinstance(line, ast.Expr)
        and isinstance(line.value, ast.Constant)
        and isinstance(line.value.value, str)
    )


# Data ---------------------------------------------------------------


def read_data(name: str) -> AnnotatedSet:
    """Read or simulate one of the study's two sets, with two classes as in the paper: background and core.

    Raises
    ------
    UserError
        If the real set is missing.
    """
    if name == SIMULATED:
        with TemporaryDirectory() as folder:
            simulated = simulate_annotated_set(
                Path(folder) / SIMULATED,
                images=SIMULATED_IMAGES,
                size=SIMULATED_PX,
                seed=SIMULATED_SEED,
                population=SIMULATED_POPULATION,
            )
            return cores_only(read_annotated_set(simulated))
    return cores_only(read_annotated_set(reference_folder() / REAL))


def reference_folder() -> Path:
    """Give the folder of the real data.

    Raises
    ------
    UserError
        If TEM_REFERENCE_DATA is not set.
    """
    folder = os.environ.get("TEM_REFERENCE_DATA")
    if not folder:
        raise UserError(
            f"TEM_REFERENCE_DATA is not set: it names the folder that holds {REAL}/, "
            "20 crops of msa-em/microscopy-seg-track"
        )
    return Path(folder)


def cores_only(annotated: AnnotatedSet) -> AnnotatedSet:
    """Make shells background, because the paper separates cores from everything else."""
    core = len(annotated.classes) - 1
    images = tuple(
        replace(image, class_map=(image.class_map == core).astype(np.uint8), classes=CORE_CLASSES)
        for image in annotated.images
    )
    return replace(annotated, images=images, classes=CORE_CLASSES)


def core_share(annotated: AnnotatedSet) -> float:
    """Give the share of a set's pixels that are core."""
    return float(np.mean([image.class_map.mean() for image in annotated.images]))


# Rows ---------------------------------------------------------------


def train_and_evaluate(training: Training, data: AnnotatedSet, threads: int) -> dict[str, Any]:
    """Train and evaluate on the test images.

    Parameters
    ----------
    training : Training
        Loss, network, protocol, profile and seed.
    data : AnnotatedSet
    threads : int
        Number of threads that Keras may use.

    Returns
    -------
    dict
        Ready for JSON: the training's fields; parameters, best_epoch, training_seconds; reported: the best
        validation scores, as the paper reports them; test and held_out_crops: `summarise_evaluation` on whole
        test images and on augmented crops of them; first_test_mask: predicted mask of the first test image,
        PNG in base64; seconds: time for the whole row.
    """
    started = time.monotonic()
    material = PROTOCOLS[training.protocol](data.images, training.profile, training.seed)
    tests = sorted(material.test, key=lambda image: image.name)
    row: dict[str, Any] = {
        **asdict(training),
        "data_sha256": data.sha256,
        "core_share": core_share(data),
        "test_images": [image.name for image in tests],
        "test_sources": len({image.group for image in tests}),
        "images_on_both_sides": len(material.training_images & material.validation_images),
        "training_images": len(material.training_images),
    }
    if training.network == CLASSICAL:
        found = [otsu_watershed(image.image) > 0 for image in tests]
        evaluated = pd.DataFrame([compare_cores(i, m) for i, m in zip(tests, found, strict=True)])
        row["test"] = summarise_evaluation(evaluated.assign(group=[image.group for image in tests]))
        return {**row, "first_test_mask": _mask_text(found[0]), "seconds": time.monotonic() - started}
    prepare_keras(threads)
    import keras

    trained = train_network(
        material.crops,
        material.class_maps,
        material.validation,
        classes=data.classes,
        loss=training.loss,
        profile=training.profile,
        network=training.network,
        seed=training.seed,
    )
    best = trained.history.iloc[trained.best_epoch - 1]
    crops = crops_of(tests, HELD_OUT_CROPS, training.profile.crop_px, training.seed)
    with TemporaryDirectory() as folder:
        model = _exported(trained, Path(folder), training.loss, training.network, training.profile, threads)
        row |= {
            "parameters": trained.model.count_params(),
            "best_epoch": trained.best_epoch,
            "training_seconds": trained.seconds,
            "reported": {name: float(best[f"val_{name}"]) for name in ("accuracy", "mean_iou", "dice")},
            "test": summarise_evaluation(evaluate_model(model, tests)),
            "held_out_crops": summarise_evaluation(evaluate_model(model, crops)),
            "first_test_mask": _mask_text(predict_classes(model, tests[0].image)[0] > 0),
        }
    # Otherwise the graphs of all trainings stay in memory.
    keras.backend.clear_session()
    return {**row, "seconds": time.monotonic() - started}


def _exported(
    trained: TrainedNetwork, folder: Path, loss: str, network: str, profile: Profile, threads: int
) -> Any:
    export_model(
        trained,
        folder,
        name="study",
        version="1",
        loss=loss,
        network=network,
        base_width=profile.base_width,
        classes=CORE_CLASSES,
    )
    # In single precision, so that rows do not depend on the processor.
    return load_model(folder, threads, "f32")


def _mask_text(mask: np.ndarray) -> str:
    return base64.b64encode(encode_class_map(mask.astype(np.uint8))).decode()


def time_networks(profile: Profile, rounds: int, threads: int) -> dict[str, Any]:
    """Time a training step and the inference of one image for both networks, in turns.

    Returns
    -------
    dict
        networks, with parameters, parameters_as_published (at base width 64), step_seconds and image_seconds
        for each network: one value per round, for one step of the profile and for one image of 512 × 512 px
        with OpenVINO in single precision.
    """
    started = time.monotonic()
    prepare_keras(threads)
    import keras

    rng = np.random.default_rng(0)
    crops = rng.normal(size=(profile.batch * 4, profile.crop_px, profile.crop_px)).astype(np.float32)
    class_maps = (crops > 1).astype(np.uint8)
    image = rng.normal(size=(512, 512)).astype(np.float32)
    short = replace(profile, steps=3 * min(10, profile.epoch_steps), epoch_steps=min(10, profile.epoch_steps))
    timed: dict[str, Any] = {name: {"step_seconds": [], "image_seconds": []} for name in NETWORKS}
    for _ in range(rounds):
        for name in NETWORKS:
            ends: list[float] = []
            trained = train_network(
                crops,
                class_maps,
                [(crops[0], class_maps[0])],
                classes=CORE_CLASSES,
                loss="dice",
                profile=short,
                network=name,
                on_epoch=lambda epoch, metrics, ends=ends: ends.append(time.monotonic()),
            )
            timed[name]["step_seconds"].append(float(np.min(np.diff(ends))) / short.epoch_steps)
            with TemporaryDirectory() as folder:
                model = _exported(trained, Path(folder), "dice", name, profile, threads)
                timed[name]["image_seconds"].append(_fastest(lambda model=model: model.predict_tile(image)))
            timed[name]["parameters"] = trained.model.count_params()
            keras.backend.clear_session()
    for name, build in (("ds_unet", ds_unet), ("unet", unet)):
        timed[name]["parameters_as_published"] = build(64).count_params()
    keras.backend.clear_session()
    return {"networks": timed, "profile": asdict(profile), "seconds": time.monotonic() - started}


def _fastest(work: Callable[[], Any]) -> float:
    """Give the shortest of several times, because other programs can only make them longer."""
    taken = []
    for _ in range(6):
        started = time.monotonic()
        work()
        taken.append(time.monotonic() - started)
    return min(taken)


# Jobs ---------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """Work that makes one row: its key, a readable name, its cost in any unit, and its function."""

    key: str
    name: str
    cost: float
    run: Callable[[], dict[str, Any]]


def training_job(training: Training, data: AnnotatedSet, threads: int) -> Job:
    """Make the job of a training."""
    profile = training.profile
    relative = {CLASSICAL: 0.02, "unet": 3.0}.get(training.network, 1.0)
    name = f"{training.data}, {training.network}, {training.loss}, {profile.name}, seed {training.seed}"
    if training.protocol != "split_then_augment":
        name += f", {training.protocol}"
    return Job(
        training.key(data.sha256),
        name,
        # Steps at base width 64, 32 and 16 take times of about 6 : 2 : 1.
        relative * profile.steps * profile.batch * profile.crop_px**2 * profile.base_width**1.3,
        lambda: train_and_evaluate(training, data, threads),
    )


def timing_job(profile: Profile, rounds: int, threads: int) -> Job:
    """Make the job that times both networks."""
    steps = rounds * 30 * 4
    return Job(
        row_key({"timing": asdict(profile), "rounds": rounds, "threads": threads, "code": code_sha256()}),
        f"timing of both networks, {profile.name}",
        steps * profile.batch * profile.crop_px**2 * profile.base_width**1.3,
        lambda: time_networks(profile, rounds, threads),
    )
