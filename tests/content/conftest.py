"""A content store in the test's directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from routerd.content.directory import DirectoryStore
from routerd.content.fetchtable import FetchTable
from routerd.runtime.tasks import Tasks


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DirectoryStore]:
    opened = DirectoryStore(tmp_path / "store")
    await opened.start()
    yield opened
    await opened.aclose()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    owner = Tasks()
    yield owner
    await owner.aclose(grace=0)


@pytest.fixture
def fetches(tasks: Tasks) -> FetchTable:
    return FetchTable(tasks)
