import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tem_pipeline.particles.distributions import sample_summary, size_distributions
from tem_pipeline.particles.statistics import histogram_edges
from tem_pipeline.tables import (
    PARTICLE_SCHEMA,
    SAMPLE_SUMMARY_SCHEMA,
    SIZE_DISTRIBUTION_SCHEMA,
    conform,
)
from tem_pipeline_tests.particles.tables import discs, manifest_row, particle_table

CORE_MEASURANDS = ("equivalent_diameter", "perimeter", "feret_max", "circularity", "aspect_ratio")
STATISTICS = ["mean", "standard_deviation", "median", "minimum", "maximum"]
NO_VERDICTS = pd.DataFrame({"image_id": [], "image_quality": []})
EMPTY = discs([])[:, :0].reshape(0, 0)


def summary(
    tables: list[pd.DataFrame], manifest: list[dict], quality: pd.DataFrame = NO_VERDICTS
) -> pd.DataFrame:
    particles = (
        pd.concat(tables, ignore_index=True)
        if tables
        else conform(particle_table(discs([8]))[:0], PARTICLE_SCHEMA).to_pandas()
    )
    columns = list(manifest_row("x", np.zeros((1, 1))))
    return size_distributions(particles, pd.DataFrame(manifest, columns=columns), quality, "20261122", "Pt-3")


def of(result: pd.DataFrame, measurand: str = "equivalent_diameter", unit: str = "nm") -> pd.Series:
    rows = result[(result.measurand == measurand) & (result.unit == unit)]
    assert len(rows) == 1
    return rows.iloc[0]


def differing(before: pd.Series, after: pd.Series) -> set[str]:
    def same(a, b):
        if np.ndim(a):
            return np.array_equal(a, b)
        return (pd.isna(a) and pd.isna(b)) or a == b

    return {name for name in before.index if not same(before[name], after[name])}


def test_statistics_are_those_of_the_whole_particles():
    labels = discs([8, 12, 20, 14])
    labels[0:5, 0:6] = 9
    table = particle_table(labels)
    result = summary([table], [manifest_row("image_0", labels)])
    assert result.measurand.tolist() == list(CORE_MEASURANDS)
    for measurand in ("equivalent_diameter", "perimeter"):
        row, values = of(result, measurand), table[f"{measurand}_nm"][~table.touches_edge]
        assert (row.n_counted, row.n_excluded_edge, row.n_images, row.n_images_with_particles) == (4, 1, 1, 1)
        expected = [values.mean(), values.std(ddof=1), values.median(), values.min(), values.max()]
        assert row[STATISTICS].astype(float).tolist() == pytest.approx(expected)
        assert np.sum(row.histogram_counts) == 4
        assert row.histogram_edges[0] <= values.min() < values.max() <= row.histogram_edges[-1]
    row = of(result)
    assert row.imaged_area_um2 == pytest.approx(labels.size * 0.01e-6)
    assert row.particles_per_um2 == pytest.approx(table.edge_weight.sum() / row.imaged_area_um2)


def test_each_image_keeps_its_own_scale():
    fine, coarse = discs([20]), discs([10])
    tables = [particle_table(fine, "a", 0.1), particle_table(coarse, "b", 0.2)]
    result = summary(tables, [manifest_row("a", fine, 0.1), manifest_row("b", coarse, 0.2)])
    assert of(result).minimum == pytest.approx(2.0, rel=0.03)
    assert of(result).maximum == pytest.approx(2.0, rel=0.03)


def test_images_to_be_reviewed_are_left_out_and_counted():
    a, b = discs([8, 12]), discs([20])
    quality = pd.DataFrame({"image_id": ["a", "b"], "image_quality": ["good", "review"]})
    tables = [particle_table(a, "a"), particle_table(b, "b", image_quality="review")]
    manifest = [manifest_row("a", a), manifest_row("b", b)]
    row = of(summary(tables, manifest, quality))
    alone = of(summary(tables[:1], manifest[:1]))
    assert (row.n_images, row.n_review_images, row.n_counted) == (1, 1, 2)
    assert row[STATISTICS].tolist() == alone[STATISTICS].tolist()
    assert row.particles_per_um2 == alone.particles_per_um2


def test_uncalibrated_images_give_rows_in_px_and_nothing_in_nm():
    labels = discs([8, 12])
    table = particle_table(labels, pixel_size_nm=None)
    result = summary([table], [manifest_row("image_0", labels, None)])
    assert set(result.unit) == {"px", "1"}
    row = of(result, unit="px")
    assert row["mean"] == pytest.approx(table.equivalent_diameter_px.mean())
    assert pd.isna(row.imaged_area_um2)
    assert pd.isna(row.particles_per_um2)
    assert "calibration is missing for 1 of 1 image:" in row.calibration_note


def test_a_partly_calibrated_session_keeps_nm_and_px_apart():
    labels, other = discs([8, 12]), discs([20])
    tables = [particle_table(labels, "a"), particle_table(other, "b", None)]
    result = summary(tables, [manifest_row("a", labels), manifest_row("b", other, None)])
    assert set(result.unit) == {"nm", "px", "1"}
    nm, px = of(result), of(result, unit="px")
    assert (nm.n_images, nm.n_counted, px.n_images, px.n_counted) == (1, 2, 1, 1)
    assert nm.maximum == pytest.approx(tables[0].equivalent_diameter_nm.max())
    assert "missing for 1 of 2 images, left out" in nm.calibration_note


def test_one_image_without_particles_changes_only_images_and_density():
    labels, nothing = discs([8, 12, 20]), np.zeros((50, 70), np.uint16)
    table = particle_table(labels, "a")
    manifest = [manifest_row("a", labels), manifest_row("b", nothing)]
    before, after = (
        of(summary([table], rows).fillna({"calibration_note": ""})) for rows in (manifest[:1], manifest)
    )
    changed = differing(before, after)
    assert changed == {"n_images", "n_fields", "imaged_area_um2", "particles_per_um2"}
    assert after.particles_per_um2 * after.imaged_area_um2 == pytest.approx(
        before.particles_per_um2 * before.imaged_area_um2
    )


def test_repeating_every_image_leaves_mean_median_and_density_unchanged():
    labels = discs([8, 12, 20, 9])
    once = of(summary([particle_table(labels, "a")], [manifest_row("a", labels)]))
    tables = [particle_table(labels, image) for image in "abc"]
    thrice = of(summary(tables, [manifest_row(image, labels) for image in "abc"]))
    for name in ("mean", "median", "minimum", "maximum", "particles_per_um2"):
        assert thrice[name] == pytest.approx(once[name])
    assert thrice.n_counted == 3 * once.n_counted


def test_images_of_one_acquisition_are_one_field():
    labels = discs([8])
    tables = [particle_table(labels, "a", field_id="f"), particle_table(labels, "b", field_id="f")]
    manifest = [
        manifest_row("a", labels, field_id="f"),
        manifest_row("b", labels, field_id="f"),
        manifest_row("c", labels, status="duplicate"),
        manifest_row("d", labels, None, status="refused"),
    ]
    result = summary(tables, manifest)
    assert set(result.unit) == {"nm", "1"}
    row = of(result)
    assert (row.n_images, row.n_fields, row.n_counted) == (2, 1, 2)


@pytest.mark.parametrize("manifest", [[], [manifest_row("a", np.zeros((9, 9)), None, status="refused")]])
def test_a_session_without_measured_images_has_zero_counts(manifest):
    result = summary([], manifest)
    assert result.measurand.tolist() == list(CORE_MEASURANDS)
    assert set(result.unit) == {"nm", "1"}
    assert (result[["n_images", "n_fields", "n_counted", "n_excluded_edge"]] == 0).all(axis=None)
    assert result[STATISTICS].isna().all(axis=None)
    assert all(
        len(edges) == len(counts) == 0
        for edges, counts in zip(*result[["histogram_edges", "histogram_counts"]].to_numpy().T, strict=True)
    )
    conform(result, SIZE_DISTRIBUTION_SCHEMA)


def test_one_particle_has_a_mean_and_no_standard_deviation():
    labels = discs([12])
    row = of(summary([particle_table(labels)], [manifest_row("image_0", labels)]))
    assert pd.notna(row["mean"])
    assert pd.isna(row.standard_deviation)
    assert list(row.histogram_counts) == [1]


finite = st.floats(1e-4, 1e5)


@settings(max_examples=200, deadline=None)
@given(st.lists(finite, min_size=1, max_size=200))
def test_every_value_falls_into_the_histogram(values):
    edges = histogram_edges(np.array(values))
    assert (np.diff(edges) > 0).all()
    assert np.histogram(values, edges)[0].sum() == len(values)
    assert 1 <= len(edges) - 1 <= 62


def test_histogram_bins_are_round_and_follow_freedman_and_diaconis():
    values = np.random.default_rng(0).normal(1.85, 0.26, 900)
    edges = histogram_edges(values)
    advised = 2 * np.subtract(*np.percentile(values, (75, 25))) / 900 ** (1 / 3)
    width = np.diff(edges).mean()
    assert advised / 2 <= width <= 2 * advised
    assert width == pytest.approx(0.1) or width == pytest.approx(0.05)
    assert np.allclose(edges / width, np.round(edges / width))


def session(diameters: list[list[float]], session_id: str = "20261122", **columns):
    """One image for each list of diameters in px."""
    images = [discs(row) if row else np.zeros((50, 70), np.uint16) for row in diameters]
    names = [f"image_{i}" for i in range(len(images))]
    tables = [
        particle_table(image, name, session_id=session_id)
        for image, name in zip(images, names, strict=True)
        if image.any()
    ]
    manifest = [
        {**manifest_row(name, image), "session_id": session_id, "sample_id": "Pt-3", "metal": "Pt", **columns}
        for name, image in zip(names, images, strict=True)
    ]
    quality = pd.DataFrame({"session_id": session_id, "image_id": names, "image_quality": "good"})
    return pd.concat(tables, ignore_index=True), pd.DataFrame(manifest), quality


FIELDS = [[8.0, 12, 20, 9], [10.0, 14], [11.0, 12, 9, 16, 22], [18.0, 9, 9, 13]]


def test_empty_images_and_repeated_images_change_no_estimate():
    before = of(size_distributions(*session(FIELDS), "s", "p"))
    after = of(size_distributions(*session([*FIELDS, []]), "s", "p"))
    assert differing(before, after) == {
        "n_images",
        "n_fields",
        "imaged_area_um2",
        "particles_per_um2",
        "particles_per_um2_standard_error",
    }
    repeated = of(size_distributions(*session(FIELDS * 3), "s", "p"))
    for name in ("mean", "median", "d10_number", "d90_volume", "d32", "d43", "normal_sd", "dispersion"):
        assert repeated[name] == pytest.approx(before[name])
        if f"{name}_corrected" in before:
            assert repeated[f"{name}_corrected"] == pytest.approx(before[f"{name}_corrected"])
    assert repeated.mean_standard_error < before.mean_standard_error


@settings(max_examples=10)
@given(
    st.lists(st.lists(st.floats(6, 24), min_size=1, max_size=4), min_size=1, max_size=4),
    st.integers(0, 4),
    st.integers(1, 3),
)
def test_images_without_particles_change_only_counts_area_and_density(fields, place, empty):
    before = of(size_distributions(*session(fields), "s", "p"))
    place = min(place, len(fields))
    after = of(size_distributions(*session([*fields[:place], *[[]] * empty, *fields[place:]]), "s", "p"))
    assert differing(before, after) <= {
        "n_images",
        "n_fields",
        "imaged_area_um2",
        "particles_per_um2",
        "particles_per_um2_standard_error",
    }
    assert after.n_images == before.n_images + empty


def test_the_budget_lists_what_is_known_and_names_what_is_not():
    particles, manifest, quality = session(FIELDS, calibration_uncertainty=0.02)
    row = of(size_distributions(particles, manifest, quality, "s", "p"))
    assert row.relative_uncertainty_calibration == pytest.approx(0.04)
    assert pd.isna(row.relative_uncertainty_segmentation)
    assert "segmentation" in row.uncertainty_note
    row = of(size_distributions(particles, manifest, quality.assign(model_diameter_error=0.015), "s", "p"))
    assert row.relative_uncertainty_segmentation == pytest.approx(0.03)
    assert pd.isna(row.uncertainty_note)
    assert row.relative_uncertainty_combined == pytest.approx(
        np.sqrt(0.04**2 + 0.03**2 + row.relative_uncertainty_sampling**2)
    )
    assert not row.enough_particles
    assert row.more_images_needed > 0


def test_two_fields_have_no_interval_and_the_reason_is_said():
    row = of(size_distributions(*session(FIELDS[:2]), "s", "p"))
    assert pd.isna(row.mean_low)
    assert pd.isna(row.enough_particles)
    assert "2 fields" in row.interval_note


def test_without_a_known_metal_the_reason_replaces_the_dispersion():
    assert of(size_distributions(*session(FIELDS), "s", "p")).dispersion > 0
    for metal, reason in ((None, "names no metal"), ("Xx", "Xx is none of")):
        row = of(size_distributions(*session(FIELDS, metal=metal), "s", "p"))
        assert pd.isna(row.dispersion)
        assert reason in row.metal_note


def test_a_size_histogram_is_of_lengths_and_never_of_areas():
    particles, manifest, quality = session(FIELDS)
    row = of(size_distributions(particles, manifest, quality, "s", "p"))
    counts, _ = np.histogram(particles["equivalent_diameter_nm"], row.histogram_edges)
    assert counts.tolist() == list(row.histogram_counts)
    assert row.histogram_edges[-1] < particles["area_nm2"].max()


def test_a_sample_is_its_sessions_fields_together():
    parts = [session(FIELDS[:2], "a"), session(FIELDS[2:], "b")]
    together = [pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True)]
    result = sample_summary(*together)
    conform(result, SAMPLE_SUMMARY_SCHEMA)
    row, whole = of(result), of(size_distributions(*session(FIELDS), "s", "p"))
    assert (row.n_sessions, list(row.sessions), row.n_fields) == (2, ["a", "b"], 4)
    for name in ("mean", "median_corrected", "d32", "n_counted", "particles_per_um2", "dispersion"):
        assert row[name] == pytest.approx(whole[name])
    assert pd.isna(row.differences)


def test_sessions_that_differ_are_summarised_with_their_differences():
    parts = [session(FIELDS[:2], "a"), session(FIELDS[2:], "b", metal="Pd", calibration="session")]
    parts[0][1]["pixel_sha256"], parts[1][1]["pixel_sha256"] = ["0", "2"], ["1", "0"]
    row = of(sample_summary(*[pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True)]))
    assert "calibration (a: metadata; b: session)" in row.differences
    assert "1 image in several sessions" in row.differences
    assert row.n_images == 3
    assert "the metals differ: Pd, Pt" in row.metal_note
    assert pd.isna(row.dispersion)


def test_no_session_gives_an_empty_summary():
    nothing = pd.DataFrame(columns=["session_id", "sample_id"])
    assert sample_summary(nothing, nothing, nothing).empty


def test_a_shell_counts_once_and_by_its_own_weight():
    particles, manifest, quality = session([[8.0, 12, 20, 9]])
    particles = particles.assign(
        shell_label=[1, 1, 2, np.nan],
        shell_edge_weight=[1.5, 1.5, np.nan, np.nan],
        shell_outer_diameter_nm=[3.0, 3.0, np.nan, np.nan],
        shell_thickness_nm=[0.5, 0.4, np.nan, np.nan],
    )
    result = size_distributions(particles, manifest, quality, "s", "p")
    outer, thickness = of(result, "shell_outer_diameter"), of(result, "shell_thickness")
    assert (outer.n_counted, thickness.n_counted) == (1, 2)
    assert outer.n_excluded_edge == thickness.n_excluded_edge == 1
    assert thickness["mean"] == pytest.approx(0.45)


@pytest.mark.slow
def test_the_edge_correction_removes_the_bias_of_a_wide_distribution():
    rng = np.random.default_rng(7)
    pitch, side, drawn, tables, manifest = 64, 640, [], [], []
    for k in range(280):
        labels = np.zeros((side, side), np.uint16)
        offset = rng.uniform(0, pitch, 2)
        for label, cell in enumerate(np.ndindex(side // pitch + 2, side // pitch + 2), start=1):
            diameter = np.exp(rng.uniform(np.log(6), np.log(60)))
            drawn.append(diameter)
            y, x = (np.array(cell) - 0.5) * pitch - offset + rng.uniform(-1, 1, 2)
            top, left = max(0, int(y - 31)), max(0, int(x - 31))
            window = labels[top : max(0, int(y + 33)), left : max(0, int(x + 33))]
            rows, columns = np.ogrid[top : top + window.shape[0], left : left + window.shape[1]]
            window[np.hypot(rows - y, columns - x) <= diameter / 2] = label
        tables.append(particle_table(labels, f"i{k}"))
        manifest.append(manifest_row(f"i{k}", labels))
    row, truth = of(summary(tables, manifest)), np.mean(drawn) * 0.1
    assert row.n_counted >= 25_000
    assert row.mean_corrected == pytest.approx(truth, rel=0.01)
    assert abs(row["mean"] / truth - 1) > 0.01
