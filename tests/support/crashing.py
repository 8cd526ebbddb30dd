"""A routerd that pushes, fills, checks and backs up without end, to be killed at any moment.

Run as a program it imports everything once and forks for each line on its standard input, so that a
crash costs no start of an interpreter. What was acknowledged is on its standard output, a line each.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import sys
from contextlib import suppress
from pathlib import Path

from routerd.config.compile import load_policy
from routerd.endpoints.registry import lookup_type
from routerd.oci.errors import RegistryError
from routerd.oci.manifest import OCI_MANIFEST, Manifest
from routerd.oci.reference import Digest, Reference, Repository
from routerd.proxy.answers import Request
from routerd.proxy.checking import verify
from routerd.proxy.service import Service
from routerd.routing.policy import Caller
from routerd.runtime.files import as_bytes
from routerd.runtime.logs import configure
from upstream import Upstream, image, upstream

APP = Repository.parse("docker.io", "team/app")
PULL = Repository.parse("docker.io", "library/app")
LARGEST = 300_000  # bytes of a blob

POLICY = """
server: {{admin: null, data: '{data}'}}
endpoints:
  hub: {{type: remote, url: '{url}', namespace: docker.io, cache: local}}
  local: {{type: storage}}
routes:
  team/**: {{endpoints: local, allow: {{push: [anonymous]}}}}
  "**": hub
"""


def say(*words: object) -> None:
    """One line, in one write: a kill leaves it whole or not at all."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def push(service: Service, request: Request) -> None:
    """Images, one after the other, each with a tag of its own and the tag `latest`."""
    while True:
        layer = os.urandom(random.randrange(1, LARGEST))
        upload = await service.push.start_upload(APP, request)

        async def halves(data: bytes = layer):  # type: ignore[no-untyped-def]
            yield data[: len(data) // 2]
            yield data[len(data) // 2 :]

        await upload.append(halves())
        await upload.commit(Digest.of(layer), "crash")
        say("blob", Digest.of(layer))
        manifest = Manifest.parse(image(layer), OCI_MANIFEST)
        for tag in (Digest.of(layer).encoded[:20], "latest"):
            reference = Reference.parse(f"{APP}:{tag}")
            await service.push.put_manifest(reference, manifest, request)
            say("tag", tag, manifest.descriptor.digest)


async def fill(service: Service, hub: Upstream, request: Request) -> None:
    """Images pulled through, two of their parts at once."""
    while True:
        layers = [os.urandom(random.randrange(1, LARGEST)) for _ in range(2)]
        tag = Digest.of(layers[0]).encoded[:20]
        hub.manifest("library/app", tag, image(*layers))
        for layer in layers:
            hub.blob("library/app", layer)
        with suppress(RegistryError):
            await service.pull.manifest(Reference.parse(f"{PULL}:{tag}"), [], request)
            await asyncio.gather(*(_read(service, layer, request) for layer in layers))


async def _read(service: Service, layer: bytes, request: Request) -> None:
    answer = await service.pull.blob(Reference(PULL, digest=Digest.of(layer)), request)
    try:
        got = b"".join([chunk async for chunk in as_bytes(answer.read(0, None))])
    finally:
        await answer.aclose()
    assert got == layer


async def look_after(service: Service) -> None:
    """What runs beside it in a server, without the pauses."""
    while True:
        await service.stores["local"].back_up(at_once=True)
        async for row in verify("local", service.stores["local"], math.inf, service.refetch):
            if row.kind == "damaged":
                say("DAMAGED", json.dumps(row.digest))


async def live(data: Path) -> None:
    async with upstream() as hub:
        policy = data.parent / "policy.yaml"
        policy.write_text(POLICY.format(data=data, url=hub.url))
        compiled = load_policy(policy, environment={}, types=lookup_type).policy
        assert compiled is not None
        request = Request(Caller())
        async with Service(compiled) as service, asyncio.TaskGroup() as group:
            say("started")
            group.create_task(push(service, request))
            group.create_task(fill(service, hub, request))
            group.create_task(look_after(service))


def main(data: Path) -> None:
    configure("text", "critical")  # a disk that is cut off would fill the log
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            random.seed()
            try:
                asyncio.run(live(data))
            finally:
                os._exit(1)
        say("pid", child)
        os.waitpid(child, 0)
        say("ended")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
