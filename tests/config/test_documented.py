"""Every key that the schema takes stands in docs/configuration.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from routerd.config.schema import schema_text

ROOT = Path(__file__).parents[2]


def keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from keys(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from keys(value)


def test_every_key_of_the_schema_is_documented() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text()
    found = set(keys(json.loads(schema_text())))
    assert len(found) > 40
    assert not [key for key in sorted(found) if key not in text]


def test_the_schema_in_the_package_is_the_one_at_the_top() -> None:
    assert schema_text() == (ROOT / "schemas" / "routerd.schema.json").read_text()
