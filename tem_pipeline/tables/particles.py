"""The columns of `particle_table`."""

import pyarrow as pa

from tem_pipeline.tables.columns import BOOLEAN, INTEGER, REAL, TEXT, VERSION_METADATA, column

PROVENANCE_FIELDS = (
    column("particle_id", TEXT, "", "session_id/image_id/label; unique in the lake", nullable=False),
    column("session_id", TEXT, "", "key of the session, as in the folder name session=…", nullable=False),
    column("session_name", TEXT, "", "name of the session folder as the microscopist wrote it"),
    column("sample_id", TEXT, "", "sample from session.yaml, or the session name", nullable=False),
    column("image_id", TEXT, "", "image within the session, as in raw_tem_images", nullable=False),
    column("field_id", TEXT, "", "acquisition of the image; the bootstrap resamples fields", nullable=False),
    column("file", TEXT, "", "microscope file, relative to the session folder", nullable=False),
    column("file_sha256", TEXT, "", "SHA-256 of the microscope file"),
    column("pixel_sha256", TEXT, "", "SHA-256 of the image's pixels"),
    column("mode", TEXT, "", "bright_field (dark particles) or haadf (bright particles)", nullable=False),
    column(
        "pixel_size_nm",
        REAL,
        "nm",
        "side of a square pixel, the px of this table and of the label TIFF; null if calibration is missing",
    ),
    column(
        "calibration",
        TEXT,
        "",
        "source of the pixel size: metadata, session, scale_bar (reserved) or missing",
        nullable=False,
    ),
    column("calibration_uncertainty", REAL, "1", "relative standard uncertainty of the pixel size"),
    column("model_name", TEXT, "", "registered model that predicted the masks, or pretrained"),
    column("model_version", TEXT, "", "version of that model"),
    column("model_sha256", TEXT, "", "SHA-256 of the model weights that were used"),
    column("loss", TEXT, "", "loss function that the model was trained with"),
    column("code_version", TEXT, "", "version of tem_pipeline that measured the particle"),
    column("image_quality", TEXT, "", "good or review; statistics leave out review images", nullable=False),
    column("metal", TEXT, "", "metal of the cores, from session.yaml"),
)

MEASURED_FIELDS = (
    column("label", INTEGER, "", "number of the particle in the image's label TIFF", nullable=False),
    column("area_px", INTEGER, "px²", "area S: number of pixels", nullable=False),
    column("area_nm2", REAL, "nm²", "area S"),
    column(
        "equivalent_diameter_px", REAL, "px", "diameter of the circle of equal area, 2 √(S/π)", nullable=False
    ),
    column("equivalent_diameter_nm", REAL, "nm", "diameter of the circle of equal area, 2 √(S/π)"),
    column(
        "perimeter_px",
        REAL,
        "px",
        "perimeter P by Crofton's formula in 4 directions, including the rims of holes",
        nullable=False,
    ),
    column(
        "perimeter_nm",
        REAL,
        "nm",
        "perimeter P by Crofton's formula in 4 directions, including the rims of holes",
    ),
    column(
        "circularity",
        REAL,
        "1",
        "4πS/P²; discretisation can make it greater than 1 for tiny particles",
        nullable=False,
    ),
    column("roundness", REAL, "1", "4S/(πF_max²)", nullable=False),
    column("feret_max_px", REAL, "px", "largest Feret diameter F_max", nullable=False),
    column("feret_max_nm", REAL, "nm", "largest Feret diameter F_max"),
    column("feret_min_px", REAL, "px", "smallest Feret diameter F_min", nullable=False),
    column("feret_min_nm", REAL, "nm", "smallest Feret diameter F_min"),
    column("aspect_ratio", REAL, "1", "F_min/F_max", nullable=False),
    column(
        "solidity",
        REAL,
        "1",
        "S / number of pixel centres within the convex hull; 1 for convex particles",
        nullable=False,
    ),
    column("eccentricity", REAL, "1", "of the ellipse with the same second moments", nullable=False),
    column(
        "orientation_rad",
        REAL,
        "rad",
        "angle from the image's downward axis to the major axis, −π/2 … π/2",
        nullable=False,
    ),
    column("centroid_y_px", REAL, "px", "row of the centroid; the first pixel's centre is 0", nullable=False),
    column(
        "centroid_x_px", REAL, "px", "column of the centroid; the first pixel's centre is 0", nullable=False
    ),
    column("centroid_y_nm", REAL, "nm", "distance of the centroid below the first pixel's centre"),
    column("centroid_x_nm", REAL, "nm", "distance of the centroid to the right of the first pixel's centre"),
    column("bbox_top_px", INTEGER, "px", "first row of the particle", nullable=False),
    column("bbox_left_px", INTEGER, "px", "first column of the particle", nullable=False),
    column("bbox_bottom_px", INTEGER, "px", "row after the last row of the particle", nullable=False),
    column("bbox_right_px", INTEGER, "px", "column after the last column of the particle", nullable=False),
    column("mean_intensity", REAL, "counts", "mean intensity of the recorded image over the particle"),
    column("minimum_intensity", REAL, "counts", "lowest intensity of the recorded image over the particle"),
    column(
        "background_intensity", REAL, "counts", "mean intensity around the particle, without other particles"
    ),
    column("contrast", REAL, "1", "(mean − background)/background; null if the background is not positive"),
    column("confidence", REAL, "1", "mean predicted probability of foreground over the particle"),
    column(
        "touches_edge",
        BOOLEAN,
        "",
        "true if the particle touches the image frame; such particles are never counted",
        nullable=False,
    ),
    column(
        "was_split", BOOLEAN, "", "true if it was split from a cluster of touching particles", nullable=False
    ),
    column(
        "edge_weight",
        REAL,
        "1",
        "Miles–Lantuéjoul weight 1/p of particles that the frame does not cut, else null",
    ),
    column(
        "shell_label",
        INTEGER,
        "",
        "number of the core's whole particle in the label TIFF of the shells; null for bare cores",
    ),
    column("cores_in_shell", INTEGER, "1", "number of cores in the same shell; null if the frame cuts it"),
    column(
        "shell_outer_diameter_px",
        REAL,
        "px",
        "equivalent diameter of the whole particle, including the shell",
    ),
    column(
        "shell_outer_diameter_nm",
        REAL,
        "nm",
        "equivalent diameter of the whole particle, including the shell",
    ),
    column(
        "shell_thickness_px",
        REAL,
        "px",
        "mean distance from core rim to shell rim, along radii from the core's centroid",
    ),
    column(
        "shell_thickness_nm",
        REAL,
        "nm",
        "mean distance from core rim to shell rim, along radii from the core's centroid",
    ),
    column("shell_thickness_sd_px", REAL, "px", "standard deviation of the thickness along those radii"),
    column("shell_thickness_sd_nm", REAL, "nm", "standard deviation of the thickness along those radii"),
    column("core_offset_px", REAL, "px", "distance between the centroids of core and whole particle"),
    column("core_offset_nm", REAL, "nm", "distance between the centroids of core and whole particle"),
    column(
        "shell_edge_weight",
        REAL,
        "1",
        "Miles–Lantuéjoul weight of the whole particle; null if the frame cuts it",
    ),
)

PARTICLE_SCHEMA = pa.schema(PROVENANCE_FIELDS + MEASURED_FIELDS, metadata=VERSION_METADATA)
