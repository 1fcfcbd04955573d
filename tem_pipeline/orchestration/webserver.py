"""Dagster's pages behind the check of `same_origin`: `python -m tem_pipeline.orchestration.webserver`.

The command takes the options of `dagster-webserver`.
"""

from typing import Any

from dagster_webserver import cli

from tem_pipeline.errors import UserError
from tem_pipeline.same_origin import Application, same_origin_only
from tem_pipeline.settings import load_settings

_create_application = cli.create_app_from_workspace_process_context  # pyright: ignore[reportPrivateImportUsage]


def _create_checked_application(*arguments: Any, **options: Any) -> Application:
    return same_origin_only(_create_application(*arguments, **options), load_settings().web_names)


def main() -> None:
    """Run Dagster's command with its application behind the check."""
    try:
        load_settings()
    except UserError as error:
        raise SystemExit(f"tem-pipeline: {error}") from error
    # The command looks this function up by its name; it has no option for a middleware.
    cli.create_app_from_workspace_process_context = _create_checked_application  # pyright: ignore[reportPrivateImportUsage]
    cli.main()


if __name__ == "__main__":
    main()
