"""The columns of the tables of the training assets, and of the augmented crops."""

from collections.abc import Iterator

import pyarrow as pa

from tem_pipeline.tables.columns import BOOLEAN, INTEGER, REAL, TEXT, column

LOSSES = ("cross_entropy", "weighted_cross_entropy", "iou", "dice")
"""Names of the losses that are compared; one model is trained per loss."""

_DATASET_HASH = column("dataset_hash", TEXT, "", "hash of the images, masks, sources and the split")

ANNOTATED_IMAGES_SCHEMA = pa.schema(
    [
        _DATASET_HASH,
        column("split_seed", INTEGER, "", "seed of the split"),
        column("set_name", TEXT, "", "name of the annotated set; several sets are joined by +"),
        column(
            "name",
            TEXT,
            "",
            "name of the image: its file without suffix, after SET/ if several sets are joined",
        ),
        column("group", TEXT, "", "source micrograph; images of one source share one part of the split"),
        column("part", TEXT, "", "part of the split: training, validation or test"),
        column("pixel_sha256", TEXT, "", "SHA-256 of height, width and values (little-endian float32)"),
        column("mask_sha256", TEXT, "", "SHA-256 of height, width and class map"),
        column("mode", TEXT, "", "bright_field (dark particles) or haadf (bright particles)"),
        column("height_px", INTEGER, "px", "height of the image"),
        column("width_px", INTEGER, "px", "width of the image"),
        column("pixel_size_nm", pa.list_(REAL), "nm", "height and width of a pixel; null if unknown"),
        column("classes", pa.list_(TEXT), "", "names of the classes, in the order of their index"),
        column(
            "image_png",
            pa.binary(),
            "",
            "standardised image as PNG, uint16: 0 … 65535 covers -8 … 8 standard deviations",
        ),
        column("class_map_png", pa.binary(), "", "class index of each pixel as PNG, uint8"),
    ]
)

AUGMENTED_DATASET_SCHEMA = pa.schema(
    [
        column("shard_file", TEXT, "", "Parquet file of augmented crops, beside this table"),
        _DATASET_HASH,
        column("profile", TEXT, "", "training profile that the crops were made for"),
        column("crop_px", INTEGER, "px", "side of the square crops"),
        column("seed", INTEGER, "", "seed of the augmentation"),
    ]
)

_TRANSFORM = pa.struct(
    [
        column(
            "shift_y_px", REAL, "px", "centre of the crop from the image's centre, downwards", nullable=False
        ),
        column(
            "shift_x_px", REAL, "px", "centre of the crop from the image's centre, rightwards", nullable=False
        ),
        column("flip", BOOLEAN, "", "mirrored left to right before turning", nullable=False),
        column("angle_deg", REAL, "°", "turned counter-clockwise", nullable=False),
        column("scale", REAL, "", "enlarged by this factor", nullable=False),
        column("blur_px", REAL, "px", "standard deviation of Gaussian blur", nullable=False),
        column("gamma", REAL, "", "exponent of the tone curve", nullable=False),
        column("gain", REAL, "", "factor on the intensities", nullable=False),
        column("offset", REAL, "", "added to the intensities", nullable=False),
        column("noise_sd", REAL, "", "standard deviation of added white noise", nullable=False),
    ]
)

SHARD_SCHEMA = pa.schema(
    [
        column("row", INTEGER, "", "number of the row", nullable=False),
        column("source_image", TEXT, "", "annotated image that the crop was made of", nullable=False),
        column("source_sha256", TEXT, "", "hash of that image's pixels", nullable=False),
        column("group", TEXT, "", "source micrograph of that image", nullable=False),
        column("part", TEXT, "", "part of the split that the source belongs to", nullable=False),
        column("transform", _TRANSFORM, "", "what was done to the image", nullable=False),
        column(
            "image",
            pa.binary(),
            "",
            "PNG, uint16: 0 … 65535 is -8 … 8 of standardised intensity",
            nullable=False,
        ),
        column("mask", pa.binary(), "", "PNG, uint8: index of the class", nullable=False),
    ]
)
"""The files that `augmented_dataset` names: one row per crop."""


def _score_fields(prefix: str, images: str) -> Iterator[pa.Field]:
    for name, meaning in (
        ("accuracy", "fraction of pixels with the right class, core or not"),
        ("mean_iou", "mean of the intersections over union of core and background"),
        ("dice", "Dice coefficient of the cores"),
        ("iou", "intersection over union of the cores"),
    ):
        yield column(prefix + name, REAL, "1", f"{meaning}, on {images}")


TRAINED_MODEL_SCHEMA = pa.schema(
    [
        column("loss", TEXT, "", "loss function that the model was trained with"),
        column("model_name", TEXT, "", "registered model"),
        column("model_version", TEXT, "", "version of that model in the registry"),
        column("run_id", TEXT, "", "MLflow's identifier of the training run"),
        _DATASET_HASH,
        column("profile", TEXT, "", "training profile"),
        column("seed", INTEGER, "", "seed of the training"),
        column("best_epoch", INTEGER, "1", "epoch whose weights are kept, from 1"),
        column("seconds", REAL, "s", "duration of the training"),
        *_score_fields("validation_", "the validation images"),
    ]
)


def _compared_fields() -> Iterator[pa.Field]:
    for score in (
        *_score_fields("", "the test images"),
        column("boundary_f", REAL, "1", "F score of the core boundaries within 2 px"),
        column("instance_f1", REAL, "1", "F1 score of the particles, matched at an IoU over one half"),
        column(
            "diameter_error",
            REAL,
            "1",
            "mean relative error of the equivalent diameters, positive if found too large; "
            "null if no core was matched",
        ),
    ):
        yield score
        for end, where in (("low", "lower"), ("high", "upper")):
            yield column(
                f"{score.name}_{end}",
                REAL,
                "1",
                f"{where} end of the 95 % interval of {score.name}, by bootstrap over source micrographs; "
                "null for a single source",
            )


LOSS_COMPARISON_SCHEMA = pa.schema(
    [
        column("loss", TEXT, "", "loss function of the model, or otsu_watershed for the baseline"),
        column("model_version", TEXT, "", "version of the model in the registry; empty for the baseline"),
        *_compared_fields(),
        column("images", INTEGER, "1", "number of test images"),
        column("sources", INTEGER, "1", "number of source micrographs of the test images"),
        _DATASET_HASH,
        column("figure", TEXT, "", "picture of the comparison, below reports/loss_comparison"),
    ]
)

CHAMPION_SCHEMA = pa.schema(
    [
        column("model_name", TEXT, "", "registered model that is champion"),
        column("model_version", TEXT, "", "version of the champion"),
        column("loss", TEXT, "", "loss function that the champion was trained with"),
        column("candidate_version", TEXT, "", "version of the best newly trained model"),
        column("promoted", BOOLEAN, "", "true if the candidate became champion"),
        column("reason", TEXT, "", "why the candidate did or did not become champion"),
        column("test_images", INTEGER, "1", "number of test images that are new to the champion"),
        column(
            "test_dice",
            REAL,
            "1",
            "Dice coefficient of the champion's cores on these images; null without any",
        ),
        column(
            "test_mean_iou",
            REAL,
            "1",
            "mean of the intersections over union of core and background; null without any image",
        ),
        _DATASET_HASH,
        column("compared_with", TEXT, "", "version that was champion before; null without a comparison"),
        column("compared_images", INTEGER, "1", "test images new to candidate and champion"),
        column("compared_sources", INTEGER, "1", "source micrographs of these images"),
        column(
            "dice_difference",
            REAL,
            "1",
            "mean over these sources of the candidate's Dice minus the champion's; null without a comparison",
        ),
        *(
            column(
                f"dice_difference_{end}",
                REAL,
                "1",
                f"{where} end of its 95 % interval (Student's t); null with fewer than two sources",
            )
            for end, where in (("low", "lower"), ("high", "upper"))
        ),
    ]
)
