"""A server behind a faulty network, without workers: what the torture's faults act on."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from redisjobs.local.server import Server
from redisjobs_proof.torture.fleet.fleet import Fleet
from redisjobs_proof.torture.fleet.redis_store import RedisStore
from redisjobs_proof.torture.nemesis.fault import System
from redisjobs_proof.torture.proxy import HOST, Proxy


@pytest.fixture
def system(module_server: Server, tmp_path: Path) -> Iterator[System]:
    """A server, and a proxy to it; no workers."""
    store = RedisStore(module_server.url, f"q-{random.randrange(10**9)}")
    fleet = Fleet([store.url], store.queue.name, tmp_path, 2.0, random.Random(7))
    with Proxy(HOST, module_server.port) as proxy, System(fleet, [store], 2.0, proxy, proxy) as system:
        yield system
    store.remove()
    store.close()
