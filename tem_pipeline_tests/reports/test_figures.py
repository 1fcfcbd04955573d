import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from tem_pipeline.reports.figures import (
    distribution_figure,
    figure_png,
    loss_comparison_figure,
    structure_activity_figure,
)
from tem_pipeline.tables import STRUCTURE_ACTIVITY_SCHEMA


def test_the_histogram_and_the_fits_have_the_same_area():
    values = np.random.default_rng(2).normal(1.85, 0.26, 500)
    counts, edges = np.histogram(values, np.arange(0.8, 3, 0.1))
    row = {
        "measurand": "equivalent_diameter",
        "unit": "nm",
        "histogram_edges": edges,
        "histogram_counts": counts,
        "normal_mean": values.mean(),
        "normal_sd": values.std(),
        "lognormal_geometric_mean": np.exp(np.log(values).mean()),
        "lognormal_geometric_sd": np.exp(np.log(values).std()),
        "median": np.median(values),
        "median_low": 1.8,
        "median_high": 1.9,
    }
    axes = distribution_figure(row).axes[0]
    bars = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert sum(bar.get_height() for bar in bars if bar.get_height() > 1) == 500
    for line in axes.lines[:2]:
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert np.trapezoid(y, x) == pytest.approx(500 * 0.1, rel=0.02)
    assert axes.get_xlabel() == "equivalent diameter (nm)"


def test_a_histogram_without_particles_says_so():
    row = {"measurand": "perimeter", "unit": "px", "histogram_edges": [], "histogram_counts": []}
    figure = distribution_figure(row)
    assert [text.get_text() for text in figure.axes[0].texts] == ["no counted particles"]
    assert figure_png(figure).startswith(b"\x89PNG")


def test_the_loss_comparison_shows_errors_and_dice_of_every_mask():
    truth = np.zeros((32, 32), bool)
    truth[8:16, 8:16] = True
    wrong = np.roll(truth, 4, axis=1)
    image = np.where(truth, 20.0, 100.0)
    predictions = {"cross_entropy": [wrong, truth], "dice": [truth, ~truth]}
    figure = loss_comparison_figure([image, image], [truth, truth], predictions)
    assert len(figure.axes) == 8
    assert [axes.get_title() for axes in figure.axes[:4]] == ["image", "truth", "cross entropy", "Dice"]
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "",
        "",
        "Dice 0.500",
        "Dice 1.000",
        "",
        "",
        "Dice 1.000",
        "Dice 0.000",
    ]
    shown = np.asarray(figure.axes[2].images[0].get_array())
    assert shown[10, 13].tolist() == [1, 1, 1]
    assert len({tuple(shown[10, x]) for x in (9, 13, 18, 25)}) == 4
    assert figure_png(figure, dpi=60).startswith(b"\x89PNG")


def test_drawing_needs_neither_pyplot_nor_a_display():
    code = (
        "import sys, numpy as np; from tem_pipeline.reports import figures as f;"
        "row = dict(measurand='perimeter', unit='nm', histogram_edges=[0, 1], histogram_counts=[3]);"
        "f.figure_png(f.distribution_figure(row));"
        "assert not {'matplotlib.pyplot', 'tensorflow', 'mlflow', 'dagster'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_points_of_an_activity_carry_their_sample_and_disagreement_is_said():
    row = {
        **dict.fromkeys(STRUCTURE_ACTIVITY_SCHEMA.names),
        "activity_unit": "1/s",
        "conditions": "",
        "descriptor": "mean_diameter",
        "descriptor_unit": "nm",
        "sample_ids": ["Pt-1", "Pt-2", "Pt-3", "Pt-4"],
        "descriptor_values": [1.0, 2.0, 3.0, 4.0],
        "activity_values": [1.0, 2.0, 3.0, 3.5],
        "descriptor_standard_errors": [0.1] * 4,
        "activity_standard_errors": [0.1] * 4,
        "slope": 1.0,
        "intercept": 0.0,
        "slope_low": 0.1,
        "slope_high": 2.0,
        "n_tests": 16,
        "pearson": 0.9,
        "pearson_low": 0.2,
        "pearson_high": 0.99,
        "pearson_p_corrected": 0.8,
    }
    for p, disagree in ((0.07, True), (0.03, False)):
        (axes,) = structure_activity_figure(pd.DataFrame([row | {"pearson_p": p}])).axes
        assert {"Pt-1", "Pt-2", "Pt-3", "Pt-4"} <= {text.get_text() for text in axes.texts}
        title = axes.get_title()
        assert "n = 4" in title
        assert "0.8 corrected for 16 tests" in title
        assert ("disagree" in title) == disagree
