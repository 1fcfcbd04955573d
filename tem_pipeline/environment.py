"""The environment variables of libraries that have no other interface for these settings.

`tem_pipeline/__init__.py` sets them, before anything is loaded. Nothing changes the environment afterwards.
"""

import os

VARIABLES = {
    # Nothing about a laboratory leaves its machines.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A server that stops answering must be an error within a minute, not after MLflow's many retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # MLflow's bars would mix with ours, and its search for Git warns where there is none.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    # TensorFlow writes remarks on missing GPUs to the terminal.
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # TensorFlow leaves oneDNN off on processors without AVX-512; a step then takes 1.6 times as long.
    "TF_ENABLE_ONEDNN_OPTS": "1",
    "KERAS_BACKEND": "tensorflow",
}


def configure_libraries() -> None:
    """Set the variables that nobody has set yet."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
