import pandas as pd
import pytest

from tem_pipeline.orchestration import previews


def distributions(**changes) -> pd.DataFrame:
    row = {
        "measurand": "equivalent_diameter",
        "unit": "nm",
        "n_counted": 306,
        "mean_corrected": 1.8534,
        "standard_deviation_corrected": 0.412345,
        "d32_corrected": 2.12345,
        "relative_uncertainty_combined": 0.054,
    }
    return pd.DataFrame([{**row, "unit": "px", "mean_corrected": 18.5}, {**row, **changes}])


def test_the_result_of_a_session_is_one_line_and_numbers_to_plot():
    shown = previews.sizes(distributions())
    assert next(iter(shown)) == "result"
    assert shown == {
        "result": "1.85 ± 0.10 nm, n = 306",
        "n": 306,
        "mean (nm)": 1.853,
        "sd (nm)": 0.4123,
        "D[3,2] (nm)": 2.123,
    }


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"relative_uncertainty_combined": None}, "1.85 nm, n = 306"),
        ({"relative_uncertainty_combined": 0.0005}, "1.85340 ± 0.00093 nm, n = 306"),
        ({"mean_corrected": 185.3, "relative_uncertainty_combined": 0.054}, "185 ± 10 nm, n = 306"),
        ({"n_counted": 0}, "18.5 ± 1.0 px, n = 306"),
    ],
)
def test_the_result_shows_no_more_digits_than_it_has(changes: dict, result: str):
    assert previews.sizes(distributions(**changes))["result"] == result


def test_without_a_counted_particle_there_is_no_number():
    frame = distributions().assign(n_counted=0)
    assert previews.sizes(frame) == {"result": "no whole particle was counted", "n": 0}
