import ast
import os
import subprocess
import sys
from pathlib import Path

from tem_pipeline import environment
from tem_pipeline.environment import VARIABLES
from tem_pipeline.settings import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "tem_pipeline"
CHANGES = {"setdefault", "update", "pop", "popitem", "clear", "putenv", "unsetenv", "__setitem__"}


def changes_of_the_environment(source: str) -> list[int]:
    """Find the lines of a module that change the environment of its own process."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=changed, attr=name)) if name in CHANGES:
                changed_things = [ast.unparse(changed)]
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                changed_things = [
                    ast.unparse(target.value) for target in targets if isinstance(target, ast.Subscript)
                ]
            case ast.AugAssign(target=target):
                changed_things = [ast.unparse(target)]
            case _:
                continue
        if {"os.environ", "environ"} & set(changed_things) or (
            isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.putenv", "os.unsetenv")
        ):
            lines.append(node.lineno)
    return lines


def test_only_one_module_changes_the_environment_of_its_importers():
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if changes_of_the_environment(path.read_text(encoding="utf-8"))
    }
    # MLflow reads its server's settings from there; the module is a program of its own.
    assert found == {"environment.py", "tracking/pages.py"}


def test_every_way_to_change_the_environment_is_found():
    ways = (
        "os.environ['A'] = '1'",
        "os.environ.setdefault('A', '1')",
        "os.environ |= {}",
        "del os.environ['A']",
        "os.putenv('A', '1')",
        "os.environ.pop('A', None)",
    )
    assert all(changes_of_the_environment(way) == [1] for way in ways)
    assert not changes_of_the_environment("environment = {**os.environ, 'A': '1'}; environment['A'] = '2'")


def test_each_variable_is_written_in_one_place():
    text = Path(environment.__file__).read_text(encoding="utf-8")
    assert all(text.count(f'"{name}"') == 1 for name in VARIABLES)


def test_importing_the_package_sets_the_variables_that_are_not_set():
    code = f"import os, tem_pipeline; print([os.environ[name] for name in {list(VARIABLES)}])"
    given = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    given |= {"KERAS_BACKEND": "jax", "PYTHONPATH": str(PROJECT_ROOT)}
    told = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(list((VARIABLES | {"KERAS_BACKEND": "jax"}).values()))
