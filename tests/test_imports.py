"""The floors of the house and the owners of the dependencies, checked over the syntax trees.

A file imports from its own folder and from floors below (docs/design/architecture.md); a library
that shapes code stays in the module that tames it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "routerd"

FLOORS = (
    "oci",
    "routing",
    "config",
    "runtime",
    "content",
    "endpoints",
    "proxy",
    "web",
    "cli",
)

# library -> the files (or folders, ending in a slash) that may import it.
OWNERS = {
    "quart": ("web/",),
    "hypercorn": ("web/",),
    "httpx": ("endpoints/", "cli/control.py"),
    "aiohttp": ("endpoints/",),
    "yarl": ("endpoints/",),
    "publicsuffixlist": ("config/domains.py",),
    "fnmatch2": ("routing/pattern.py",),
    "ruamel": ("config/document.py",),
    "jsonschema": ("config/",),
    "sqlalchemy": ("content/",),
    "click": ("cli/",),
    "rich": ("cli/",),
}

# A task that nobody references is collected while it runs and fails in silence.
TASK_MAKERS = {"create_task", "ensure_future"}
TASK_OWNER = "runtime/tasks.py"


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, absolute, and the line that does it."""

    module: str
    line: int


def imports_of(source: str, module: str) -> Iterator[Import]:
    """Every module imported by `source`, which is the text of `module` ("routerd.oci.errors")."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base]).rstrip(".")
            yield Import(base, node.lineno)
            # `from routerd import web` reaches a floor by its name.
            if base == "routerd":
                for alias in node.names:
                    yield Import(f"routerd.{alias.name}", node.lineno)


def floor_problems(source: str, module: str) -> list[str]:
    """What `module` imports from floors above its own."""
    own = module.split(".")[1]
    problems = []
    for found in imports_of(source, module):
        parts = found.module.split(".")
        if parts[0] != "routerd" or len(parts) < 2 or parts[1] not in FLOORS:
            continue
        # The package's own top (version, __main__) stands beside the floors, under all or over all.
        if own in FLOORS and FLOORS.index(parts[1]) > FLOORS.index(own):
            problems.append(f"{module}:{found.line} imports {found.module} from a floor above")
    return problems


def owner_problems(source: str, module: str, path: str) -> list[str]:
    """Which libraries `path` (relative to the package) imports although another file owns them."""
    problems = []
    for found in imports_of(source, module):
        owners = OWNERS.get(found.module.split(".")[0])
        if owners is None:
            continue
        if not any(
            path == owner or (owner.endswith("/") and path.startswith(owner)) for owner in owners
        ):
            problems.append(f"{path}:{found.line} imports {found.module}, owned by {owners}")
    return problems


def task_problems(source: str, path: str) -> list[str]:
    """Where `path` makes a task by itself."""
    if path == TASK_OWNER:
        return []
    return [
        f"{path}:{node.lineno} makes a task that nobody owns: use Tasks.spawn"
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and node.attr in TASK_MAKERS)
        or (isinstance(node, ast.Name) and node.id in TASK_MAKERS)
    ]


def modules() -> list[tuple[str, str]]:
    """(dotted name, path relative to the package) of every module of routerd."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).as_posix()
        dotted = "routerd." + relative.removesuffix(".py").replace("/", ".")
        found.append((dotted, relative))
    return found


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: str(value))
def test_a_module_keeps_to_its_floor_and_its_libraries(module: str, path: str) -> None:
    source = (PACKAGE / path).read_text()
    problems = (
        floor_problems(source, module)
        + owner_problems(source, module, path)
        + task_problems(source, path)
    )
    assert not problems, "\n".join(problems)


def test_every_folder_of_the_package_is_a_floor() -> None:
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*/*.py")}
    assert folders == set(FLOORS)


@pytest.mark.parametrize(
    "source",
    [
        "from routerd.web.app import create_app",
        "import routerd.web.app",
        "from routerd import web",
        "from ..web import app",
        "def late():\n    from routerd.web import app",
    ],
)
def test_an_import_from_a_floor_above_is_found(source: str) -> None:
    assert floor_problems(source, "routerd.content.store")


@pytest.mark.parametrize(
    "source",
    ["from routerd.oci.reference import Digest", "from . import index", "import routerd"],
)
def test_siblings_and_floors_below_are_allowed(source: str) -> None:
    assert not floor_problems(source, "routerd.content.store")


def test_a_library_outside_its_owner_is_found() -> None:
    assert owner_problems("import fnmatch2", "routerd.routing.table", "routing/table.py")
    assert owner_problems("from quart import Quart", "routerd.proxy.pull", "proxy/pull.py")
    assert not owner_problems("import fnmatch2", "routerd.routing.pattern", "routing/pattern.py")


@pytest.mark.parametrize(
    "source",
    [
        "import asyncio\nasyncio.create_task(x())",
        "from asyncio import ensure_future\nensure_future(x)",
    ],
)
def test_a_task_that_nobody_owns_is_found(source: str) -> None:
    assert task_problems(source, "proxy/pull.py")
    assert not task_problems(source, TASK_OWNER)
