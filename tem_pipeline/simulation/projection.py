"""Draws placed particles: as label images with a table of the truth, and as thickness along the beam.

`specimens` places the particles, `imaging` simulates how a microscope records their thickness.
"""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from tem_pipeline.micrographs.frame import labels_on_frame
from tem_pipeline.simulation.parameters import Range
from tem_pipeline.simulation.specimens import Placement

# y, x, major and minor axis in px, angle of the major axis from x towards y in rad; one value per ellipse.
Ellipses = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _window(centre: float, reach: float, size: int) -> tuple[int, int]:
    return max(math.ceil(centre - reach), 0), min(math.floor(centre + reach) + 1, size)


def _stamps(
    ellipses: Ellipses, shape: tuple[int, int]
) -> Iterator[tuple[int, tuple[slice, slice], np.ndarray, np.ndarray]]:
    """Yield for each ellipse inside the image: index, box, squared distances in radii and in px."""
    y_px, x_px, major_px, minor_px, angle_rad = ellipses
    cosine, sine = np.cos(angle_rad), np.sin(angle_rad)
    reach_y = np.hypot(major_px * sine, minor_px * cosine) / 2
    reach_x = np.hypot(major_px * cosine, minor_px * sine) / 2
    for index in range(len(y_px)):
        top, bottom = _window(y_px[index], reach_y[index], shape[0])
        left, right = _window(x_px[index], reach_x[index], shape[1])
        if top >= bottom or left >= right:
            continue
        y = (np.arange(top, bottom) - y_px[index])[:, None]
        x = (np.arange(left, right) - x_px[index])[None, :]
        along = (x * cosine[index] + y * sine[index]) * (2 / major_px[index])
        across = (y * cosine[index] - x * sine[index]) * (2 / minor_px[index])
        yield index, (slice(top, bottom), slice(left, right)), along**2 + across**2, y**2 + x**2


def _draw_labels(ellipses: Ellipses, shape: tuple[int, int]) -> np.ndarray:
    """Label ellipses 1 … n: pixels whose centre is inside; a shared pixel belongs to the nearer centre."""
    labels = np.zeros(shape, np.int32)
    nearest = np.full(shape, np.inf, np.float32)
    for index, box, radius2, distance2 in _stamps(ellipses, shape):
        inside = (radius2 <= 1) & (distance2 < nearest[box])
        labels[box][inside] = index + 1
        nearest[box][inside] = distance2[inside]
    return labels


def _core_ellipses(cores: pd.DataFrame, pixel_size_nm: float, margin_px: int = 0) -> Ellipses:
    scaled = cores[["y_nm", "x_nm", "major_nm", "minor_nm"]].to_numpy() / pixel_size_nm
    # The centre of pixel (0, 0) is half a pixel inside the field's corner.
    y_px, x_px = scaled[:, 0] - 0.5 + margin_px, scaled[:, 1] - 0.5 + margin_px
    return y_px, x_px, scaled[:, 2], scaled[:, 3], cores["angle_rad"].to_numpy()


def _shell_ellipses(shells: pd.DataFrame, pixel_size_nm: float, margin_px: int = 0) -> Ellipses:
    scaled = shells[["y_nm", "x_nm", "radius_nm"]].to_numpy() / pixel_size_nm
    diameter = 2 * scaled[:, 2]
    y_px, x_px = scaled[:, 0] - 0.5 + margin_px, scaled[:, 1] - 0.5 + margin_px
    return y_px, x_px, diameter, diameter, np.zeros(len(shells))


def _in_frame_numbers(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Give the visible area of each label, and a look-up table from labels to 1 … n of the visible ones."""
    area = np.bincount(labels.ravel(), minlength=count + 1)
    area[0] = 0
    lookup = np.where(area > 0, np.cumsum(area > 0), 0)
    return area, lookup


def _compact(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.uint16 if labels.max(initial=0) < 2**16 else np.uint32)


def _adjacent_labels(labels: np.ndarray) -> np.ndarray:
    """Give the labels that have a pixel with another label among its eight neighbours."""
    touching = [np.zeros(0, labels.dtype)]
    for first, second in (
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[:-1, 1:], labels[1:, :-1]),
    ):
        meet = (first != second) & (first > 0) & (second > 0)
        touching += [first[meet], second[meet]]
    return np.unique(np.concatenate(touching))


def _mean_shell_thickness(cores: pd.DataFrame, shells: pd.DataFrame) -> np.ndarray:
    """Give the silica's thickness in nm, averaged over radii from each core's centre."""
    directions = np.linspace(0, 2 * math.pi, 180, endpoint=False)[None]
    shell = shells.iloc[cores["shell"].to_numpy()]
    dy = (cores["y_nm"].to_numpy() - shell["y_nm"].to_numpy())[:, None]
    dx = (cores["x_nm"].to_numpy() - shell["x_nm"].to_numpy())[:, None]
    radius = shell["radius_nm"].to_numpy()[:, None]
    along = dy * np.sin(directions) + dx * np.cos(directions)
    to_shell = -along + np.sqrt(np.maximum(radius**2 - dy**2 - dx**2 + along**2, 0))
    turned = directions - cores["angle_rad"].to_numpy()[:, None]
    half_major = cores["major_nm"].to_numpy()[:, None] / 2
    half_minor = cores["minor_nm"].to_numpy()[:, None] / 2
    to_surface = 1 / np.hypot(np.cos(turned) / half_major, np.sin(turned) / half_minor)
    return np.where(radius[:, 0] > 0, (to_shell - to_surface).mean(1), np.nan)


def _equivalent_diameter_nm(area_px: np.ndarray, pixel_size_nm: float) -> np.ndarray:
    return 2 * np.sqrt(area_px / math.pi) * pixel_size_nm


def rasterise(
    placement: Placement, shape: tuple[int, int], pixel_size_nm: float
) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Draw the label images and make the table of true particles.

    A pixel belongs to a particle when its centre is inside, so areas are right on average. A pixel shared by
    two particles belongs to the nearer centre. A core's pixels always belong to its own shell.

    Parameters
    ----------
    placement : Placement
        Cores and shells in nm.
    shape : (int, int)
        Height and width of the image in px.
    pixel_size_nm : float
        Side of a pixel in nm.

    Returns
    -------
    cores, shells : ndarray, (height, width), uint16 (uint32 above 65,535 labels)
        Labels 1 … n; shells include their cores.
    particles : DataFrame
        One row per core with at least one pixel in the image:

        label, shell_label (0: bare), y_px, x_px (true centre; pixel centres are whole numbers), diameter_nm
        (true equivalent circular diameter of the whole projection), major_nm, minor_nm, angle_rad, area_px
        and visible_diameter_nm (of its label), touches_edge (the label reaches the outermost pixels),
        touches_other (the label is adjacent to another core's);
        shell_outer_diameter_nm, shell_thickness_nm (mean over radii from the core's centre, from the core's
        surface to the shell's), core_offset_nm (distance of the centres), cores_in_shell (visible or not),
        shell_visible_diameter_nm, shell_touches_edge, shell_touches_other: missing for bare cores.
    """
    cores, shells = placement.cores, placement.shells
    core_labels = _draw_labels(_core_ellipses(cores, pixel_size_nm), shape)
    coated = np.flatnonzero(shells["radius_nm"].to_numpy() > 0)
    shell_number = np.zeros(len(shells) + 1, np.int32)
    shell_number[coated] = np.arange(1, len(coated) + 1)
    shell_labels = _draw_labels(_shell_ellipses(shells.iloc[coated], pixel_size_nm), shape)
    own_shell = np.concatenate([[0], shell_number[cores["shell"].to_numpy()]])
    covered = own_shell[core_labels]
    shell_labels = np.where(covered > 0, covered, shell_labels)

    core_area, core_lookup = _in_frame_numbers(core_labels, len(cores))
    shell_area, shell_lookup = _in_frame_numbers(shell_labels, len(coated))
    core_image = _compact(core_lookup[core_labels])
    shell_image = _compact(shell_lookup[shell_labels])

    visible = np.flatnonzero(core_area[1:] > 0)
    visible_cores = cores.iloc[visible].reset_index(drop=True)
    visible_cores["cores_in_shell"] = np.bincount(cores["shell"].to_numpy(), minlength=len(shells))[
        visible_cores["shell"].to_numpy()
    ]
    shell_of_core = own_shell[visible + 1]
    shell_label = np.where(shell_of_core == 0, 0, shell_lookup[shell_of_core])
    particles = pd.concat(
        [
            _core_columns(
                visible_cores, core_lookup[visible + 1], core_area[visible + 1], core_image, pixel_size_nm
            ),
            _shell_columns(
                visible_cores, shells, shell_label, shell_area[shell_of_core], shell_image, pixel_size_nm
            ),
        ],
        axis=1,
    )
    particles.insert(1, "shell_label", shell_label.astype(np.int64))
    return core_image, shell_image, particles


def _core_columns(
    cores: pd.DataFrame, label: np.ndarray, area_px: np.ndarray, core_image: np.ndarray, pixel_size_nm: float
) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": label.astype(np.int64),
            "y_px": cores["y_nm"] / pixel_size_nm - 0.5,
            "x_px": cores["x_nm"] / pixel_size_nm - 0.5,
            "diameter_nm": np.sqrt(cores["major_nm"] * cores["minor_nm"]),
            "major_nm": cores["major_nm"],
            "minor_nm": cores["minor_nm"],
            "angle_rad": cores["angle_rad"],
            "area_px": area_px.astype(np.int64),
            "visible_diameter_nm": _equivalent_diameter_nm(area_px, pixel_size_nm),
            "touches_edge": np.isin(label, labels_on_frame(core_image)),
            "touches_other": np.isin(label, _adjacent_labels(core_image)),
        }
    )


def _shell_columns(
    cores: pd.DataFrame,
    shells: pd.DataFrame,
    shell_label: np.ndarray,
    area_px: np.ndarray,
    shell_image: np.ndarray,
    pixel_size_nm: float,
) -> pd.DataFrame:
    bare = shell_label == 0
    shell = shells.iloc[cores["shell"].to_numpy()].reset_index(drop=True)
    offset_nm = np.hypot(cores["y_nm"] - shell["y_nm"], cores["x_nm"] - shell["x_nm"])

    def of_shell(values: np.ndarray | pd.Series) -> np.ndarray:
        return np.where(bare, np.nan, np.asarray(values, float))

    def flag_of_shell(labels: np.ndarray) -> pd.array:  # type: ignore[valid-type]
        flags = pd.array(np.isin(shell_label, labels), dtype="boolean")
        flags[bare] = pd.NA
        return flags

    columns = pd.DataFrame(
        {
            "shell_outer_diameter_nm": of_shell(2 * shell["radius_nm"]),
            "shell_thickness_nm": of_shell(_mean_shell_thickness(cores, shells)),
            "core_offset_nm": of_shell(offset_nm),
            "cores_in_shell": pd.array(np.where(bare, 0, cores["cores_in_shell"]), dtype="Int64"),
            "shell_visible_diameter_nm": of_shell(_equivalent_diameter_nm(area_px, pixel_size_nm)),
            "shell_touches_edge": flag_of_shell(labels_on_frame(shell_image)),
            "shell_touches_other": flag_of_shell(_adjacent_labels(shell_image)),
        }
    )
    columns.loc[bare, "cores_in_shell"] = pd.NA
    return columns


def project_thickness(
    placement: Placement,
    shape: tuple[int, int],
    pixel_size_nm: float,
    *,
    margin_px: int = 0,
    orientation: Range = (0.85, 1.15),
) -> tuple[np.ndarray, np.ndarray]:
    """Project cores and shells along the beam.

    Parameters
    ----------
    placement : Placement
    shape : (int, int)
    pixel_size_nm : float
    margin_px : int
        Width of the surroundings drawn on each side of the image.
    orientation : (float, float)
        Range of the factor that each core's thickness is multiplied by: its diffraction contrast.

    Returns
    -------
    core_nm, shell_nm : ndarray, (height + 2 margin, width + 2 margin), float32
        Thickness of metal (times the core's factor) and of silica. A core is an ellipsoid; its depth is the
        equivalent diameter of its projection. Cores of one shell form a union. Overlapping particles add up.
    """
    canvas = (shape[0] + 2 * margin_px, shape[1] + 2 * margin_px)
    core_nm, shell_nm = np.zeros(canvas, np.float32), np.zeros(canvas, np.float32)
    radius = placement.shells["radius_nm"].to_numpy()
    coated = np.flatnonzero(radius > 0)
    for index, box, radius2, _ in _stamps(
        _shell_ellipses(placement.shells.iloc[coated], pixel_size_nm, margin_px), canvas
    ):
        shell_nm[box] += 2 * radius[coated[index]] * np.sqrt(np.maximum(1 - radius2, 0))

    cores = placement.cores
    depth = np.sqrt(cores["major_nm"] * cores["minor_nm"]).to_numpy()
    factor = orientation[0] + (orientation[1] - orientation[0]) * cores["strength"].to_numpy()
    shell = cores["shell"].to_numpy()
    owner = np.full(canvas, -1, np.int32)
    own_nm = np.zeros(canvas, np.float32)  # metal of the particle drawn last at each pixel
    for index, box, radius2, _ in _stamps(_core_ellipses(cores, pixel_size_nm, margin_px), canvas):
        chord = (depth[index] * np.sqrt(np.maximum(1 - radius2, 0))).astype(np.float32)
        before = np.where(owner[box] == shell[index], own_nm[box], 0)
        added = np.maximum(chord - before, 0)
        core_nm[box] += added * factor[index]
        if radius[shell[index]] > 0:
            shell_nm[box] -= added
        drawn = chord > 0
        owner[box][drawn] = shell[index]
        own_nm[box][drawn] = np.maximum(chord, before)[drawn]
    return core_nm, np.maximum(shell_nm, 0, out=shell_nm)
