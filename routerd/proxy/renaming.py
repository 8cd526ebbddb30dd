"""An endpoint that the policy now calls by another name: what is stored follows.

Owns the order of it, so that it can be done again where it was broken off. Done while nothing is
served. An endpoint's name is its identity (config-language.md 3): of a remote the scope of what it
caches, of a storage endpoint its directory as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from routerd.config.settings import Policy
from routerd.content.errors import StoreError
from routerd.content.rename import take_over_directory
from routerd.oci.errors import Code, RegistryError
from routerd.proxy.copies import CONFLICT
from routerd.proxy.service import Service
from routerd.runtime.blocking import run_blocking


@dataclass(frozen=True, slots=True)
class Renamed:
    """`rows` of the index that have the new name; `directory`: whether that moved as well."""

    kind: ClassVar[str] = "renamed"
    old: str
    new: str
    rows: int
    directory: bool


async def rename(policy: Policy, old: str, new: str) -> Renamed:
    """Give what is stored of endpoint `old` to `new`. Raises StoreError, RegistryError."""
    spec = policy.endpoints.get(new)
    if spec is None or old in policy.endpoints:
        why = f"has no endpoint '{new}'" if spec is None else f"still has an endpoint '{old}'"
        raise RegistryError(
            Code.DENIED, f"the policy {why}: give the new name there first", status=CONFLICT
        )
    moved = False
    if spec.store_path is not None:
        moved = await _move_directory(spec.store_path.with_name(old), spec.store_path)
    rows = 0
    async with Service(policy, background=False) as service:
        for store in service.stores.values():
            try:
                rows += await store.purging.rename_endpoint(old, new)
            except ValueError as error:
                raise RegistryError(Code.DENIED, str(error), status=CONFLICT) from error
    if not rows and not moved:
        raise RegistryError(Code.NAME_UNKNOWN, f"nothing is stored of an endpoint '{old}'")
    return Renamed(old, new, rows, moved)


async def _move_directory(old: Path, new: Path) -> bool:
    if not await run_blocking(old.is_dir):
        return False  # moved already, by a run that was broken off
    if await run_blocking(new.exists):
        raise StoreError(f"{new} is there already: move it away if it holds nothing of value")
    return await run_blocking(take_over_directory, new, old)
