"""Arithmetic of Range and Content-Range (RFC 9110 14), and of uploads' Content-Range.

Owns parsing and clamping. Does not own which answer follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from routerd.oci.errors import Code, RegistryError, printable

_DIGITS_LIMIT = 19  # decimal digits of any offset: below 2**63, which is what file systems take
_ONE_RANGE = re.compile(r"bytes[ \t]*=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII | re.IGNORECASE)
_UPLOAD_RANGE = re.compile(r"(?:bytes[ =])?([0-9]{1,19})-([0-9]{1,19})(?:/.*)?", re.ASCII)
_RESPONSE_RANGE = re.compile(
    r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """The bytes [start, stop) of some content."""

    start: int
    stop: int


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The one satisfiable range that a Range header asks for; None: send the whole as 200.

    None where there is no header, where it is malformed, of another unit or of several ranges (RFC
    9110 14.2 lets a server ignore those). Raises 416 for a range that starts past the end.
    """
    if header is None or (match := _ONE_RANGE.fullmatch(header.strip())) is None:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        length = min(_number(last), size)
        if length == 0:
            raise not_satisfiable(size)
        return ByteRange(size - length, size)
    start = _number(first)
    if last and _number(last) < start:
        return None
    if start >= size:
        raise not_satisfiable(size)
    return ByteRange(start, min(_number(last) + 1, size) if last else size)


def not_satisfiable(size: int) -> RegistryError:
    """416 with the size, for a client to ask better (RFC 9110 15.5.17)."""
    return RegistryError(
        Code.SIZE_INVALID,
        f"the range starts past the end of the content, which is {size} bytes long",
        status=416,
        headers={"Content-Range": f"bytes */{size}"},
    )


def content_range(part: ByteRange, size: int) -> str:
    """The Content-Range of a 206 with `part` of `size` bytes."""
    return f"bytes {part.start}-{part.stop - 1}/{size}"


def parse_upload_range(header: str) -> ByteRange:
    """The Content-Range of an upload's chunk: `FIRST-LAST` (distribution-spec, "Pushing a blob in
    chunks"), with or without the unit and size of RFC 9110. Raises 400 BLOB_UPLOAD_INVALID.
    """
    match = _UPLOAD_RANGE.fullmatch(header.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise RegistryError(
            Code.BLOB_UPLOAD_INVALID, f"Content-Range '{printable(header)}' is not FIRST-LAST"
        )
    return ByteRange(int(match[1]), int(match[2]) + 1)


def parse_response_range(header: str) -> tuple[ByteRange, int | None] | None:
    """What an upstream's 206 holds: the range, and the whole size if said; None: nonsense."""
    match = _RESPONSE_RANGE.fullmatch(header.strip())
    if match is None:
        return None
    part = ByteRange(int(match[1]), int(match[2]) + 1)
    size = None if match[3] == "*" else int(match[3])
    if part.stop <= part.start or (size is not None and part.stop > size):
        return None
    return part, size


def _number(digits: str) -> int:
    # An offset past anything a file can hold is as good as the largest one.
    return int(digits) if len(digits) <= _DIGITS_LIMIT else 10**_DIGITS_LIMIT
