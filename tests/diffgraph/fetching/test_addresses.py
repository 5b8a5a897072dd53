"""Only public addresses are asked, and the machine of a hub that the user named."""

from ipaddress import ip_address

import httpx
import pytest

from diffgraph.fetching.addresses import AddressPolicy, AddressRefused, is_public
from tests.servers.names import Names

PUBLIC = "93.184.216.34"
PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.0.8", "198.18.0.1",
    "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:a00:1", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::a00:1", "2002:7f00:1::", "::ffff:0:7f00:1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_what_is_not_public_is_known(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", [PUBLIC, "2606:4700::1111", "64:ff9b::5db8:d822"])
def test_what_is_public_is_known(address: str) -> None:
    assert is_public(ip_address(address))


HOSTS = [
    *(f"[{address}]" if ":" in address else address for address in PRIVATE),
    "2130706433", "0x7f000001", "0x7f.1", "0177.1", "127.1", "017700000001", "0xa9fea9fe",
    "127.0.0.1.", "localhost", "localhost.", "LOCALHOST", "a.localhost", "metadata",
    "metadata.google.internal", "metadata.google.internal.", "metadata.goog", "instance-data",
    "instance-data.ec2.internal", "printer.local", "router.lan", "db.corp", "x.home.arpa",
    "kubernetes.default.svc", "vault.service.consul", "a.onion",
]  # fmt: skip


@pytest.mark.parametrize("host", HOSTS)
def test_no_spelling_of_a_private_address_is_asked_for_a_public_hub(host: str) -> None:
    names = Names({"hub.example": [PUBLIC]}, {})
    policy = names.policy("https://hub.example")
    with pytest.raises(AddressRefused, match="public address"):
        policy.check(httpx.URL(f"https://{host}:8080/file"))


@pytest.mark.parametrize("host", [host for host in HOSTS if host not in {
    "127.0.0.1", "127.0.0.1.", "2130706433", "0x7f000001", "0x7f.1", "0177.1", "127.1",
    "017700000001", "localhost", "localhost.", "LOCALHOST", "a.localhost",
}])  # fmt: skip
def test_a_hub_on_this_machine_may_point_to_itself_only(host: str) -> None:
    policy = AddressPolicy(["http://127.0.0.1:8000"])
    with pytest.raises(AddressRefused, match="public address"):
        policy.check(httpx.URL(f"http://{host}/file"))


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "127.0.0.1:9", "localhost:9", "127.1"])
def test_a_hub_on_this_machine_may_keep_its_files_on_another_port(host: str) -> None:
    AddressPolicy(["http://127.0.0.1:8000"]).check(httpx.URL(f"http://{host}/file"))


@pytest.mark.parametrize("addresses", [["10.0.0.5"], ["127.0.0.1"], ["::ffff:127.0.0.1"], ["::1"]])
def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(
    addresses: list[str],
) -> None:
    names = Names({"hub.example": [PUBLIC], "files.example": addresses}, {})
    with pytest.raises(AddressRefused, match=r"files\.example .*not a public address"):
        names.policy("https://hub.example").addresses("files.example", 443)


def test_of_a_name_with_both_only_the_public_addresses_are_used() -> None:
    names = Names({"files.example": ["10.0.0.5", PUBLIC, "fe80::1"]}, {})
    assert names.policy("https://hub.example").addresses("files.example", 443) == [PUBLIC]


def test_a_hub_with_a_private_name_is_asked_and_others_in_its_network_are_not() -> None:
    addresses = {"hub.corp": "10.0.0.5", "files.example": "10.0.0.6", "b.example": "10.0.0.5"}
    names = Names({name: [address] for name, address in addresses.items()}, {})
    policy = names.policy("http://hub.corp:8080")
    policy.check(httpx.URL("http://hub.corp:8080/api"))
    assert policy.addresses("hub.corp", 8080) == ["10.0.0.5"]
    assert policy.addresses("b.example", 80) == ["10.0.0.5"]
    with pytest.raises(AddressRefused):
        policy.addresses("files.example", 80)


def test_a_public_hub_cannot_become_a_private_one() -> None:
    names = Names({"hub.example": [[PUBLIC], ["127.0.0.1"]]}, {})
    policy = names.policy("https://hub.example")
    assert policy.addresses("hub.example", 443) == [PUBLIC]
    with pytest.raises(AddressRefused):
        policy.addresses("hub.example", 443)


@pytest.mark.parametrize("address", ["169.254.169.254", "100.100.100.200", "fd00:ec2::254"])
def test_no_name_leads_to_the_metadata_of_a_cloud(address: str) -> None:
    policy = Names({"hub.corp": [address]}, {}).policy("http://hub.corp")
    with pytest.raises(AddressRefused):
        policy.addresses("hub.corp", 80)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://files.example/a", "not a web address"),
        ("file:///etc/passwd", "not a web address"),
        ("gopher://files.example/", "not a web address"),
        ("https://me:pass@files.example/a", "name or a password"),
        ("https://me@files.example/a", "name or a password"),
        ("http://files.example/a", "without TLS"),
    ],
)
def test_addresses_of_other_kinds_are_refused_without_their_secrets(url: str, reason: str) -> None:
    policy = Names({"files.example": [PUBLIC]}, {}).policy("https://hub.example")
    with pytest.raises(AddressRefused, match=reason) as caught:
        policy.check(httpx.URL(url))
    assert "pass@" not in str(caught.value)


def test_a_redirect_does_not_lead_from_tls_to_none_even_for_a_hub_without_it() -> None:
    policy = Names({"files.example": [PUBLIC]}, {}).policy("http://hub.example")
    policy.check(httpx.URL("http://files.example/a"))
    with pytest.raises(AddressRefused, match="without TLS"):
        policy.check(httpx.URL("http://files.example/a"), httpx.URL("https://files.example/"))
