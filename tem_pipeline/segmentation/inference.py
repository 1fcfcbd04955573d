"""Segments micrographs of any size with an exported model through OpenVINO; needs neither Keras nor MLflow.

A model folder holds `model.json`, the card, which is replaced last and is the only way in: it names the
subfolder of the weights.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import numpy as np

from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.intensity import detect_mode, standardise
from tem_pipeline.segmentation.instances import label_instances
from tem_pipeline.segmentation.touching import split_touching
from tem_pipeline.storage import AnyPath, write_bytes

CARD_FILE = "model.json"
NETWORK_STRIDE_PX = 16


@dataclass(frozen=True)
class ModelCard:
    """What is known of an exported model; written beside its weights."""

    name: str
    version: str
    loss: str
    network: str
    base_width: int
    classes: tuple[str, ...]
    weights: str
    weights_sha256: str = ""
    run_id: str = ""
    profile: str = ""
    seed: int = 0
    dataset_hash: str = ""
    code_version: str = ""
    created: str = ""
    training_images: tuple[str, ...] = ()
    validation_images: tuple[str, ...] = ()
    validation_scores: dict[str, float] = field(default_factory=dict)
    diameter_error: float | None = None

    @property
    def has_shells(self) -> bool:
        """Whether the model tells shells from background."""
        return "shell" in self.classes


@dataclass(frozen=True)
class SegmentationModel:
    """A loaded model: its card, and a function from a standardised (height, width) tile to probabilities."""

    card: ModelCard
    predict_tile: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Segmentation:
    """The masks of one micrograph.

    labels : (height, width) uint16 or uint32, 0 background, one number a core
    shell_labels : likewise for whole particles, or None where the model knows no shells
    core_probability : (height, width) uint8, 0 … 255
    mode : the mode in which the image was read
    split_labels : (k,) int64, numbers of the cores that came out of a cluster of touching ones
    """

    labels: np.ndarray
    shell_labels: np.ndarray | None
    core_probability: np.ndarray
    mode: str
    split_labels: np.ndarray


def write_card(folder: AnyPath, card: ModelCard) -> None:
    """Write a model folder's card in one step; from then on the folder is that model."""
    write_bytes(folder / CARD_FILE, json.dumps(asdict(card), indent=1).encode())


def holds_model(folder: AnyPath) -> bool:
    """Tell whether a folder holds a model's card, be it a good one or not."""
    return (folder / CARD_FILE).exists()


def read_card(folder: AnyPath) -> ModelCard:
    """Read a model folder's card.

    Raises
    ------
    UserError
        When the folder holds no model, or a card that can't be understood.
    """
    path = folder / CARD_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: holds no model ({CARD_FILE} is missing); train one first") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is not a model card ({error}); export the model again") from error
    known = {f.name for f in fields(ModelCard)}
    try:
        card = ModelCard(**{key: value for key, value in content.items() if key in known})
        if "core" not in card.classes or ".." in card.weights or Path(card.weights).is_absolute():
            raise ValueError("classes or weights are off")
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not a model card ({error}); export the model again") from error
    tuples = ("classes", "training_images", "validation_images")
    return ModelCard(**{**asdict(card), **{name: tuple(getattr(card, name)) for name in tuples}})


def load_model(folder: AnyPath, threads: int = 0, precision: str = "auto") -> SegmentationModel:
    """Load an exported model.

    Parameters
    ----------
    folder : path
        A model folder.
    threads : int
        Processor threads; 0 leaves it to OpenVINO.
    precision : {"auto", "f32", "bf16"}
        `auto` takes bf16 where the processor computes in it.

    Raises
    ------
    UserError
        When the folder holds no readable model.
    """
    import openvino

    card = read_card(folder)
    xml = folder / card.weights / "model.xml"
    core = openvino.Core()
    if precision == "auto":
        precision = "bf16" if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    try:
        compiled = core.compile_model(core.read_model(str(xml)), "CPU", options)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{xml}: the model can't be loaded ({reason}); export it again") from error
    request = compiled.create_infer_request()

    def predict_tile(tile: np.ndarray) -> np.ndarray:
        batch = np.ascontiguousarray(tile[np.newaxis, :, :, np.newaxis], dtype=np.float32)
        return request.infer([batch])[0][0]

    return SegmentationModel(card, predict_tile)


def predict_strips(
    predict_tile: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    tile_px: int = 512,
    overlap_px: int = 64,
    progress: Callable[[float], None] | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """Predict class probabilities strip by strip, from overlapping tiles blended linearly.

    Memory is bounded by one strip of tiles, whatever the image's height.

    Parameters
    ----------
    predict_tile : callable
        Maps (height, width) to (height, width, classes), for sides that are multiples of 16.
    image : ndarray, (height, width)
        Standardised micrograph of any size.
    tile_px, overlap_px : int
        Side of a tile and overlap of neighbours, multiples of 16; the overlap is at most half the tile.
    progress : callable, optional
        Told the share that is done after every tile.

    Yields
    ------
    first_row : int
    probabilities : ndarray, (rows, width, classes), float32
        Finished rows, from the top to the bottom.
    """
    height, width = image.shape
    overlap_px = min(overlap_px, tile_px // 2)
    tops, tile_height = _tile_starts(height, tile_px, overlap_px)
    lefts, tile_width = _tile_starts(width, tile_px, overlap_px)
    padded_width = max(width, lefts[-1] + tile_width)
    window_y = _blending_window(tile_height, overlap_px)
    window_x = _blending_window(tile_width, overlap_px)
    total = weight = None
    for index, top in enumerate(tops):
        for column, left in enumerate(lefts):
            tile = image[top : top + tile_height, left : left + tile_width]
            missing = (tile_height - tile.shape[0], tile_width - tile.shape[1])
            if any(missing):
                # "symmetric" serves images smaller than the padding too.
                tile = np.pad(tile, ((0, missing[0]), (0, missing[1])), mode="symmetric")
            probability = predict_tile(tile)
            if total is None or weight is None:
                total = np.zeros((tile_height, padded_width, probability.shape[-1]), np.float32)
                weight = np.zeros((tile_height, padded_width, 1), np.float32)
            window = (window_y[:, None] * window_x)[..., None]
            total[:, left : left + tile_width] += probability * window
            weight[:, left : left + tile_width] += window
            if progress:
                progress((index * len(lefts) + column + 1) / (len(tops) * len(lefts)))
        assert total is not None
        assert weight is not None
        bottom = tops[index + 1] if index + 1 < len(tops) else height
        done = min(bottom, height) - top
        yield top, total[:done, :width] / weight[:done, :width]
        kept = tile_height - done
        total[:kept] = total[done:].copy()
        total[kept:] = 0
        weight[:kept] = weight[done:].copy()
        weight[kept:] = 0


def _tile_starts(length: int, tile_px: int, overlap_px: int) -> tuple[list[int], int]:
    """Give the first pixels of the tiles along one axis, and the side of a tile."""
    padded = -(-length // NETWORK_STRIDE_PX) * NETWORK_STRIDE_PX
    if padded <= tile_px:
        return [0], padded
    step = tile_px - overlap_px
    return [*range(0, padded - tile_px, step), padded - tile_px], tile_px


def _blending_window(tile_px: int, overlap_px: int) -> np.ndarray:
    """Rise over the overlap, stay, fall; never zero, so that a corner pixel covered once keeps its weight."""
    ramp = (np.arange(tile_px) + 0.5) / max(overlap_px, 1)
    return np.minimum(1, np.minimum(ramp, ramp[::-1])).astype(np.float32)


def predict_classes(
    model: SegmentationModel,
    image: np.ndarray,
    *,
    tile_px: int = 512,
    overlap_px: int = 64,
    progress: Callable[[float], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Predict the most probable class of every pixel of a standardised micrograph.

    Parameters
    ----------
    image : ndarray, (height, width)
        Standardised; of any size.

    Returns
    -------
    class_map : ndarray, (height, width), uint8
        Index into the model's classes.
    core_probability : ndarray, (height, width), uint8
        0 … 255.
    """
    class_map = np.empty(image.shape, np.uint8)
    core_probability = np.empty(image.shape, np.uint8)
    core = model.card.classes.index("core")
    for top, probability in predict_strips(model.predict_tile, image, tile_px, overlap_px, progress):
        rows = slice(top, top + len(probability))
        class_map[rows] = probability.argmax(axis=-1)
        core_probability[rows] = np.rint(probability[..., core] * 255)
    return class_map, core_probability


def segment_micrograph(
    image: np.ndarray,
    model: SegmentationModel,
    mode: str = "auto",
    *,
    tile_px: int = 512,
    overlap_px: int = 64,
    minimum_diameter_px: float = 5.0,
    progress: Callable[[float], None] | None = None,
) -> Segmentation:
    """Find cores, and shells where the model knows them, on one micrograph; cut touching ones apart.

    Parameters
    ----------
    image : ndarray, (height, width)
        As it was read, any real dtype.
    model : SegmentationModel
    mode : {"auto", "bright_field", "haadf"}
        `auto` finds it out from the image.
    minimum_diameter_px : float
        Objects of a smaller equivalent circular diameter are noise and are removed.

    Returns
    -------
    Segmentation
    """
    if mode == "auto":
        mode = detect_mode(image)
    class_map, core_probability = predict_classes(
        model, standardise(image, mode), tile_px=tile_px, overlap_px=overlap_px, progress=progress
    )
    core = model.card.classes.index("core")
    minimum_area_px = np.pi / 4 * minimum_diameter_px**2
    cores = label_instances(class_map == core, minimum_area_px)
    labels, split_labels = split_touching(cores, minimum_diameter_px)
    shell_labels = None
    if model.card.has_shells:
        whole_particles = label_instances(class_map > 0, minimum_area_px)
        shell_labels, _ = split_touching(whole_particles, minimum_diameter_px)
    return Segmentation(labels, shell_labels, core_probability, mode, split_labels)
