"""From a transmission electron microscope's session folders to particle tables that chemists trust."""

import os
import sys
from typing import Any, cast

__version__ = "0.4.0"

# What a laboratory does is nobody's business. MLflow reports its use to its makers unless it is told not to,
# OpenVINO unless this package of its is missing; Dagster is told in dagster.yaml.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
