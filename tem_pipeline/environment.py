"""Environment variables that configure libraries with no other interface for it."""

import os


def configure_libraries() -> None:
    """Set the variables that nobody has set yet. The entries call this before they load anything."""
    # A server that stops answering must be an error within a minute, not after MLflow's many retries.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    # Nothing about a laboratory leaves its machines.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's bars would mix with ours, and its search for Git warns where there is none.
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    # TensorFlow writes remarks on missing GPUs to the terminal.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
