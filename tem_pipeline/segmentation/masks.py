"""Segments images and judges their masks, and writes the masks of a session."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, replace
from threading import Event
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from tem_pipeline import __version__
from tem_pipeline.images_in_flight import in_order, most_in_flight
from tem_pipeline.micrographs.modes import UNSURE_MODE
from tem_pipeline.segmentation.inference import Segmentation, segment_micrograph
from tem_pipeline.segmentation.models import ModelCard, SegmentationModel
from tem_pipeline.segmentation.quality import ImageQuality, judge_image, judge_mode, session_mode
from tem_pipeline.settings import Settings
from tem_pipeline.storage import AnyPath, encode_tiff, read_tiff, write_content
from tem_pipeline.tables import MASK_SCHEMA

_Given = TypeVar("_Given")


@dataclass(frozen=True, eq=False)
class SquareImage:
    """An image with square pixels, ready to be segmented.

    image : (height, width) uint8, uint16 or float32
    pixel_size_nm : side of a pixel in nm; None if unknown
    mode : {"bright_field", "haadf"}
    is_mode_sure : whether that is known and not guessed
    """

    image: np.ndarray
    pixel_size_nm: float | None
    mode: str
    is_mode_sure: bool


@dataclass(frozen=True, eq=False)
class SegmentedImage(SquareImage):
    """An image with its masks and their quality."""

    masks: Segmentation
    quality: ImageQuality


def segment_images(
    given: Iterable[_Given],
    load: Callable[[_Given], SquareImage],
    model: SegmentationModel,
    settings: Settings,
    in_flight: int,
    failed: Callable[[_Given, Exception], None] | None = None,
) -> Generator[tuple[_Given, SegmentedImage], None, None]:
    """Segment images and judge their masks; sessions and single images share this.

    Parameters
    ----------
    given : iterable
        Items that identify images; read in the caller's thread.
    load : callable
        Gives the image; called in the thread that segments it.
    model : SegmentationModel
    settings : Settings
    in_flight : int
        Number of images in work at the same time.
    failed : callable, optional
        Called in the working thread for an image whose segmentation fails; the others are still segmented.
        Without it the error ends the segmentation.

    Yields
    ------
    given, SegmentedImage
        In the order of `given`. When the caller stops early, images in work end at their next tile.
    """
    _import_before_threads()
    ended = Event()
    stoppable = _stoppable(model, ended)

    def segment_one(each: _Given) -> SegmentedImage:
        square = load(each)
        masks = segment_micrograph(
            square.image,
            stoppable,
            square.mode,
            pixel_size_nm=square.pixel_size_nm,
            flips=settings.test_time_flips,
            tile_px=settings.tile_px,
            overlap_px=settings.tile_overlap_px,
            minimum_diameter_px=settings.minimum_diameter_px,
            minimum_diameter_nm=settings.minimum_diameter_nm,
        )
        quality = judge_image(masks, square.image, square.pixel_size_nm)
        if not square.is_mode_sure:
            quality = replace(quality, image_quality="review", image_quality_reason=UNSURE_MODE)
        return SegmentedImage(
            square.image, square.pixel_size_nm, square.mode, square.is_mode_sure, masks, quality
        )

    def segment(each: _Given) -> SegmentedImage | None:
        try:
            return segment_one(each)
        except CancelledError:
            raise
        except Exception as error:
            if failed is None:
                raise
            failed(each, error)
            return None

    for each, found in in_order(segment, given, in_flight, ended):
        if found is not None:
            yield each, found


def mask_row(found: SegmentedImage, card: ModelCard) -> dict[str, Any]:
    """Give the columns of `MASK_SCHEMA` with the results, the model and the code version."""
    return {
        "mode": found.mode,
        **asdict(found.quality),
        "split_labels": found.masks.split_labels,
        "model_name": card.name,
        "model_version": card.version,
        "model_sha256": card.weights_sha256,
        "loss": card.loss,
        "model_diameter_error": card.diameter_error,
        "code_version": __version__,
    }


def predict_session_masks(
    manifest: pd.DataFrame,
    images: AnyPath,
    target: AnyPath,
    model: SegmentationModel,
    settings: Settings,
    on_image: Callable[[pd.Series, SegmentedImage], None] | None = None,
) -> pd.DataFrame:
    """Segment the images of a session and write their label images.

    Two images are in work at the same time, or one if any is very large.

    Parameters
    ----------
    manifest : DataFrame
        The session's manifest. Rows with the status `ok` are segmented.
    images, target : path
        Folder of the manifest's images, and folder for the label images.
    on_image : callable, optional
        Called for each image, in the manifest's order, with its row and its masks.

    Returns
    -------
    DataFrame
        One row per image, in the manifest's order, with the columns of `MASK_SCHEMA`.
    """

    def load(raw: pd.Series) -> SquareImage:
        pixel_size_nm = float(raw["pixel_size_x_nm"]) if pd.notna(raw["pixel_size_x_nm"]) else None
        return SquareImage(
            read_tiff(images / raw["image_file"]),
            pixel_size_nm,
            raw["mode"],
            raw.get("mode_source") != "unsure",
        )

    measured = manifest[manifest["status"] == "ok"]
    expected = session_mode(list(measured["mode"]))
    given = (raw for _, raw in measured.iterrows())
    rows = []
    for raw, found in segment_images(given, load, model, settings, most_in_flight(measured)):
        found = replace(found, quality=judge_mode(found.quality, found.mode, expected))
        written = _write_masks(target, raw["image_id"], found)
        identity = {"session_id": raw["session_id"], "image_id": raw["image_id"]}
        rows.append(identity | written | mask_row(found, model.card))
        if on_image:
            on_image(raw, found)
        del found  # Free its memory before the next image is taken.
    return pd.DataFrame(rows, columns=MASK_SCHEMA.names)


def _write_masks(target: AnyPath, image_id: str, found: SegmentedImage) -> dict[str, str | None]:
    """Write the label images under names with a hash of their content; give the names by column."""
    masks = {
        "labels": found.masks.labels,
        "shells": found.masks.shell_labels,
        "probability": found.masks.core_probability,
    }
    return {
        f"{kind}_file": None
        if mask is None
        else write_content(target, f"{image_id}-{kind}", ".tif", encode_tiff(mask, found.pixel_size_nm))
        for kind, mask in masks.items()
    }


def _import_before_threads() -> None:
    """Import what segmenting would import in its threads.

    When two threads import parts of one package at the same time, each may wait for the other. Python then
    gives one of them a module that is only partly initialised.
    """
    import scipy.fft  # noqa: F401
    import skimage.morphology
    import skimage.segmentation
    import skimage.transform  # noqa: F401


def _stoppable(model: SegmentationModel, ended: Event) -> SegmentationModel:
    """Give the same model, but one that predicts no more tiles once the event is set."""

    def predict_tile(tile: np.ndarray) -> np.ndarray:
        if ended.is_set():
            raise CancelledError
        return model.predict_tile(tile)

    return replace(model, predict_tile=predict_tile)
