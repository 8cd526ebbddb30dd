"""registry: a package brings an endpoint type of its own, and a policy uses it.

The example adapter keeps its images in memory: what a package needs to write is below, whole.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from routerd.cli.config import effective
from routerd.config.compile import load_policy
from routerd.config.diagnostics import render
from routerd.config.document import dump
from routerd.config.schema import TypeProblem
from routerd.endpoints.base import (
    BlobStream,
    Endpoint,
    EndpointContext,
    EndpointError,
    Fetched,
    Resolved,
    TagPage,
    Via,
)
from routerd.endpoints.registry import GROUP, lookup_type
from routerd.endpoints.remote import REMOTE
from routerd.oci.errors import Code
from routerd.oci.manifest import OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Reference, Repository, Tag
from routerd.proxy.answers import Request
from routerd.proxy.service import Service
from routerd.routing.policy import Action, Caller, Fallback
from upstream import image

CONFIG = b"{}"


class Shelf:
    """One image, under every name, with the tag that the options say."""

    private = False

    def __init__(self, name: str, tag: str) -> None:
        self.name = name
        self._tag = tag
        self._manifest = Manifest.parse(image(CONFIG), OCI_MANIFEST)

    async def open(self) -> None: ...

    async def aclose(self) -> None: ...

    def scope(self, repository: Repository) -> str:
        return repository.name

    async def resolve(self, reference: Reference, via: Via, etag: str = "") -> Resolved:
        return Resolved((await self.manifest(reference, via)).manifest.descriptor)

    async def manifest(self, reference: Reference, via: Via) -> Fetched:
        if reference.tag not in (None, self._tag):
            raise EndpointError(Fallback.NOT_FOUND, Code.MANIFEST_UNKNOWN, "not on the shelf")
        return Fetched(self._manifest)

    async def blob_size(self, repository: Repository, digest: Digest, via: Via) -> int:
        return len(CONFIG)

    @asynccontextmanager
    async def blob(
        self, repository: Repository, digest: Digest, via: Via, start: int = 0
    ) -> AsyncIterator[BlobStream]:
        yield ShelfBlob(start)

    async def tags(self, repository: Repository, via: Via, last: str, n: int) -> TagPage:
        return TagPage([Tag(self._tag)], more=False)


class ShelfBlob:
    size: int | None = len(CONFIG)
    verified = False

    def __init__(self, start: int) -> None:
        self.start = start

    async def chunks(self) -> AsyncIterator[bytes]:
        yield CONFIG[self.start :]


class ShelfType:
    name = "shelf"
    options_schema: Mapping[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["tag"],
        "properties": {"tag": {"type": "string"}},
    }
    default_actions: Sequence[str] = ("pull",)
    needs_store = False

    def create(self, context: EndpointContext) -> Endpoint:
        return Shelf(context.name, context.options["tag"])


SHELF = ShelfType()
NO_TYPE = object()


class VaultType(ShelfType):
    """A type with secrets and paths."""

    name = "vault"
    options_schema: Mapping[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            key: {}
            for key in ("url", "password", "password_file", "token", "auth", "path", "plain", "pin")
        }
        | {"pin_secret": {"type": "integer", "minimum": 10}, "many": {"minProperties": 9}},
    }


VAULT = VaultType()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed distribution that declares the types, as pip would leave it behind."""
    site = tmp_path / "site"
    info = site / "shelf-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{GROUP}]\nshelf = {__name__.rpartition('.')[2]}_module:SHELF\n"
        f"vault = {__name__.rpartition('.')[2]}_module:VAULT\n"
        "remote = nonexistent_module:REMOTE\n"
        "broken = nonexistent_module:X\n"
        f"empty = {__name__.rpartition('.')[2]}_module:NO_TYPE\n"
    )
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setitem(sys.modules, f"{__name__.rpartition('.')[2]}_module", sys.modules[__name__])
    yield


POLICY = """
server: {{admin: null, data: '{data}'}}
endpoints:
  books: {{type: shelf, {options}}}
routes: {{"lib/**": books}}
"""


def compiled(tmp_path: Path, options: str) -> Any:
    path = tmp_path / "policy.yaml"
    path.write_text(POLICY.format(data=tmp_path / "data", options=options))
    return load_policy(path, environment={}, types=lookup_type)


async def test_a_policy_uses_an_adapter_that_a_package_brings(
    package: None, tmp_path: Path
) -> None:
    compilation = compiled(tmp_path, "tag: '1'")
    assert compilation.policy is not None, compilation.diagnostics
    decision = compilation.policy.table.decide(
        Reference.parse("lib/a:1"), Action.PULL, Caller(None)
    )
    assert [step.endpoint for step in decision.steps] == ["books"]
    async with Service(compilation.policy) as service:
        answer = await service.pull.manifest(Reference.parse("lib/a:1"), [], Request())
        assert answer.manifest.body == image(CONFIG)
        with pytest.raises(EndpointError, match="not on the shelf"):
            await service.pull.manifest(Reference.parse("lib/a:2"), [], Request())


@pytest.mark.parametrize(
    ("options", "code"),
    [("tga: '1'", "unknown-key"), ("tag: 1", "wrong-type"), ("x-y: 1", "bad-value")],
)
def test_its_options_are_checked_by_its_own_schema(
    package: None, tmp_path: Path, options: str, code: str
) -> None:
    compilation = compiled(tmp_path, options)
    assert compilation.policy is None
    assert code in [d.code for d in compilation.diagnostics]


def test_its_secrets_are_wrapped_its_variables_replaced_and_its_paths_absolute(
    package: None, tmp_path: Path
) -> None:
    (tmp_path / "pw").write_text("hunter2")
    path = tmp_path / "policy.yaml"
    path.write_text(
        "endpoints:\n  v:\n    type: vault\n    url: https://${HOST}\n    password_file: pw\n"
        "    token: '${TOKEN}'\n    path: shelf\n    plain: ['${HOST}']\n    pin_secret: 0123\n"
        "    auth: {type: basic, username: '${HOST}', phrase: hunter2, keys: [{token: hunter2}]}\n"
        "routes: {a/b: v}\n"
    )
    environment = {"HOST": "h.example", "TOKEN": "hunter2"}
    compilation = load_policy(path, environment=environment, types=lookup_type)
    assert compilation.policy is not None, compilation.diagnostics
    options = dict(compilation.policy.endpoints["v"].options)
    assert options["password"].reveal() == options["token"].reveal() == "hunter2"
    assert options["pin_secret"].reveal() == "0123"
    assert options["path"] == str(tmp_path / "shelf")
    assert options["plain"] == ["${HOST}"]
    assert options["url"] == "https://h.example"
    assert options["auth"]["username"] == "h.example"
    assert options["auth"]["phrase"].reveal() == "hunter2"
    assert "hunter2" not in dump(effective(compilation.policy))
    assert "hunter2" not in str(options)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ("password: '${NOPE}'", "missing-secret"),
        ("token: ''", "missing-secret"),
        ("password_file: nope", "missing-secret"),
        ("password: hunter2, password_file: pw", "bad-value"),
        ("pin_secret: 7", "bad-value"),
        ("many: {password: hunter2}", "bad-value"),
        ("pasword: hunter2", "unknown-key"),
        ("cache: 5", "wrong-type"),
        ("cache: {store: [s]}", "wrong-type"),
        ("cache: {store: s, ttl: foo}", "bad-value"),
        ("cache: {store: s, bogus: 1}", "unknown-key"),
        ("cache: {store: s, prefetch: most}", "bad-value"),
        ("limits: {}", "not-supported"),
        ("cache: nope", "unknown-store"),
        ("previous_names: [X]", "bad-value"),
        ("previous_names: [s]", "bad-value"),
    ],
)
def test_what_every_endpoint_has_is_checked_of_a_package_too(
    package: None, tmp_path: Path, options: str, code: str
) -> None:
    (tmp_path / "pw").write_text("hunter2")
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"endpoints: {{v: {{type: vault, {options}}}, s: {{type: storage}}}}\n"
        "routes: {a/b: v, c/d: s}\n"
    )
    compilation = load_policy(path, environment={}, types=lookup_type)
    said = "".join(render(d, compilation.lines) for d in compilation.diagnostics)
    assert code in [d.code for d in compilation.diagnostics if d.severity == "error"], said
    assert "hunter2" not in said


def test_a_built_in_name_wins_and_nothing_is_loaded_that_nobody_names(package: None) -> None:
    assert lookup_type("remote") is REMOTE
    assert lookup_type("shelf") is SHELF
    assert lookup_type("nothing") is None


@pytest.mark.parametrize("name", ["broken", "empty"])
def test_a_package_that_cannot_be_used_says_so(package: None, name: str) -> None:
    with pytest.raises(TypeProblem):
        lookup_type(name)


def test_a_policy_that_names_a_broken_package_gets_a_diagnostic(
    package: None, tmp_path: Path
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("endpoints: {a: {type: broken}}\nroutes: {a/b: a}\n")
    [problem] = load_policy(path, environment={}, types=lookup_type).diagnostics
    assert "cannot be loaded" in problem.message
