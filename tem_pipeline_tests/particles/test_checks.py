import numpy as np
import pandas as pd
import pytest

from tem_pipeline.errors import UserError
from tem_pipeline.particles.checks import check_particle_table
from tem_pipeline_tests.particles.tables import discs, particle_table


@pytest.fixture
def table() -> pd.DataFrame:
    return particle_table(discs([8, 12, 20]))


def test_a_table_without_rows_passes(table):
    check_particle_table(table[:0])


@pytest.mark.parametrize("pixel_size_nm", [0.1, 2.0, None])
def test_measured_tables_pass_the_check(pixel_size_nm):
    labels = discs([5, 8, 20])
    labels[0:3, 0:4] = 9
    check_particle_table(particle_table(labels, pixel_size_nm=pixel_size_nm))


def _set(column, row, value):
    def change(table):
        table.loc[row, column] = value
        return table

    return change


@pytest.mark.parametrize(
    ("change", "column", "rows"),
    [
        (_set("particle_id", 1, "20261122/image_0/1"), "particle_id", "0, 1"),
        (_set("equivalent_diameter_nm", 2, 20.0), "equivalent_diameter_nm", "2"),
        (_set("perimeter_nm", 0, np.nan), "perimeter_nm", "0"),
        (_set("area_nm2", 0, 5.0), "area_nm2", "0"),
        (_set("calibration", 1, "missing"), "pixel_size_nm", "1"),
        (_set("calibration", 1, "guessed"), "calibration", "1"),
        (_set("pixel_size_nm", 1, -0.1), "pixel_size_nm", "1"),
        (_set("equivalent_diameter_px", 0, 0.0), "equivalent_diameter_px", "0"),
        (_set("circularity", 1, np.inf), "circularity", "1"),
        (_set("aspect_ratio", 2, 1.2), "aspect_ratio", "2"),
        (_set("edge_weight", 0, 0.5), "edge_weight", "0"),
        (_set("edge_weight", 0, np.nan), "edge_weight", "0"),
        (_set("touches_edge", 1, True), "edge_weight", "1"),
        (_set("confidence", 1, 180.0), "confidence", "1"),
        (_set("image_quality", 1, "bad"), "image_quality", "1"),
        (_set("mode", 1, "TEM"), "mode", "1"),
    ],
)
def test_a_faulty_row_is_named_with_its_column_in_one_line(table, change, column, rows):
    with pytest.raises(UserError) as caught:
        check_particle_table(change(table))
    message = str(caught.value)
    assert f"column {column}: " in message
    assert f"(rows {rows})" in message
    assert "\n" not in message


def test_a_table_with_another_images_pixel_size_is_refused():
    first, second = particle_table(discs([12]), "a", 0.1), particle_table(discs([12]), "b", 0.4)
    second["pixel_size_nm"] = 0.1
    with pytest.raises(UserError, match=r"equivalent_diameter_nm.*\(rows 1\)|area_nm2.*\(rows 1\)"):
        check_particle_table(pd.concat([first, second], ignore_index=True))


def test_nm_from_an_image_without_calibration_is_refused():
    table = particle_table(discs([12]), pixel_size_nm=None)
    table["equivalent_diameter_nm"] = table.equivalent_diameter_px
    with pytest.raises(
        UserError, match="equivalent_diameter_nm: must be null exactly if calibration is missing"
    ):
        check_particle_table(table)
