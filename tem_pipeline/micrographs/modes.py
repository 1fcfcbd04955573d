"""The imaging modes: bright field, where particles are dark, and HAADF, where they are bright."""

from typing import Literal, get_args

Mode = Literal["bright_field", "haadf"]
MODES: tuple[Mode, ...] = get_args(Mode)

UNSURE_MODE = (
    "the image doesn't show clearly whether it is bright field or HAADF (vacuum, holes or bars may mislead): "
    "write the mode into session.yaml or give --mode"
)
