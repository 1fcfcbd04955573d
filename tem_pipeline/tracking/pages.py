"""MLflow's pages behind the check of `same_origin`: `python -m tem_pipeline.tracking.pages STORE ARTIFACTS`.

MLflow's own check accepts every page on this machine, whatever its port. `mlflow server` would also start
eight processes for judging language models, of 250 MB each.
"""

import argparse
import os
from collections.abc import Collection
from pathlib import Path

import uvicorn

from tem_pipeline.errors import UserError
from tem_pipeline.same_origin import LOCAL_NAMES, same_origin_only
from tem_pipeline.settings import load_settings


def serve(uri: str, artifacts: Path, host: str, port: int, names: Collection[str] = ()) -> None:
    """Serve the pages of a store until the process is told to end.

    Parameters
    ----------
    uri : str
        Database of the store.
    artifacts : Path
        Folder of the artifacts. It and the folder above it are created if need be.
    host : str
        Address to listen on.
    port : int
    names : collection of str
        Host names under which the pages are reached, besides those of this machine.
    """
    artifacts.mkdir(parents=True, exist_ok=True)
    os.environ |= _security(names)
    # MLflow reads these when it is imported.
    from mlflow.server import constants
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    served = "mlflow-artifacts:/"
    # What `mlflow server` tells its server process.
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: uri,
        constants.REGISTRY_STORE_URI_ENV_VAR: uri,
        constants.ARTIFACT_ROOT_ENV_VAR: served,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: str(artifacts),
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    initialize_backend_stores(uri, uri, served)
    uvicorn.run(same_origin_only(app, names), host=host, port=port, log_level="warning")


def _security(names: Collection[str]) -> dict[str, str]:
    """Give MLflow's own settings: its check stays on, behind the stricter one."""
    hosts = [name.replace("[", "[[]") for name in (*LOCAL_NAMES, *names)]
    settings = {
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(f"{name},{name}:*" for name in hosts),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    if names:
        origins = ",".join(f"http*://{name},http*://{name}:*" for name in names)
        settings["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = origins
    return settings


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m tem_pipeline.tracking.pages", description=__doc__)
    parser.add_argument("store", help="database of the store, such as sqlite:////lab/models/mlflow/mlflow.db")
    parser.add_argument("artifacts", type=Path, help="folder of the artifacts")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000)
    given = parser.parse_args()
    try:
        names = load_settings().web_names
    except UserError as error:
        raise SystemExit(f"tem-pipeline: {error}") from error
    serve(given.store, given.artifacts, given.host, given.port, names)


if __name__ == "__main__":
    main()
