from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tem_pipeline.particles.activity_tables import read_activity, unknown_samples
from tem_pipeline.particles.correlation import correlation_interval, fit_line
from tem_pipeline.particles.structure_activity import structure_activity_of
from tem_pipeline.tables import SAMPLE_SUMMARY_SCHEMA, STRUCTURE_ACTIVITY_SCHEMA

HEADER = "sample_id,activity,unit,standard_error,temperature_c\n"


def write(folder: Path, content: str | bytes, name: str = "a.csv") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def summaries(diameters_nm: list[float], error_nm: float = 0.01) -> pd.DataFrame:
    """Samples S0, S1 … of Pt with these mean diameters; no shells."""
    rows = []
    for i, diameter in enumerate(diameters_nm):
        sizes = {
            "mean_corrected": diameter,
            "mean_corrected_standard_error": error_nm,
            "d32_corrected": 1.1 * diameter,
            "d32_corrected_standard_error": 1.1 * error_nm,
            "standard_deviation_corrected": 0.2 + 0.01 * (-1) ** i,
            "standard_deviation_corrected_standard_error": 0.01,
            "particles_per_um2": 900.0 + 7 * i**2,
            "particles_per_um2_standard_error": 20.0,
            "dispersion": 1 / diameter,
            "dispersion_standard_error": error_nm / diameter**2,
        }
        rows.append({"sample_id": f"S{i}", "measurand": "equivalent_diameter", "unit": "nm", **sizes})
        # Never to be used: sizes without calibration.
        rows.append({"sample_id": f"S{i}", "measurand": "equivalent_diameter", "unit": "px", **sizes})
    return pd.DataFrame(rows).reindex(columns=SAMPLE_SUMMARY_SCHEMA.names)


def measured(activities: list[float], error: float = 0.005, unit: str = "1/s", conditions: str = ""):
    return pd.DataFrame(
        {
            "file": "a.csv",
            "line": range(2, len(activities) + 2),
            "sample_id": [f"S{i}" for i in range(len(activities))],
            "activity": activities,
            "unit": unit,
            "standard_error": error,
            "conditions": conditions,
        }
    )


# --- reading ------------------------------------------------------------------------------------------------


def test_rows_are_read_with_conditions_and_normalised_units(tmp_path):
    folder = write(
        tmp_path,
        "\ufeffSample_ID, activity ,unit,standard_error,Temperature C,feed,notes\n"
        "007,0.42,s⁻¹,0.02,300.0,CO,first\n"
        "\n"
        '2026-11-22,4e-1,s-1,,300,"H2, wet",\n',
    )
    rows, problems = read_activity(folder)
    assert problems.empty
    assert rows["sample_id"].tolist() == ["007", "2026-11-22"]
    assert rows["activity"].tolist() == [0.42, 0.4]
    assert set(rows["unit"]) == {"s-1"}
    assert rows["conditions"].tolist() == ["feed=CO, temperature_c=300", "feed=H2, wet, temperature_c=300"]
    assert rows["line"].tolist() == [2, 4]
    assert np.isnan(rows["standard_error"].iloc[1])


def test_semicolons_may_go_with_decimal_commas(tmp_path):
    rows, problems = read_activity(write(tmp_path, "sample_id;activity;unit\nS1;1,25;s-1\nS2;1.250,5;s-1\n"))
    assert rows["activity"].tolist() == [1.25]
    assert problems["line"].tolist() == [3]


@pytest.mark.parametrize(
    ("row", "what", "to_do"),
    [
        ("S2,many,s-1,,300", "activity 'many' is no number", "write it like"),
        ("S2,nan,s-1,,300", "activity 'nan' is no number", "write it like"),
        ("S2,1e999,s-1,,300", "activity '1e999' is no number", "write it like"),
        ("S2,1_000,s-1,,300", "is no number", "write it like"),
        ("S2,,s-1,,300", "activity is empty", "fill it in"),
        (",1,s-1,,300", "sample_id is empty", "fill it in"),
        ("S2,1,,,300", "unit is empty", "fill it in"),
        ("S2,1,s-1,0,300", "standard_error '0' isn't positive", "leave it empty"),
        ("S2,1,s-1,-0.1,300", "standard_error '-0.1' isn't positive", "leave it empty"),
        ("S2,1,s-1", "it has 3 cells, the first line 5", "fill in or remove"),
        ("S2,1,s-1,,300,9", "it has 6 cells, the first line 5", "fill in or remove"),
        ("S2\x1b[31m,1,s-1,,300", "control characters", "write it anew"),
        ("S2\u202e,1,s-1,,300", "control characters", "write it anew"),
        ("S" * 300 + ",1,s-1,,300", "sample_id is longer than 200", "shorten it"),
    ],
)
def test_a_bad_row_is_listed_with_its_remedy_and_the_others_are_read(tmp_path, row, what, to_do):
    rows, problems = read_activity(write(tmp_path, f"{HEADER}S1,1,s-1,,300\n{row}\nS3,3,s-1,,300\n"))
    assert rows["sample_id"].tolist() == ["S1", "S3"]
    (problem,) = problems.to_dict("records")
    assert (problem["file"], problem["line"]) == ("a.csv", 3)
    assert what in problem["problem"]
    assert to_do in problem["problem"]
    assert problem["problem"].isprintable()
    assert len(problem["problem"]) < 200


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "it is empty"),
        (b"sample_id,activity\nS1,1\n", "the column unit is missing"),
        (b"sample_id,activity,unit,Unit\nS1,1,s,s\n", "the column 'unit' twice"),
        ("sample_id,activity,unit\nS1,1,µmol\n".encode("cp1252"), "isn't UTF-8"),
        ("sample_id,activity,unit\nS1,1,s\n".encode("utf-16"), "isn't UTF-8"),
        (b"sample_id,activity,unit\nS1\0,1,s\n", "NUL"),
        (b"sample_id,activity,unit\n" + b"x" * 5_000_001, "larger than 5 MB"),
        (b"PK\x03\x04\xff\xfe", "isn't UTF-8"),
    ],
)
def test_a_bad_file_is_listed_and_the_others_are_read(tmp_path, content, what):
    write(tmp_path, content, "bad.csv")
    rows, problems = read_activity(write(tmp_path, f"{HEADER}S1,1,s-1,,300\n", "good.CSV"))
    assert rows["file"].tolist() == ["good.CSV"]
    (problem,) = problems.to_dict("records")
    assert (problem["file"], problem["line"]) == ("bad.csv", 0)
    assert what in problem["problem"]


def test_rows_before_a_quote_that_never_ends_are_kept(tmp_path):
    rows, problems = read_activity(write(tmp_path, f'{HEADER}S1,1,s-1,,300\n"S2,1,s-1,,300\nS3,1,s-1,,300\n'))
    assert rows["sample_id"].tolist() == ["S1"]
    assert "from line 3 on it is no CSV" in problems["problem"].iloc[0]


def test_a_row_that_repeats_another_is_listed_and_left_out(tmp_path):
    write(tmp_path, f"{HEADER}S1,1,s-1,,300\n", "a.csv")
    rows, problems = read_activity(write(tmp_path, f"{HEADER}S1,1.0,s⁻¹,,300.0\nS1,1,s-1,,350\n", "b.csv"))
    assert rows["conditions"].tolist() == ["temperature_c=300", "temperature_c=350"]
    assert problems[["file", "line"]].to_numpy().tolist() == [["b.csv", 2]]


def test_hidden_files_other_files_and_a_missing_folder_are_ignored(tmp_path):
    write(tmp_path, "rubbish", ".hidden.csv")
    write(tmp_path, "rubbish", "notes.txt")
    (tmp_path / "folder.csv").mkdir()
    for folder in (tmp_path, tmp_path / "nowhere"):
        rows, problems = read_activity(folder)
        assert rows.empty
        assert problems.empty


@given(st.binary(max_size=300))
def test_nothing_in_a_file_stops_the_reading(tmp_path_factory, content):
    folder = write(tmp_path_factory.mktemp("activity"), b"sample_id,activity,unit\n" + content)
    rows, problems = read_activity(folder)
    assert np.isfinite(rows["activity"].to_numpy(float)).all()
    assert problems["problem"].str.len().gt(10).all()


def test_a_misspelt_sample_is_named_with_the_one_that_is_meant():
    rows = measured([1.0, 2.0]).assign(sample_id=["S0", "S-1"])
    problems = unknown_samples(summaries([2, 3]), rows)
    assert problems["line"].tolist() == [3]
    assert "'S-1'; is it 'S1'?" in problems["problem"].iloc[0]


# --- relating -----------------------------------------------------------------------------------------------

DIAMETERS = [1.5, 1.8, 2.1, 2.6, 3.0, 3.7, 4.4, 5.0]


def related(diameters, activities, **options) -> pd.DataFrame:
    return structure_activity_of(summaries(diameters), measured(activities, **options)).set_index(
        "descriptor"
    )


def test_an_exact_power_law_is_given_back():
    table = related(DIAMETERS, [3 / d**2 for d in DIAMETERS])
    diameter = table.loc["mean_diameter"]
    assert diameter["exponent"] == pytest.approx(-2)
    assert diameter["spearman"] == pytest.approx(-1)
    assert diameter["spearman_p"] == pytest.approx(2 / 40320, abs=2e-4)
    assert diameter["regression"] == "york"
    assert pd.isna(diameter["reason"])
    assert table.loc["d32", "exponent"] == pytest.approx(-2)
    line = related(DIAMETERS, [0.1 + 0.5 / d for d in DIAMETERS]).loc["dispersion"]
    assert line["slope"] == pytest.approx(0.5)
    assert line["intercept"] == pytest.approx(0.1)
    assert line["pearson"] == pytest.approx(1)


@pytest.mark.parametrize("n", [0, 1, 3])
def test_fewer_than_four_samples_get_a_reason_and_no_number(n):
    table = related(DIAMETERS[:n], DIAMETERS[:3])
    assert table.loc["mean_diameter", "n_samples"] == n
    assert table["reason"].str.contains("at least 4 are needed").all()
    numbers = [name for name in table if table[name].dtype == float]
    assert len(numbers) == 22
    assert table[numbers].isna().all(axis=None)


def test_four_samples_get_a_correlation_with_an_honest_interval():
    row = related(DIAMETERS[:4], [1, 1.4, 1.3, 2]).loc["mean_diameter"]
    assert -1 <= row["pearson_low"] < row["pearson"] < row["pearson_high"] <= 1
    assert row["pearson_high"] - row["pearson_low"] > 0.5


def test_missing_descriptors_and_constant_activities_get_a_reason():
    table = related(DIAMETERS, DIAMETERS)
    assert "0 samples have both, of 8" in table.loc["shell_thickness", "reason"]
    same = related(DIAMETERS, [1.0] * 8)
    assert same.loc["mean_diameter", "reason"] == "this activity is the same for all 8 samples"


def test_units_and_conditions_are_never_mixed_and_others_are_noted():
    rows = pd.concat(
        [
            measured([1, 2, 3, 4.0], conditions="temperature_c=300"),
            measured([10, 20, 30, 45.0], conditions="temperature_c=300", unit="mmol/(g h)"),
            measured([5, 6, 7, 9.0], conditions="temperature_c=350"),
        ]
    )
    table = structure_activity_of(summaries(DIAMETERS[:4]), rows)
    groups = table.groupby(["activity_unit", "conditions"])
    assert len(groups) == 3
    assert table["n_samples"].max() == 4
    one = groups.get_group(("1/s", "temperature_c=300"))
    assert set(one["note"]) == {"also measured in mmol/(g h): units are not mixed"}
    assert groups.get_group(("1/s", "temperature_c=350"))["note"].isna().all()


def test_repeated_measurements_are_averaged_with_their_errors():
    rows = pd.concat([measured([1, 2, 3, 4.0], error=0.3), measured([2.0], error=0.4)])
    row = structure_activity_of(summaries(DIAMETERS[:4]), rows).iloc[0]
    assert row["n_samples"] == 4
    assert list(row["activity_values"]) == [1.5, 2, 3, 4]
    assert list(row["activity_standard_errors"]) == pytest.approx([0.25, 0.3, 0.3, 0.3])


def test_p_values_are_corrected_by_holm_over_the_whole_table():
    rng = np.random.default_rng(4)
    rows = pd.concat([measured(list(rng.normal(1, 0.3, 8)), conditions=c) for c in ("a", "b")])
    table = structure_activity_of(summaries(DIAMETERS), rows)
    found = table[["pearson_p", "spearman_p"]].to_numpy().ravel()
    given = table[["pearson_p_corrected", "spearman_p_corrected"]].to_numpy().ravel()
    tested = ~np.isnan(found)
    assert set(table["n_tests"]) == {tested.sum()} == {20}
    p, corrected = found[tested], given[tested]
    for i in range(len(p)):
        expected = max(min(1, (len(p) - np.sum(p < q)) * q) for q in p[p <= p[i]])
        assert corrected[i] == pytest.approx(expected)


def test_the_order_of_the_samples_and_rows_changes_nothing():
    table, rows = summaries(DIAMETERS), measured([1, 3, 2, 5, 4, 6, 8, 7.0])
    once = structure_activity_of(table, rows)
    again = structure_activity_of(table.sample(frac=1, random_state=1), rows.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(once, again)


@given(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_other_units_scale_the_line_and_its_intervals(a, b):
    x, y = np.array(DIAMETERS), np.array([1, 3, 2, 5, 4, 6, 8, 7.0])
    ones = np.ones(8)
    line = fit_line(x, y, 0.1 * ones, 0.2 * ones)
    scaled = fit_line(a * x, b * y, 0.1 * a * ones, 0.2 * b * ones)
    assert scaled.slope == pytest.approx(line.slope * b / a, rel=1e-6)
    assert scaled.intercept_high == pytest.approx(line.intercept_high * b, rel=1e-6)


def test_nothing_to_relate_gives_an_empty_table_with_its_columns():
    table = structure_activity_of(summaries([]), measured([]))
    assert list(table.columns) == STRUCTURE_ACTIVITY_SCHEMA.names
    assert table.empty


# --- lines --------------------------------------------------------------------------------------------------


def test_the_line_agrees_with_york_s_own_example():
    """Pearson's data with York's weights (York 1966; the values of York et al. 2004, table II)."""
    x = np.array([0.0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4])
    y = np.array([5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5])
    weight_x = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1.0])
    weight_y = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500])
    line = fit_line(x, y, weight_x**-0.5, weight_y**-0.5)
    assert line.slope == pytest.approx(-0.480533407, abs=1e-8)
    assert line.intercept == pytest.approx(5.479910224, abs=1e-8)
    # York's own standard errors, widened by √(χ²/8) with χ² = 11.8663531941.
    scatter = np.sqrt(11.8663531941 / 8)
    assert line.slope_standard_error == pytest.approx(0.0579850090 * scatter, rel=1e-3)
    assert line.intercept_standard_error == pytest.approx(0.2949707 * scatter, rel=1e-3)


def test_without_standard_errors_the_line_is_that_of_least_squares():
    x, y = np.array(DIAMETERS), np.array([1, 3, 2, 5, 4, 6, 8, 7.0])
    missing = np.full(8, np.nan)
    line, expected = fit_line(x, y, np.full(8, 0.1), missing), stats.linregress(x, y)
    assert line.method == "least_squares"
    assert (line.slope, line.slope_standard_error) == pytest.approx((expected.slope, expected.stderr))


def test_errors_of_x_do_not_flatten_the_line_and_its_interval_holds():
    rng = np.random.default_rng(11)
    true_x = np.linspace(1.5, 3.5, 9)
    slopes, plain, covered = [], [], 0
    for _ in range(400):
        x = true_x + rng.normal(0, 0.25, 9)
        y = 2 * true_x + 1 + rng.normal(0, 0.1, 9)
        line = fit_line(x, y, np.full(9, 0.25), np.full(9, 0.1))
        covered += line.slope_low <= 2 <= line.slope_high
        slopes.append(line.slope)
        plain.append(stats.linregress(x, y).slope)
    assert np.median(slopes) == pytest.approx(2, abs=0.06)
    assert np.median(plain) < 1.85
    assert 0.92 <= covered / 400 <= 0.995


@pytest.mark.parametrize("ranks", [False, True])
@pytest.mark.parametrize(("n", "rho"), [(6, 0.0), (12, 0.8)])
def test_the_intervals_of_correlations_cover_the_truth(n, rho, ranks):
    rng = np.random.default_rng(3)
    truth = 6 / np.pi * np.arcsin(rho / 2) if ranks else rho
    covered = 0
    for _ in range(120):
        x = rng.normal(size=n)
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=n)
        low, high = correlation_interval(x, y, ranks)
        covered += low <= truth <= high
    # 95 % of 120 less two and a half standard deviations.
    assert covered >= 108


def test_ranks_that_agree_exactly_still_have_an_interval():
    x = np.arange(6.0)
    low, high = correlation_interval(x, x**3, ranks=True)
    assert high == pytest.approx(1)
    assert low < 0.8
