"""Content on its way into a directory: written and hashed, then durable, then visible.

Owns the order of commit: verify, sync the file, give it its name, sync the directories, tell the
index. Does not own the names (`directory.py`).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from routerd.content.errors import StoreFull
from routerd.content.index import Index
from routerd.content.links import Scope
from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest
from routerd.runtime.blocking import finish_blocking, run_blocking
from routerd.runtime.files import FULL, FilePart, publish, write_all

_REHASH_CHUNK = 1024 * 1024  # bytes


class FileIngest:
    """An `Ingest` in a file, new or begun by another process. Making one blocks."""

    def __init__(
        self,
        path: Path,
        place: Callable[[Digest], Path],
        index: Index,
        on_full: Callable[[], None],
    ) -> None:
        self._path = path
        self._on_full = on_full  # called where there is no space left, on any thread
        self._place = place
        self._index = index
        self._kept = False
        self._file = os.fdopen(self._open(), "rb+", buffering=0)
        self._hasher = hashlib.sha256()
        self.offset = 0
        self._catch_up()

    def _open(self) -> int:
        try:
            return os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._refuse_if_full(error)
            raise

    def write(self, chunks: Sequence[bytes | bytearray]) -> None:
        """Append and hash; blocks, so it is called on a thread. Raises StoreFull."""
        try:
            write_all(self._file.fileno(), chunks)
        except OSError as error:
            # What was written of it goes, so that the file and the hash stay one.
            os.ftruncate(self._file.fileno(), self.offset)
            self._refuse_if_full(error)
            raise
        for chunk in chunks:
            self._hasher.update(chunk)
        self.offset += sum(map(len, chunks))

    async def read(self, start: int, stop: int) -> AsyncIterator[FilePart]:
        """Bytes that were written, also after commit; until `close`."""
        yield FilePart(self._file.fileno(), start, stop)

    def claim(self) -> bool:
        """Be the only one, of all processes, that writes; False while another is. Blocks, since what
        others have written meanwhile is hashed.
        """
        if self._file.closed:
            return True  # nothing will be written, and whoever tries is told
        try:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if os.fstat(self._file.fileno()).st_size != self.offset:
            self._catch_up()
        return True

    def yield_up(self) -> None:
        """Let others write again."""
        if not self._file.closed:
            fcntl.flock(self._file.fileno(), fcntl.LOCK_UN)

    def restart(self) -> None:
        """Begin anew in another file of the same name, so that who follows the former one sees that
        it is no more, and mixes nothing. Blocks. Raises StoreFull.
        """
        self._path.unlink(missing_ok=True)
        fresh = self._open()
        try:
            os.dup2(fresh, self._file.fileno(), inheritable=False)
        finally:
            os.close(fresh)
        self._hasher, self.offset = hashlib.sha256(), 0

    def fileno(self) -> int:
        """The open file."""
        return self._file.fileno()

    def matches(self, digest: Digest) -> bool:
        """Whether what was written is `digest`. Blocks for another algorithm than sha256."""
        if digest.algorithm == "sha256":
            return self._hasher.hexdigest() == digest.encoded
        return self._hash_file(digest.algorithm).hexdigest() == digest.encoded

    async def commit(self, digest: Digest, scopes: Iterable[Scope], created_by: str = "") -> None:
        """Make it durable and then visible as a blob in `scopes`. Raises 400 DIGEST_INVALID."""
        await self.keep(digest)
        await self._index.add_blob(digest, self.offset, scopes, created_by)

    async def keep(self, digest: Digest) -> None:
        """Make it durable under its name, which nobody knows yet. Raises 400 DIGEST_INVALID."""
        await finish_blocking(self._keep, digest)

    def _keep(self, digest: Digest) -> None:
        if not self.matches(digest):
            raise RegistryError(Code.DIGEST_INVALID, f"the content that was sent is not {digest}")
        try:
            os.fsync(self._file.fileno())
            publish(self._path, self._place(digest))
        except OSError as error:
            self._refuse_if_full(error)
            raise
        self._kept = True

    async def abort(self) -> None:
        """Forget what was written. After commit: nothing."""
        if not self._kept:
            await run_blocking(self._path.unlink, missing_ok=True)

    def close(self) -> None:
        """Nobody reads from it any more."""
        self._file.close()

    def _refuse_if_full(self, error: OSError) -> None:
        if error.errno in FULL:
            self._on_full()
            raise StoreFull from error

    def _catch_up(self) -> None:
        """Hash what another process, or this one before its restart, has written beyond `offset`."""
        if os.fstat(self._file.fileno()).st_size < self.offset:
            self._hasher, self.offset = hashlib.sha256(), 0  # something was taken back
        self.offset = self._hash_on(self._hasher, self.offset)

    def _hash_file(self, algorithm: str) -> hashlib._Hash:
        hasher = hashlib.new(algorithm)
        self._hash_on(hasher, 0)
        return hasher

    def _hash_on(self, hasher: hashlib._Hash, position: int) -> int:
        """Hash from `position` to the end, which comes back."""
        while data := os.pread(self._file.fileno(), _REHASH_CHUNK, position):
            hasher.update(data)
            position += len(data)
        return position
