"""One GET to an upstream with ``requests``, on the terms of the gateway itself: its proxy, its trust, its limits."""

import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from one_api.settings.kinds import Proxy, Secret

#: How long one question may take altogether, in seconds.
ANSWER_S = 10.0
#: More bytes of an answer are not read.
MAX_BYTES = 32 * 1024 * 1024
_PIECE = 64 * 1024


class NoAnswer(Exception):
    """An upstream gave no answer: ``what`` happened, and ``fix`` says what to do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix


@dataclass(frozen=True, slots=True)
class Answer:
    """What an upstream answered, and how far its clock is ahead of ours, in seconds; None when it does not say."""

    status: int
    body: bytes
    skew_s: float | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and how: ``connect_s`` is for the connection, ``answer_s`` for the answer after it, in seconds."""

    url: str
    headers: dict[str, Secret] = field(default_factory=dict)
    proxy: Proxy | None = None
    connect_s: float = 2.0
    answer_s: float = ANSWER_S
    method: str = "GET"


class _SystemTrust(HTTPAdapter):
    """Trusts the certificates that this system trusts, as the gateway does, not those that come with ``requests``."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Give each connection the system's certificates; an override point of requests."""
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Do the same through a proxy; an override point of requests."""
        return super().proxy_manager_for(proxy, ssl_context=ssl.create_default_context(), **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Add no other certificates; an override point of requests."""
        conn.cert_reqs = "CERT_REQUIRED" if url.lower().startswith("https") else "CERT_NONE"


def ask(question: Question) -> Answer:
    """Return what a server answers; redirects are not followed.

    Raises:
        NoAnswer: when there is none, with the likely cure.
    """
    # requests limits each wait, not all of them together: a byte now and then, or a slow name server, would hold it for
    # ever. So it works in a thread that is left alone when the time is over.
    results: SimpleQueue[Answer | Exception] = SimpleQueue()
    threading.Thread(target=_answer_into, args=(results, question), daemon=True).start()
    try:
        found = results.get(timeout=question.connect_s + question.answer_s)
    except Empty:
        raise _too_slow(question) from None
    if isinstance(found, Exception):
        raise found
    return found


def _answer_into(results: "SimpleQueue[Answer | Exception]", question: Question) -> None:
    try:
        results.put(_get(question))
    except requests.RequestException as error:
        results.put(_cause(error, question))
    except Exception as error:  # the waiting caller would take it for silence
        results.put(error)


def _get(question: Question) -> Answer:
    with requests.Session() as session:
        session.trust_env = False  # neither proxies nor ~/.netrc: the gateway reads neither
        session.mount("https://", _SystemTrust())
        headers = {name: value.reveal() for name, value in question.headers.items()}
        with session.request(
            question.method,
            question.url,
            headers={"user-agent": "one_api", "accept-encoding": "gzip, deflate", **headers},
            proxies={"http": question.proxy, "https": question.proxy} if question.proxy else {},
            timeout=(question.connect_s, question.answer_s),
            allow_redirects=False,
            stream=True,
        ) as response:
            skew_s = skew(response.headers.get("date"), response.headers.get("age"), time.time())
            return Answer(response.status_code, _body(response), skew_s)


def _body(response: requests.Response) -> bytes:
    """Return the body, up to its limit."""
    pieces, size = [], 0
    for piece in response.iter_content(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_BYTES:
            raise NoAnswer(f"its answer is longer than {MAX_BYTES >> 20} MiB", "List its models in the configuration")
    return b"".join(pieces)


def _too_slow(question: Question) -> NoAnswer:
    fix = "Check that its server works, or list its models in the configuration"
    return NoAnswer(f"no whole answer within {question.answer_s:g} s", fix)


def skew(date: str | None, age: str | None, now: float) -> float | None:
    """Return how many seconds the clock behind a ``Date`` header is ahead of ``now``; None when there is no date.

    A cache adds the ``Age`` of its answer (RFC 9111, section 5.1).
    """
    try:
        said = parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError, OverflowError):
        return None
    return said + (int(age) if age and age.isascii() and age.isdigit() and len(age) < 10 else 0) - now


def _cause(error: requests.RequestException, question: Question) -> NoAnswer:
    """Return in words why there is no answer: the texts of foreign errors may hold keys, and are not used."""
    text = f"{error!r}"
    if isinstance(error, requests.exceptions.ProxyError):
        return NoAnswer(
            "its proxy does not let the gateway through", "Start the proxy, or correct proxy and its password"
        )
    if isinstance(error, requests.exceptions.SSLError):
        why = "it is not known here" if "CERTIFICATE_VERIFY_FAILED" in text else "no TLS is spoken there"
        fix = "Install its authority in this system's certificates, or correct https:// in the address"
        return NoAnswer(f"its certificate cannot be verified: {why}", fix)
    if isinstance(error, requests.ConnectTimeout):
        fix = "Check the address and the firewall, or raise timeouts.connect_s"
        return NoAnswer(f"no connection within {question.connect_s:g} s", fix)
    if isinstance(error, requests.Timeout) or "Read timed out" in text:
        return _too_slow(question)
    if isinstance(error, requests.ConnectionError):
        if "NameResolutionError" in text:
            return NoAnswer("its host name is not known", "Correct the address, or this machine's DNS")
        if "Connection refused" in text:
            return NoAnswer("nothing listens at its address", "Start its server, or correct the host and the port")
        return NoAnswer("the connection fails", "Check the address, the network and the firewall")
    return NoAnswer("its answer cannot be read as HTTP", "Check that the address is that of a model server")


def connect(address: tuple[str, int], limit_s: float) -> bool:
    """Return whether anything accepts connections at a host and port."""
    try:
        socket.create_connection(address, limit_s).close()
    except OSError:
        return False
    return True
