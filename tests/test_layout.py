"""The layout keeps its directions: who may import whom, and no circles."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("optim", "agents", "meta", "experiments")

# A package or wing imports from itself and from those of lower numbers only.
LEVELS = {
    "optim": 0,
    "agents": 1,
    "meta": 2,
    "experiments.settings": 3,
    "experiments.runs": 4,
    "experiments.online": 5,
    "experiments.reports": 5,
    "experiments.offline": 6,
    "experiments.meta_training": 6,
    "experiments.command_line": 7,
    "experiments.benchmarks": 8,
}


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST, names: set[str]) -> Iterator[str]:
    """Our own modules that a tree imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            candidates = [name for name in inner if name in names]
            candidates += [node.module] * (len(candidates) < len(inner))
        else:
            continue
        yield from (name for name in candidates if name in names)


def wing(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "experiments" else parts[0]


def wrong_directions(module: str, imports: list[str]) -> list[str]:
    own = wing(module)
    return [
        f"{module} imports {other}"
        for other in imports
        if wing(other) not in (own, "experiments") and LEVELS[wing(other)] >= LEVELS[own]
    ]


def test_imports_point_downwards() -> None:
    known = modules()
    assert {wing(name) for name in known} - {"experiments"} == set(LEVELS)
    found = []
    for name, path in known.items():
        imports = list(imported(ast.parse(path.read_text()), set(known)))
        if name == "experiments":
            assert not imports
        else:
            found += wrong_directions(name, imports)
    assert not found


def test_there_are_no_circles() -> None:
    known = modules()
    edges = {
        name: set(imported(ast.parse(path.read_text()), set(known))) - {name}
        for name, path in known.items()
        if path.name != "__init__.py"  # a package's names are its modules'
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in sorted(edges.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    for name in edges:
        visit(name, ())


@pytest.mark.parametrize(
    ("module", "other"),
    [
        ("optim.adamo", "agents.ppo"),
        ("agents.ppo", "meta.task"),
        ("meta.task", "experiments.settings"),
        ("experiments.runs.directory", "experiments.online.tasks"),
        ("experiments.reports.tables", "experiments.online.tasks"),
        ("experiments.meta_training.presets", "experiments.command_line.arguments"),
        ("experiments.offline.training", "experiments.meta_training.tasks"),
    ],
)
def test_a_wrong_direction_is_found(module: str, other: str) -> None:
    assert {module, other} <= set(modules())
    assert wrong_directions(module, [other])
    assert not wrong_directions(other, [other])


@pytest.mark.parametrize("folder", PACKAGES)
def test_tests_mirror_the_tree(folder: str) -> None:
    """Each folder of tests is one of the package, and each wing has tests."""
    ours = {p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob("*") if _is_package(p)}
    tests = {
        p.parent.relative_to(ROOT / "tests" / folder)
        for p in (ROOT / "tests" / folder).rglob("test_*.py")
    } - {Path()}
    assert tests == ours


def _is_package(path: Path) -> bool:
    return (path / "__init__.py").is_file()
