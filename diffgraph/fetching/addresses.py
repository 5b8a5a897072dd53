"""Which addresses may be asked? Public ones, and the machine that the user named.

A page, a redirect or a name server is untrusted: each could send us to this machine, to others in
its network or to the metadata of a cloud. So an address that is not public is asked only if it is
the address of a hub that the user named (any port: a hub on this machine may keep its files beside
it), and an address that was checked is the one that is connected to, so a name cannot change its
mind in between. Behind a proxy it is the proxy that resolves names: there only addresses and names
that stand in the URL itself can be checked.
"""

import socket
from collections.abc import Callable, Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING

from diffgraph.errors import ServiceRefused
from diffgraph.secrets import masked

if TYPE_CHECKING:
    import httpx

IP = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""From a name and a port to its addresses; raises OSError if it has none."""

PORTS = {"http": 80, "https": 443}
LOOPBACK_NAMES = ("localhost", "ip6-localhost", "ip6-loopback")
PRIVATE_NAMES = ("internal", "local", "localdomain", "lan", "intranet", "corp", "home", "home.arpa",
                 "svc", "consul", "onion", "test", "private")  # fmt: skip
"""What a name that is no public one ends with: cloud metadata is at `metadata.google.internal`."""
METADATA_NAMES = ("metadata.goog", "instance-data.ec2.amazonaws.com")
METADATA = {
    ip_address(number)
    for number in ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
}
"""What clouds tell their machines' secrets at, beside 169.254.169.254; the first looks public."""
PROTOCOLS = ip_network("192.0.0.0/24")
"""Between machines of one network, though some editions of Python call parts of it global."""
INSIDE_IPV6 = tuple(
    (ip_network(network), shift)
    for network, shift in (
        ("::/96", 0),  # IPv4-compatible
        ("::ffff:0:0/96", 0),  # IPv4-mapped
        ("::ffff:0:0:0/96", 0),  # translated
        ("64:ff9b::/96", 0),  # NAT64, how networks without IPv4 reach its public machines
        ("2002::/16", 80),  # 6to4
    )
)
"""Networks whose addresses stand for one of IPv4, and by how many bits that is shifted."""


class AddressRefused(ServiceRefused):
    """An address that we were sent to and do not ask."""


class AddressPolicy:
    """Which addresses may be connected to.

    Args:
        homes: Addresses (`https://host[:port]`) that the user named; others must be public.
        resolve: Looks names up.
    """

    def __init__(self, homes: Collection[str] = (), resolve: Resolve | None = None) -> None:
        import httpx

        self._homes = [httpx.URL(home) for home in homes]
        self._hosts = {plain_host(home.host) for home in self._homes}
        self._resolve = resolve or looked_up
        self._private: dict[str, frozenset[IP]] = {}  # of each home, as it was first resolved
        self._is_open = any(home.scheme == "http" for home in self._homes)

    def check(self, url: "httpx.URL", before: "httpx.URL | None" = None) -> None:
        """Raise for an address that must not be asked, as far as it can be told without asking.

        Args:
            url: Where we are sent.
            before: Who sent us there, if it was a redirect.

        Raises:
            AddressRefused: Always with the reason.
        """
        where = shown(url)
        if url.scheme not in PORTS or not url.host:
            raise AddressRefused(f"not a web address: {where!r}")
        if url.userinfo:
            raise AddressRefused(f"{where}: the address holds a name or a password")
        if url.scheme != "https" and (not self._is_open or (before and before.scheme == "https")):
            raise AddressRefused(f"{where}: an address without TLS, after one with it")
        host = plain_host(url.host)
        literal = literal_address(host)
        if literal is not None:
            self.allowed(host, [str(literal)])
        elif host not in self._hosts and _is_private_name(host):
            is_ours = _is_loopback_name(host) and any(ip.is_loopback for ip in self._ours())
            if not is_ours:
                raise AddressRefused(f"{where}: not a public address")

    def addresses(self, host: str, port: int) -> list[str]:
        """Return the addresses of a name that may be connected to.

        Raises:
            AddressRefused: It has none but private ones.
            OSError: It cannot be resolved.
        """
        host = plain_host(host)
        literal = literal_address(host)
        found = [str(literal)] if literal is not None else self._resolve(host, port)
        return self.allowed(host, found)

    def allowed(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Return those of a name's addresses that may be connected to; raises if none may."""
        found = [ip_address(address.partition("%")[0]) for address in addresses]
        if host in self._hosts:
            self._learn(host, found)
        good = [str(ip) for ip in found if is_public(ip) or ip in self._ours()]
        if not good:
            told = f" ({found[0]})" if found and str(found[0]) != host else ""
            raise AddressRefused(f"{host}{told}: not a public address")
        return good

    def _ours(self) -> frozenset[IP]:
        """Return the private addresses of the hubs that the user named."""
        for home in self._homes:
            host = plain_host(home.host)
            if host not in self._private:
                port = home.port or PORTS.get(home.scheme, 0)
                literal = literal_address(host)
                try:
                    found = [str(literal)] if literal else self._resolve(host, port)
                except OSError:
                    continue
                self._learn(host, [ip_address(address.partition("%")[0]) for address in found])
        return frozenset().union(*self._private.values())

    def _learn(self, host: str, found: Sequence[IP]) -> None:
        """Keep a home's private addresses the first time: later its name can only lose them."""
        if host in self._private:
            return
        is_literal = literal_address(host) is not None
        is_private = not any(is_public(ip) for ip in found)
        self._private[host] = frozenset(
            ip for ip in found if is_literal or (is_private and not _is_of_the_link(ip))
        )


def is_public(address: IP) -> bool:
    """Return whether an address is a machine's in the public network, and no cloud's own."""
    ip = _meant(address)
    is_local = ip.is_multicast or ip.is_reserved or getattr(ip, "is_site_local", False)
    is_local = is_local or ip in PROTOCOLS
    return ip.is_global and not is_local and ip not in METADATA


def _meant(address: IP) -> IP:
    """Return the IPv4 address that an IPv6 address stands for, or else itself."""
    if isinstance(address, IPv6Address):
        for network, shift in INSIDE_IPV6:
            if address in network:
                return IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return address


def _is_of_the_link(address: IP) -> bool:
    """Return whether an address is of the kind that clouds keep their metadata at."""
    ip = _meant(address)
    return ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip in METADATA


def literal_address(host: str) -> IP | None:
    """Return the address that a host is written as, also as `0x7f.1` or `2130706433`."""
    try:
        return ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:  # what the system's own functions take for an address
        return IPv4Address(socket.inet_aton(host)) if host[:1].isdigit() else None
    except (OSError, UnicodeEncodeError):
        return None


def plain_host(host: str) -> str:
    """Return a host as it is compared: small letters, without brackets or a dot at its end."""
    return host.lower().strip("[]").rstrip(".")


def _is_loopback_name(host: str) -> bool:
    return host in LOOPBACK_NAMES or host.endswith(".localhost")


def _is_private_name(host: str) -> bool:
    if "." not in host or _is_loopback_name(host) or host in METADATA_NAMES:
        return True
    return host.endswith(tuple(f".{name}" for name in PRIVATE_NAMES))


def looked_up(host: str, port: int) -> list[str]:
    """Return a name's addresses, as the system knows them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def origin(url: "httpx.URL") -> tuple[str, str, int | None]:
    """Return what a token is given to: scheme, host and port."""
    return url.scheme, url.host, url.port or PORTS.get(url.scheme)


def shown(url: "httpx.URL") -> str:
    """Return an address without what may be secret in it: name, password, query."""
    port = f":{url.port}" if url.port else ""
    host = f"[{url.host}]" if ":" in url.host else url.host
    return masked(f"{url.scheme}://{host}{port}{url.path}")[:200]
