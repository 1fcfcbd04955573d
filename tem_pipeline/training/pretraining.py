"""Trains the general model that the project ships: `make pretrained`.

Training sees only simulated micrographs (`simulation.varied_micrographs`). `Recipe` and the simulator's code
decide images and batches. Training uses bfloat16 if the processor has it. An interrupted run resumes from its
last checkpoint, written every hundred steps.
"""

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tem_pipeline import progress
from tem_pipeline.annotation.datasets import SHELL_CLASSES, AnnotatedImage
from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline.segmentation.inference import resampled
from tem_pipeline.segmentation.models import ModelCard, computes_bf16, load_model, write_card
from tem_pipeline.settings import load_settings
from tem_pipeline.simulation.varied_micrographs import AMBIGUOUS, HIDDEN, simulate_varied_micrograph
from tem_pipeline.training.evaluation import (
    choose_threshold,
    diameter_uncertainty,
    evaluate_model,
    summarise_evaluation,
)
from tem_pipeline.training.fitting import (
    TrainedNetwork,
    export_model,
    prepare_keras,
    with_fused_normalisation,
)
from tem_pipeline.training.losses import dice_loss
from tem_pipeline.training.metrics import SCORES
from tem_pipeline.training.networks import ds_unet

NAME = "pretrained"
LOSS = "cross_entropy+dice"
# Both were chosen by the Dice on simulated micrographs in ten ranges of mean diameter, 6 to 250 px. With
# twice these scales the ranges 6 to 9, 9 to 13 and 13 to 18 px gain 0.13, 0.04 and 0.01. With half of them
# the ranges from 60 px upwards gain 0.01 to 0.38. Typical diameters are weighted by area and count touching
# particles as one, so they are up to a third larger than these means.
SCALES = (1.0, 0.5)
DIAMETERS_PX = (18.0, 70.0)
# Streams of random numbers; closing batches have the one after `BATCHES`.
TRAINING, VALIDATION, BATCHES, UNEVEN = 0, 1, 2, 10


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the pretrained model.

    Crops of `crop_px` are cut from simulated micrographs of `image_px`.

    1. The network is trained for `steps` on the first `images`. Particles that nobody can see are background,
       so it learns what grain and noise look like.
    2. From there two trainings continue. Both leave invisible particles out of the loss, so that the network
       can learn faint ones. One runs for `closing_steps` on the same images. The other runs for
       `uneven_steps`; half of its crops come from `uneven_images`, in which faint particles are next to
       strong ones. Its crops are resampled by one of `uneven_sizes`, as in inference, which changes the
       grain of the noise.
    3. The weights are the mean of both trainings (Wortsman et al. 2022, model soups).

    The core threshold and the scores on the card come from `validation_images` other micrographs, every
    second one uneven.
    """

    version: str = "5"
    base_width: int = 32
    images: int = 4000
    uneven_images: int = 2400
    image_px: int = 384
    validation_images: int = 120
    crop_px: int = 192
    batch: int = 8
    steps: int = 6500
    epoch_steps: int = 100
    learning_rate: float = 2e-3
    closing_steps: int = 1500
    closing_rate: float = 5e-4
    uneven_steps: int = 5000
    uneven_rate: float = 1e-3
    uneven_sizes: tuple[float, ...] = (1.0, 1.0, 1.0, 2.0, 2.0, 0.5)
    seed: int = 2026


@dataclass(frozen=True)
class _Stage:
    """A training of `steps` steps; invisible particles get the class `hidden`."""

    steps: int
    rate: float
    hidden: int
    uneven: bool


def _stages(recipe: Recipe) -> list[_Stage]:
    return [
        _Stage(recipe.steps, recipe.learning_rate, 0, uneven=False),
        _Stage(recipe.closing_steps, recipe.closing_rate, AMBIGUOUS, uneven=False),
        _Stage(recipe.uneven_steps, recipe.uneven_rate, AMBIGUOUS, uneven=True),
    ]


def pretrain(out: Path, work: Path, recipe: Recipe, threads: int = 0) -> None:
    """Simulate, train, and write the model folder.

    Parameters
    ----------
    out : path
        The model folder to write.
    work : path
        Holds images and checkpoints, one folder per recipe. It may be deleted afterwards.
    recipe : Recipe
    threads : int
        Processor threads; 0 lets TensorFlow choose.
    """
    data_sha256 = dataset_sha256(recipe)
    folder = work / data_sha256[:24]
    folder.mkdir(parents=True, exist_ok=True)
    sets = [_simulated(folder, recipe, uneven, threads) for uneven in (False, True)]
    prepare_keras(threads)
    import keras

    keras.utils.set_random_seed(recipe.seed)
    trained: list[list[np.ndarray]] = []
    stages = _stages(recipe)
    all_steps = sum(stage.steps for stage in stages)
    with progress.bar("pretraining") as advance:
        for number, stage in enumerate(stages):

            def tell(share: float, remark: str, number: int = number) -> None:
                before = sum(stage.steps for stage in stages[:number])
                advance((before + share * stages[number].steps) / all_steps, remark)

            # Each stage has a new model: a resumed one would count the steps of the stage before.
            model = _network(recipe)
            if trained:
                model.set_weights(trained[0])
            batches = _batches(sets, recipe, stage, closing=number > 0)
            _fit(model, batches, stage, folder / f"stage_{number + 1}", tell)
            trained.append(model.get_weights())
    finished = ds_unet(recipe.base_width, len(SHELL_CLASSES))
    mean = [np.mean(weights, axis=0) for weights in zip(*trained[1:], strict=True)]
    # Weights are rounded to 16 bits, as exported, so that the copy in the repository is half as large.
    finished.set_weights([weight.astype(np.float16).astype(np.float32) for weight in mean])
    card = export_model(
        TrainedNetwork(finished, pd.DataFrame(), 0, 0.0),
        out,
        name=NAME,
        version=recipe.version,
        loss=LOSS,
        network="ds_unet",
        base_width=recipe.base_width,
        classes=SHELL_CLASSES,
        profile="pretraining",
        seed=recipe.seed,
        dataset_hash=data_sha256,
        scales=SCALES,
        diameters_px=DIAMETERS_PX,
    )
    _halve(out / card.weights / "model.xml")
    write_card(out, judged(out, recipe, threads))


def _network(recipe: Recipe) -> Any:
    import keras

    if computes_bf16():
        # A step takes 0.7 times as long; weights, normalisation and loss stay in 32 bits.
        keras.config.set_dtype_policy("mixed_bfloat16")
    model = with_fused_normalisation(ds_unet(recipe.base_width, len(SHELL_CLASSES)))
    keras.config.set_dtype_policy("float32")
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # Batches of many kinds of specimen differ more than those of one set: average over more.
            layer.momentum = 0.99
    return model


def _fit(model: Any, batches: Any, stage: _Stage, folder: Path, tell: Callable[[float, str], None]) -> None:
    """Train for a stage's steps; resume from the checkpoint in the folder, if there is one."""
    import keras

    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, stage.steps, warmup_target=stage.rate, warmup_steps=min(200, stage.steps // 10)
    )
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=1.0)
    model.compile(optimizer=optimizer, loss=_loss, jit_compile=False)
    epochs = -(-stage.steps // len(batches))

    def begin(epoch: int, logs: dict[str, float] | None = None) -> None:
        batches.epoch = epoch

    def end(epoch: int, logs: dict[str, float] | None = None) -> None:
        tell((epoch + 1) / epochs, f"loss {(logs or {})['loss']:.4f}")
        with (folder / "history.csv").open("a", encoding="utf-8") as file:
            file.write(f"{epoch + 1},{(logs or {})['loss']:.5f}\n")

    folder.mkdir(exist_ok=True)
    model.fit(
        batches,
        epochs=epochs,
        callbacks=[
            keras.callbacks.BackupAndRestore(str(folder / "state"), delete_checkpoint=False),
            keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end),
        ],
        verbose=0,
    )


def _loss(y_true: Any, y_pred: Any) -> Any:
    """Cross entropy plus Dice loss of the pixels that are not ambiguous."""
    from keras import ops

    counted = ops.not_equal(y_true, AMBIGUOUS)
    labels = ops.where(counted, y_true, 0)
    per_pixel = ops.sparse_categorical_crossentropy(ops.cast(labels, "int32"), y_pred)
    entropy = ops.mean(per_pixel * ops.cast(counted, per_pixel.dtype))
    return entropy + dice_loss(labels, y_pred * ops.cast(counted, y_pred.dtype)[..., None])


def dataset_sha256(recipe: Recipe) -> str:
    """Hash the recipe and some images of both kinds, so that a change of the simulator changes the hash."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode())
    for stream, images in ((TRAINING, recipe.images), (UNEVEN, recipe.uneven_images)):
        for index in range(min(32, images)):
            for drawn in _draw(recipe, stream, index):
                digest.update(drawn.tobytes())
    return digest.hexdigest()


def judged(folder: Path, recipe: Recipe, threads: int = 0) -> ModelCard:
    """Give a trained model's card with the core threshold and the scores on the validation images."""
    model = load_model(folder, threads)
    validation = validation_images(recipe)
    card = replace(model.card, core_threshold=None)
    threshold = choose_threshold(replace(model, card=card), validation, least_gain=0)
    card = replace(card, core_threshold=threshold)
    evaluated = evaluate_model(replace(model, card=card), validation)
    summary = summarise_evaluation(evaluated)
    validation_scores = {name: float(summary[name]) for name in SCORES}
    return replace(card, validation_scores=validation_scores, diameter_error=diameter_uncertainty(evaluated))


def _halve(model_file: Path) -> None:
    """Store an exported model's weights in 16 bits, so that the file in the repository is half as large."""
    import openvino

    # Read into memory first: a mapped file can't be overwritten.
    core = openvino.Core()
    weights = openvino.Tensor(np.fromfile(model_file.with_suffix(".bin"), np.uint8))
    model = core.read_model(model_file.read_bytes(), weights)
    openvino.save_model(model, str(model_file), compress_to_fp16=True)


def _draw(recipe: Recipe, stream: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((recipe.seed, stream, index))
    uneven = stream == UNEVEN or (stream == VALIDATION and index % 2 == 1)
    drawn = simulate_varied_micrograph(rng, recipe.image_px, uneven=uneven)
    return standardise(drawn.image, drawn.mode).astype(np.float16), drawn.class_map


def _draw_part(recipe: Recipe, stream: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    images, class_maps = zip(*(_draw(recipe, stream, index) for index in range(first, last)), strict=True)
    return np.stack(images), np.stack(class_maps)


def _simulated(folder: Path, recipe: Recipe, uneven: bool, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Give micrographs of one kind, (images, image_px, image_px). Drawn once, then kept in the folder."""
    stream, images = (UNEVEN, recipe.uneven_images) if uneven else (TRAINING, recipe.images)
    kept = [folder / f"{'uneven_' * uneven}{name}.npy" for name in ("images", "class_maps")]
    if not all(file.exists() for file in kept):
        starts = range(0, images, 100)
        parts = []
        ends = [min(start + 100, images) for start in starts]
        # Spawn, because a loaded Keras has threads and forking would copy their locks.
        fresh = multiprocessing.get_context("spawn")
        with (
            ProcessPoolExecutor(threads or None, mp_context=fresh) as pool,
            progress.bar("simulating") as advance,
        ):
            for part in pool.map(partial(_draw_part, recipe, stream), starts, ends):
                parts.append(part)
                advance(len(parts) / len(starts), "")
        for file, arrays in zip(kept, zip(*parts, strict=True), strict=True):
            unfinished = file.with_suffix(".part.npy")
            np.save(unfinished, np.concatenate(arrays))
            unfinished.replace(file)
    drawn_images, drawn_maps = (np.load(file) for file in kept)
    return drawn_images, drawn_maps


def validation_images(recipe: Recipe) -> list[AnnotatedImage]:
    """Draw the micrographs for the card's scores; none is a training image."""
    images = []
    for index in range(recipe.validation_images):
        image, class_map = _draw(recipe, VALIDATION, index)
        class_map[class_map >= HIDDEN] = 0
        digest = hashlib.sha256(image.tobytes()).hexdigest()
        name = f"varied_{index:03d}"
        images.append(
            AnnotatedImage(name, image.astype(np.float32), class_map, SHELL_CLASSES, name, digest, digest)
        )
    return images


def _batches(sets: list[tuple[np.ndarray, np.ndarray]], recipe: Recipe, stage: _Stage, closing: bool) -> Any:
    """Give batches of crops. Each depends on the seed, its number and `closing` only.

    An uneven stage takes equally many crops of both sets, at several sizes. Other stages take crops of the
    first set at their own size.
    """
    import keras

    sets = sets if stage.uneven else sets[:1]
    sizes = recipe.uneven_sizes if stage.uneven else (1.0,)

    class Batches(keras.utils.PyDataset):
        epoch = 0  # set by the callback: a resumed training must not start with the first batches

        def __len__(self) -> int:
            return recipe.epoch_steps

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            rng = np.random.default_rng((recipe.seed, BATCHES + closing, self.epoch, index))
            crops = [
                crop(rng, *sets[number % len(sets)], recipe.crop_px, sizes) for number in range(recipe.batch)
            ]
            x, y = (np.stack(each) for each in zip(*crops, strict=True))
            y[y == HIDDEN] = stage.hidden
            return x[..., np.newaxis], y

    return Batches()


def crop(
    rng: np.random.Generator,
    images: np.ndarray,
    class_maps: np.ndarray,
    crop_px: int,
    sizes: tuple[float, ...] = (1.0,),
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a crop from one of the images, turn and mirror it, and change its intensities.

    The crop is resampled by one of `sizes`, drawn at random. A large micrograph is standardised by its own
    median and spread, which can differ much from those of the crop. Therefore contrast is multiplied by 0.37
    to 1.5, and brightness is shifted by up to one spread.
    """
    size = sizes[int(rng.integers(len(sizes)))]
    cut_px = round(crop_px / size)
    chosen = int(rng.integers(len(images)))
    top, left = rng.integers(0, images.shape[1] - cut_px + 1, 2)
    window = slice(top, top + cut_px), slice(left, left + cut_px)
    image, class_map = images[chosen][window].astype(np.float32), class_maps[chosen][window]
    if size != 1:
        image = resampled(image, (crop_px, crop_px))
        nearest = ((np.arange(crop_px) + 0.5) / size).astype(int)
        class_map = class_map[np.ix_(nearest, nearest)]
    turns, mirrored = int(rng.integers(4)), rng.random() < 0.5
    image, class_map = np.rot90(image, turns), np.rot90(class_map, turns)
    if mirrored:
        image, class_map = image[:, ::-1], class_map[:, ::-1]
    image = image * np.float32(np.exp(rng.uniform(-1.0, 0.4))) + np.float32(rng.uniform(-1, 1))
    if size == 1 and rng.random() < 0.2:
        image = image + np.float32(rng.uniform(0.02, 0.3)) * rng.standard_normal(image.shape, np.float32)
    return np.clip(image, -8, 8), np.ascontiguousarray(class_map)


def main(arguments: list[str]) -> int:
    """`python -m tem_pipeline.training.pretraining OUT WORK`."""
    if len(arguments) != 2:
        print("usage: python -m tem_pipeline.training.pretraining OUT WORK", file=sys.stderr)
        return 2
    progress.open_terminal()
    pretrain(Path(arguments[0]), Path(arguments[1]), Recipe(), load_settings().threads)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
