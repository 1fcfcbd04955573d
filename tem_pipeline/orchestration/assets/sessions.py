"""The assets of one session: from its folder of microscope files to its particle table and statistics.

Assets that return a value have no return annotation: with `MaterializeResult` Dagster would assume that they
return none. Modules that draw pictures are imported inside the assets, because loading matplotlib takes half
as long as loading Dagster.
"""

from typing import Any

import dagster as dg
import pandas as pd

from tem_pipeline import progress
from tem_pipeline.images_in_flight import most_in_flight
from tem_pipeline.micrographs.session_images import ingest_session
from tem_pipeline.orchestration import previews
from tem_pipeline.orchestration.partitions import SESSIONS
from tem_pipeline.orchestration.resources import Platform, SessionLock, session_folder
from tem_pipeline.particles.checks import check_particle_table
from tem_pipeline.particles.distributions import PARTICLE_COLUMNS
from tem_pipeline.particles.distributions import size_distributions as distribute
from tem_pipeline.particles.table import measure_session
from tem_pipeline.segmentation.masks import SegmentedImage, predict_session_masks
from tem_pipeline.segmentation.models import load_model
from tem_pipeline.text import counted
from tem_pipeline.tracking.champion import NO_CHAMPION_YET, champion_or_pretrained

WARN = dg.AssetCheckSeverity.WARN
GROUP: dict[str, Any] = {
    "group_name": "sessions",
    "partitions_def": SESSIONS,
    "io_manager_key": "tables",
    "kinds": {"parquet"},
}
# A third of the 60 columns is enough; a large session has 100,000 particles.
COUNTED = {"particle_table": dg.AssetIn(metadata={"columns": list(PARTICLE_COLUMNS)})}


@dg.asset(
    **GROUP,
    check_specs=[
        dg.AssetCheckSpec("no_file_refused", asset="raw_tem_images", description="Every file could be read."),
        dg.AssetCheckSpec(
            "all_calibrated", asset="raw_tem_images", description="Every image has a pixel size."
        ),
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
    return dg.MaterializeResult(
        value=manifest,
        metadata={
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


@dg.asset(
    **GROUP,
    check_specs=[
        dg.AssetCheckSpec("particles_found", asset="predicted_masks", description="Every image has cores."),
        dg.AssetCheckSpec("images_good", asset="predicted_masks", description="No image needs a review."),
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
    return dg.MaterializeResult(
        value=masks,
        metadata={
            "cores": int(masks["n_cores"].sum()),
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


@dg.asset(**GROUP)
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
    check_particle_table(particles)
    counted = particles[~particles["touches_edge"].astype(bool)]
    return dg.MaterializeResult(
        value=particles,
        metadata={
            "particles": len(particles),
            "counted": len(counted),
            "left out at the edge": len(particles) - len(counted),
            "first particles": previews.table(
                particles[["image_id", "label", "equivalent_diameter_nm", "circularity", "confidence"]], 10
            ),
        },
    )


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
