"""Uploads: ingests that are known by an id and outlive request and process.

Owns that one request at a time writes a session, and how many sessions are held open. Does not own
the HTTP of it (`web/uploads.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from routerd.content.index import Index
from routerd.content.links import Scope
from routerd.content.store import Ingest
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest
from routerd.runtime.blocking import finish_blocking

OPEN_UPLOADS = 256  # sessions whose ingest is held; others are opened and hashed anew


class IngestUpload:
    """An `Upload` that is an ingest with an id; it ends with the commit or the cancellation."""

    def __init__(
        self,
        session: str,
        scope: Scope,
        ingest: Ingest,
        index: Index,
        admit: Callable[[int], Awaitable[None]],
    ) -> None:
        self.id = session
        self._admit = admit
        self._scope = scope
        self._index = index
        self._ingest = ingest
        self.busy = False  # a request is writing to it
        self.ended = False

    @property
    def offset(self) -> int:
        """Bytes received so far."""
        return self._ingest.offset

    async def refresh(self) -> None:
        """See what another process has written since this one did, unless somebody writes now."""
        if not self.busy and not self.ended:
            with contextlib.suppress(RegistryError):
                async with self._alone():
                    pass

    async def append(self, chunks: AsyncIterator[bytes], length: int | None = None) -> None:
        """Add bytes at `offset`. What arrived stays when the iterator raises or is cancelled.

        `length`: how many will come, where that is known: asked for room before the first is read.
        """
        async with self._alone():
            before = self.offset
            if length is not None:
                await self._admit(before + length)
            try:
                async for chunk in chunks:
                    await finish_blocking(self._ingest.write, [chunk])
            finally:
                if self.offset != before:
                    await self._index.upload_progress(self.id, self.offset)

    async def commit(self, digest: Digest, created_by: str) -> None:
        """Verify, make durable, link. Raises 400 DIGEST_INVALID, StoreFull; then the bytes go."""
        async with self._alone():
            try:
                await self._admit(self.offset)
                await self._ingest.commit(digest, [self._scope], created_by)
            finally:
                await self._end()

    async def cancel(self) -> None:
        """Forget the bytes."""
        async with self._alone():
            await self._end()

    def close(self) -> None:
        """Let go of the ingest; the session goes on from it another time."""
        self._ingest.close()

    async def _end(self) -> None:
        self.ended = True
        await self._ingest.abort()
        self._ingest.close()
        await self._index.delete_upload(self.id)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self.ended:
            raise RegistryError(Code.BLOB_UPLOAD_UNKNOWN)
        if self.busy:
            raise _another_writes()
        self.busy = True
        try:
            # Another process may have written since this one did, or may be writing now.
            if not await finish_blocking(self._ingest.claim):
                raise _another_writes()
            try:
                yield
            finally:
                self._ingest.yield_up()
        finally:
            self.busy = False


def _another_writes() -> RegistryError:
    return RegistryError(Code.BLOB_UPLOAD_INVALID, "another request is writing to this upload")


class UploadTable:
    """The uploads that this process holds open, the least recently used idle ones closed first."""

    def __init__(self) -> None:
        self._open: dict[str, IngestUpload] = {}

    def get(self, session: str) -> IngestUpload | None:
        """An open upload."""
        upload = self._open.pop(session, None)
        if upload is None or upload.ended:
            return None
        self._open[session] = upload
        return upload

    def add(self, upload: IngestUpload) -> IngestUpload:
        """Hold `upload` open; the one held already, where two requests opened it at once."""
        held = self.get(upload.id)
        if held is not None:
            upload.close()
            return held
        idle = [session for session, other in self._open.items() if not other.busy]
        for session in idle[: max(0, len(self._open) + 1 - OPEN_UPLOADS)]:
            self._open.pop(session).close()
        self._open[upload.id] = upload
        return upload

    def busy(self) -> frozenset[str]:
        """The sessions that a request writes to."""
        return frozenset(session for session, upload in self._open.items() if upload.busy)

    def forget(self, session: str) -> None:
        """The session is no more."""
        upload = self._open.pop(session, None)
        if upload is not None:
            upload.ended = True
            upload.close()

    def clear(self) -> None:
        """Close them all."""
        for upload in self._open.values():
            upload.close()
        self._open.clear()
