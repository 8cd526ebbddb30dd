"""Content of a directory, open for reading.

Owns the open file. Does not own its name, which may be gone meanwhile (`directory.py`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from routerd.oci.reference import Digest
from routerd.runtime.files import FilePart


class FileHandle:
    """A `BlobHandle` on an open file, which outlives the file's name."""

    def __init__(self, digest: Digest, fd: int, size: int) -> None:
        self.digest = digest
        self.size = size
        self._file = os.fdopen(fd, "rb", buffering=0)

    async def read(self, start: int, stop: int | None) -> AsyncIterator[FilePart]:
        """The bytes of [start, stop); `stop` None is the end."""
        end = self.size if stop is None else min(stop, self.size)
        if start < end:
            yield FilePart(self._file.fileno(), start, end)

    async def aclose(self) -> None:
        """Done with it."""
        self._file.close()
