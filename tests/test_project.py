"""What surrounds the package: the pins, the links between documents, and nothing of one machine."""

from __future__ import annotations

import re
import subprocess
import tempfile
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", "constraints.txt")
FOLDERS = ("routerd", "schemas", "examples", "tests", "docs", "bench", "scripts", ".ci")
# Written in halves, so that this file does not hold what it looks for.
INDEX_HOSTS = re.compile("|".join(rf"{name}\.org" for name in ("pypi", "pythonhosted", "npmjs")))
PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.+!_-]+")
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def project_files() -> list[Path]:
    """Every file of text that belongs to the project."""
    found = [ROOT / name for name in TOP]
    found.append(ROOT / "pyproject.toml")
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    hidden = {"__pycache__", "routerd-data"}
    return [path for path in found if not hidden & set(path.parts)]


def documents() -> list[Path]:
    """Every Markdown file."""
    return [path for path in project_files() if path.suffix == ".md"]


def test_no_file_names_a_package_index_or_a_path_of_this_machine() -> None:
    anyones = {Path("/"), Path(tempfile.gettempdir())}
    places = [f"{place}/" for place in (ROOT.parent, Path.home()) if place not in anyones]
    found = []
    for path in project_files():
        text = path.read_text(errors="replace")
        if INDEX_HOSTS.search(text) or any(place in text for place in places):
            found.append(str(path.relative_to(ROOT)))
    assert not found


def test_the_pins_are_names_and_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines
    assert not [line for line in lines if not PIN.fullmatch(line)]


def test_every_dependency_is_pinned_and_what_builds_the_package_too() -> None:
    written = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = written["project"]
    development = project["optional-dependencies"]["dev"]
    wanted = [*project["dependencies"], *development, *written["build-system"]["requires"]]
    names = {_name(line) for line in wanted}
    pins = {
        pin.partition("==")[0] for pin in (ROOT / "constraints.txt").read_text().lower().split()
    }
    assert names <= pins
    # Where they are installed, `make lock` finds them.
    assert set(written["build-system"]["requires"]) <= set(development)
    assert {
        _name(line) for line in requires("hatchling") or [] if "python_version" not in line
    } <= pins


def _name(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement)[0].lower()


def test_the_isolated_build_of_an_install_uses_the_pins() -> None:
    for variable in ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"):
        recipe = f"shown: ; @printenv {variable}"
        done = subprocess.run(
            ["make", "--silent", "--no-print-directory", "--eval", recipe, "shown"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == str(ROOT / "constraints.txt")


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_of_a_document_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text())
    assert not [target for target in targets if not (document.parent / target).exists()]


def test_what_the_readme_tells_a_newcomer_to_make_can_be_made() -> None:
    told = re.findall(r"^    make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    told += re.findall(r"^    make (\w+)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    made = re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"run", "test"} <= set(told) <= set(made)
