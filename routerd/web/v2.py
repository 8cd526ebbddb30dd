"""The registry API: a parsed call and a method become a use case and its answer.

Owns the HTTP of each noun: which method does what, which status and headers come back. Does not own
the paths (`oci/apipath.py`), deciding (`routing/`) or doing (`proxy/`).
"""

from __future__ import annotations

from typing import assert_never

from quart import Response

from routerd.endpoints.base import Via
from routerd.endpoints.via import check_loop, join_chain
from routerd.oci.apipath import (
    ApiCall,
    BlobCall,
    Catalog,
    ManifestCall,
    NameRules,
    Ping,
    Referrers,
    TagList,
    UploadCall,
    allow,
    parse,
)
from routerd.oci.errors import Code, RegistryError
from routerd.oci.manifest import MANIFEST_LIMIT, Manifest
from routerd.proxy.answers import Request, Source
from routerd.proxy.service import Service
from routerd.routing.policy import Caller
from routerd.web import responses
from routerd.web.audit import Auditor
from routerd.web.clients import client_address
from routerd.web.connection import RegistryRequest
from routerd.web.uploads import Uploads


class RegistryApi:
    """Answers `/v2/` for one service."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server = service.policy.server
        table = service.policy.table
        self._names = NameRules(self._server.default_namespace, table.is_configured)
        self._uploads = Uploads(service.push)
        self._auditor = Auditor(service.audit, table)

    async def answer(self, http: RegistryRequest) -> Response:
        """The answer to one request. Raises RegistryError, which `app.py` renders."""
        asked = self._identify(http)
        call = parse(http.scope["raw_path"], http.query_string, self._names)
        if isinstance(call, ManifestCall):
            self._auditor.watch(http, call.reference, asked.caller)
        check_loop(asked.via.chain, self._service.name, self._server.max_hops)
        if http.method not in allow(call):
            raise RegistryError(
                Code.UNSUPPORTED,
                f"{http.method} is not a method of this resource",
                headers={"Allow": ", ".join(allow(call))},
            )
        response = await self._dispatch(http, call, asked)
        if call.ns is not None:
            response.headers["OCI-Namespace"] = call.ns
        return response

    def _identify(self, http: RegistryRequest) -> Request:
        client = http.scope.get("client")
        forwarded = ",".join(http.headers.getlist(self._server.forwarded_header))
        address, chain = client_address(
            client[0] if client else "", forwarded, self._server.trusted_proxies
        )
        http.record.client = "" if address is None else str(address)
        via = join_chain(http.headers.getlist("Via"))
        # Of GET only: RFC 9110 14.2 defines it for no other method.
        wanted = http.headers.get("Range") if http.method == "GET" else None
        return Request(Caller(address), Via(via, chain), wanted)

    async def _dispatch(self, http: RegistryRequest, call: ApiCall, asked: Request) -> Response:
        head = http.method == "HEAD"
        match call:
            case Ping():
                return responses.document({}, head=head)
            case ManifestCall():
                return await self._manifest(http, call, asked)
            case BlobCall():
                return await self._blob(http, call, asked)
            case UploadCall():
                http.record.reference = str(call.repository)
                return await self._uploads.answer(http, call, asked)
            case TagList():
                return await self._tags(http, call, asked)
            case Referrers():
                # 404: clients use the sha256-<hex> tag (distribution-spec, "Listing Referrers").
                raise RegistryError(
                    Code.UNSUPPORTED, "the referrers API is not supported yet", status=404
                )
            case Catalog():
                raise RegistryError(
                    Code.UNSUPPORTED, "the catalog is not supported yet", status=404
                )
            case _:
                assert_never(call)

    async def _manifest(
        self, http: RegistryRequest, call: ManifestCall, asked: Request
    ) -> Response:
        reference = call.reference
        http.record.reference = str(reference)
        if http.method == "PUT":
            return await self._put_manifest(http, call, asked)
        if http.method == "DELETE":
            await self._service.push.delete(reference, asked)
            return responses.empty(202)
        accept = http.headers.getlist("Accept")
        answer = await self._service.pull.manifest(reference, accept, asked)
        if http.method == "GET":  # who only looks does not go on to pull
            self._service.prefetcher.follow(reference.repository, answer, asked)
        _note(http, answer.source)
        http.record.digest = str(answer.manifest.descriptor.digest)
        return responses.manifest(
            answer, http.headers.get("If-None-Match", ""), head=http.method == "HEAD"
        )

    async def _put_manifest(
        self, http: RegistryRequest, call: ManifestCall, asked: Request
    ) -> Response:
        # Refuse who may not push before the body is read.
        self._service.push.check(call.reference, asked)
        body = await http.body.read(MANIFEST_LIMIT)
        http.record.received = len(body)
        manifest = Manifest.parse(body, http.headers.get("Content-Type", ""), call.reference.digest)
        digest = manifest.descriptor.digest
        http.record.digest = str(digest)
        await self._service.push.put_manifest(call.reference, manifest, asked)
        headers = {
            "Location": call.location(f"manifests/{digest}"),
            "Docker-Content-Digest": str(digest),
        }
        if manifest.subject is not None:
            headers["OCI-Subject"] = str(manifest.subject.digest)
        return responses.empty(201, headers)

    async def _blob(self, http: RegistryRequest, call: BlobCall, asked: Request) -> Response:
        reference = call.reference
        http.record.reference = str(reference)
        if http.method == "DELETE":
            await self._service.push.delete_blob(call.repository, call.digest, asked)
            return responses.empty(202)
        if_none_match = http.headers.get("If-None-Match", "")
        # That the client has it is no sight of it, and no reason to download it.
        if http.method == "HEAD" or responses.matches_etag(if_none_match, call.digest):
            facts = await self._service.pull.blob_facts(reference, asked)
            _note(http, facts.source)
            return responses.blob_facts(facts, if_none_match)
        answer = await self._service.pull.blob(reference, asked)
        _note(http, answer.source)
        return await responses.blob(answer, asked.range)

    async def _tags(self, http: RegistryRequest, call: TagList, asked: Request) -> Response:
        http.record.reference = str(call.repository)
        page = await self._service.listing.tags(call.repository, call.last, call.n, asked)
        headers = {}
        if page.more and page.tags:
            # The client's own `n`: a page that a filter or a merge made short is no new wish.
            asked_for = {} if call.n is None else {"n": str(call.n)}
            url = call.location("tags/list", {**asked_for, "last": page.tags[-1]})
            headers["Link"] = f'<{url}>; rel="next"'
        return responses.document(
            {"name": call.name, "tags": list(page.tags)}, headers, head=http.method == "HEAD"
        )


def _note(http: RegistryRequest, source: Source) -> None:
    """What the log line says of how a pull was served."""
    record = http.record
    record.endpoint = source.step.endpoint
    record.route = str(source.step.route.pattern)
    record.result = str(source.result)
