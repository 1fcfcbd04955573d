"""From a transmission electron microscope's session folders to particle tables that chemists trust."""

import sys
from typing import Any, cast

from tem_pipeline.environment import configure_libraries

__version__ = "0.4.0"

configure_libraries()
# No usage data leaves the laboratory: OpenVINO sends none if this module cannot be imported. Dagster is
# configured in dagster.yaml, and MLflow in `environment`.
cast(dict[str, Any], sys.modules).setdefault("openvino_telemetry", None)
