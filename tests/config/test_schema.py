"""The published schema: what editors see is what the compiler takes, in all three forms."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from routerd.config.schema import schema_text

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
SCHEMA = json.loads(schema_text())


def errors(text: str) -> list[str]:
    values = YAML(typ="safe", pure=True).load(text)
    return [error.message for error in Draft7Validator(SCHEMA).iter_errors(values)]


def patterns(schema: Any) -> Iterator[str]:
    for key, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key == "pattern" and isinstance(value, str):
            yield value
        elif isinstance(value, dict | list):
            yield from patterns(value)


def test_it_is_a_schema() -> None:
    Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_of_the_schema_as_it_stands(example: Path) -> None:
    assert not errors(example.read_text())


@pytest.mark.parametrize(
    "text",
    [
        "routes: {a/b: s}",
        "endpoints: {s: {type: storage}}",
        "registries: {s: {type: storage}}",
        "registries: {s: {type: storage}}\nendpoints: {s: {type: storage}}\nroutes: {a/b: s}",
        "endpoints: {s: {type: storage}}\nroutes: {a/b: s}\nupstream: https://x",
        "acl: {a/b: local}",
        "upstream: x",
        "upstream: https://x\nroutes: {}",
        "endpoints: {s: {type: storage, x: 1}}\nroutes: {a/b: s}",
        "endpoints: {s: {type: shelf, cache: 5}}\nroutes: {a/b: s}",
    ],
)
def test_what_is_no_policy_is_not_of_the_schema(text: str) -> None:
    assert errors(text)


def test_no_pattern_takes_a_line_end_behind_what_it_describes() -> None:
    texts = ["5s", "5GiB", "never", "name", "X-Name", "https://x", "host"]
    found = [pattern for pattern in patterns(SCHEMA) if not pattern.endswith("|\\$")]
    assert len(found) > 10
    for pattern in found:
        taken = [text for text in texts if re.search(pattern, text)]
        assert taken, pattern
        assert not [text for text in taken if re.search(pattern, f"{text}\n")], pattern
