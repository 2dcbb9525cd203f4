"""The gateway under the standard library's WSGI server, whose validator objects to whatever PEP 3333 does not allow."""

import contextlib
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer, make_server
from wsgiref.validate import validator

from wsgi import app


class Server(ThreadingMixIn, WSGIServer):
    """A thread for each request."""

    daemon_threads = True


if __name__ == "__main__":
    server = make_server("127.0.0.1", int(sys.argv[1]), validator(app), server_class=Server)
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever()
