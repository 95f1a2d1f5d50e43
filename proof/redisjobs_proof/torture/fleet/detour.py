"""Proxies in front of each server of a topology.

Nodes and sentinels tell the servers' own addresses. So the torture's processes map these, as users do for nodes
behind NAT. The name of a connection says whose proxies it takes: the workers', or the producers'. Replicas and
sentinels go past the proxies, so a fault of the network cuts off clients only.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from redisjobs.drivers.redis.locator import Locator
from redisjobs.drivers.redis.origin import Origin
from redisjobs_proof.torture.proxy import HOST, Proxy

WORKERS, PRODUCERS = "torture-workers", "torture-producers"
"""The names of the connections that take a proxy."""


@dataclass(frozen=True, slots=True)
class Front:
    """The proxies in front of one server."""

    workers: Proxy
    producers: Proxy

    def __iter__(self) -> Iterator[Proxy]:
        yield from (self.workers, self.producers)


def fronts(ports: list[int], stack: ExitStack) -> dict[int, Front]:
    """Start proxies in front of the servers at these ports; return them by the server's port."""
    return {port: Front(*(stack.enter_context(Proxy(HOST, port)) for _ in range(2))) for port in ports}


def ports_of(fronts: Mapping[int, Front]) -> dict[str, dict[int, int]]:
    """Return the ports of proxies, by the name of a connection and the port of a server."""
    return {
        WORKERS: {port: front.workers.port for port, front in fronts.items()},
        PRODUCERS: {port: front.producers.port for port, front in fronts.items()},
    }


def named(url: str, name: str, ports: Mapping[str, Mapping[int, int]]) -> str:
    """Return a topology's URL for connections with this name, which take the proxies also to the nodes in it."""
    parts = urlsplit(url)
    nodes = [node.rpartition(":") for node in parts.netloc.split(",")]
    netloc = ",".join(f"{host}:{ports[name].get(int(port), port)}" for host, _, port in nodes)
    return parts._replace(netloc=netloc, query=f"client_name={name}").geturl()


def read(text: str) -> dict[str, dict[int, int]]:
    """Read ports as JSON text, in which all keys are texts."""
    return {name: {int(port): to for port, to in ports.items()} for name, ports in json.loads(text).items()}


def install(ports: Mapping[str, Mapping[int, int]]) -> None:
    """Let all connections of this process whose name is in `ports` take the proxies, from now on."""
    original = Origin.locator

    def locator(origin: Origin, queue: str) -> Locator:
        mine = ports.get(str(origin.options.get("client_name")))
        if mine is not None:
            origin = replace(origin, remap=lambda told: (told[0], mine.get(told[1], told[1])))
        return original(origin, queue)

    Origin.locator = locator  # type: ignore[method-assign, assignment]


@contextmanager
def through(ports: Mapping[str, Mapping[int, int]]) -> Iterator[None]:
    """Do the same for a while."""
    original = Origin.locator
    install(ports)
    try:
        yield
    finally:
        Origin.locator = original  # type: ignore[method-assign]
