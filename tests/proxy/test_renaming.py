"""renaming.rename: what is stored follows an endpoint's new name, also where that was broken off."""

from __future__ import annotations

from pathlib import Path

import pytest

from routerd.config.compile import Policy, load_policy
from routerd.content.directory import DirectoryStore
from routerd.content.errors import StoreError
from routerd.content.links import Scope
from routerd.endpoints.registry import lookup_type
from routerd.oci.errors import RegistryError
from routerd.oci.reference import Digest
from routerd.proxy.renaming import rename
from stored import DATA, content, put

OLD = Scope("old", "docker.io/team/app")
NEW = Scope("new", "docker.io/team/app")


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    path = tmp_path / "policy.yaml"
    path.write_text(
        f"server: {{admin: null, data: '{tmp_path}/data'}}\n"
        "endpoints: {new: {type: storage}}\nroutes: {team/**: new}\n"
    )
    compiled = load_policy(path, environment={}, types=lookup_type).policy
    assert compiled is not None
    return compiled


async def filled(path: Path, scope: Scope = OLD) -> Digest:
    store = DirectoryStore(path)
    await store.start()
    digest = await put(store, DATA, scope)
    await store.aclose()
    return digest


async def test_a_storage_endpoint_takes_its_directory_along(policy: Policy, tmp_path: Path) -> None:
    digest = await filled(tmp_path / "data" / "old")
    done = await rename(policy, "old", "new")
    assert (done.rows, done.directory) == (1, True)
    store = DirectoryStore(tmp_path / "data" / "new")
    await store.start()
    assert await content(store, digest, NEW) == DATA
    assert await content(store, digest, OLD) is None
    await store.aclose()


async def test_one_that_was_broken_off_goes_on(policy: Policy, tmp_path: Path) -> None:
    await filled(tmp_path / "data" / "old")
    (tmp_path / "data" / "old").rename(tmp_path / "data" / "new")
    done = await rename(policy, "old", "new")
    assert (done.rows, done.directory) == (1, False)
    with pytest.raises(RegistryError, match="nothing is stored of an endpoint 'old'"):
        await rename(policy, "old", "new")


async def test_nothing_is_written_over(policy: Policy, tmp_path: Path) -> None:
    await filled(tmp_path / "data" / "old")
    await filled(tmp_path / "data" / "new", NEW)
    with pytest.raises(StoreError, match="is there already"):
        await rename(policy, "old", "new")
    assert (tmp_path / "data" / "old" / "index.sqlite").exists()


async def test_the_policy_has_the_new_name_and_not_the_old_one(policy: Policy) -> None:
    with pytest.raises(RegistryError, match="has no endpoint 'other'"):
        await rename(policy, "old", "other")
    with pytest.raises(RegistryError, match="still has an endpoint 'new'"):
        await rename(policy, "new", "new")
