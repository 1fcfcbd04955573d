"""Fields of dark discs on a grainy support, as large as a test needs them."""

import numpy as np
from scipy.ndimage import gaussian_filter


def field_of_discs(seed: int, shape: tuple[int, int], radius_px: float = 9, density: float = 8e-4):
    """Give an image and its mask; every seed has its own discs and grain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    mask = np.zeros(shape, dtype=bool)
    for row, column in rng.uniform(0, shape, (max(1, round(density * shape[0] * shape[1])), 2)):
        radius = radius_px * rng.uniform(0.7, 1.3)
        mask |= (y - row) ** 2 + (x - column) ** 2 < radius**2
    grain = gaussian_filter(rng.standard_normal(shape), 1.5)
    image = 140 - 50 * gaussian_filter(mask.astype(float), 1) + 8 * grain / grain.std()
    return image, mask


def exposed(image: np.ndarray, seed: int, gain: float = 1.0, gamma: float = 1.0, noise: float = 5.0):
    """Record a field as an 8-bit image: a monotone tone curve and its own noise."""
    curve = 255 * (np.clip(image, 0, 255) / 255) ** gamma * gain
    noisy = curve + noise * np.random.default_rng(seed).standard_normal(image.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)
