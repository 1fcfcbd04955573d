"""The exported model: its card, and loading it with OpenVINO, without Keras and MLflow.

A model folder holds `model.json`, the card, and a subfolder with the weights, which the card names. The card
is replaced last, and the weights are found through it only.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from queue import SimpleQueue
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.merging import merge_up_convolutions
from tem_pipeline.storage import AnyPath, write_bytes

CARD_FILE = "model.json"
MAX_CARD_BYTES = 32 * 2**20
# Height and width of a network's input must be multiples of this.
NETWORK_STRIDE_PX = 16


@with_config(ConfigDict(strict=True, allow_inf_nan=False, extra="ignore"))
@dataclass(frozen=True)
class ModelCard:
    """Description of an exported model, written beside its weights.

    pixel_size_nm : smallest and largest pixel size of the training images; None if one is uncalibrated
    scales : factors by which an image is resampled; class probabilities are averaged over them
    core_threshold : smallest probability of a core pixel, see `predict_classes`; None: the most probable
        class decides
    diameters_px : range of particle diameters that the model finds best; images with smaller particles are
        predicted at twice the scales, those with larger ones at half of them; None: always the same scales
    """

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
    pixel_size_nm: tuple[float, float] | None = None
    scales: tuple[float, ...] = (1.0,)
    core_threshold: float | None = None
    diameters_px: tuple[float, float] | None = None

    @property
    def has_shells(self) -> bool:
        """Whether the model tells shells from background."""
        return "shell" in self.classes


_CARD = TypeAdapter(ModelCard)
_WEIGHTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class SegmentationModel:
    """A loaded model: its card, and a function from a standardised (height, width) tile to probabilities."""

    card: ModelCard
    predict_tile: Callable[[np.ndarray], np.ndarray]


def write_card(folder: AnyPath, card: ModelCard) -> None:
    """Write a model folder's card in one step. It is written last and makes the folder a model."""
    write_bytes(folder / CARD_FILE, json.dumps(asdict(card), indent=1).encode())


def holds_model(folder: AnyPath) -> bool:
    """Tell whether a folder has a model card, valid or not."""
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
        with path.open("rb") as file:
            content = file.read(MAX_CARD_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{folder}: holds no model ({CARD_FILE} is missing); train one first") from None
    except OSError as error:
        raise UserError(f"{path}: is not a model card ({error}); export the model again") from error
    try:
        if len(content) > MAX_CARD_BYTES:
            raise ValueError(f"it is larger than {MAX_CARD_BYTES // 2**20} MiB")
        card = _CARD.validate_json(content)
        if "core" not in card.classes or len(set(card.classes)) != len(card.classes):
            raise ValueError("classes are off")
        if not _WEIGHTS.fullmatch(card.weights) or ".." in card.weights:
            raise ValueError("weights are off")
        if not 1 <= len(card.scales) <= 8 or not all(0.1 <= scale <= 10 for scale in card.scales):
            raise ValueError("scales are off")
        if not 0 < (card.core_threshold or 0.5) < 1 or not 1 <= card.base_width <= 512:
            raise ValueError("core_threshold or base_width are off")
        if card.diameter_error is not None and not 0 <= card.diameter_error < 10:
            raise ValueError("diameter_error is off")
        for name in ("pixel_size_nm", "diameters_px"):
            low, high = getattr(card, name) or (1, 1)
            if not 0 < low <= high < 1e9:
                raise ValueError(f"{name} is off")
        if any(not text.isprintable() or len(text) > 200 for text in (card.name, card.version, card.loss)):
            raise ValueError("name, version or loss are off")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        reason = f"{'.'.join(str(part)[:40] for part in first['loc'])}: {first['msg']}"
        raise UserError(f"{path}: is not a model card ({reason}); export the model again") from error
    except ValueError as error:
        raise UserError(f"{path}: is not a model card ({error}); export the model again") from error
    return card


def computes_bf16() -> bool:
    """Tell whether this processor computes in bfloat16."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def load_model(
    folder: AnyPath, threads: int = 0, precision: str = "auto", tiles_at_a_time: int = 1
) -> SegmentationModel:
    """Load an exported model.

    Parameters
    ----------
    folder : path
        A model folder.
    threads : int
        Processor threads; 0 leaves it to OpenVINO.
    precision : {"auto", "f32", "bf16"}
        `auto` uses bf16 if the processor supports it.
    tiles_at_a_time : int
        Number of tiles predicted concurrently; further callers block.

    Raises
    ------
    UserError
        If the folder has no readable model.
    """
    import openvino

    card = read_card(folder)
    xml = folder / card.weights / "model.xml"
    core = openvino.Core()
    if precision == "auto":
        precision = "bf16" if computes_bf16() else "f32"
    options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
    if threads:
        options["INFERENCE_NUM_THREADS"] = str(threads)
    if tiles_at_a_time > 1:
        options["NUM_STREAMS"] = str(tiles_at_a_time)
    try:
        network = core.read_model(str(xml))
        merge_up_convolutions(network, NETWORK_STRIDE_PX)
        compiled = core.compile_model(network, "CPU", options)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"{xml}: the model can't be loaded ({reason}); export it again") from error
    free: SimpleQueue[Any] = SimpleQueue()
    for _ in range(tiles_at_a_time):
        free.put(compiled.create_infer_request())

    def predict_tile(tile: np.ndarray) -> np.ndarray:
        batch = np.ascontiguousarray(tile[np.newaxis, :, :, np.newaxis], dtype=np.float32)
        request = free.get()
        try:
            return request.infer([batch])[0][0]
        finally:
            free.put(request)

    if tiles_at_a_time > 1:
        # Two threads making the first call deadlock (GIL against the binding's lock), so warm up once here.
        predict_tile(np.zeros((NETWORK_STRIDE_PX, NETWORK_STRIDE_PX), np.float32))
    return SegmentationModel(card, predict_tile)
