"""Random streams and small placements for the tests of the simulation."""

import numpy as np
import pandas as pd

from tem_pipeline.simulation.specimens import Placement, Population

BARE = Population(shell_nm=0, shell_sd_nm=0, cores_per_shell=(1,), touching_fraction=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def one_particle(
    diameter_nm: float = 2.0,
    shell_radius_nm: float = 3.0,
    core_at: tuple[float, float] = (5.0, 5.0),
    shell_at: tuple[float, float] = (5.0, 5.0),
) -> Placement:
    core = {"shell": 0, "y_nm": core_at[0], "x_nm": core_at[1], "major_nm": diameter_nm}
    core |= {"minor_nm": diameter_nm, "angle_rad": 0.0, "strength": 0.5}
    shell = {"y_nm": shell_at[0], "x_nm": shell_at[1], "radius_nm": shell_radius_nm}
    return Placement(pd.DataFrame([core]), pd.DataFrame([shell]))


def two_cores(distance_nm: float, diameters_nm: tuple[float, float] = (2.0, 2.0)) -> Placement:
    cores = pd.DataFrame(
        {
            "shell": [0, 1],
            "y_nm": 5.0,
            "x_nm": [5.0, 5.0 + distance_nm],
            "major_nm": diameters_nm,
            "minor_nm": diameters_nm,
            "angle_rad": 0.0,
            "strength": 0.5,
        }
    )
    return Placement(cores, pd.DataFrame({"y_nm": 5.0, "x_nm": cores["x_nm"], "radius_nm": 0.0}))
