import pytest

from tem_pipeline.particles.metals import METALS, dispersion, surface_area_m2_per_g


@pytest.mark.parametrize(
    ("metal", "density"),
    [
        ("Pt", 21.45),
        ("Pd", 12.02),
        ("Rh", 12.41),
        ("Ir", 22.56),
        ("Ru", 12.37),
        ("Os", 22.59),
        ("Ni", 8.91),
        ("Co", 8.86),
        ("Cu", 8.96),
        ("Ag", 10.5),
        ("Au", 19.3),
    ],
)
def test_lattice_constants_give_the_metals_density(metal, density):
    assert METALS[metal].density_g_per_cm3 == pytest.approx(density, rel=0.01)


def test_platinum_worked_by_hand():
    platinum = METALS["Pt"]
    # a³/4 and 3a²/(4/√3 + 2 + √2) of a = 0.3924 nm.
    assert platinum.atom_volume_nm3 == pytest.approx(0.01510, rel=1e-3)
    assert platinum.atom_area_nm2 == pytest.approx(0.0807, rel=1e-3)
    assert dispersion(platinum, 2.0) == pytest.approx(6 * 0.01510 / 0.0807 / 2, rel=2e-3)
    assert surface_area_m2_per_g(platinum, 2.0) == pytest.approx(6 / (21.45e6 * 2e-9), rel=5e-3)
