"""Reads the small YAML files that people put beside images. Their content is not trusted."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from tem_pipeline.errors import UserError
from tem_pipeline.text import printable

MAX_YAML_BYTES = 64 * 1024

Description = TypeVar("Description", bound=BaseModel)


def read_description(path: Path, kind: type[Description]) -> Description:
    """Read and check a description.

    Every scalar is passed on as text, so that a sample 007 or 2026-11-22 keeps its name. `kind` converts
    text to numbers where needed.

    Parameters
    ----------
    path : path
        A regular file. If it doesn't exist, the defaults of `kind` are returned.
    kind : type of BaseModel

    Raises
    ------
    UserError
        One line, to which the caller adds the file's name: wrong keys, wrong types, too large, aliases, not
        YAML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise UserError(f"it cannot be read ({error.strerror}): give this account read permission") from error
    if len(content) > MAX_YAML_BYTES:
        raise UserError(f"it is larger than {MAX_YAML_BYTES // 1024} kB: keep only the description")
    try:
        return kind.model_validate(_plain_mapping(content.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise UserError(f"it is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise UserError(f"{line}{problem}: write one 'key: value' per line") from error
    except ValidationError as error:
        raise UserError(_in_one_line(error, kind)) from error
    except ValueError as error:
        raise UserError(error) from error


def _plain_mapping(text: str) -> dict[str, Any]:
    depth = 0
    # Checking the events one by one needs no recursion and doesn't expand aliases.
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not allowed: write the value itself")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > 3:
            raise ValueError("it is nested too deeply: write one 'key: value' per line")
    node = yaml.compose(text, Loader=yaml.BaseLoader)
    if node is None or (isinstance(node, yaml.ScalarNode) and not node.value):
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ValueError("it has no 'key: value' lines")
    for mapping in (node, *(value for _, value in node.value)):
        keys: set[str] = set()
        for key, _ in mapping.value if isinstance(mapping, yaml.MappingNode) else ():
            if str(key.value) in keys:
                raise ValueError(f"it has {str(key.value)[:40]!r} twice: keep one")
            keys.add(str(key.value))
    loaded = yaml.load(text, Loader=yaml.BaseLoader)
    # A key without a value, as in templates, means the default.
    return {key: value for key, value in loaded.items() if value not in ("", "~", "null")}


def _in_one_line(error: ValidationError, kind: type[BaseModel]) -> str:
    lines: dict[str, str] = {}
    for item in error.errors(include_url=False):
        name = ".".join(str(part)[:40] for part in item["loc"]) or "it"
        if item["type"] == "extra_forbidden":
            lines[name] = f"{name!r} is unknown, use {', '.join(kind.model_fields)}"
        else:
            lines.setdefault(name, f"{name} {str(item['input'])[:40]!r}: {item['msg']}")
    text = "; ".join(list(lines.values())[:3])
    return printable(text)
