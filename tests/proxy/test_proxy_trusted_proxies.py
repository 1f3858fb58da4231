"""Whose PROXY headers are believed."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotproxy.proxy.trusted_proxies import TrustedProxies

networks = st.one_of(
    st.builds(
        lambda host, bits: ipaddress.ip_network((host, bits), strict=False), st.ip_addresses(v=4), st.integers(0, 32)
    ),
    st.builds(
        lambda host, bits: ipaddress.ip_network((host, bits), strict=False), st.ip_addresses(v=6), st.integers(0, 128)
    ),
)


@given(
    st.lists(networks, max_size=4), st.ip_addresses().filter(lambda host: getattr(host, "ipv4_mapped", None) is None)
)
def test_it_says_what_ipaddress_says(trusted: list[ipaddress.IPv4Network], host: ipaddress.IPv4Address) -> None:
    peer = f"{host}:5000" if host.version == 4 else f"[{host}]:5000"
    proxies = TrustedProxies([str(network) for network in trusted], required=True)
    assert proxies.trusts(peer, True) == any(host in network for network in trusted)


@pytest.mark.parametrize(
    ("networks", "peer", "is_tcp", "trusted"),
    [
        (["10.0.0.0/8"], "10.255.0.1:1", True, True),
        (["10.0.0.0/8"], "11.0.0.1:1", True, False),
        (["0.0.0.0/0"], "[::1]:1", True, False),
        (["::/0"], "1.2.3.4:1", True, False),
        (["fe80::/10"], "[fe80::1%eth0]:1", True, True),
        (["unix"], "", False, True),
        (["unix"], "/run/client.sock", False, True),
        (["0.0.0.0/0", "::/0"], "", False, False),
        (["unix"], "127.0.0.1:1", True, False),
    ],
)
def test_kinds_of_clients(networks: list[str], peer: str, is_tcp: bool, trusted: bool) -> None:
    assert TrustedProxies(networks, required=False).trusts(peer, is_tcp) == trusted
