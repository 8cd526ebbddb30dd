"""The error codes of the registry API and the one exception that carries them.

Owns: the total table code -> (status, default message). Does not own: rendering, which is
`web/app.py` alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Code(StrEnum):
    """Error codes: the 14 of distribution-spec 1.1 ("Error Codes"), and two for 5xx answers."""

    BLOB_UNKNOWN = "BLOB_UNKNOWN"
    BLOB_UPLOAD_INVALID = "BLOB_UPLOAD_INVALID"
    BLOB_UPLOAD_UNKNOWN = "BLOB_UPLOAD_UNKNOWN"
    DIGEST_INVALID = "DIGEST_INVALID"
    MANIFEST_BLOB_UNKNOWN = "MANIFEST_BLOB_UNKNOWN"
    MANIFEST_INVALID = "MANIFEST_INVALID"
    MANIFEST_UNKNOWN = "MANIFEST_UNKNOWN"
    NAME_INVALID = "NAME_INVALID"
    NAME_UNKNOWN = "NAME_UNKNOWN"
    SIZE_INVALID = "SIZE_INVALID"
    UNAUTHORIZED = "UNAUTHORIZED"
    DENIED = "DENIED"
    UNSUPPORTED = "UNSUPPORTED"
    TOOMANYREQUESTS = "TOOMANYREQUESTS"
    # Not in the specification, which speaks of 4xx only; distribution uses both for 5xx.
    UNAVAILABLE = "UNAVAILABLE"
    UNKNOWN = "UNKNOWN"


DEFAULTS: Mapping[Code, tuple[int, str]] = {
    Code.BLOB_UNKNOWN: (404, "blob unknown to this registry"),
    Code.BLOB_UPLOAD_INVALID: (400, "blob upload invalid"),
    Code.BLOB_UPLOAD_UNKNOWN: (404, "blob upload unknown to this registry"),
    Code.DIGEST_INVALID: (400, "the digest is not valid or does not match the content"),
    Code.MANIFEST_BLOB_UNKNOWN: (404, "the manifest refers to content unknown to this registry"),
    Code.MANIFEST_INVALID: (400, "manifest invalid"),
    Code.MANIFEST_UNKNOWN: (404, "manifest unknown to this registry"),
    Code.NAME_INVALID: (400, "invalid repository name"),
    Code.NAME_UNKNOWN: (404, "repository name not known to this registry"),
    Code.SIZE_INVALID: (400, "the length given does not match the content"),
    Code.UNAUTHORIZED: (401, "authentication required"),
    Code.DENIED: (403, "requested access to the resource is denied"),
    Code.UNSUPPORTED: (405, "the operation is unsupported"),
    Code.TOOMANYREQUESTS: (429, "too many requests"),
    Code.UNAVAILABLE: (503, "the upstream registry is unavailable"),
    Code.UNKNOWN: (500, "unknown error"),
}

# protocol.md 2: text from a stranger is cut at this many characters wherever it is shown or logged.
STRANGER_TEXT_LIMIT = 256


class RegistryError(Exception):
    """An answer of the registry API that is not a success. Raised anywhere, rendered in one place.

    `message` is a sentence for the person who typed the pull; `detail` any JSON value; `headers`
    go out with the answer. `status` overrides the table (502: broken upstream, 508: loop).
    """

    def __init__(
        self,
        code: Code,
        message: str | None = None,
        *,
        status: int | None = None,
        detail: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        default_status, default_message = DEFAULTS[code]
        self.code = code
        self.status = default_status if status is None else status
        self.message = message or default_message
        self.detail = detail
        self.headers: Mapping[str, str] = headers or {}
        super().__init__(f"{self.status} {code}: {self.message}")


def printable(text: str, limit: int = STRANGER_TEXT_LIMIT) -> str:
    """A stranger's text made safe to show and log: no control characters, at most `limit` long."""
    clean = "".join(c if c.isprintable() else "?" for c in text[: limit + 1])
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"
