"""A public network in a test: names and public addresses that lead to servers on 127.0.0.1."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import httpcore

from diffgraph.fetching.addresses import AddressPolicy


class Names:
    """Names whose addresses are public, and what is connected to them in truth.

    Args:
        addresses: Of each name; a list of lists answers each look-up with the next one.
        ports: The port on 127.0.0.1 that stands for an address.
    """

    def __init__(
        self,
        addresses: Mapping[str, Sequence[str] | Sequence[Sequence[str]]],
        ports: Mapping[str, int],
    ) -> None:
        self._addresses = {name: list(found) for name, found in addresses.items()}
        self.ports = dict(ports)
        self.connected: list[str] = []
        self.looked_up: list[str] = []

    def resolve(self, host: str, port: int) -> Sequence[str]:
        self.looked_up.append(host)
        found = self._addresses.get(host)
        if found is None:
            raise OSError(f"{host} is not known")
        if isinstance(found[0], str):
            return found
        return found.pop(0) if len(found) > 1 else found[0]

    def policy(self, *homes: str) -> AddressPolicy:
        return AddressPolicy(homes, self.resolve)

    def port_of(self, address: str) -> int:
        self.connected.append(address)
        if address not in self.ports:
            raise httpcore.ConnectError(f"nobody is at {address}")
        return self.ports[address]


class Network(httpcore.SyncBackend):
    """Connects threads to what stands for an address."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def connect_tcp(self, host: str, port: int, *rest: Any, **more: Any) -> httpcore.NetworkStream:
        return super().connect_tcp("127.0.0.1", self._names.port_of(host), *rest, **more)


class AsyncNetwork(httpcore.AnyIOBackend):
    """Connects event loops to what stands for an address."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        there = self._names.port_of(host)
        return await super().connect_tcp("127.0.0.1", there, timeout, local_address, socket_options)
