"""Every setting of the platform, typed, in one place; set by the environment (TEM_…) or a `.env` file."""

import os
import re
from pathlib import Path
from typing import Literal
from zoneinfo import available_timezones

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from upath import UPath

from tem_pipeline.errors import UserError
from tem_pipeline.text import redacted

PROJECT_ROOT = Path(__file__).resolve().parents[1]
PRETRAINED_MODEL = "models/pretrained"
DAGSTER_HOME = ".dagster"
_ROOTS = ("data_root", "models_root", "pretrained_model")


def _usable_cores() -> int:
    # Only Linux tells which cores this process may use.
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Settings(BaseSettings):
    """What a laboratory can choose. Relative folders are relative to the project."""

    model_config = SettingsConfigDict(
        env_prefix="TEM_", env_file=PROJECT_ROOT / ".env", extra="ignore", frozen=True, populate_by_name=True
    )

    data_root: str = Field(
        default="data", description="folder of incoming/, annotated/, activity/, lake/ and reports/"
    )
    models_root: str = Field(
        default="models", description="folder of the champion and of MLflow's embedded store"
    )
    pretrained_model: str = Field(
        default=PRETRAINED_MODEL,
        description="folder of the model that is used while there is no champion",
    )
    mlflow_tracking_uri: str | None = Field(
        default=None,
        validation_alias=AliasChoices("MLFLOW_TRACKING_URI", "mlflow_tracking_uri"),
        description="address of an MLflow server; if unset, the embedded store below the models root",
    )
    dagster_home: str = Field(
        default=DAGSTER_HOME,
        validation_alias=AliasChoices("DAGSTER_HOME", "dagster_home"),
        description="folder of Dagster's records; the daemon reads it from the environment only",
    )
    threads: int = Field(
        default_factory=_usable_cores,
        ge=1,
        description="number of threads for training and inference",
    )
    precision: Literal["auto", "f32", "bf16"] = Field(
        default="auto", description="number format of inference; auto: bf16 if the processor supports it"
    )
    tile_px: int = Field(
        default=736, ge=64, le=4096, multiple_of=16, description="side of an inference tile in px"
    )
    tile_overlap_px: int = Field(
        default=32, ge=0, le=1024, multiple_of=16, description="overlap of neighbouring tiles in px"
    )
    minimum_diameter_px: float = Field(
        default=4.0, ge=1, description="smallest diameter in px; smaller objects are removed as noise"
    )
    minimum_diameter_nm: float | None = Field(
        default=None,
        gt=0,
        description="smallest diameter in nm, on calibrated images; the larger limit applies",
    )
    test_time_flips: bool = Field(
        default=False,
        description="average predictions over the mirror images of each image: four times the work",
    )
    target_half_width: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="enough particles: the median's 95 % interval is within ± this fraction of it",
    )
    training_sets: tuple[str, ...] = Field(
        default=(),
        description='annotated sets to train with, as JSON: ["set_a", "set_b"]; empty: all sets',
    )
    training_profile: Literal["quick", "standard", "paper"] = Field(
        default="standard", description="size of the network and length of the training"
    )
    split_seed: int = Field(
        default=0, ge=0, description="seed of the split into training, validation and test images"
    )
    settling_s: float = Field(
        default=60, ge=0, le=86_400, description="seconds without a change after which a session is complete"
    )
    arrival_interval_s: int = Field(
        default=30, ge=1, le=3600, description="seconds between two scans of incoming/"
    )
    process_on_arrival: bool = Field(
        default=False, description="process a session as soon as it is complete, not at night"
    )
    time_zone: str = Field(
        default="UTC", description="time zone of the nightly run at 02:00, such as Europe/Berlin"
    )
    attempts: int = Field(
        default=3,
        ge=1,
        le=100,
        description="number of nights on which a failing session is tried before it is parked",
    )
    abandoned_after_s: float = Field(
        default=120, ge=1, description="age in seconds from which a run without a process is marked as failed"
    )
    read_seconds: float = Field(
        default=60,
        gt=0,
        le=86_400,
        description="seconds that reading one file may take, and 1 s more for each 10 MB of it",
    )
    read_memory_mb: int = Field(
        default=2000,
        ge=200,
        description="memory in MB that reading one file may take, and 10 times its size more",
    )
    session_roots: tuple[str, ...] = Field(
        default=(),
        description=(
            "folders outside incoming/ whose sessions Dagster's pages may process, as JSON; "
            "the command line may process any folder"
        ),
    )
    web_names: tuple[str, ...] = Field(
        default=(),
        description=(
            "host names under which Dagster's and MLflow's pages are reached, besides localhost, "
            'as JSON: ["tem.example.org"]'
        ),
    )
    keep_runs_days: int = Field(
        default=90,
        ge=1,
        description="age in days at which runs are deleted from Dagster's records, except those that made a "
        "present asset",
    )
    webhook_url: str | None = Field(
        default=None,
        pattern="^https?://",
        description="address that receives a message about each failed session",
    )

    @field_validator("time_zone")
    @classmethod
    def _known_time_zone(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("not a time zone: use a name such as UTC or Europe/Berlin")
        return name


def load_settings() -> Settings:
    """Read the settings from the environment and the `.env` file.

    Raises
    ------
    UserError
        When a setting is wrong; the message names it.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise UserError(f"setting {_variable(name)}: {first['msg']}") from error
    except Exception as error:  # pydantic-settings' own errors, such as a list that is not JSON
        raise UserError(f"settings can't be read: {error}") from error
    _check_folders(settings)
    return settings


def _check_folders(settings: Settings) -> None:
    for name in _ROOTS:
        root = getattr(settings, name)
        if "://" in root and not root.startswith("file://"):
            raise UserError(
                f"{_variable(name)}={root}: a root must be a folder of this machine; "
                "mount the store and name the mounted folder"
            )
    home = settings.dagster_home
    if "dagster_home" in settings.model_fields_set and home and not Path(home).is_absolute():
        raise UserError(
            f"DAGSTER_HOME={home}: must be an absolute path, because Dagster accepts no other; "
            f"use {Path(home).expanduser().absolute()}"
        )


def _variable(name: str) -> str:
    """Give the environment variable of a setting. MLflow and Dagster read theirs too."""
    shared = ("MLFLOW_TRACKING_URI", "DAGSTER_HOME")
    return name.upper() if name.upper() in shared else f"TEM_{name.upper()}"


def settings_table(settings: Settings) -> list[dict[str, str]]:
    """List every setting: its environment variable, value, origin and meaning."""
    rows = []
    for name, field in Settings.model_fields.items():
        variable = _variable(name)
        if variable in os.environ:
            origin = "environment"
        elif name in settings.model_fields_set:
            origin = ".env"
        else:
            origin = "default"
        rows.append(
            {
                "setting": variable,
                "value": _shown(name, getattr(settings, name)),
                "origin": origin,
                "meaning": field.description or "",
            }
        )
    return rows


def _shown(name: str, value: object) -> str:
    if name == "webhook_url" and value:
        # The path of such an address is a password.
        return re.sub(r"(?<=[^:/])/.+", "/***", redacted(str(value)))
    return redacted(str(value))


def resolve_root(root: str) -> UPath:
    """Make a root absolute: a relative path is below the project, a URL is kept."""
    path = UPath(root)
    if path.protocol in ("", "file"):
        local = path.path if root.startswith("file://") else root
        return UPath(PROJECT_ROOT / Path(local).expanduser())
    return path
