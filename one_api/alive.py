"""Whether a gateway is alive, for a container's health check: ``python -m one_api.alive [HOST:PORT]``.

It uses Python's own library alone, so it costs a fraction of what building the application would.
"""

import http.client
import sys

#: Where the gateway listens unless its settings say otherwise.
DEFAULT_ADDRESS = "127.0.0.1:8000"
TIMEOUT_S = 2.0


def main(arguments: list[str]) -> int:
    """Ask ``/health``, and return the exit code: 0 alive, 1 not, 2 wrong usage."""
    if len(arguments) > 1:
        sys.stderr.write("usage: python -m one_api.alive [HOST:PORT]\n")
        return 2
    address = arguments[0].removeprefix("http://").partition("/")[0] if arguments else DEFAULT_ADDRESS
    try:
        # Not urllib, which would ask the proxy that the environment names.
        connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"{address} does not answer: {error}\n")
        return 1
    if status != http.client.OK:
        sys.stderr.write(f"{address} answers {status}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
