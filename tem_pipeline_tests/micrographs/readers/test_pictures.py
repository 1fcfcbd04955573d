import numpy as np
from PIL import Image

from tem_pipeline.micrographs.reading import read_micrographs


def test_png_and_jpeg_are_read_without_a_pixel_size(tmp_path, image):
    grey = (image // 16).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png", dpi=(300, 300))
    Image.fromarray(grey).save(tmp_path / "b.jpg", dpi=(300, 300))
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "c.png")
    Image.fromarray(np.dstack([grey] * 3 + [np.full_like(grey, 9)])).save(tmp_path / "d.png")
    Image.fromarray(np.dstack([grey, np.full_like(grey, 9)])).save(tmp_path / "e.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "f.PNG")
    for name, expected in (
        ("a.png", image),
        ("b.jpg", None),
        *((n, grey) for n in ("c.png", "d.png", "e.png", "f.PNG")),
    ):
        (found,) = read_micrographs(tmp_path / name)
        assert found.pixel_size_nm is None
        assert found.image.shape == image.shape
        if expected is not None:
            assert found.image.dtype == expected.dtype
            np.testing.assert_array_equal(found.image, expected)
