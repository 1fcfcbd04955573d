"""The imaging modes: bright field, where particles are dark, and HAADF, where they are bright."""

from typing import Literal, get_args

Mode = Literal["bright_field", "haadf"]
MODES: tuple[Mode, ...] = get_args(Mode)
