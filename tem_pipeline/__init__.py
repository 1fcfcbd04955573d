"""From a transmission electron microscope's session folders to particle tables that chemists trust."""

import os
import sys
from typing import Any, cast

__version__ = "0.4.0"

# No usage data leaves the laboratory. MLflow needs a variable for that; OpenVINO sends none if this module
# cannot be imported. Dagster is configured in dagster.yaml.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
