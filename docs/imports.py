"""Reads which module imports which from the source, and checks the rules for imports."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

# What each package or top-level module holds. Each layer may use the layers above it in this list.
# Modules of one layer may use each other.
LAYERS = (
    {
        "environment": "environment variables that configure libraries",
        "errors": "the errors that are shown to a user in one line",
        "text": "text from outside, made fit for messages and tables",
        "settings": "every setting, with its default and its source",
        "storage": "where files are kept, and how a file is written in one step",
        "tables": "the schema and the description of every table",
        "descriptions": "reading YAML files that people write",
        "progress": "progress bars",
        "same_origin": "refuses requests of other web pages",
        "images_in_flight": "work on two images at a time, with results in order",
    },
    {"micrographs": "reading microscope files, calibration, sessions and their manifest"},
    {"simulation": "specimens, imaging, and sessions with known truth"},
    {"annotation": "annotated sets, the split by source micrograph, augmentation"},
    {"segmentation": "the model and its card, tiled inference, label images, masks"},
    {"training": "networks, losses, fitting, pretraining, evaluation, metrics"},
    {"particles": "measurement, distributions, uncertainty, activity, queries"},
    {"reports": "overlays, figures, the session report"},
    # No science package may use MLflow, so this layer comes after all of them.
    {"tracking": "training runs and registered models in MLflow"},
    {
        "installation": "settings, folders, model store and Dagster's home of one installation",
        "model_training": "trains and registers a model",
        "model_comparison": "compares the trained models and promotes the best",
        "single_images": "`tem-pipeline segment`: files that belong to no session",
        "data_dictionary": "writes the data dictionary",
    },
    {"orchestration": "Dagster: assets, checks, jobs, sensors, the life of a session"},
    {
        "cli": "the command line",
        "demo": "`tem-pipeline demo`",
        "dev": "`tem-pipeline dev`: Dagster and MLflow on this machine",
        "definitions": "what Dagster loads",
    },
)
SCIENCE = ("micrographs", "simulation", "annotation", "segmentation", "training", "particles", "reports")
# Loading one of these takes seconds and ties the code to it: only the packages named here import it.
# A library's other packages, such as `dagster_graphql` and `dagster_webserver`, count as the library.
OWNERS = {
    "dagster": {"orchestration"},
    "keras": {"training"},
    "mlflow": {"tracking"},
    "openvino": {"segmentation", "training"},
    "tensorflow": {"training"},
}
# Programs and tests beside the package. They use it, and are not installed with it.
BESIDE = {"benchmarks", "docs", "fuzzing", "studies", "tem_pipeline_tests"}
_IMPORT_FUNCTIONS = ("import_module", "__import__")
_COMPUTED = "a module by a computed or relative name"


def package_of(module: str) -> str:
    """Name the top-level package or module of the project that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def read_imports(root: Path) -> dict[str, set[str]]:
    """Read what every module below a root package imports.

    Imports inside functions and under ``TYPE_CHECKING`` count like any other. So do ``import_module("…")``
    with the full name written out, and attributes that are modules, such as ``tem_pipeline.tracking.store``.

    Parameters
    ----------
    root : Path
        Folder of the root package. Its name is the first part of every module's name.

    Returns
    -------
    dict of str to set of str
        For each module the full names of what it imports: modules of the project as they are named
        there, everything else as it is written. Any other use of ``import_module`` is one entry that names
        no module.
    """
    files = {_module_name(root, path): path for path in sorted(root.rglob("*.py"))}
    imports = {}
    for module, path in files.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        names = {name for node in ast.walk(tree) for name in _imported(node, package)}
        names |= _imported_by_name(tree)
        found = {_module_in(name, files) for name in names} | _modules_as_attributes(tree, package, files)
        imports[module] = found - {module}
    return imports


def packages_used(imports: dict[str, set[str]], root_name: str = "tem_pipeline") -> dict[str, set[str]]:
    """Sum up which package uses which other packages of the project."""
    used: dict[str, set[str]] = {package_of(module): set() for module in imports if package_of(module)}
    for module, names in imports.items():
        own = [package_of(name) for name in names if name.startswith(f"{root_name}.")]
        if package_of(module):
            used[package_of(module)] |= {name for name in own if name} - {package_of(module)}
    return used


def import_faults(root: Path) -> list[str]:
    """List every import that breaks a rule, and every circle between modules."""
    imports = read_imports(root)
    faults = [
        fault
        for module, names in sorted(imports.items())
        for name in sorted(names)
        if (fault := _fault(module, name, root.name, imports))
    ]
    layers = {name for layer in LAYERS for name in layer}
    faults += [f"{name} is in no layer" for name in sorted(packages_used(imports, root.name).keys() - layers)]
    own = {module: {name for name in names if name in imports} for module, names in imports.items()}
    try:
        TopologicalSorter(own).prepare()
    except CycleError as error:
        faults.append("circle: " + " → ".join(reversed(error.args[1])))
    return faults


def _fault(module: str, name: str, root_name: str, imports: dict[str, set[str]]) -> str | None:
    """Say what is wrong with one import, if anything is."""
    library = name.split(".")[0]
    if name == _COMPUTED:
        return f"{module} imports {name}: write import_module('full.name')"
    if library in BESIDE:
        return f"{module} imports {name}, which is not part of {root_name}"
    if library != root_name:
        owners = OWNERS.get(library.split("_")[0])
        if owners and package_of(module) not in owners:
            return f"{module} imports {name}, which only {' and '.join(sorted(owners))} may"
        return None
    if name not in imports:
        return f"{module} imports {name}, which does not exist"
    rank = {name: position for position, layer in enumerate(LAYERS) for name in layer}
    user, used = package_of(module), package_of(name)
    if user in rank and used in rank and rank[used] > rank[user]:
        return f"{module} imports {name}, but {used} comes after {user}"
    # The package itself configures libraries, before any of them is loaded.
    if not user and used not in ("", "environment"):
        return f"{module} imports {name}, but everything else is above {root_name}"
    return None


def _module_name(root: Path, path: Path) -> str:
    parts = [root.name, *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(node: ast.AST, package: str) -> Iterator[str]:
    """Yield the full names that one statement imports."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(names=names):
            base = _source(node, package)
            yield from (base if alias.name == "*" else f"{base}.{alias.name}" for alias in names)


def _source(node: ast.ImportFrom, package: str) -> str:
    """Name in full what a ``from … import`` imports from."""
    parts = package.split(".")
    parents = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*parents, *([node.module] if node.module else [])])


def _imported_by_name(tree: ast.AST) -> set[str]:
    """Find what ``import_module`` and ``__import__`` import.

    Only a call with the full name as a plain string can be followed. Another name for the function,
    or the function as a value, counts as a computed name.
    """
    names: set[str] = set()
    followed: set[ast.AST] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=called, args=[ast.Constant(value=str(name)), *_]):
                if _is_import_function(called) and not name.startswith("."):
                    followed.add(called)
                    names.add(name)
            case ast.ImportFrom(module="importlib", names=aliases):
                if any(a.name == "*" or (a.name in _IMPORT_FUNCTIONS and a.asname) for a in aliases):
                    names.add(_COMPUTED)
    uses = {node for node in ast.walk(tree) if _is_import_function(node)}
    return names | ({_COMPUTED} if uses - followed else set())


def _is_import_function(node: ast.AST) -> bool:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in _IMPORT_FUNCTIONS
    return False


def _modules_as_attributes(tree: ast.AST, package: str, modules: dict[str, Path]) -> set[str]:
    """Find modules of the project that are used as attributes of an imported package."""
    packages: dict[str, str] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                for alias in aliases:
                    top = alias.name.split(".")[0]
                    packages |= {alias.asname: alias.name} if alias.asname else {top: top}
            case ast.ImportFrom(names=aliases):
                base = _source(node, package)
                packages |= {alias.asname or alias.name: f"{base}.{alias.name}" for alias in aliases}
    names = {_dotted_name(node, packages) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return names & modules.keys()


def _dotted_name(node: ast.AST, packages: dict[str, str]) -> str:
    match node:
        case ast.Name(id=name):
            return packages.get(name, "")
        case ast.Attribute(value=value, attr=name):
            return f"{_dotted_name(value, packages)}.{name}"
    return ""


def _module_in(name: str, modules: dict[str, Path]) -> str:
    """Shorten ``module.attribute`` to the module, where that is one of the project."""
    parent, _, attribute = name.rpartition(".")
    if name in modules or parent not in modules:
        return name
    # What the root package offers is written out: anything else imported from it has to be a module.
    return parent if "." in parent or attribute in ("*", "__version__") else name
