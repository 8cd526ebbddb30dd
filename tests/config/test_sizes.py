"""sizes.Size: what the language writes, in bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.config.sizes import Size

TOTAL = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512MiB", 512 * 1024**2),
        ("200GB", 200 * 10**9),
        ("4kB", 4000),
        ("4KiB", 4096),
        ("2TB", 2 * 10**12),
        ("1TiB", 1024**4),
        ("10%", TOTAL // 10),
        ("100%", TOTAL),
        ("0%", 0),
        ("0MB", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert Size.parse(text).of(TOTAL) == size
    assert str(Size.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "5", "5B", "5mb", "1.5GB", "-1GB", "GB", "1 GB", "٣GB", "5%%"]
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="not a size"):
        Size.parse(text)


@given(st.integers(0, 10**9 - 1), st.sampled_from(["kB", "MB", "GB", "TB", "KiB", "%"]))
def test_every_number_of_a_unit_is_read_exactly(number: int, unit: str) -> None:
    one = Size.parse(f"1{unit}").of(10**9)
    assert Size.parse(f"{number}{unit}").of(10**9) == number * one
