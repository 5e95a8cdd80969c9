"""A web server on this machine, for tests of what is fetched."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Handler(http.server.BaseHTTPRequestHandler):
    """Prints nothing of what is asked for."""

    def log_message(self, *args):
        pass


@contextmanager
def serving(
    handler: type[http.server.BaseHTTPRequestHandler], address: tuple[str, int] = ("127.0.0.1", 0)
) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server, with its `url`, that answers in a thread of its own. Raises OSError for an address that is taken."""
    server = http.server.ThreadingHTTPServer(address, handler)
    server.url = "http://{}:{}".format(*server.server_address)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
