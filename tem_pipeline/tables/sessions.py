"""The columns of `raw_tem_images`, `predicted_masks`, `session_states` and `session_failures`."""

import pyarrow as pa

from tem_pipeline.tables.columns import INTEGER, REAL, TEXT, column

MANIFEST_SCHEMA = pa.schema(
    [
        column("session_id", TEXT, "", "key of the session"),
        column("session_name", TEXT, "", "name of the session folder as the microscopist wrote it"),
        column(
            "session_folder",
            TEXT,
            "",
            "folder it was read from; below incoming/ its place in the data root",
        ),
        column("session_fingerprint", TEXT, "", "hash of the session's files when they were read"),
        column("sample_id", TEXT, "", "sample from session.yaml, or the session name"),
        column("file", TEXT, "", "file, relative to the session folder"),
        column("file_sha256", TEXT, "", "SHA-256 of the file; null if it cannot be read"),
        column("pixel_sha256", TEXT, "", "SHA-256 of height, width and values (little-endian float32)"),
        column("signal", pa.int32(), "", "index of the data set in the file, from 0"),
        column("frame", pa.int32(), "", "index of the frame in a stack, from 0"),
        column("image_id", TEXT, "", "name of the image, unique in the session; null for refused files"),
        column("field_id", TEXT, "", "field of view; all images of one acquisition share it"),
        column("height_px", pa.int32(), "px", "height of the stored image"),
        column("width_px", pa.int32(), "px", "width of the stored image"),
        column("pixel_size_y_nm", REAL, "nm", "pixel height of the stored image; null if unknown"),
        column("pixel_size_x_nm", REAL, "nm", "pixel width of the stored image; null if unknown"),
        column("calibration", TEXT, "", "source of the pixel size: metadata, session or missing"),
        column("calibration_note", TEXT, "", "what to know about the pixel size"),
        column("calibration_uncertainty", REAL, "1", "relative standard uncertainty of the pixel size"),
        column("mode", TEXT, "", "bright_field (dark particles) or haadf (bright particles)"),
        column("mode_source", TEXT, "", "source of the mode: session, detector or image; unsure: guessed"),
        column("operator", TEXT, "", "operator, from session.yaml"),
        column("microscope", TEXT, "", "microscope, from session.yaml"),
        column("voltage_kv", REAL, "kV", "acceleration voltage, from session.yaml"),
        column("metal", TEXT, "", "metal of the particles, from session.yaml"),
        column(
            "status",
            TEXT,
            "",
            "ok: measured; refused: not usable; duplicate: the session already has its pixels; "
            "frame, detector: the acquisition is measured on another frame or detector",
        ),
        column("reason", TEXT, "", "why the image is not measured, or what to check"),
        column("image_file", TEXT, "", "the stored image, beside this table; null if it is not measured"),
    ]
)

MASK_SCHEMA = pa.schema(
    [
        column("session_id", TEXT, "", "key of the session"),
        column("image_id", TEXT, "", "image within the session, as in raw_tem_images"),
        column("labels_file", TEXT, "", "label image of the cores, beside this table"),
        column("shells_file", TEXT, "", "label image of the whole particles; null without shells"),
        column("probability_file", TEXT, "", "image of the core probability, uint8 0 … 255"),
        column("mode", TEXT, "", "mode used for segmentation: bright_field or haadf"),
        column("n_cores", INTEGER, "1", "number of cores found, including those at the edge"),
        column("foreground_fraction", REAL, "1", "fraction of the image's pixels that belong to cores"),
        column("median_diameter_px", REAL, "px", "median equivalent diameter of the cores"),
        column("confidence", REAL, "1", "mean core probability over the pixels of the cores"),
        column(
            "rim_width_px",
            REAL,
            "px",
            "width of the core rims, a measure of focus: contrast across them / slope in them; "
            "null without measurable rims",
        ),
        column(
            "smallest_reliable_diameter_px",
            REAL,
            "px",
            "diameter below which discretisation alone causes an error over 3 %",
        ),
        column("smallest_reliable_diameter_nm", REAL, "nm", "the same in nm; null if calibration is missing"),
        column(
            "split_labels",
            pa.list_(INTEGER),
            "",
            "labels of the cores that were split from clusters of touching cores",
        ),
        column("image_quality", TEXT, "", "good or review; statistics leave out review images"),
        column("image_quality_reason", TEXT, "", "why the image needs a review"),
        column("model_name", TEXT, "", "registered model, or pretrained for the model shipped with the code"),
        column("model_version", TEXT, "", "version in the registry, or of the pretrained model"),
        column("model_sha256", TEXT, "", "SHA-256 of the model weights"),
        column("loss", TEXT, "", "loss function that the model was trained with"),
        column(
            "model_diameter_error",
            REAL,
            "1",
            "relative standard uncertainty of mean diameters from segmentation, on validation images",
        ),
        column("code_version", TEXT, "", "version of tem_pipeline that predicted the masks"),
    ]
)

STATES_SCHEMA = pa.schema(
    [
        column("session", TEXT, "", "key of the session; name of the folder if it has no valid key"),
        column("name", TEXT, "", "name of the session folder"),
        column(
            "state",
            TEXT,
            "",
            "arriving, complete, ingested, processed, partly refused, failed or parked",
        ),
        column("reason", TEXT, "", "why the session is in this state; null if there is nothing to explain"),
        column("changed_at", TEXT, "", "when a file of the session last changed, ISO 8601 in UTC"),
        column("ingested_at", TEXT, "", "when raw_tem_images was written, ISO 8601 in UTC"),
        column("processed_at", TEXT, "", "when the last table of the session was written, ISO 8601 in UTC"),
        column("images", INTEGER, "1", "images that are measured"),
        column("refused", INTEGER, "1", "refused images and files"),
        column("particles", INTEGER, "1", "rows of the session in particle_table"),
    ]
)

FAILURE_SCHEMA = pa.schema(
    [
        column("session_id", TEXT, "", "key of the session"),
        column(
            "session_fingerprint", TEXT, "", "hash of the session's files at the failed run; null if unknown"
        ),
        column("job", TEXT, "", "job that failed"),
        column("run_id", TEXT, "", "Dagster's identifier of the failed run"),
        column("failed_at", pa.timestamp("us", tz="UTC"), "", "when the failure was recorded"),
        column("failed_attempts", INTEGER, "1", "failed attempts with the same content of the session"),
        column("reason", TEXT, "", "why the run failed, in one line"),
    ]
)
