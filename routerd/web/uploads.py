"""The HTTP of blob uploads: POST, PATCH, PUT, GET and DELETE of distribution-spec "Pushing blobs".

Owns statuses, Location, Range and Content-Range of an upload. Does not own its bytes
(`endpoints/storage.py`) or its target (`proxy/push.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from quart import Response

from routerd.endpoints.base import UploadSession
from routerd.oci.apipath import UploadCall
from routerd.oci.errors import Code, RegistryError
from routerd.oci.ranges import parse_upload_range
from routerd.oci.reference import Digest
from routerd.proxy.answers import Request
from routerd.proxy.push import Push
from routerd.web import responses
from routerd.web.connection import RegistryRequest


class Uploads:
    """Answers `/v2/<name>/blobs/uploads/` and its sessions."""

    def __init__(self, push: Push) -> None:
        self._push = push

    async def answer(self, http: RegistryRequest, call: UploadCall, asked: Request) -> Response:
        """The answer to one request on an upload. Raises RegistryError."""
        if call.session is None:
            return await self._start(http, call, asked)
        session = await self._push.upload(call.repository, call.session, asked)
        match http.method:
            case "PATCH":
                await self._append(http, call, session)
                return responses.empty(202, _progress(call, session))
            case "PUT":
                return await self._finish(http, call, session, asked)
            case "DELETE":
                await session.cancel()
                return responses.empty(204)
            case _:
                return responses.empty(204, _progress(call, session))

    async def _start(self, http: RegistryRequest, call: UploadCall, asked: Request) -> Response:
        if call.mount is not None and await self._push.mount(
            call.repository, call.mount, call.source, asked
        ):
            return _created(call, call.mount)
        session = await self._push.start_upload(call.repository, asked)
        if call.digest is not None:  # monolithic: the body of the POST is the blob
            try:
                return await self._finish(http, call, session, asked)
            except BaseException:
                # Nobody was told its id, so nobody will go on with it. A refused commit ended it.
                with suppress(RegistryError):
                    await session.cancel()
                raise
        return responses.empty(202, _progress(call, session))

    async def _append(
        self, http: RegistryRequest, call: UploadCall, session: UploadSession
    ) -> None:
        content_range = http.headers.get("Content-Range")
        if content_range is None:
            await session.append(aiter(http.body), http.content_length)
            return
        chunk = parse_upload_range(content_range)
        if chunk.start != session.offset:
            raise RegistryError(
                Code.BLOB_UPLOAD_INVALID,
                f"the chunk starts at {chunk.start}, but {session.offset} bytes are here",
                status=416,
                headers=_progress(call, session),
            )
        length = chunk.stop - chunk.start
        if http.content_length not in (None, length):
            raise RegistryError(
                Code.SIZE_INVALID,
                f"Content-Range says {length} bytes, Content-Length {http.content_length}",
            )
        try:
            await session.append(_exactly(length, aiter(http.body)), length)
        except WrongLength as error:
            # What came stays, and the client is told how much that is.
            raise RegistryError(
                Code.SIZE_INVALID, str(error), headers=_progress(call, session)
            ) from error

    async def _finish(
        self, http: RegistryRequest, call: UploadCall, session: UploadSession, asked: Request
    ) -> Response:
        if call.digest is None:
            raise RegistryError(
                Code.DIGEST_INVALID, "the last request of an upload says ?digest=ALGORITHM:HEX"
            )
        await self._append(http, call, session)
        await session.commit(call.digest, asked.created_by)
        return _created(call, call.digest)


class WrongLength(Exception):
    """A chunk's body is not as long as its Content-Range says."""


async def _exactly(length: int, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks, as long as they are within `length` bytes. Raises WrongLength."""
    received = 0
    async for chunk in chunks:
        received += len(chunk)
        if received > length:
            raise WrongLength(f"Content-Range says {length} bytes, and more came")
        yield chunk
    if received < length:
        raise WrongLength(f"Content-Range says {length} bytes, and {received} came")


def _created(call: UploadCall, digest: Digest) -> Response:
    return responses.empty(
        201,
        {
            "Location": call.location(f"blobs/{digest}"),
            "Docker-Content-Digest": str(digest),
        },
    )


def _progress(call: UploadCall, session: UploadSession) -> dict[str, str]:
    return {
        "Location": call.location(f"blobs/uploads/{session.id}"),
        "Docker-Upload-UUID": session.id,
        # An upload without a byte is `0-0` as well: the form has no other way to say nothing.
        "Range": f"0-{max(0, session.offset - 1)}",
    }
