"""Sub-packages are layers: none imports from a higher one, and there are no circular imports."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "cnnres_infer"

# From the lowest to the highest; each imports only from itself and from those before it.
ROOMS = (
    "codes",
    "errors",
    "limits",
    "phantom",
    "host",
    "core",
    "readers",
    "pipeline",
    "bundle",
    "engines",
    "verification",
    "selection",
    "outputs",
    "maintenance",
    "predictor",
    "batch",
    "cohort",
    "demo",
    "service",
    "cli",
)
TOOLS = ("network", "export", "training", "calibration", "benchmarks")

# Some may import less than the order allows.
ONLY = {
    "core": {"codes", "errors"},
    "engines": {"codes", "errors", "core", "host"},
    "phantom": {"errors"},
    "readers": {"codes", "errors", "limits", "core", "host"},
}
LIBRARIES = {"core": {"numpy"}, "phantom": {"numpy"}}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(top: str) -> dict[str, Path]:
    return {module_name(path): path for path in sorted((ROOT / top).rglob("*.py"))}


MODULES = {name: path for top in (PACKAGE, *TOOLS) for name, path in sources(top).items()}


def imports(source: str) -> set[str]:
    """Modules that a source imports anywhere in it: for types, late, or by their names."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
                # Public names of the package are loaded from any room.
                assert node.module != PACKAGE or whole in MODULES or alias.name == "__version__"
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # What `import_module` is given, with or without an attribute.
            named = node.value.partition(":")[0]
            found |= {named} if named in MODULES and "." in named else set()
    return found


IMPORTS = {name: imports(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
# Without the package's own module: it has the version, and imports public names lazily.
OURS = {
    name: {each for each in found if each in MODULES and each not in (PACKAGE, name)}
    for name, found in IMPORTS.items()
    if name not in (PACKAGE, f"{PACKAGE}.__main__")
}
INSIDE = sorted(name for name in OURS if name.startswith(f"{PACKAGE}."))


def room(name: str) -> str:
    return name.split(".")[1]


def test_every_sub_package_is_listed() -> None:
    assert {room(name) for name in INSIDE} == set(ROOMS)


@pytest.mark.parametrize("name", INSIDE)
def test_a_module_imports_only_lower_layers(name: str) -> None:
    here = room(name)
    for each in OURS[name]:
        assert each.startswith(f"{PACKAGE}."), f"{name} imports {each}, which is not in the wheel"
        there = room(each)
        assert ROOMS.index(there) <= ROOMS.index(here), f"{name} imports {each}, which is above it"
        assert there in {here, *ONLY.get(here, ROOMS)}, f"{name} imports {each}"


@pytest.mark.parametrize("name", [name for name in INSIDE if room(name) in LIBRARIES])
def test_core_imports_only_numpy(name: str) -> None:
    import sys

    others = {each.split(".")[0] for each in IMPORTS[name]} - {PACKAGE}
    assert others - set(sys.stdlib_module_names) <= LIBRARIES[room(name)]


@pytest.mark.parametrize("name", sorted(name for name in OURS if name.split(".")[0] in TOOLS))
def test_the_checkout_only_tools_import_in_order(name: str) -> None:
    here = TOOLS.index(name.split(".")[0])
    for each in OURS[name]:
        top = each.split(".")[0]
        assert top == PACKAGE or TOOLS.index(top) <= here, f"{name} imports {each}"


def test_there_are_no_circular_imports() -> None:
    assert len(list(TopologicalSorter(OURS).static_order())) >= len(OURS)


@pytest.mark.parametrize(
    "source",
    [
        "def late():\n    from cnnres_infer.outputs.save import save",
        "def late():\n    return import_module('cnnres_infer.outputs.save')",
        "TABLE = {'a': 'cnnres_infer.outputs.save:save'}",
        "if TYPE_CHECKING:\n    import cnnres_infer.outputs.save",
    ],
)
def test_no_way_of_importing_is_overlooked(source: str) -> None:
    assert "cnnres_infer.outputs.save" in imports(source)


def test_public_names_are_no_way_around_the_order() -> None:
    with pytest.raises(AssertionError):
        imports("from cnnres_infer import Predictor")
