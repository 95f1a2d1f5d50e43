"""A faulty TCP proxy between a client and a server."""

from redisjobs.torture.proxy.impairments import Held
from redisjobs.torture.proxy.links import HOST
from redisjobs.torture.proxy.proxy import Proxy

__all__ = ["HOST", "Held", "Proxy"]
