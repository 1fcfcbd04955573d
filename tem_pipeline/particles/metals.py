"""The metals of catalysts: volume and surface area of an atom, and how much surface particles have.

Sources. Lattice constants at room temperature: Ashcroft & Mermin, *Solid State Physics* (1976), rounded as in
common tables. Planes: G. Bergeret & P. Gallezot, "Particle size and dispersion measurements", in *Handbook of
Heterogeneous Catalysis*, 2nd ed. (2008), section 3.1.2: fcc metals show equal shares of (111), (100) and
(110), hcp metals (001).
"""

from dataclasses import dataclass
from math import sqrt

_AVOGADRO_PER_MOL = 6.02214076e23


@dataclass(frozen=True)
class Metal:
    """An element, with the structure of its crystal.

    Attributes
    ----------
    molar_mass_g_per_mol : float
    a_nm : float
        Lattice constant.
    c_nm : float or None
        Second lattice constant of hcp metals; None for fcc ones.
    """

    molar_mass_g_per_mol: float
    a_nm: float
    c_nm: float | None = None

    @property
    def atom_volume_nm3(self) -> float:
        """Volume v_m of an atom in the bulk."""
        if self.c_nm is None:
            return self.a_nm**3 / 4
        return sqrt(3) / 4 * self.a_nm**2 * self.c_nm

    @property
    def atom_area_nm2(self) -> float:
        """Area a_m of an atom at the surface."""
        if self.c_nm is None:
            return 3 * self.a_nm**2 / (4 / sqrt(3) + 2 + sqrt(2))
        return sqrt(3) / 2 * self.a_nm**2

    @property
    def density_g_per_cm3(self) -> float:
        """Density of the bulk."""
        return self.molar_mass_g_per_mol / (_AVOGADRO_PER_MOL * self.atom_volume_nm3 * 1e-21)


METALS = {
    "Ag": Metal(107.868, 0.4086),
    "Au": Metal(196.967, 0.4078),
    "Co": Metal(58.933, 0.2507, 0.4070),
    "Cu": Metal(63.546, 0.3615),
    "Ir": Metal(192.217, 0.3839),
    "Ni": Metal(58.693, 0.3524),
    "Os": Metal(190.23, 0.2734, 0.4320),
    "Pd": Metal(106.42, 0.3890),
    "Pt": Metal(195.084, 0.3924),
    "Rh": Metal(102.905, 0.3803),
    "Ru": Metal(101.07, 0.2706, 0.4282),
}


def dispersion(metal: Metal, d32_nm: float) -> float:
    """Compute the fraction of atoms at the surface of spheres, 6 (v_m/a_m) / D[3,2].

    Bergeret & Gallezot (see the module). Below about 1 nm the formula exceeds 1 and means nothing.
    """
    return 6 * metal.atom_volume_nm3 / metal.atom_area_nm2 / d32_nm


def surface_area_m2_per_g(metal: Metal, d32_nm: float) -> float:
    """Compute the surface area of spheres per gram of metal, 6 / (ρ D[3,2])."""
    return 6000 / (metal.density_g_per_cm3 * d32_nm)
