"""rename: a renamed store is one directory, taken over once and never beneath a server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from routerd.content.directory import DirectoryStore
from routerd.content.errors import StoreError
from routerd.content.rename import take_over_directory
from stored import DATA, content, put


async def test_what_was_stored_is_there_under_the_new_name(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "old")
    await store.start()
    digest = await put(store, DATA)
    await store.aclose()
    with ThreadPoolExecutor(8) as threads:  # each with locks of its own, as processes have
        took = list(
            threads.map(lambda _: take_over_directory(tmp_path / "new", tmp_path / "old"), range(8))
        )
    assert sorted(took) == [False] * 7 + [True]
    renamed = DirectoryStore(tmp_path / "new")
    await renamed.start()
    assert await content(renamed, digest) == DATA
    await renamed.aclose()


async def test_a_store_that_a_server_uses_is_not_renamed_beneath_it(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "old")
    await store.start()
    with pytest.raises(StoreError, match="another server uses it"):
        take_over_directory(tmp_path / "new", tmp_path / "old")
    assert not (tmp_path / "new").exists()
    await store.aclose()
    assert take_over_directory(tmp_path / "new", tmp_path / "old")


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    assert not take_over_directory(tmp_path / "new", tmp_path / "old")
    assert not take_over_directory(tmp_path / "new", tmp_path / "nothing")
    assert (tmp_path / "old").is_dir()
