"""Reads and combines annotated sets: micrographs with hand-made masks and their sources.

A set is a folder ``images/NAME.*``, ``masks/NAME.*``, optionally ``shells/NAME.*`` and ``dataset.yaml``.
`masks` reads and checks each image, `splitting` finds the crops that belong to one source micrograph.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tem_pipeline.annotation.masks import Annotation, Fault, read_annotation
from tem_pipeline.annotation.splitting import source_groups
from tem_pipeline.descriptions import read_description
from tem_pipeline.errors import UserError
from tem_pipeline.micrographs.calibration import MAX_PIXEL_SIZE_NM, MIN_PIXEL_SIZE_NM
from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline.micrographs.modes import Mode
from tem_pipeline.micrographs.reading import group_acquisitions
from tem_pipeline.text import printable

DATASET_YAML = "dataset.yaml"
CORE_CLASSES = ("background", "core")
SHELL_CLASSES = ("background", "shell", "core")

_FAULTS_SHOWN = 3
_NO_IMAGES = frozenset({"thumbs.db", "desktop.ini"})

Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Text = Annotated[str, Field(max_length=20_000)]


class DatasetDescription(BaseModel):
    """Contents of dataset.yaml; everything is optional.

    Attributes
    ----------
    mode : {"bright_field", "haadf"} or None
        By default bright field if the annotated particles are darker than their surroundings, else HAADF.
    pixel_size_nm : float or None
        For images whose files have no pixel size.
    groups : dict of str to str
        The source micrograph of each image, by the image's name (its file without suffix).
    licence, source, notes : str or None
        Where the set comes from and what may be done with it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mode: Mode | None = None
    pixel_size_nm: Annotated[float, Field(ge=MIN_PIXEL_SIZE_NM, le=MAX_PIXEL_SIZE_NM)] | None = None
    groups: dict[Line, Line] = {}
    licence: Line | None = None
    source: Text | None = None
    notes: Text | None = None


@dataclass(frozen=True, eq=False)
class AnnotatedImage:
    """A micrograph with its annotation.

    Attributes
    ----------
    name : str
        The file's name without suffix; ``SET/NAME`` where several sets were combined.
    image : ndarray, (height, width), float32
        Standardised over the whole image. Particles are dark, also in HAADF.
    class_map : ndarray, (height, width), uint8
        Index into `classes` for every pixel.
    classes : tuple of str
        ("background", "core") or, for a set with shells, ("background", "shell", "core").
    group : str
        The source micrograph. A split keeps images of one group together.
    pixel_sha256, mask_sha256 : str
        Hashes of the raw pixels' values and of the annotation.
    mode : {"bright_field", "haadf"}
    source : str or None
        The source given in dataset.yaml. If it is None, `group` was found by comparing pixels.
    instances : ndarray, (height, width), int32, or None
        Label image of the cores, if the mask separates particles.
    pixel_size_nm : (float, float) or None
        Height and width of a pixel.
    """

    name: str
    image: np.ndarray = field(repr=False)
    class_map: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    group: str
    pixel_sha256: str
    mask_sha256: str
    mode: str = "bright_field"
    source: str | None = None
    instances: np.ndarray | None = field(default=None, repr=False)
    pixel_size_nm: tuple[float, float] | None = None

    @property
    def square_pixel_nm(self) -> float | None:
        """Side of a square pixel with the same area, nm."""
        return None if self.pixel_size_nm is None else math.sqrt(math.prod(self.pixel_size_nm))


@dataclass(frozen=True, eq=False)
class AnnotatedSet:
    """Annotated images of one or several sets, all with the same classes.

    Attributes
    ----------
    name : str
        The folder's name. Names of combined sets are joined by ``+``.
    images : tuple of AnnotatedImage
        Sorted by name.
    classes : tuple of str
    sha256 : str
        Hash of names, pixels, masks and groups. It changes if anything that affects training changes.
    licence, source, notes : str or None
        From dataset.yaml.
    """

    name: str
    images: tuple[AnnotatedImage, ...]
    classes: tuple[str, ...]
    sha256: str
    licence: str | None = None
    source: str | None = None
    notes: str | None = None


def read_annotated_set(folder: str | Path) -> AnnotatedSet:
    """Read and check an annotated set.

    Parameters
    ----------
    folder : path
        A local folder.

    Returns
    -------
    AnnotatedSet

    Raises
    ------
    UserError
        One line with the number of faults and the first ones, see `check_annotated_set`.
    """
    annotated_set, faults = _read(Path(folder))
    if annotated_set is None:
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise UserError(
            f"{printable(folder)}: {len(faults)} fault(s) in this annotated set: "
            f"{'; '.join(faults[:_FAULTS_SHOWN])}{more}"
        )
    return annotated_set


def check_annotated_set(folder: str | Path) -> list[str]:
    """Find what is wrong with an annotated set: pairs, sizes, values, and what dataset.yaml says.

    Parameters
    ----------
    folder : path
        A local folder.

    Returns
    -------
    list of str
        One line per fault, with the file and what to do. Empty if the set can be used.
    """
    return _read(Path(folder))[1]


def combine_sets(sets: Sequence[AnnotatedSet]) -> AnnotatedSet:
    """Put several sets together; crops that overlap across sets become one group.

    Parameters
    ----------
    sets : sequence of AnnotatedSet
        A single set is returned unchanged. Images of several sets are renamed ``SET/NAME``. Equal source
        names in the dataset.yaml of different sets mean the same source.

    Returns
    -------
    AnnotatedSet

    Raises
    ------
    UserError
        If there is no set, two sets have the same name, or their classes differ.
    """
    if not sets:
        raise UserError("no annotated set was given: name at least one folder below annotated/")
    if len(sets) == 1:
        return sets[0]
    names = [one.name for one in sets]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two annotated sets are named {name}: rename the folder of one")
    for other in sets[1:]:
        if other.classes != sets[0].classes:
            bare, shelled = sorted((sets[0], other), key=lambda one: len(one.classes))
            raise UserError(
                f"annotated sets {bare.name} ({', '.join(bare.classes)}) and {shelled.name} "
                f"({', '.join(shelled.classes)}) differ in their classes: add shells/ to {bare.name}, "
                "or train them apart"
            )
    images = [replace(image, name=f"{one.name}/{image.name}") for one in sets for image in one.images]
    # Groups found within a set need no second comparison: they are passed on as if they were given.
    given = {(one.name, image.source) for one in sets for image in one.images}
    sources = [
        image.group if (one.name, image.group) in given else f"{one.name}/{image.group}"
        for one in sets
        for image in one.images
    ]
    groups = source_groups(
        [image.name for image in images],
        [image.image for image in images],
        sources,
        [one.name for one in sets for _ in one.images],
    )

    def joined(texts: list[str | None]) -> str | None:
        return "; ".join(f"{n}: {text}" for n, text in zip(names, texts, strict=True) if text) or None

    return _annotated_set(
        "+".join(names),
        [replace(image, group=group) for image, group in zip(images, groups, strict=True)],
        sets[0].classes,
        licence=joined([one.licence for one in sets]),
        source=joined([one.source for one in sets]),
        notes=joined([one.notes for one in sets]),
    )


def _read(folder: Path) -> tuple[AnnotatedSet | None, list[str]]:
    if not (folder / "images").is_dir() or not (folder / "masks").is_dir():
        there = "has no folders images/ and masks/" if folder.is_dir() else "does not exist"
        return None, [f"the folder {there}: an annotated set is images/NAME.* with masks/NAME.*"]
    faults: list[str] = []
    description = DatasetDescription()
    try:
        description = read_description(folder / DATASET_YAML, DatasetDescription)
    except UserError as error:
        faults.append(f"{DATASET_YAML}: {error}")
    files: dict[str, dict[str, Path]] = {}
    for kind in ("images", "masks", "shells"):
        files[kind], doubled = _files_by_name(folder, kind)
        faults += doubled
    has_shells = (folder / "shells").is_dir()
    annotation_kinds = ("masks", "shells") if has_shells else ("masks",)
    faults += _missing_pairs(files, annotation_kinds)
    faults += [
        f"{DATASET_YAML}: groups names {printable(name)!r}, which is not in images/: correct or remove it"
        for name in description.groups
        if name not in files["images"]
    ]
    annotations = []
    for name in sorted(set(files["images"]).intersection(*(files[kind] for kind in annotation_kinds))):
        try:
            annotations.append(
                read_annotation(name, {k: files[k][name] for k in ("images", *annotation_kinds)})
            )
        except Fault as fault:
            faults.append(str(fault))
    if not files["images"]:
        faults.append(
            "images/ is empty: put micrographs there and their masks, with the same names, into masks/"
        )
    if faults:
        return None, faults
    classes = SHELL_CLASSES if has_shells else CORE_CLASSES
    return _assemble(printable(folder.resolve().name), annotations, classes, description), []


def _files_by_name(folder: Path, kind: str) -> tuple[dict[str, Path], list[str]]:
    """Give the files of a folder by name without suffix, and a fault for each duplicate name."""
    if not (folder / kind).is_dir():
        return {}, []
    try:
        files = sorted(
            file
            for file in (folder / kind).iterdir()
            if not file.name.startswith(".") and file.name.lower() not in _NO_IMAGES and not file.is_dir()
        )
    except OSError as error:
        return {}, [f"{kind}/: the folder cannot be listed ({error.strerror})"]
    by_name: dict[str, Path] = {}
    faults = []
    for file in [file for group in group_acquisitions(files) for file in group]:
        if file.stem in by_name:
            faults.append(
                f"{kind}/{printable(file.name)}: {printable(by_name[file.stem].name)} has the same name: "
                "keep one"
            )
        else:
            by_name[file.stem] = file
    return by_name, faults


def _missing_pairs(files: dict[str, dict[str, Path]], annotation_kinds: Sequence[str]) -> list[str]:
    faults = []
    for kind in annotation_kinds:
        faults += [
            f"images/{printable(file.name)}: has no {kind}/{printable(name)}.png (or .tif): "
            "add it, all 0 if the image shows no particles"
            for name, file in files["images"].items()
            if name not in files[kind]
        ]
        faults += [
            f"{kind}/{printable(file.name)}: has no image with this name in images/: "
            "add the image or remove this"
            for name, file in files[kind].items()
            if name not in files["images"]
        ]
    return faults


def _assemble(
    set_name: str,
    annotations: Sequence[Annotation],
    classes: tuple[str, ...],
    description: DatasetDescription,
) -> AnnotatedSet:
    mode = description.mode or _annotated_mode(annotations)
    images = [standardise(annotation.pixels, mode) for annotation in annotations]
    names = [printable(annotation.name) for annotation in annotations]
    sources = [description.groups.get(annotation.name) for annotation in annotations]
    groups = source_groups(names, images, sources)
    stated_nm = description.pixel_size_nm
    return _annotated_set(
        set_name,
        [
            AnnotatedImage(
                name=name,
                image=image,
                class_map=annotation.class_map,
                classes=classes,
                group=group,
                pixel_sha256=annotation.pixel_sha256,
                mask_sha256=annotation.mask_sha256,
                mode=mode,
                source=source,
                instances=annotation.instances,
                pixel_size_nm=annotation.pixel_size_nm or ((stated_nm, stated_nm) if stated_nm else None),
            )
            for name, image, annotation, source, group in zip(
                names, images, annotations, sources, groups, strict=True
            )
        ],
        classes,
        licence=description.licence,
        source=description.source,
        notes=description.notes,
    )


def _annotated_mode(annotations: Sequence[Annotation]) -> str:
    """Find the mode of a set: bright field if its particles are darker than the rest in most images."""
    balance = 0.0
    for annotation in annotations:
        core = annotation.class_map == annotation.class_map.max()
        if annotation.class_map.any() and (annotation.class_map == 0).any():
            background = annotation.pixels[annotation.class_map == 0]
            balance += np.sign(float(np.median(annotation.pixels[core])) - float(np.median(background)))
    return "haadf" if balance > 0 else "bright_field"


def _annotated_set(
    name: str, images: list[AnnotatedImage], classes: tuple[str, ...], **described: str | None
) -> AnnotatedSet:
    images = sorted(images, key=lambda image: image.name)
    digest = hashlib.sha256("\0".join(classes).encode())
    for image in images:
        row = (image.name, image.pixel_sha256, image.mask_sha256, image.mode, image.group)
        digest.update("\0".join(("", *row)).encode())
    return AnnotatedSet(name, tuple(images), classes, digest.hexdigest(), **described)
