"""clients.client_address: whom a forwarding header makes the client, and whom not."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routerd.web.clients import client_address, parse_address

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),  # an untrusted peer forges nothing
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "1.2.3.4, 198.51.100.7", "198.51.100.7"),  # what the client wrote itself
        ("10.0.0.1", "198.51.100.7, 10.0.0.2", "198.51.100.7"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.7, nonsense", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("10.0.0.1", "[2001:db8::1]:80", "2001:db8::1"),
        ("::ffff:10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("fd00::1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_the_header_is_read_from_the_right_past_trusted_hops(
    peer: str, forwarded: str, client: str
) -> None:
    assert client_address(peer, forwarded, TRUSTED)[0] == ip_address(client)


def test_a_local_socket_has_no_address() -> None:
    assert client_address("<local>", "1.2.3.4", TRUSTED) == (None, ())


def test_an_endless_header_is_read_only_so_far() -> None:
    header = ", ".join(["198.51.100.7"] + ["10.0.0.2"] * 5000)
    assert client_address("10.0.0.1", header, TRUSTED)[0] == ip_address("10.0.0.2")


@given(st.text())
def test_any_text_is_an_address_or_none(text: str) -> None:
    parse_address(text)
    client_address("10.0.0.1", text, TRUSTED)
