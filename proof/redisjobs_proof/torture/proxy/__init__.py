"""A faulty TCP proxy between a client and a server."""

from redisjobs_proof.torture.proxy.impairments import Held
from redisjobs_proof.torture.proxy.links import HOST
from redisjobs_proof.torture.proxy.proxy import Proxy

__all__ = ["HOST", "Held", "Proxy"]
