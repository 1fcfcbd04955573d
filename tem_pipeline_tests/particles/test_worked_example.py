import re

import numpy as np
import pytest

from tem_pipeline.particles.activity import structure_activity_of
from tem_pipeline.settings import PROJECT_ROOT
from tem_pipeline_tests.particles.test_activity import DIAMETERS, measured, summaries

TEXT = (PROJECT_ROOT / "docs/structure-activity.md").read_text(encoding="utf-8")


def test_the_worked_example_runs_as_it_stands_and_recovers_its_law(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (printed,) = re.findall(r"It prints:\n\n```text\n(.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(code, "structure-activity.md", "exec"), names)
    related = names["related"]
    for descriptor, exponent in (("mean_diameter", -1), ("d32", -1), ("dispersion", 1)):
        row = related.loc[descriptor]
        assert row["exponent_low"] <= exponent <= row["exponent_high"]
        assert row["exponent_high"] - row["exponent_low"] < 0.5
        assert row["pearson_p_corrected"] < 0.05
    told = [line.split() for line in capsys.readouterr().out.splitlines()]
    written = [line.split() for line in printed.splitlines()]
    assert [line[:1] for line in told] == [line[:1] for line in written]
    by_name = {line[0]: line for line in written}
    for name in ("mean_diameter", "d32"):
        assert float(by_name[name][4]) == pytest.approx(related.loc[name, "exponent"], abs=0.01)
    assert (tmp_path / "example/structure_activity.png").stat().st_size < 150_000


def test_the_exponent_of_a_power_law_is_covered_by_its_interval():
    rng = np.random.default_rng(5)
    true, covered = np.array(DIAMETERS), 0
    for _ in range(60):
        sizes = true + rng.normal(0, 0.05, len(true))
        activities = 0.9 / true * (1 + 0.03 * rng.normal(size=len(true)))
        table = structure_activity_of(
            summaries(list(sizes), 0.05), measured(list(activities), 0.03 * 0.9 / true)
        )
        row = table.set_index("descriptor").loc["mean_diameter"]
        covered += row["exponent_low"] <= -1 <= row["exponent_high"]
    # 95 % of 60 less two and a half standard deviations.
    assert covered >= 53
