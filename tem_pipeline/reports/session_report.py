"""Writes a session's report: one HTML page that needs nothing else, for the screen and for paper.

It is made only from the session's tables and images. Every number on it is in a table.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from tem_pipeline import __version__
from tem_pipeline.micrographs.frame import labels_on_frame
from tem_pipeline.reports.figures import distribution_figure, fields_figure, figure_svg
from tem_pipeline.reports.overlays import overlay
from tem_pipeline.storage import AnyPath, read_tiff, write_bytes
from tem_pipeline.tables import FIT_PARAMETERS, INTERVAL_STATISTICS, SIZE_DISTRIBUTION_SCHEMA, STATISTICS
from tem_pipeline.text import printable

MOST_OVERLAYS = 24
_OVERLAY_PX = 1024
_DETAIL_PX = 360
_PICTURES_BYTES = 6_000_000
_LARGEST_PICTURE_BYTES = 400_000

_STATISTIC_NAMES = {
    "mean": "mean",
    "standard_deviation": "standard deviation",
    "median": "median, D50",
    "d10_number": "D10",
    "d90_number": "D90",
    "d10_volume": "D10, by volume",
    "d50_volume": "D50, by volume",
    "d90_volume": "D90, by volume",
    "d32": "D[3,2], surface-weighted mean",
    "d43": "D[4,3], volume-weighted mean",
}
_ABOUT = (
    "session_name",
    "sample_id",
    "session_fingerprint",
    "operator",
    "microscope",
    "voltage_kv",
    "metal",
)
_MODES = {"bright_field": "bright field", "haadf": "HAADF"}
_CALIBRATIONS = {
    "metadata": "from the files' metadata",
    "session": "given by a person (session.yaml)",
    "scale_bar": "from the scale bar",
    "missing": "missing: sizes are in pixels",
}


def report_page(
    manifest: pd.DataFrame,
    images: AnyPath,
    masks: pd.DataFrame,
    mask_images: AnyPath,
    particles: pd.DataFrame,
    distributions: pd.DataFrame,
    session_id: str,
    made_at: datetime | None = None,
) -> str:
    """Make the report page of a session.

    Parameters
    ----------
    manifest, masks, particles, distributions : DataFrame
        The session's tables.
    images, mask_images : path
        Folders of the images that manifest and masks name.
    session_id : str
    made_at : datetime, optional
        Now by default.

    Returns
    -------
    str
        An HTML page that refers to nothing outside it. Names and reasons are written by others, so they are
        escaped. At most `MOST_OVERLAYS` images are shown, those to review first; all images are listed.
    """
    listed = _listed_images(manifest, masks, particles)
    shown = _chosen(listed)
    known: dict[str, Any] = dict.fromkeys(_ABOUT)
    known |= next(iter(_records(manifest.iloc[:1], _ABOUT)), {})
    return _template().render(
        session={
            "id": session_id,
            "name": known.pop("session_name") or session_id,
            "sample": known.pop("sample_id"),
            "fingerprint": known.pop("session_fingerprint"),
            **known,
        },
        counts=_counts(manifest, masks, particles),
        blocks=list(_blocks(distributions, particles)),
        others=list(_other_measurands(distributions)),
        overlays=list(_overlays(shown, manifest, images, masks, mask_images)),
        images=listed.to_dict("records"),
        n_not_shown=len(listed) - len(shown),
        has_shells=bool(masks["shells_file"].notna().any()),
        refused=_records(manifest[manifest["status"] == "refused"], ["file", "reason"]),
        left_out=_records(
            manifest[manifest["status"].isin(("duplicate", "frame", "detector"))],
            ["file", "status", "reason"],
        ),
        remarks=_records(
            manifest[(manifest["status"] == "ok") & manifest["reason"].notna()], ["image_id", "reason"]
        ),
        calibrations=_calibrations(manifest),
        modes=[
            (_MODES.get(str(mode), mode), len(of_mode)) for mode, of_mode in masks.groupby("mode", sort=False)
        ],
        models=_records(
            masks.drop_duplicates(["model_name", "model_version", "model_sha256", "code_version"]),
            ["model_name", "model_version", "loss", "model_sha256", "code_version", "model_diameter_error"],
        ),
        files=_records(manifest.drop_duplicates("file"), ["file", "status", "file_sha256"]),
        made_at=(made_at or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def write_report(target: AnyPath, page: str) -> None:
    """Write a report's page in one step."""
    write_bytes(target, page.encode("utf-8", "replace"))


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("tem_pipeline.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters |= {"number": _format, "percent": _percent, "nm": _nanometres}
    return environment.get_template("session_report.html.j2")


def _shown(value: Any) -> Any:
    """Replace control characters and those that change the direction of writing."""
    if value is None:
        return ""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return printable(value, kept="\n\N{NARROW NO-BREAK SPACE}")


def _or_none(value: Any) -> Any:
    return None if value is None or (np.ndim(value) == 0 and pd.isna(value)) else value


def _records(frame: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    rows = frame.reindex(columns=list(columns)).astype(object).to_dict("records")
    return [{str(name): _or_none(value) for name, value in row.items()} for row in rows]


def _format(value: Any, error: Any = None) -> str:
    """Write a number to two digits of its standard error (at most five in all), else to four digits."""
    value, error = _or_none(value), _or_none(error)
    if value is None:
        return "–"
    if error is not None and error > 0 and np.isfinite(error):
        digits = int(np.clip(1 - np.floor(np.log10(error)), 0, _most_digits(value, 5)))
        return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
    if isinstance(value, bool | int | np.integer):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    return _four_figures(float(value))


def _most_digits(value: float, figures: int) -> int:
    magnitude = np.floor(np.log10(abs(value))) if value and np.isfinite(value) else 0
    return int(np.clip(figures - 1 - magnitude, 0, 9))


def _four_figures(value: float) -> str:
    if value == 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = _most_digits(value, 4)
    text = f"{value:.{digits}f}" if 1e-4 <= abs(value) < 1e6 else f"{value:.3e}"
    return text.replace("-", "\N{MINUS SIGN}")


def _percent(value: Any) -> str:
    value = _or_none(value)
    return "–" if value is None else f"{100 * value:.2g} %" if value < 0.0995 else f"{100 * value:.0f} %"


def _nanometres(value: Any) -> str:
    value = _or_none(value)
    return "–" if value is None else f"{value:.4g} nm"


def _counts(manifest: pd.DataFrame, masks: pd.DataFrame, particles: pd.DataFrame) -> dict[str, int]:
    status = manifest["status"].value_counts()
    good = particles[particles["image_quality"] == "good"]
    return {
        "images": int(status.get("ok", 0)),
        "fields": manifest.loc[manifest["status"] == "ok", "field_id"].nunique(),
        "review": int((masks["image_quality"] == "review").sum()),
        "refused": int(status.get("refused", 0)),
        "found": len(particles),
        "counted": int((~good["touches_edge"].astype(bool)).sum()),
        "cut": int(good["touches_edge"].astype(bool).sum()),
        "split": int(good["was_split"].astype(bool).sum()),
    }


def _rows(distributions: pd.DataFrame) -> list[dict[str, Any]]:
    """Give the rows with all current columns; tables of earlier versions lack some."""
    return _records(distributions, SIZE_DISTRIBUTION_SCHEMA.names)


def _blocks(distributions: pd.DataFrame, particles: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Give the contents of the diameter sections: one in nm and one in px, if there are such images."""
    for row in _rows(distributions):
        if row["measurand"] != "equivalent_diameter" or not (row["n_counted"] or row["n_images"]):
            continue
        block: dict[str, Any] = {"row": row, "unit": row["unit"]}
        if row["n_counted"]:
            block |= {
                "statistics": list(_statistics(row)),
                "fits": list(_fits(row)),
                "histogram": _svg(distribution_figure(row)),
                "fields": _fields(particles, row),
            }
        yield block


def _statistics(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, *_ in STATISTICS:
        if row.get(name) is None:
            continue
        cells: dict[str, Any] = {"name": _STATISTIC_NAMES.get(name, name)}
        for kind, suffix in (("plain", ""), ("corrected", "_corrected")):
            column = f"{name}{suffix}"
            error = row.get(f"{column}_standard_error") if name in INTERVAL_STATISTICS else None
            ends = [row.get(f"{column}_{end}") for end in ("low", "high")]
            interval = None
            if None not in ends and name in INTERVAL_STATISTICS:
                interval = " … ".join(_format(end, error) for end in ends)
            cells[kind] = {"value": _format(row.get(column), error), "interval": interval}
        yield cells


def _fits(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for fit in ("normal", "lognormal"):
        parameters = [name for name, *_ in FIT_PARAMETERS if name.startswith(f"{fit}_")]
        if any(row.get(name) is None for name in parameters):
            continue
        yield {
            "name": fit,
            "parameters": [
                {
                    "name": name.removeprefix(f"{fit}_")
                    .replace("_", " ")
                    .replace("sd", "standard deviation"),
                    "value": _format(row[name], row.get(f"{name}_standard_error")),
                    "error": _error(row.get(f"{name}_standard_error")),
                    "unit": "" if name == "lognormal_geometric_sd" else row["unit"],
                }
                for name in parameters
            ],
            "anderson_darling": row.get(f"{fit}_anderson_darling"),
            "p": row.get(f"{fit}_p_value"),
        }


def _error(value: Any) -> str | None:
    value = _or_none(value)
    return None if value is None else _format(value, value)


def _fields(particles: pd.DataFrame, row: dict[str, Any]) -> Markup | None:
    """Draw the means of the fields; None for a single field, which can't be compared."""
    column = f"equivalent_diameter_{row['unit']}"
    counted = particles[~particles["touches_edge"].astype(bool) & (particles["image_quality"] == "good")]
    missing = counted["calibration"] == "missing"
    counted = counted[missing if row["unit"] == "px" else ~missing]
    fields = counted.groupby("field_id", sort=False)[column].agg(["mean", "sem"])
    if len(fields) < 2:
        return None
    return _svg(fields_figure(fields.rename(columns={"sem": "standard_error"}), row))


def _other_measurands(distributions: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in _rows(distributions):
        if row["measurand"] != "equivalent_diameter" and row["n_counted"]:
            # Perimeter, Feret diameter and ratios aren't drawn: their histograms look like the diameter's.
            drawn = row["measurand"].startswith("shell_")
            histogram = _svg(distribution_figure(row)) if drawn else None
            yield row | {"name": row["measurand"].replace("_", " "), "histogram": histogram}


def _listed_images(manifest: pd.DataFrame, masks: pd.DataFrame, particles: pd.DataFrame) -> pd.DataFrame:
    """Give one row per measured image, those to review first."""
    touching = particles["touches_edge"].astype(bool)
    counted = particles[~touching]["image_id"].value_counts()
    cut = particles[touching]["image_id"].value_counts()
    columns = [
        "file",
        "image_id",
        "field_id",
        "height_px",
        "width_px",
        "pixel_size_x_nm",
        "calibration",
        "calibration_note",
    ]
    listed = manifest.loc[manifest["status"] == "ok", columns].merge(
        masks.reindex(
            columns=[
                "image_id",
                "mode",
                "median_diameter_px",
                "confidence",
                "smallest_reliable_diameter_px",
                "image_quality",
                "image_quality_reason",
            ]
        ),
        on="image_id",
        how="inner",
    )
    listed["counted"] = listed["image_id"].map(counted).fillna(0).astype(int)
    listed["cut"] = listed["image_id"].map(cut).fillna(0).astype(int)
    listed["review"] = listed["image_quality"] == "review"
    listed = listed.sort_values("review", ascending=False, kind="stable").reset_index(drop=True)
    listed["number"] = range(1, len(listed) + 1)
    listed["shown"] = listed["number"].isin(_chosen(listed)["number"])
    return listed.astype(object).where(listed.notna(), None)


def _chosen(listed: pd.DataFrame) -> pd.DataFrame:
    """Choose the images to show: those to review, and good ones spread evenly over the session."""
    if len(listed) <= MOST_OVERLAYS:
        return listed
    review, good = listed[listed["review"].astype(bool)], listed[~listed["review"].astype(bool)]
    # Always show some good images, so that the reader can compare.
    n_review = min(len(review), MOST_OVERLAYS - min(len(good), MOST_OVERLAYS // 4))
    n_good = MOST_OVERLAYS - n_review
    spread = np.unique(np.linspace(0, len(good) - 1, min(n_good, len(good))).round().astype(int))
    return pd.concat([review[:n_review], good.iloc[spread]])


def _overlays(
    shown: pd.DataFrame, manifest: pd.DataFrame, images: AnyPath, masks: pd.DataFrame, mask_images: AnyPath
) -> Iterator[dict[str, Any]]:
    raw, mask_rows = manifest.set_index("image_id"), masks.set_index("image_id")
    for row in shown.to_dict("records"):
        mask = mask_rows.loc[row["image_id"]]
        image = read_tiff(images / raw.loc[row["image_id"], "image_file"])
        labels = read_tiff(mask_images / mask["labels_file"])
        shells = read_tiff(mask_images / mask["shells_file"]) if pd.notna(mask["shells_file"]) else None
        size_nm = row["pixel_size_x_nm"]
        whole = overlay(image, labels, shells, pixel_size_nm=size_nm, max_px=_OVERLAY_PX)
        pictures = [whole]
        if max(image.shape) > 1.5 * _OVERLAY_PX:
            window = _busiest(labels)
            part = labels[window]
            pictures.append(
                overlay(
                    image[window],
                    part,
                    shells[window] if shells is not None else None,
                    np.intersect1d(part, labels_on_frame(labels)).tolist(),
                    size_nm,
                    2 * _DETAIL_PX,
                )
            )
        room = min(_LARGEST_PICTURE_BYTES, _PICTURES_BYTES // (len(shown) * len(pictures)))
        yield row | {
            "pictures": [_jpeg(picture, room) for picture in pictures],
            "place": None
            if len(pictures) == 1
            else f"rows from {window[0].start}, columns from {window[1].start}",
        }


def _busiest(labels: np.ndarray) -> tuple[slice, slice]:
    """Find the window with the most particles, out of a grid of windows."""
    best, busiest = -1, (slice(0, _DETAIL_PX), slice(0, _DETAIL_PX))
    for top in range(0, max(1, labels.shape[0] - _DETAIL_PX + 1), _DETAIL_PX):
        for left in range(0, max(1, labels.shape[1] - _DETAIL_PX + 1), _DETAIL_PX):
            window = slice(top, top + _DETAIL_PX), slice(left, left + _DETAIL_PX)
            found = len(np.unique(labels[window]))
            if found > best:
                best, busiest = found, window
    return busiest


def _jpeg(picture: np.ndarray, room: int) -> Markup:
    """Encode a picture in at most `room` bytes, without colour subsampling so that outlines stay sharp."""
    shown = Image.fromarray(picture)
    while True:
        for quality in (88, 78, 66):
            stream = io.BytesIO()
            shown.save(stream, format="JPEG", quality=quality, subsampling=0)
            if stream.tell() <= room or max(shown.size) <= 256:
                return _data_uri("image/jpeg", stream.getvalue())
        share = max(0.5, 0.95 * (room / stream.tell()) ** 0.5)
        size = round(share * shown.width), round(share * shown.height)
        shown = shown.resize(size, Image.Resampling.LANCZOS)


def _svg(figure: Any) -> Markup:
    return _data_uri("image/svg+xml", figure_svg(figure))


def _data_uri(kind: str, content: bytes) -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")


def _calibrations(manifest: pd.DataFrame) -> list[dict[str, Any]]:
    measured = manifest[manifest["status"] == "ok"]
    rows = []
    for state, group in measured.groupby("calibration", sort=False):
        sizes, uncertainty = group["pixel_size_x_nm"].dropna(), group["calibration_uncertainty"].dropna()
        rows.append(
            {
                "state": state,
                "meaning": _CALIBRATIONS.get(str(state), state),
                "images": len(group),
                "smallest_nm": sizes.min() if len(sizes) else None,
                "largest_nm": sizes.max() if len(sizes) else None,
                "uncertainty": uncertainty.max() if len(uncertainty) and state != "missing" else None,
                "notes": sorted(set(group["calibration_note"].dropna())),
            }
        )
    return rows
