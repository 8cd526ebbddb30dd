"""What can be wrong with a content store as a whole.

Owns the failures that every floor above knows. Does not own what is wrong with content:
`oci/errors.py` has those words.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import SQLAlchemyError

from routerd.oci.errors import Code, RegistryError
from routerd.oci.reference import Digest


class StoreError(Exception):
    """A store cannot be used at all. The message is for the operator."""


class StoreInUse(StoreError):
    """Another process has it."""


class StoreFull(RegistryError):
    """No space left for new content. What is stored goes on being served."""

    def __init__(
        self, message: str = "there is no space left to store this; what is stored stays"
    ) -> None:
        super().__init__(Code.DENIED, message, status=507)


class Vanished(RegistryError):
    """What was about to be linked is not there: a sweep, or somebody's hand, was faster."""

    def __init__(self, digest: Digest) -> None:
        super().__init__(Code.UNAVAILABLE, f"{digest} was removed meanwhile; try again")


# What a store raises where its disk or its index fails, in whatever state that leaves a caller.
# The change counter is read past SQLAlchemy (`database.py`).
TROUBLE = (StoreError, StoreFull, OSError, SQLAlchemyError, sqlite3.Error)
