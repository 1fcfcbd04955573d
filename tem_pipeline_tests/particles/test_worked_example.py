import re

import numpy as np
import pytest

from tem_pipeline.particles.correlation import fit_line
from tem_pipeline.settings import PROJECT_ROOT

TEXT = (PROJECT_ROOT / "docs/structure-activity.md").read_text(encoding="utf-8")


def test_the_worked_example_runs_and_recovers_its_law(tmp_path, monkeypatch, capsys):
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
    true, covered = np.array([1.4, 1.6, 1.8, 2.1, 2.4, 2.8, 3.2]), 0
    for _ in range(400):
        sizes = true + rng.normal(0, 0.05, len(true))
        activities = 0.9 / true * (1 + 0.03 * rng.normal(size=len(true)))
        errors = 0.05 / sizes, np.full(len(true), 0.03)
        line = fit_line(np.log(sizes), np.log(activities), *errors)
        covered += line.slope_low <= -1 <= line.slope_high
    assert 0.92 <= covered / 400 <= 0.995
