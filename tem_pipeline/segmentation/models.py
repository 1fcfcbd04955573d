"""The exported model: its card, and loading it with OpenVINO, without Keras and MLflow.

A model folder holds `model.json`, the card, and a subfolder with the weights, which the card names. The card
is replaced last, and the weights are found through it only.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from tem_pipeline.errors import UserError
from tem_pipeline.segmentation.merging import merge_up_convolutions
from tem_pipeline.storage import AnyPath, write_bytes

CARD_FILE = "model.json"
# Height and width of what a network is given are multiples of this.
NETWORK_STRIDE_PX = 16


@dataclass(frozen=True)
class ModelCard:
    """What is known of an exported model; written beside its weights.

    pixel_size_nm : smallest and largest pixel of the training images; None where one is uncalibrated
    scales : sizes of the image, against its own, over which class probabilities are averaged
    core_threshold : probability from which a pixel may be core, see `predict_classes`; None: core is where it
        is the most probable class
    diameters_px : sizes of particles it is best at; an image of smaller ones is shown to it at twice the
        scales, one of larger ones at half of them; None: every image at the same
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


@dataclass(frozen=True)
class SegmentationModel:
    """A loaded model: its card, and a function from a standardised (height, width) tile to probabilities."""

    card: ModelCard
    predict_tile: Callable[[np.ndarray], np.ndarray]


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
        if not card.scales or min(card.scales) <= 0 or not 0 < (card.core_threshold or 0.5) < 1:
            raise ValueError("scales or core_threshold are off")
        for name in ("pixel_size_nm", "diameters_px"):
            if getattr(card, name) is not None:
                low, high = getattr(card, name)
                if not 0 < low <= high:
                    raise ValueError(f"{name} is off")
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: is not a model card ({error}); export the model again") from error
    lists = {name: tuple(value) for name, value in asdict(card).items() if isinstance(value, list)}
    return replace(card, **lists)


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
        `auto` takes bf16 where the processor computes in it.
    tiles_at_a_time : int
        So many threads may predict a tile each, and share the processor's; another one waits for its turn.

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
        # OpenVINO's binding sets up what its threads share when it is first used: two that do so at the same
        # time wait for each other for ever, one with Python's lock and one with the binding's.
        predict_tile(np.zeros((NETWORK_STRIDE_PX, NETWORK_STRIDE_PX), np.float32))
    return SegmentationModel(card, predict_tile)
