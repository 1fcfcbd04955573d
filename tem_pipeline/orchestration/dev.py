"""`dagster dev` with checked pages: `python -m tem_pipeline.orchestration.dev`, with the options of that.

It starts Dagster's pages, its daemon and one process with our code for both.
"""

from collections.abc import Sequence
from typing import Any

from dagster._cli import dev

from tem_pipeline.orchestration import webserver

_PAGES = "dagster_webserver"
_open_process = dev.open_ipc_subprocess  # pyright: ignore[reportPrivateImportUsage]


def _open_checked_process(command: Sequence[str], **options: Any) -> Any:
    checked = [webserver.__name__ if part == _PAGES else part for part in command]
    return _open_process(checked, **options)


def main() -> None:
    """Run Dagster's command with `webserver` in place of its own pages."""
    dev.open_ipc_subprocess = _open_checked_process  # pyright: ignore[reportPrivateImportUsage]
    dev.dev_command()


if __name__ == "__main__":
    main()
