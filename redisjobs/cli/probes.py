"""Answers the probes of whoever runs the process: `GET /livez` and `GET /readyz`."""

import socket
import threading
from collections.abc import Callable
from typing import Any

from redisjobs.cli.fault import Mistake
from redisjobs.health import Health


def serve(where: str, health: Callable[[], Health]) -> None:
    """Listen at HOST:PORT, in a thread of its own: it answers also while the event loop is blocked.

    Raises:
        Mistake: That is no address, or not ours to listen at.
    """
    host, colon, port = where.rpartition(":")
    if not (colon and port.isdigit()):
        raise Mistake(f"--health {where!r} is not HOST:PORT, as in 127.0.0.1:8080")

    import http.server  # here, as it costs memory that most workers need not spend

    class Probe(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            now = health()
            known = {"/livez": now.live, "/readyz": now.ready}
            good = known.get(self.path.partition("?")[0])
            text = f"{now.why}\n" if good is not None else "there are /livez and /readyz\n"
            self.send_response(404 if good is None else 200 if good else 503)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass  # a line every few seconds is no news

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    try:
        server = Server((host.strip("[]"), int(port)), Probe)
    except (OSError, OverflowError) as error:
        raise Mistake(f"can't listen at --health {where}: {error}") from error
    threading.Thread(target=server.serve_forever, name="redisjobs probes", daemon=True).start()
