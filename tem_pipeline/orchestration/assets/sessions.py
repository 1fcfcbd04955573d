"""The assets of one session: from its folder of microscope files to its particle table and statistics.

Assets that return a value have no return annotation: with `MaterializeResult` Dagster would assume that they
return none. Modules that draw pictures are imported inside the assets, because loading matplotlib takes half
as long as loading Dagster.
"""

import warnings
from typing import Any

import dagster as dg
import pandas as pd

from tem_pipeline import progress
from tem_pipeline.errors import UserError
from tem_pipeline.images_in_flight import most_in_flight
from tem_pipeline.micrographs.session_images import ingest_session
from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import Platform, SessionLock, session_folder
from tem_pipeline.orchestration.session_life.session_tables import no_image_reason
from tem_pipeline.particles.checks import check_particle_table
from tem_pipeline.particles.distributions import PARTICLE_COLUMNS
from tem_pipeline.particles.distributions import size_distributions as distribute
from tem_pipeline.particles.table import measure_session
from tem_pipeline.segmentation.masks import SegmentedImage, predict_session_masks
from tem_pipeline.segmentation.models import load_model
from tem_pipeline.text import counted
from tem_pipeline.tracking.champion import NO_CHAMPION_YET, champion_or_pretrained

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR
GROUP: dict[str, Any] = {
    "group_name": "sessions",
    "partitions_def": SESSIONS,
    "io_manager_key": "tables",
    "kinds": {"parquet"},
}
# A third of the 60 columns is enough; a large session has 100,000 particles.
COUNTED = {"particle_table": dg.AssetIn(metadata={"columns": list(PARTICLE_COLUMNS)})}


def _check(name: str, asset: str, description: str, blocking: bool = False) -> dg.AssetCheckSpec:
    """Specify a check of one session. Without partitions the next session would overwrite its result."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            name, asset=asset, description=description, blocking=blocking, partitions_def=SESSIONS
        )


@dg.asset(
    **GROUP,
    check_specs=[
        _check("any_image", "raw_tem_images", "There is an image to measure.", blocking=True),
        _check("no_file_refused", "raw_tem_images", "Every file could be read."),
        _check("all_calibrated", "raw_tem_images", "Every image has a pixel size."),
    ],
)
def raw_tem_images(context: dg.AssetExecutionContext, platform: Platform, session_lock: SessionLock):
    """Calibrated TIFFs and the manifest: one row per image, refused files included."""
    session = context.partition_key
    folder = session_folder(context.run.tags, platform, session)
    target = platform.layout.partition("raw_tem_images", session)
    manifest = ingest_session(folder, session, target)
    manifest["session_folder"] = platform.layout.recorded_folder(folder)
    refused = manifest[manifest["status"] == "refused"]
    measured = manifest[manifest["status"] == "ok"]
    uncalibrated = measured[measured["calibration"] == "missing"]
    no_image = no_image_reason(manifest)
    yield dg.MaterializeResult(
        value=manifest,
        metadata={
            "result": f"{counted(len(measured), 'image')}, {counted(len(refused), 'file')} refused",
            "images": len(measured),
            "files refused": len(refused),
            "images without calibration": len(uncalibrated),
            "manifest": previews.table(
                manifest[
                    ["file", "status", "reason", "height_px", "width_px", "pixel_size_x_nm", "calibration"]
                ]
            ),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="any_image",
                passed=no_image is None,
                severity=ERROR,
                metadata={"reason": no_image or counted(len(measured), "image")},
            ),
            dg.AssetCheckResult(
                check_name="no_file_refused",
                passed=refused.empty,
                severity=WARN,
                metadata={"refused": previews.table(refused[["file", "reason"]])},
            ),
            dg.AssetCheckResult(
                check_name="all_calibrated",
                passed=uncalibrated.empty,
                severity=WARN,
                metadata={"images": ", ".join(uncalibrated["image_id"])},
            ),
        ],
    )
    if no_image:
        # The manifest is written, so that everybody can read why no file is measured.
        raise UserError(f"session {session}: {no_image}")


@dg.asset(
    **GROUP,
    check_specs=[
        _check("particles_found", "predicted_masks", "Every image has cores."),
        _check("images_good", "predicted_masks", "No image needs a review."),
    ],
)
def predicted_masks(
    context: dg.AssetExecutionContext,
    platform: Platform,
    session_lock: SessionLock,
    raw_tem_images: pd.DataFrame,
):
    """Label images of cores and shells with confidence and image quality, made by the champion.

    The pretrained model makes them as long as there is no champion.
    """
    from tem_pipeline.reports.overlays import overlay_png

    layout, settings = platform.layout, platform.settings
    folder = champion_or_pretrained(platform.store, layout)
    in_flight = most_in_flight(raw_tem_images[raw_tem_images["status"] == "ok"])
    model = load_model(folder, settings.threads, settings.precision, in_flight)
    remark = NO_CHAMPION_YET if folder == layout.pretrained else None
    if remark:
        context.log.warning(remark)
        progress.say(remark)
    target = layout.partition("predicted_masks", context.partition_key)
    thumbnails: list[bytes] = []

    def keep_first(row: pd.Series, found: SegmentedImage) -> None:
        context.log.info(f"{row['file']}: {counted(found.quality.n_cores, 'core')}")
        if not thumbnails:
            masks = found.masks
            thumbnails.append(
                overlay_png(found.image, masks.labels, masks.shell_labels, pixel_size_nm=found.pixel_size_nm)
            )

    masks = predict_session_masks(
        raw_tem_images,
        layout.partition("raw_tem_images", context.partition_key),
        target,
        model,
        settings,
        keep_first,
    )
    empty = masks[masks["n_cores"] == 0]
    review = masks[masks["image_quality"] == "review"]
    confidence = masks["confidence"].mean()
    return dg.MaterializeResult(
        value=masks,
        metadata={
            "result": f"{counted(int(masks['n_cores'].sum()), 'core')} on {counted(len(masks), 'image')}, "
            f"{len(review)} to review",
            "cores": int(masks["n_cores"].sum()),
            "images to review": len(review),
            **({"confidence": previews.rounded(confidence)} if pd.notna(confidence) else {}),
            "model": f"{model.card.name} version {model.card.version} ({model.card.loss})",
            **({"why this model": remark} if remark else {}),
            "images": previews.table(
                masks[["image_id", "n_cores", "median_diameter_px", "confidence", "image_quality"]]
            ),
            **({"overlay of the first image": previews.picture(thumbnails[0])} if thumbnails else {}),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="particles_found",
                passed=empty.empty,
                severity=WARN,
                metadata={"images without cores": ", ".join(empty["image_id"])},
            ),
            dg.AssetCheckResult(
                check_name="images_good",
                passed=review.empty,
                severity=WARN,
                metadata={"review": previews.table(review[["image_id", "image_quality_reason"]])},
            ),
        ],
    )


@dg.asset(
    **GROUP,
    check_specs=[
        _check("rules_kept", "particle_table", "Every row keeps the rules of its columns.", blocking=True)
    ],
)
def particle_table(
    context: dg.AssetExecutionContext,
    platform: Platform,
    session_lock: SessionLock,
    raw_tem_images: pd.DataFrame,
    predicted_masks: pd.DataFrame,
):
    """One row per particle: the table to query first."""
    session, layout = context.partition_key, platform.layout
    particles = measure_session(
        raw_tem_images,
        layout.partition("raw_tem_images", session),
        predicted_masks,
        layout.partition("predicted_masks", session),
    )
    fault = _fault_of(particles)
    yield dg.AssetCheckResult(
        check_name="rules_kept",
        passed=fault is None,
        severity=ERROR,
        metadata={"fault": fault or "none", "rows": len(particles)},
    )
    if fault:
        # Raised before the table is written: the previous one stays, and nothing is made from this one.
        raise UserError(f"session {session}: {fault}")
    whole = particles[~particles["touches_edge"].astype(bool)]
    yield dg.MaterializeResult(
        value=particles,
        metadata={
            "result": f"{counted(len(whole), 'particle')} counted, "
            f"{len(particles) - len(whole)} cut by the edge",
            "particles": len(particles),
            "counted": len(whole),
            "left out at the edge": len(particles) - len(whole),
            "first particles": previews.table(
                particles[["image_id", "label", "equivalent_diameter_nm", "circularity", "confidence"]], 10
            ),
        },
    )


def _fault_of(particles: pd.DataFrame) -> str | None:
    try:
        check_particle_table(particles)
    except UserError as error:
        return str(error)
    return None


@dg.asset(**GROUP, ins=COUNTED)
def size_distributions(
    context: dg.AssetExecutionContext,
    platform: Platform,
    session_lock: SessionLock,
    raw_tem_images: pd.DataFrame,
    predicted_masks: pd.DataFrame,
    particle_table: pd.DataFrame,
):
    """Count, mean, standard deviation, median and histogram of each measurand."""
    from tem_pipeline.reports.figures import distribution_figure, figure_png

    session = context.partition_key
    sample_id = raw_tem_images["sample_id"].iloc[0] if len(raw_tem_images) else session
    distributions = distribute(
        particle_table,
        raw_tem_images,
        predicted_masks,
        session,
        sample_id,
        platform.settings.target_half_width,
    )
    pictures = {
        f"{row['measurand']} ({row['unit']})": previews.picture(figure_png(distribution_figure(row), dpi=70))
        for row in distributions.to_dict("records")
        if row["measurand"] in ("equivalent_diameter", "perimeter") and row["n_counted"]
    }
    return dg.MaterializeResult(
        value=distributions,
        metadata={
            **previews.sizes(distributions),
            "statistics": previews.table(distributions[["measurand", *previews.STATISTICS]]),
            **pictures,
        },
    )


@dg.asset(**{**GROUP, "kinds": {"html"}}, ins=COUNTED)
def session_report(
    context: dg.AssetExecutionContext,
    platform: Platform,
    session_lock: SessionLock,
    raw_tem_images: pd.DataFrame,
    predicted_masks: pd.DataFrame,
    particle_table: pd.DataFrame,
    size_distributions: pd.DataFrame,
) -> dg.MaterializeResult:
    """A page with pictures, reports/SESSION/index.html; it is not stored in the lake."""
    from tem_pipeline.reports.session_report import report_page, write_report

    session, layout = context.partition_key, platform.layout
    page = report_page(
        raw_tem_images,
        layout.partition("raw_tem_images", session),
        predicted_masks,
        layout.partition("predicted_masks", session),
        particle_table,
        size_distributions,
        session,
    )
    target = layout.report(session)
    write_report(target, page)
    return dg.MaterializeResult(
        metadata={
            "report": dg.MetadataValue.url(target.as_uri()),
            "path": dg.MetadataValue.path(str(target)),
            "megabytes": round(len(page) / 1e6, 2),
        }
    )


SESSION_ASSETS = [raw_tem_images, predicted_masks, particle_table, size_distributions, session_report]
