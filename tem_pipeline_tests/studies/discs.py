"""A small annotated set for the tests of the studies, made without the simulator."""

import numpy as np

from tem_pipeline.annotation.datasets import CORE_CLASSES, AnnotatedImage, AnnotatedSet
from tem_pipeline.micrographs.intensity import standardise
from tem_pipeline_tests.annotation.fields import exposed, field_of_discs


def discs_set(images: int = 10, side_px: int = 96) -> AnnotatedSet:
    """Give images of dark discs, each a source of its own."""
    fields = [field_of_discs(seed, (side_px, side_px)) for seed in range(images)]
    made = [
        AnnotatedImage(
            f"image_{seed:02}",
            standardise(exposed(field, seed), "bright_field"),
            mask.astype(np.uint8),
            CORE_CLASSES,
            f"source_{seed:02}",
            f"pixels_{seed}",
            f"mask_{seed}",
        )
        for seed, (field, mask) in enumerate(fields)
    ]
    return AnnotatedSet("discs", tuple(made), CORE_CLASSES, "discs")
