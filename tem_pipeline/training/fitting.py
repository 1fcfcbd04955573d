"""Trains one network with one loss, keeps the weights with the best validation score, and exports the model.

`annotation` provides the images, `tracking` logs the training.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tem_pipeline import __version__
from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.models import ModelCard, write_card
from tem_pipeline.storage import AnyPath
from tem_pipeline.training.losses import make_loss
from tem_pipeline.training.metrics import confusion_counts, scores
from tem_pipeline.training.networks import ds_unet, unet

if TYPE_CHECKING:
    import keras

NETWORKS = {"ds_unet": ds_unet, "unet": unet}


@dataclass(frozen=True)
class Profile:
    """Size and length of a training.

    The network is validated every `epoch_steps` steps; MLflow shows this as an epoch.
    """

    name: str
    base_width: int
    crop_px: int
    augmented_images: int
    steps: int
    epoch_steps: int
    batch: int = 8
    learning_rate: float = 2e-3


PROFILES = {
    "quick": Profile("quick", 16, 128, 512, 140, 28, learning_rate=1e-2),
    "standard": Profile("standard", 32, 256, 2000, 500, 50),
    "paper": Profile("paper", 64, 256, 2304, 5760, 288, learning_rate=1e-3),
}


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained Keras model with its history, one row per epoch."""

    model: "keras.Model"
    history: pd.DataFrame
    best_epoch: int
    seconds: float


@dataclass(frozen=True)
class StartingModel:
    """A model whose weights are the start of a training.

    Attributes
    ----------
    folder : path
    card : ModelCard
    """

    folder: AnyPath
    card: ModelCard

    def changes(self, profile: Profile, network: str, classes: tuple[str, ...]) -> str:
        """Describe in one line what the training takes from this model instead of the plan.

        Parameters
        ----------
        profile : Profile
        network : str
            The network that would be trained without a starting model.
        classes : tuple of str
            Classes of the annotated set.
        """
        card = self.card
        text = f"the training starts from {card.name} version {card.version}"
        if (card.network, card.base_width) != (network, profile.base_width):
            text += (
                f", so its network is that model's, {card.network} of base width {card.base_width}, not the "
                f"plan's, {network} of base width {profile.base_width}"
            )
        if "shell" in card.classes and "shell" not in classes:
            text += (
                "; the set has no shells: background begins as the mean of that model's background and shell"
            )
        if "shell" in classes and "shell" not in card.classes:
            text += "; that model knows no shells: shell begins as its background"
        return text

    def weights_for(self, classes: tuple[str, ...]) -> list[np.ndarray]:
        """Give the weights of a network for `classes`; its last layer has one row per class.

        If only the set has shells, the row of shell starts as that of background. If only the model has
        shells, the row of background starts as the mean of background and shell: with the background's row
        alone many shells would start as core, with the shell's row alone much of the background would.

        Raises
        ------
        UserError
            If the model can't be read or has other classes.
        """
        import keras

        file = self.folder / self.card.weights / "model.keras"
        known = self.card.classes
        taken = {name: [name] for name in classes}
        if "shell" in known and "shell" not in classes:
            taken["background"] = ["background", "shell"]
        if "shell" in classes and "shell" not in known:
            taken["shell"] = ["background"]
        try:
            columns = [[known.index(name) for name in taken[of]] for of in classes]
            network = keras.models.load_model(str(file), compile=False)
            *others, kernel, bias = network.get_weights()  # type: ignore[union-attr]
            expected = NETWORKS[self.card.network](self.card.base_width, len(self.card.classes))
            if [w.shape for w in expected.get_weights()] != [w.shape for w in (*others, kernel, bias)]:
                raise ValueError("its weights aren't those that its card describes")
        except (ValueError, KeyError, OSError) as error:
            raise UserError(
                f"{file}: a training of {', '.join(classes)} can't start from it ({error}); "
                "name another model, or train without --from"
            ) from error
        kernel = np.stack([kernel[..., of].mean(axis=-1) for of in columns], axis=-1)
        return [*others, kernel, np.array([bias[of].mean() for of in columns])]


def prepare_keras(threads: int) -> None:
    """Set up Keras' backend before its first use: quiet, with the given number of threads."""
    if os.environ["KERAS_BACKEND"] == "tensorflow":
        with _quiet_start():
            import tensorflow

        try:
            tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
            tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            # TensorFlow is already running in this process; its number of threads can't be changed.
            pass


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Hide TensorFlow's messages about missing GPUs: TensorFlow has no setting for that."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def train_network(
    images: np.ndarray,
    class_maps: np.ndarray,
    validation: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    classes: tuple[str, ...],
    loss: str,
    profile: Profile,
    network: str = "ds_unet",
    seed: int = 0,
    beta: float | None = None,
    start: StartingModel | None = None,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainedNetwork:
    """Train a network and keep the weights with the best Dice on validation.

    Parameters
    ----------
    images : ndarray, (n, height, width)
        Standardised training crops.
    class_maps : ndarray, (n, height, width), uint8
    validation : sequence of (image, class_map)
        Whole standardised images of at least `crop_px`; they are cut into tiles of `crop_px`.
    classes : tuple of str
        Names of the classes; the last is the core.
    loss : str
        A name of `tables.LOSSES`.
    beta : float, optional
        Weight of the foreground in the weighted cross entropy; by default from the training pixels.
    start : StartingModel, optional
        The starting model. Its network and base width replace `network` and the profile's.
    on_epoch : callable, optional
        Called after each epoch with its number, starting at 1, and its metrics.

    Returns
    -------
    TrainedNetwork

    Raises
    ------
    UserError
        If there is no training image or no validation image.
    """
    import keras

    if not len(images) or not len(validation):
        raise UserError("training needs at least one training image and one validation image: annotate more")
    started = time.monotonic()
    keras.utils.set_random_seed(seed)
    base_width = profile.base_width
    if start is not None:
        network, base_width = start.card.network, start.card.base_width
    model = with_fused_normalisation(NETWORKS[network](base_width, len(classes)))
    if start is not None:
        model.set_weights(start.weights_for(classes))
    pixel_counts = np.bincount(class_maps.ravel(), minlength=len(classes))
    schedule = keras.optimizers.schedules.CosineDecay(profile.learning_rate, profile.steps)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=make_loss(loss, class_pixel_counts=pixel_counts, beta=beta),
        jit_compile=False,
    )
    validated = _Validation(*_validation_tiles(validation, profile.crop_px), classes.index("core"))

    def validate(epoch: int, logs: dict[str, float] | None = None) -> None:
        metrics = validated.record(model, epoch + 1, float((logs or {})["loss"]), profile.batch)
        if on_epoch:
            on_epoch(epoch + 1, metrics)

    model.fit(
        _batches(images, class_maps, profile, seed),
        epochs=-(-profile.steps // profile.epoch_steps),
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=validate)],
        verbose=0,
    )
    # This network is never compiled: its file has no optimiser and no loss, so it loads anywhere.
    finished = NETWORKS[network](base_width, len(classes))
    finished.set_weights(validated.best_weights)
    history = pd.DataFrame(validated.history)
    return TrainedNetwork(finished, history, validated.best_epoch, time.monotonic() - started)


@dataclass(eq=False)
class _Validation:
    """Scores a model on tiles after each epoch and keeps the weights with the best Dice."""

    tiles: np.ndarray
    truth: np.ndarray
    core: int
    history: list[dict[str, float]] = field(default_factory=list)
    best_dice: float = -1.0
    best_weights: list[np.ndarray] = field(default_factory=list)
    best_epoch: int = 0

    def record(self, model: "keras.Model", epoch: int, loss: float, batch: int) -> dict[str, float]:
        import keras

        probability = keras.ops.convert_to_numpy(model.predict(self.tiles, batch_size=batch, verbose=0))
        found = probability.argmax(axis=-1) == self.core
        counts = confusion_counts(self.truth == self.core, found)
        metrics = {"loss": loss, **{f"val_{name}": value for name, value in scores(counts).items()}}
        self.history.append({"epoch": epoch, **metrics})
        # With equal Dice the later weights win, because they have seen more crops.
        if metrics["val_dice"] >= self.best_dice:
            self.best_dice, self.best_epoch = metrics["val_dice"], epoch
            self.best_weights = model.get_weights()  # type: ignore[assignment]
        return metrics


def with_fused_normalisation(model: "keras.Model") -> "keras.Model":
    """Give the same network with TensorFlow's fused batch normalisation, if TensorFlow is the backend.

    Keras uses a dozen operations for it, TensorFlow one forwards and one backwards; a training step takes
    about a fifth less time. The weights are the same, in the same order. The running variance divides by
    n − 1 instead of n, where n is the number of pixels of a batch.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        return model
    import tensorflow as tf

    class FusedBatchNormalization(keras.layers.BatchNormalization):
        def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            if not training:
                return super().call(inputs, training=training, mask=mask)
            normalised, mean, variance = tf.compat.v1.nn.fused_batch_norm(
                inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
            )
            for running, of_batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                running.assign(running * self.momentum + of_batch * (1 - self.momentum))
            return normalised

    def rebuilt(layer: Any) -> Any:
        fused = isinstance(layer, keras.layers.BatchNormalization)
        return (FusedBatchNormalization if fused else type(layer)).from_config(layer.get_config())

    fused = keras.models.clone_model(model, clone_function=rebuilt)
    fused.set_weights(model.get_weights())  # type: ignore[union-attr]
    return fused  # type: ignore[return-value]


def _batches(images: np.ndarray, class_maps: np.ndarray, profile: Profile, seed: int) -> Any:
    """Give shuffled batches. The seed sets the order of each pass over the data."""
    import keras

    per_pass = max(1, len(images) // profile.batch)

    class Batches(keras.utils.PyDataset):
        epoch = 0

        def __len__(self) -> int:
            return profile.epoch_steps

        def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
            turn, place = divmod(self.epoch * profile.epoch_steps + index, per_pass)
            order = np.random.default_rng((seed, turn)).permutation(len(images))
            chosen = order[place * profile.batch : (place + 1) * profile.batch]
            return images[chosen][..., np.newaxis].astype(np.float32), class_maps[chosen]

        def on_epoch_end(self) -> None:
            self.epoch += 1

    return Batches()


def _validation_tiles(
    validation: Sequence[tuple[np.ndarray, np.ndarray]], tile_px: int
) -> tuple[np.ndarray, np.ndarray]:
    images, truths = [], []
    for image, class_map in validation:
        height, width = image.shape
        if min(height, width) < tile_px:
            raise UserError(
                f"a validation image is {height}×{width} px, smaller than the profile's crops "
                f"of {tile_px} px: use larger images or the quick profile"
            )
        for top in range(0, image.shape[0] - tile_px + 1, tile_px):
            for left in range(0, image.shape[1] - tile_px + 1, tile_px):
                images.append(image[top : top + tile_px, left : left + tile_px])
                truths.append(class_map[top : top + tile_px, left : left + tile_px])
    return np.stack(images)[..., np.newaxis].astype(np.float32), np.stack(truths)


def export_model(trained: TrainedNetwork, folder: Path, **card: Any) -> ModelCard:
    """Write a model folder: the Keras form, the OpenVINO form and, last, the card.

    Parameters
    ----------
    trained : TrainedNetwork
    folder : path
        Created if it doesn't exist.
    **card
        Fields of `ModelCard`, without `weights`, `created` and `code_version`.

    Returns
    -------
    ModelCard
    """
    digest = hashlib.sha256(b"".join(w.tobytes() for w in trained.model.get_weights())).hexdigest()
    target = folder / digest[:16]
    target.mkdir(parents=True, exist_ok=True)
    trained.model.save(target / "model.keras")
    trained.model.export(str(target / "model.xml"), format="openvino", verbose=False)
    written = ModelCard(
        weights=target.name,
        weights_sha256=digest,
        code_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **card,
    )
    write_card(folder, written)
    return written
