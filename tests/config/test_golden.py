"""Policies and what is said of them: each file in golden/policies has its expected diagnostics, each
example its expected explanations. `UPDATE_GOLDEN=1` writes them anew, to be read before a commit.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import certifi
import pytest
from click.testing import CliRunner

from routerd.cli.main import main

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
POLICIES = sorted((GOLDEN / "policies").glob("*.yaml"))
VARIABLES = {"HUB_PASSWORD": "one", "PRODUCTION_TOKEN": "two", "HUB2_PASSWORD": "three"}

# What is explained of every example: a hit of each route, a miss, a digest, a push.
ASKED = [
    ["library/nginx:1.27"],
    ["nginx"],
    ["mycorp/product:latest"],
    ["mycorp/product:1", "--client", "10.20.3.4"],
    ["mycorp/product:testing", "--action", "push", "--client", "10.20.9.1"],
    ["mycorp/product@sha256:" + "0" * 64, "--client", "10.20.3.4"],
    ["team/app:1", "--action", "push"],
    ["team/app:1", "--action", "push", "--client", "10.2.3.4"],
    ["legacy/app:1"],
    ["ghcr.io/foo/bar:1"],
    ["quay.io/foo/bar:1"],
]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, list(arguments), env=VARIABLES)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def compare(path: Path, found: str) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text()


@pytest.mark.parametrize("policy", POLICIES, ids=lambda path: path.stem)
def test_a_policy_gets_exactly_the_diagnostics_expected(
    policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(policy.parent)
    monkeypatch.setenv("CORP", "s3cr3t")
    status, said = run("config", "validate", policy.name)
    compare(policy.with_suffix(".txt"), f"{said}exit status {status}\n")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted(example: Path) -> None:
    status, said = run("config", "validate", "--no-environment", str(example))
    assert status == 0, said


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_explains_itself_as_expected(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The certificate that an example names is the reader's own.
    shutil.copy(certifi.where(), tmp_path / "corp-ca.pem")
    policy = tmp_path / example.name
    policy.write_bytes(example.read_bytes())
    monkeypatch.chdir(tmp_path)
    said = ""
    for words in ASKED:
        # What is said of the file itself is another test's.
        result = CliRunner().invoke(
            main, ["explain", *words, "--config", example.name], env=VARIABLES
        )
        said += f"$ routerd explain {' '.join(words)}\n{result.stdout}exit {result.exit_code}\n\n"
    compare(GOLDEN / f"{example.stem}.explain", said)


def test_ten_mistakes_are_ten_errors_and_no_secret_is_shown() -> None:
    status, said = run("config", "validate", str(GOLDEN / "policies" / "ten-mistakes.yaml"))
    assert status == 1
    assert said.count(": error[") >= 10
    assert "s3cr3t" not in said
