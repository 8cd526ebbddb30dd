"""One process of the stress test of the sweep: fills, pushes, reads or sweeps a shared store.

    python sweep_stress.py ROLE STORE SEED ENOUGH

Goes on until the file ENOUGH is there. Prints a JSON object a line: what was acknowledged (`blob`,
`manifest` with its `tag`), and what was `done`, how many `times`. Leaves with 1, and says why, where
it sees something that must not be.

The sweeper's clock is ahead of the others' and these are ahead of the files': so nothing is ever too
young to go, and what keeps the store right is what transactions look at, not a grace.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from random import Random

from sqlalchemy import text

from routerd.content.directory import DirectoryStore
from routerd.content.errors import Vanished
from routerd.content.links import LinkKind, Scope
from routerd.content.retention import GRACE
from routerd.endpoints.storage import StorageEndpoint
from routerd.oci.errors import RegistryError
from routerd.oci.manifest import OCI_MANIFEST, Manifest
from routerd.oci.reference import DOCKER_HUB, Digest, Reference, Repository, Tag
from routerd.runtime.files import as_bytes
from stored import stream
from upstream import image

HUB = Scope("hub", "library/app")
TEAM = Repository(DOCKER_HUB, "team/app")
LOCAL = "local"
AHEAD = 2 * GRACE  # seconds
CONTENTS = 24  # few, so that fills, pushes and sweeps meet in the same digests
PUSHED = 12  # of which some are pushed as well, and so stay after their first push

DANGLING = """
SELECT count(*) FROM tag WHERE NOT EXISTS (
    SELECT 1 FROM link JOIN blob ON blob.digest = link.digest
    WHERE link.endpoint = tag.endpoint AND link.repository = tag.repository
      AND link.digest = tag.digest AND link.kind = 'manifest'
)
"""


def some(number: int) -> bytes:
    """The same bytes for the same number, in every process."""
    return Random(number).randbytes(3000 + 400 * number)


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


def count(done: str, times: int = 1) -> None:
    say(done=done, times=times)


class Process:
    """One role at work on the store."""

    def __init__(self, store: DirectoryStore, seed: int) -> None:
        self.store = store
        self.local = StorageEndpoint(LOCAL, store)
        self.random = Random(seed)

    async def fill(self) -> None:
        """What downloads do: blobs, then a manifest with its tag."""
        blobs = [some(number) for number in self.random.sample(range(CONTENTS), 3)]
        try:
            for data in blobs:
                ingest = await self.store.ingest()
                try:
                    ingest.write([data])
                    await ingest.commit(Digest.of(data), [HUB])
                finally:
                    await ingest.abort()
                    ingest.close()
            manifest = Manifest.parse(image(*blobs), OCI_MANIFEST)
            tag = Tag(f"t{self.random.randrange(4)}")
            await self.store.add_manifest(HUB, manifest, tag=tag, validated_at=0)
            count("filled")
        except Vanished:
            count("overtaken")

    async def push(self) -> None:
        """What a client does that gives up where it is refused."""
        blobs = [some(number) for number in self.random.sample(range(PUSHED), 2)]
        tag = f"p{self.random.randrange(10**9)}"
        try:
            for data in blobs:
                session = await self.local.start_upload(TEAM)
                await session.append(stream(data[:1000], data[1000:]), len(data))
                await session.commit(Digest.of(data), "tester")
                say(blob=str(Digest.of(data)))
            manifest = Manifest.parse(image(*blobs, annotations={"tag": tag}), OCI_MANIFEST)
            await self.local.put_manifest(Reference(TEAM, tag=Tag(tag)), manifest, "tester")
            say(manifest=str(manifest.descriptor.digest), tag=tag)
            count("pushed")
        except RegistryError as error:
            assert isinstance(error, Vanished), error  # 503, and never a missing child
            count("overtaken")

    async def read(self) -> None:
        """A cached blob is whole or not there, also while it is taken away."""
        digest = Digest.of(some(self.random.randrange(CONTENTS)))
        handle = await self.store.open(HUB, digest)
        if handle is None:
            count("missed")
        else:
            await asyncio.sleep(self.random.random() * 0.02)
            data = b"".join([chunk async for chunk in as_bytes(handle.read(0, None))])
            await handle.aclose()
            assert Digest.of(data) == digest, f"{digest} is {Digest.of(data)}"
            self.store.index.pulls.note(HUB, digest, LinkKind.BLOB)
            count("read")
        if self.random.random() < 0.05:
            await self.store.index.pulls.flush()
        query = text(DANGLING)
        dangling = await self.store._database.read(lambda c: c.execute(query).scalar_one())
        assert dangling == 0, "a tag is a manifest that is not there"

    async def sweep(self) -> None:
        """For room, now a little and now everything."""
        report = await self.store.capacity.sweep(need=self.random.choice([5_000, 50_000, 10**9]))
        count("swept", report.blobs)
        count("skipped", report.skipped)
        await asyncio.sleep(self.random.random() * 0.05)


async def main(role: str, path: str, seed: str, enough: str) -> None:
    ahead = 2 * AHEAD if role == "sweep" else AHEAD
    store = DirectoryStore(Path(path), lambda: time.time() + ahead, shared=True)
    await store.start()
    store.capacity.retain = lambda scope: None if scope.endpoint == LOCAL else 0.0
    process = Process(store, int(seed))
    while not Path(enough).exists():
        await getattr(process, role)()
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
