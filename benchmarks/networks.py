"""Times the network alone, on a large micrograph and in a whole process; compared with Keras and others."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measurements import Measurement, compared, run_python
from tem_pipeline.annotation.datasets import CORE_CLASSES
from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline.segmentation.inference import predict_classes
from tem_pipeline.segmentation.models import computes_bf16, load_model
from tem_pipeline.segmentation.tiling import predict_strips
from tem_pipeline.settings import Settings
from tem_pipeline.simulation.micrographs import simulate_micrograph, write_micrograph
from tem_pipeline.training.fitting import (
    Profile,
    TrainedNetwork,
    export_model,
    prepare_keras,
    train_network,
)
from tem_pipeline.training.networks import unet

TILE_PX = 512
# ds_unet of base width 64 on 256 × 256 px: 19.1 as published, 17.0 with its up-convolutions merged.
GFLOP_OF_256 = 17.0

_KERAS_PROCESS = """
from pathlib import Path
from unittest.mock import patch

import keras

from tem_pipeline import cli
from tem_pipeline.segmentation.models import SegmentationModel, read_card


def load_model(folder, threads, precision):
    network = keras.models.load_model(next(Path(folder).glob("*/model.keras")), compile=False)
    return SegmentationModel(read_card(folder), lambda t: network.predict(t[None, :, :, None], verbose=0)[0])


with patch("tem_pipeline.segmentation.models.load_model", load_model):
    cli.main()
"""


def segmenting_2048_px() -> list[Measurement]:
    """Segmenting 2048 × 2048 px, base width 64, two classes, tiles and blending included."""
    folder, keras_model = trained(64)
    model = load_model(folder, Settings().threads)
    image = micrograph(2048)
    tiles = np.stack(
        [
            image[top : top + TILE_PX, left : left + TILE_PX]
            for top in range(0, 2048, TILE_PX)
            for left in range(0, 2048, TILE_PX)
        ]
    )[..., np.newaxis]
    class_map, _ = predict_classes(model, image)

    def predict_with_keras(tile: np.ndarray) -> np.ndarray:
        return keras_model.predict(tile[np.newaxis, :, :, np.newaxis], verbose=0)[0]

    strips = predict_strips(predict_with_keras, image)
    by_keras = np.concatenate([probability.argmax(axis=-1) for _, probability in strips])
    others = [
        ("Keras `predict` of the same network on 512 × 512 px tiles", keras_model, 5, 2.7),
        ("Keras `predict` of `unet` on the same tiles", unet(64, 2, seed=0), 3, 8.5),
    ]
    return [
        *(
            compared(
                f"ds_unet by OpenVINO in {precision()}",
                lambda: predict_classes(model, image),
                name,
                lambda other=other: other.predict(tiles, batch_size=1, verbose=0),
                repeats,
                at_least=at_least,
            )
            for name, other, repeats, at_least in others
        ),
        Measurement("pixels with another class than Keras", 100 * np.mean(class_map != by_keras), "%", 0.1),
    ]


def network_alone() -> list[Measurement]:
    """The network alone, base width 64 on 256 × 256 px, compared with a matrix product of the same size."""
    import openvino
    from openvino import opset13 as operations

    folder, _ = trained(64)
    model = load_model(folder, Settings().threads)
    tile = micrograph(256)
    side = round((GFLOP_OF_256 * 1e9 / 2) ** (1 / 3))
    left, right = (operations.parameter([side, side], np.float32) for _ in range(2))
    product = openvino.Core().compile_model(
        openvino.Model([operations.matmul(left, right, False, False)], [left, right]),  # type: ignore[reportGeneralTypeIssues]
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision(), "INFERENCE_NUM_THREADS": str(Settings().threads)},
    )
    matrices = [np.random.default_rng(k).standard_normal((side, side), np.float32) for k in range(2)]
    request = product.create_infer_request()
    return [
        compared(
            f"ds_unet by OpenVINO in {precision()}, {GFLOP_OF_256} GFLOP",
            lambda: model.predict_tile(tile),
            f"product of two {side} × {side} matrices in the same precision",
            lambda: request.infer(matrices),
            20,
            at_least=0.8,
        )
    ]


def one_file() -> list[Measurement]:
    """One file of 512 × 512 px, the whole process."""
    folder, _ = trained(64)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "image.tif"
        write_micrograph(file, simulate_micrograph(np.random.default_rng(0)))
        command = ["segment", str(file), "--model", str(folder), "--out"]
        return [
            compared(
                "`tem-pipeline segment`",
                lambda: run_python("-m", "tem_pipeline.cli", *command, f"{name}/openvino"),
                "the same with Keras' `predict`",
                lambda: run_python("-c", _KERAS_PROCESS, *command, f"{name}/keras"),
                11,
                limit=3,
            )
        ]


@cache
def trained(base_width: int) -> tuple[Path, Any]:
    """Train a network for a minute on simulated cores; give its model folder and the Keras model."""
    prepare_keras(Settings().threads)
    crops, maps = zip(*(_crop(index) for index in range(64)), strict=True)
    network = train_network(
        np.stack(crops[:56]),
        np.stack(maps[:56]),
        list(zip(crops[56:], maps[56:], strict=True)),
        classes=CORE_CLASSES,
        loss="dice",
        profile=Profile("bench", base_width, 128, 56, 60, 20, learning_rate=3e-3),
    )
    return exported(network, base_width), network.model


def exported(network: TrainedNetwork, base_width: int) -> Path:
    """Export a trained network; give its model folder."""
    folder = new_folder()
    export_model(
        network,
        folder,
        name="bench",
        version="1",
        loss="dice",
        network="ds_unet",
        base_width=base_width,
        classes=CORE_CLASSES,
    )
    return folder


def new_folder() -> Path:
    """Make a folder that is removed when the benchmarks end."""
    return Path(tempfile.mkdtemp(dir=_workplace().name))


@cache
def _workplace() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="tem_bench_")


def _crop(index: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = simulate_micrograph(np.random.default_rng((1, index)), shape=(128, 128))
    return standardise(drawn.image, drawn.mode), (drawn.cores > 0).astype(np.uint8)


@cache
def micrograph(side_px: int) -> np.ndarray:
    drawn = simulate_micrograph(np.random.default_rng(2), shape=(side_px, side_px))
    return standardise(drawn.image, drawn.mode)


def precision() -> str:
    return "bf16" if computes_bf16() else "f32"
