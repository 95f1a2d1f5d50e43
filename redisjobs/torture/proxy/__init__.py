"""A faulty TCP proxy: it stands between a client and a server and breaks what it is told to break."""

from redisjobs.torture.proxy.impairments import Held
from redisjobs.torture.proxy.listener import HOST
from redisjobs.torture.proxy.proxy import Proxy

__all__ = ["HOST", "Held", "Proxy"]
