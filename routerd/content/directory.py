"""The content store in a directory.

Owns the layout:

    STORE/
      format            the version of this layout, "1"
      lock              held while a server has the store open
      index.sqlite      what is known (index.py), with its -wal and -shm
      blobs/sha256/ab/<hex>   complete, verified, durable content
      spool/<random>    content on its way in; what a killed process left goes at the next start
      spool/<digest>.<endpoint>   a download, which the next process goes on with (spoolfile.py)
      uploads/<id>      uploads on their way in; they outlive the process
      removed/<random>  content that a sweep has taken out, on its way out
      reserve           space for the index on a full disk
      sweep.lock        held while a process sweeps; `swept` is as old as the last sweep
      quarantine/       files that were not what their name says (quarantine.py)
      backups/          copies of the index (backup.py)
      aside/            indexes that a rebuild has replaced (rebuild.py)
      questions         locks of what is being asked upstream (questions.py)
      verify            how far the background check is, and its lock (patrol.py)

Does not own who may see what: links in the index do.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from sqlalchemy.exc import DatabaseError

from routerd.config.sizes import StorageLimits
from routerd.content.backup import DamagedIndex, back_up
from routerd.content.capacity import Capacity
from routerd.content.database import Database
from routerd.content.errors import StoreError, StoreFull, StoreInUse
from routerd.content.handle import FileHandle
from routerd.content.health import Health, read_health
from routerd.content.index import Index
from routerd.content.ingest import FileIngest
from routerd.content.inventory import Inventory
from routerd.content.layout import INDEX, QUESTIONS, blob_path, has_content, is_incoming
from routerd.content.links import LinkKind, Scope, TagEntry
from routerd.content.patrol import Patrol
from routerd.content.purging import Purging
from routerd.content.questions import Questions
from routerd.content.rebuild import Rebuild, Rebuilt
from routerd.content.removal import RemovedFiles
from routerd.content.room import NO_LIMITS
from routerd.content.schema import NewerIndex
from routerd.content.spoolfile import DirectorySpoolFile, forget_old
from routerd.content.sweep import Sweeper
from routerd.content.troubles import why_not_opened
from routerd.content.uploads import IngestUpload, UploadTable
from routerd.content.verify import Checked, Verifier
from routerd.oci.errors import RegistryError
from routerd.oci.manifest import Manifest
from routerd.oci.reference import Digest, Tag
from routerd.runtime.blocking import finish_blocking, run_blocking
from routerd.runtime.files import as_bytes, make_directory, publish, sync_directory, write_synced
from routerd.runtime.pace import Pace

log = logging.getLogger("routerd.content")

FORMAT = 1
UPLOAD_EXPIRY = 86400.0  # seconds without a byte, after which an upload is forgotten
DOWNLOAD_EXPIRY = 86400.0  # and a download that broke off
_NAMED = 64  # digits of a digest in a file's name: enough, and short enough with an endpoint's name
_ID_BYTES = 16  # of random names; not to be guessed by another client


class DirectoryStore:
    """A `ContentStore` in a directory of the local file system.

    `shared`: a process that outlives this one holds the store's lock and has cleared what killed
    processes left; this is one of several that have the store open.
    """

    def __init__(
        self,
        path: Path,
        clock: Callable[[], float] = time.time,
        *,
        limits: StorageLimits = NO_LIMITS,
        shared: bool = False,
    ) -> None:
        self._path = path
        self._clock = clock
        self._shared = shared
        self._database = Database(path / INDEX)
        self._lock: int | None = None
        self._uploads = UploadTable()
        self.index = Index(self._database, clock, lambda digest: self._blob(digest).exists())
        self._removed = RemovedFiles(path, self._blob)
        sweeper = Sweeper(self._database, self.index.pulls, self._removed, clock)
        self.capacity = Capacity(path, limits, self._database, sweeper, clock)
        self.inventory = Inventory(self._database)
        self.purging = Purging(self._database)
        self.verifier = Verifier(path, self._database)
        self._questions = Questions(path / QUESTIONS)
        self.patrol = Patrol(path, self.verifier, clock)

    async def start(self) -> None:
        """Open it, and clear what a killed process left. Raises StoreError."""
        self.capacity.start()
        try:
            if not self._shared:
                await run_blocking(self._claim)
            await run_blocking(self._refuse_lost_index)
            await self._database.start()
            if not self._shared:
                await self._clear()
        except (OSError, NewerIndex, DatabaseError, DamagedIndex) as error:
            await self.aclose()
            why = await run_blocking(why_not_opened, self._path, error)
            raise StoreError(f"the store in {self._path} cannot be opened: {why}") from error
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close it. Handles that are open stay readable."""
        self._uploads.clear()
        try:
            await self.index.pulls.flush()
        except StoreFull as error:
            log.warning("the last pulls are not written down: %s", error.message)
        await self._database.aclose()
        self._questions.close()
        self._release()

    async def forget_downloads(self, endpoint: str) -> None:
        """Forget what was received of its downloads, but of those that run."""
        await run_blocking(forget_old, self._path / "spool", math.inf, endpoint)

    async def maintain(self) -> None:
        """Forget the uploads and downloads that nobody goes on with."""
        await run_blocking(forget_old, self._path / "spool", self._clock() - DOWNLOAD_EXPIRY)
        before = self._clock() - UPLOAD_EXPIRY
        for session in await self.index.forget_uploads(before, self._uploads.busy()):
            self._uploads.forget(session)
            await run_blocking((self._path / "uploads" / session).unlink, missing_ok=True)

    async def back_up(self, *, at_once: bool = False) -> Path | None:
        """Copy the index if that is due; None: no copy was made. Raises StoreFull, StoreError, OSError."""
        try:
            return await finish_blocking(back_up, self._path, self._clock(), at_once=at_once)
        except DamagedIndex as error:
            why = await run_blocking(why_not_opened, self._path, error)
            raise StoreError(f"the index could not be backed up: {why}") from error

    async def health(self) -> Health:
        """How the directory is doing."""
        return await run_blocking(read_health, self._path)

    async def rebuild(self, pace: Pace) -> AsyncGenerator[Checked | Rebuilt, None]:
        """Make the index anew from the content, instead of `start`. Raises StoreError."""
        try:
            await run_blocking(self._claim)
            async for step in Rebuild(self._path, pace, self._clock).run():
                yield step
        except (OSError, NewerIndex, DatabaseError) as error:
            raise StoreError(f"the store in {self._path} cannot be rebuilt: {error}") from error
        finally:
            self._release()

    async def open(
        self, scope: Scope, digest: Digest, kind: LinkKind = LinkKind.BLOB
    ) -> FileHandle | None:
        """Content that the scope has a link to; None without a link or without the bytes."""
        link = await self.index.link(scope, digest, kind)
        if link is None:
            return None
        path = self._blob(digest)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # A sweep forgets the links first: then this was a miss, and no damage.
            if await self.index.link(scope, digest, kind) is None:
                return None
            found = None
        else:
            found = os.fstat(fd).st_size
            if found == link.size:
                return FileHandle(digest, fd, link.size)
            os.close(fd)
        log.error("%s has %s bytes on disk, not %s: no longer served", digest, found, link.size)
        await self.index.mark_damaged(digest, lambda: _size_of(path) != link.size)
        return None

    async def stat(
        self, scope: Scope, digest: Digest, kind: LinkKind = LinkKind.BLOB
    ) -> int | None:
        """The size in bytes of content that the scope has a link to; None as for `open`."""
        handle = await self.open(scope, digest, kind)
        if handle is None:
            return None
        await handle.aclose()
        return handle.size

    async def manifest(self, scope: Scope, digest: Digest) -> Manifest | None:
        """A manifest that the scope has a link to."""
        handle = await self.open(scope, digest, LinkKind.MANIFEST)
        link = await self.index.link(scope, digest, LinkKind.MANIFEST)
        if handle is None or link is None:
            return None
        try:
            body = b"".join([chunk async for chunk in as_bytes(handle.read(0, None))])
        finally:
            await handle.aclose()
        try:
            return Manifest.parse(body, link.media_type, digest)
        except RegistryError as error:
            log.error("%s is damaged on disk: %s", digest, error.message)
            path = self._blob(digest)
            await self.index.mark_damaged(digest, lambda: Digest.of(path.read_bytes()) != digest)
            return None

    async def add_manifest(
        self,
        scope: Scope,
        manifest: Manifest,
        *,
        tag: Tag | None = None,
        validated_at: float,
        cache_control: str = "",
        etag: str = "",
        created_by: str = "",
        immutable: bool = False,
    ) -> None:
        """Store, link and tag it, in this order and durably. Raises StoreFull, and 403 DENIED where
        an immutable tag is another digest.
        """
        digest = manifest.descriptor.digest
        ingest = await self.ingest()
        try:
            await finish_blocking(ingest.write, [manifest.body])
            await ingest.keep(digest)
        except BaseException:
            await ingest.abort()
            raise
        finally:
            ingest.close()
        entry = TagEntry(digest, validated_at, cache_control, etag)
        await self.index.put_manifest(
            scope,
            manifest,
            tag,
            entry,
            created_by,
            immutable=immutable,
        )

    async def ingest(self) -> FileIngest:
        """New content. Raises StoreFull."""
        path = self._path / "spool" / secrets.token_hex(_ID_BYTES)
        return await run_blocking(FileIngest, path, self._blob, self.index, self.capacity.press)

    def question(self, key: str) -> AbstractAsyncContextManager[bool]:
        """Within it no other process on this store asks upstream the same (questions.py)."""
        return self._questions.turn(key)

    def spool_file(self, endpoint: str, digest: Digest) -> DirectorySpoolFile:
        """The download of this digest from this endpoint, begun or not."""
        path = self._path / "spool" / f"{digest.algorithm}-{digest.encoded[:_NAMED]}.{endpoint}"
        return DirectorySpoolFile(
            path, lambda at: FileIngest(at, self._blob, self.index, self.capacity.press)
        )

    async def start_upload(self, scope: Scope) -> IngestUpload:
        """A new upload. Raises StoreFull."""
        session = secrets.token_hex(_ID_BYTES)
        upload = await self._open_upload(scope, session)
        try:
            await self.index.add_upload(scope, session, session, f"pid:{os.getpid()}")
        except BaseException:
            upload.close()  # its file goes at the next start
            raise
        return self._uploads.add(upload)

    async def upload(self, scope: Scope, session: str) -> IngestUpload | None:
        """An upload of this scope by its id, whichever process began it."""
        if await self.index.upload_scope(session) != scope:
            return None
        upload = self._uploads.get(session)
        if upload is None:
            upload = self._uploads.add(await self._open_upload(scope, session))
        else:
            await upload.refresh()
        return upload

    async def _open_upload(self, scope: Scope, session: str) -> IngestUpload:
        path = self._path / "uploads" / session
        # What is there already is hashed, which blocks.
        ingest = await run_blocking(FileIngest, path, self._blob, self.index, self.capacity.press)
        return IngestUpload(session, scope, ingest, self.index, self.capacity.admit)

    def _blob(self, digest: Digest) -> Path:
        return blob_path(self._path, digest)

    def _claim(self) -> None:
        make_directory(self._path)
        for name in ("blobs", "spool", "uploads"):
            make_directory(self._path / name)
        self._removed.make()
        self._lock = hold(self._path)
        self._removed.release_if_full()
        version = self._path / "format"
        if not version.exists():
            temporary = self._path / "format.new"
            write_synced(temporary, f"{FORMAT}\n".encode())
            publish(temporary, version)
        found = version.read_text(encoding="ascii").strip()
        if found != str(FORMAT):
            raise StoreError(
                f"the store in {self._path} has format {found}, this routerd knows {FORMAT}: "
                "a newer routerd wrote it"
            )

    async def _clear(self) -> None:
        """Remove what was on its way in when the last process ended and cannot be gone on with."""
        try:
            await self.maintain()
        except StoreFull:
            log.error("the disk is full: what is stored in %s is served all the same", self._path)
            self.capacity.press()
        known = await self.index.upload_ids()
        await run_blocking(self._remove_leftovers, known)

    def _remove_leftovers(self, known_uploads: set[str]) -> None:
        for path in (self._path / "spool").iterdir():
            if is_incoming(path):
                path.unlink()
        for path in (self._path / "uploads").iterdir():
            if is_incoming(path) and path.name not in known_uploads:
                path.unlink()
        sync_directory(self._path / "uploads")
        self._removed.tidy()

    def _refuse_lost_index(self) -> None:
        """Content without an index is no new store: opening it would forget every link."""
        index = self._path / INDEX
        if (not index.exists() or index.stat().st_size == 0) and has_content(self._path):
            raise DamagedIndex("it is empty or gone, although there is content")

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _size_of(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None


def hold(path: Path) -> int:
    """Lock the store in this directory, for as long as the descriptor that comes back is open, in
    whichever process. Raises StoreInUse.
    """
    lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StoreInUse(f"the store in {path} is in use by another server") from error
    return lock
