"""Pushing: uploads, mounts, manifests and deletions, at the one target that the policy names.

Owns finding the target and bringing over what a manifest lists and the target lacks. Does not own
storing: a `PushEndpoint` does. A push that fails fails; it is never tried elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeGuard

import structlog

from routerd.endpoints.base import Endpoint, PushEndpoint, UploadSession
from routerd.oci.errors import Code, RegistryError
from routerd.oci.manifest import ACCEPT_ALL, Descriptor, Manifest
from routerd.oci.reference import Digest, Reference, Repository
from routerd.proxy.answers import Request
from routerd.proxy.pull import Pull
from routerd.routing.decision import Decision, Step
from routerd.routing.policy import Action
from routerd.routing.table import RouteTable
from routerd.runtime.files import as_bytes

log = structlog.get_logger("routerd.push")

NESTING_LIMIT = 4  # indexes within indexes that are brought over; real ones have one level


class Push:
    """The use case of every write."""

    def __init__(self, table: RouteTable, endpoints: Mapping[str, Endpoint], pull: Pull) -> None:
        self._table = table
        self._endpoints = endpoints
        self._pull = pull

    async def start_upload(self, repository: Repository, request: Request) -> UploadSession:
        """A new upload session at the repository's push target. Raises RegistryError."""
        step, target = self._target_of(repository, request)
        return await target.start_upload(step.repository)

    async def upload(self, repository: Repository, session: str, request: Request) -> UploadSession:
        """A session that was started before. Raises 404 BLOB_UPLOAD_UNKNOWN."""
        step, target = self._target_of(repository, request)
        return await target.upload(step.repository, session)

    async def mount(
        self, repository: Repository, digest: Digest, source: Repository | None, request: Request
    ) -> bool:
        """Link a blob from `source` without an upload; False: the client has to upload it.

        `source` needs `pull` and sight of the digest there. Without it only the repository itself
        counts: anything more would tell a stranger what else is stored (protocol.md 2).
        """
        step, target = self._target_of(repository, request)
        origin = repository if source is None else source
        seen = self._table.decide_repository(origin, Action.PULL, request.caller)
        for other in seen.steps:
            if other.endpoint == step.endpoint and await target.mount(
                step.repository, digest, other.repository
            ):
                return True
        return False

    def check(self, reference: Reference, request: Request) -> None:
        """Refuse now what `put_manifest` would refuse by policy, before its body is read."""
        self._target(self._table.decide(reference, Action.PUSH, request.caller))

    async def put_manifest(
        self, reference: Reference, manifest: Manifest, request: Request
    ) -> None:
        """Store a manifest, after what it lists is there. Raises RegistryError."""
        step, target = self._target(self._table.decide(reference, Action.PUSH, request.caller))
        await self._bring_over(reference.repository, step, target, manifest, request, NESTING_LIMIT)
        there = Reference(step.repository, reference.tag, reference.digest)
        immutable = reference.tag is not None and step.cache.is_immutable(reference.tag)
        await target.put_manifest(there, manifest, request.created_by, immutable=immutable)

    async def delete(self, reference: Reference, request: Request) -> None:
        """Remove a tag or a manifest. Raises RegistryError."""
        step, target = self._target(self._table.decide(reference, Action.DELETE, request.caller))
        await target.delete(Reference(step.repository, reference.tag, reference.digest))

    async def delete_blob(self, repository: Repository, digest: Digest, request: Request) -> None:
        """Remove a blob from the repository. Raises RegistryError."""
        decision = self._table.decide_repository(repository, Action.DELETE, request.caller)
        step, target = self._target(decision)
        await target.delete_blob(step.repository, digest)

    def _target_of(self, repository: Repository, request: Request) -> tuple[Step, PushEndpoint]:
        return self._target(self._table.decide_repository(repository, Action.PUSH, request.caller))

    def _target(self, decision: Decision) -> tuple[Step, PushEndpoint]:
        if decision.refusal is not None:
            raise decision.refusal.error()
        step = decision.steps[0]
        endpoint = self._endpoints[step.endpoint]
        if not can_be_pushed_to(endpoint):
            raise RegistryError(
                Code.UNSUPPORTED, f"endpoint {step.endpoint} is of a type that takes no pushes"
            )
        return step, endpoint

    async def _bring_over(
        self,
        repository: Repository,
        step: Step,
        target: PushEndpoint,
        manifest: Manifest,
        request: Request,
        depth: int,
    ) -> None:
        """Copy to the target what the manifest lists, it lacks, and this caller can read elsewhere.

        Clients skip an upload of what a HEAD found at any endpoint of the route
        (config-language.md 3, "Pushes go to one place").
        """
        for blob in manifest.required_blobs:
            if not await target.has_blob(step.repository, blob.digest):
                await self._bring_blob(repository, step, target, blob, request)
        for child in manifest.children:
            if await target.has_manifest(step.repository, child.digest):
                continue
            reference = Reference(repository, digest=child.digest)
            if depth == 0 or not self._readable_elsewhere(reference, step, request):
                continue  # a sparse index is the target's to accept or refuse
            try:
                answer = await self._pull.manifest(reference, [ACCEPT_ALL], request)
            except RegistryError as error:
                log.info("child not brought over", digest=str(child.digest), why=error.message)
                continue
            await self._bring_over(repository, step, target, answer.manifest, request, depth - 1)
            there = Reference(step.repository, digest=child.digest)
            await target.put_manifest(there, answer.manifest, request.created_by)

    async def _bring_blob(
        self,
        repository: Repository,
        step: Step,
        target: PushEndpoint,
        blob: Descriptor,
        request: Request,
    ) -> None:
        reference = Reference(repository, digest=blob.digest)
        if not self._readable_elsewhere(reference, step, request):
            return
        try:
            answer = await self._pull.blob(reference, request)
        except RegistryError as error:
            # The target refuses the manifest and names the blob; why it could not be had is here.
            log.info("blob not brought over", digest=str(blob.digest), why=error.message)
            return
        session = await target.start_upload(step.repository)
        try:
            await session.append(as_bytes(answer.read(0, answer.size)), answer.size)
            await session.commit(blob.digest, request.created_by)
        except BaseException:
            await session.cancel()
            raise
        finally:
            await answer.aclose()

    def _readable_elsewhere(self, reference: Reference, step: Step, request: Request) -> bool:
        decision = self._table.decide(reference, Action.PULL, request.caller)
        return any(
            (other.endpoint, other.repository) != (step.endpoint, step.repository)
            for other in decision.steps
        )


def can_be_pushed_to(endpoint: Endpoint) -> TypeGuard[PushEndpoint]:
    """Whether the endpoint has the capability of `PushEndpoint`."""
    return isinstance(endpoint, PushEndpoint)
