"""Particle tables as earlier versions of the platform wrote them."""

import pyarrow as pa

from tem_pipeline.particles.schema import PARTICLE_SCHEMA

VERSION_1_COLUMNS = (
    "particle_id session_id session_name sample_id image_id field_id file file_sha256 pixel_sha256 mode "
    "pixel_size_nm calibration calibration_uncertainty model_name model_version model_sha256 loss code_version "
    "image_quality metal label area_px area_nm2 equivalent_diameter_px equivalent_diameter_nm perimeter_px "
    "perimeter_nm circularity roundness feret_max_px feret_max_nm feret_min_px feret_min_nm aspect_ratio "
    "solidity eccentricity orientation_rad centroid_y_px centroid_x_px centroid_y_nm centroid_x_nm bbox_top_px "
    "bbox_left_px bbox_bottom_px bbox_right_px mean_intensity minimum_intensity background_intensity contrast "
    "confidence touches_edge was_split edge_weight"
).split()
VERSION_1_SCHEMA = pa.schema(
    [PARTICLE_SCHEMA.field(name) for name in VERSION_1_COLUMNS], metadata={"schema_version": "1"}
)
