"""Reads DigitalMicrograph files (.dm3, .dm4).

RosettaSciIO's private reader is used instead of its `file_reader()`, which copies every tag for every image
and fails for the whole file if one image is bad.
"""

from pathlib import Path
from typing import Any, BinaryIO

from tem_pipeline.micrographs.readers.signals import Refused, Signal, read_parts

_MAX_FIELDS = 10_000
"""Most fields of a structure that are read; real files have fewer than 20."""


_MAX_TAGS = 100_000
"""Tags and groups of a file; real files have some thousands."""


def read_digital_micrograph(path: Path) -> list[Signal]:
    """Read every image of a DigitalMicrograph file.

    Parameters
    ----------
    path : Path

    Returns
    -------
    list of Signal
        Images that cannot be read are left out.
    """
    from rsciio.digitalmicrograph._api import ImageObject

    def read_image(tags: dict[str, Any]) -> list[Signal]:
        image = ImageObject(tags, file)
        return [
            {
                "data": image.get_data(lazy=False),
                "axes": image.get_axes_dict(),
                "metadata": image.get_metadata(),
                "original_metadata": {"ImageTags": tags.get("ImageTags", {})},
            }
        ]

    with path.open("rb") as file:
        reader = _bounded_reader(file, path.stat().st_size)
        reader.parse_file()
        return read_parts(reader.get_image_dictionaries() or [], read_image)


def _bounded_reader(file: BinaryIO, file_bytes: int) -> Any:
    """Make a reader that fails at once on lengths that exceed the file.

    RosettaSciIO's own methods take hours, or all memory, if a damaged length claims megabytes.
    """
    from rsciio.digitalmicrograph._api import DigitalMicrographReader

    class BoundedReader(DigitalMicrographReader):
        tags = 0

        def parse_tag_header(self) -> dict[str, Any]:
            self.tags += 1
            if self.tags > _MAX_TAGS:
                raise Refused(f"it has more than {_MAX_TAGS} tags: it is damaged, copy or export it again")
            return super().parse_tag_header()

        def read_string(self, length: int, skip: bool = False) -> Any:
            if skip:
                return super().read_string(length, skip)
            text = file.read(length) if 0 <= length <= file_bytes else b""
            if len(text) != length:
                raise EOFError("a text in it is longer than the file")
            try:
                return text.decode("utf8")
            except UnicodeDecodeError:
                return text.decode("latin-1")

        def read_array(self, size: int, *args: Any, skip: bool = False, **options: Any) -> Any:
            if not skip and size > file_bytes:
                raise EOFError("a list in it is longer than the file")
            return super().read_array(size, *args, skip=skip, **options)

        def parse_struct_definition(self) -> tuple[int, ...]:
            _, count = self._read_number(), self._read_number()
            if count > _MAX_FIELDS:
                raise EOFError("a structure in it has too many fields")
            # A field consists of the length of its name, always 0, and its type.
            return tuple([(self._read_number(), self._read_number())[1] for _ in range(count)])

        def _read_number(self) -> int:
            return self.read_l_or_q(file, "big")

    return BoundedReader(file)
