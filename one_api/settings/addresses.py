"""What people write for an upstream's address, a credential or a host: mended where the meaning is plain, else refused.

Pure functions on texts. ``mend`` returns the text to use and a warning (what, fix) when it was changed; ``check``
returns what is wrong, and the fix, or None.
"""

import ipaddress
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

Mended = tuple[str, tuple[str, str] | None]

#: White space, and the marks without a width that copying from pages and files brings along.
_BLANKS = " \t\r\n\v\f\u00a0\u200b\u200c\u200d\u2060\ufeff"
_QUOTES = {'"': '"', "'": "'", "<": ">", "`": "`"}
#: Hosts whose addresses are the same for everybody -> the path that belongs to them, by the providers' own pages.
_PATHS = {
    "api.openai.com": "/v1",
    "openrouter.ai": "/api/v1",
    "api.mistral.ai": "/v1",
    "api.groq.com": "/openai/v1",
    "api.together.xyz": "/v1",
    "api.x.ai": "/v1",
}
#: One part of a name, as programs and containers use them: letters of any script, and `_`.
_LABEL = re.compile(r"(?!-)[\w-]{1,63}(?<!-)")
#: Stands for the proxy that the usual variables name.
ENVIRONMENT = "environment"
_OLLAMA_PORT = 11434
_HOST_AND_PATH = re.compile(
    r"(localhost|[0-9]{1,3}(\.[0-9]{1,3}){3}|([A-Za-z0-9-]{1,40}\.)+[A-Za-z]{2,10})(:[0-9]{1,5})?(/[\w./-]*)?"
)


def tidy(text: str) -> str:
    """Return a text without blanks around it, and without one pair of quotes."""
    text = text.strip(_BLANKS)
    if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
        text = text[1:-1].strip(_BLANKS)
    return text


# Credentials


def mend_credential(text: str) -> Mended:
    """Take away what is no part of a credential: blanks and quotes around it, and the scheme of a header."""
    clean = re.sub(r"^bearer[ \t]+", "", tidy(text), flags=re.IGNORECASE)
    if clean == text:
        return text, None
    return clean, (
        "has blanks, a line end, quotes or `Bearer` around the key, which were left out", "Write the key alone"
    )  # fmt: skip


def check_credential(text: str) -> tuple[str, str] | None:
    """Return what keeps a credential from being sent in a header."""
    if text.isascii() and text.isprintable() and " " not in text:
        return None
    return "holds a blank, a line end or a character outside ASCII", "Copy the key again, alone and on one line"


# Hosts


def check_proxy(proxy: str) -> tuple[str, str] | None:
    """Return what keeps a text from being a proxy, and the fix; None for one that can be used."""
    try:
        parts = urlsplit(proxy)
        usable = parts.scheme in ("http", "socks5", "socks5h") and parts.hostname and parts.port != 0
        usable = usable and parts.path in ("", "/") and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if proxy == ENVIRONMENT or usable:
        return None
    fix = "Write it like http://USER:PASSWORD@HOST:PORT or socks5://HOST:PORT, or environment"
    return "is not a proxy that can be used", fix


def mend_host(text: str) -> Mended:
    """Take the brackets from an IPv6 address."""
    clean = tidy(text)
    return (clean[1:-1] if re.fullmatch(r"\[[^\[\]]+\]", clean) else clean), None


def check_host(host: str) -> tuple[str, str] | None:
    """Return what keeps a text from being an address to listen on."""
    port = re.fullmatch(r"(?:\w+://)?(\[[^\]]*\]|[^:/]+)(?::\d+)?/*", host)
    named = "//" in host or (port and ":" in host.replace(port[1], "", 1))
    if named and port:
        return "holds more than a host", f"Set HOST={port[1]}, and the port by PORT"
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        if re.fullmatch(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?", host) and not re.fullmatch(r"[0-9.]+", host):
            return None
        return "is no host's name and no IP address", "Write it like 127.0.0.1, ::1, or 0.0.0.0 for all addresses"
    return None


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of an address that was checked."""
    host, _, port = address.rpartition(":")
    return mend_host(host)[0], int(port)


def check_address(address: str) -> tuple[str, str] | None:
    """Return what keeps a text from being an address to listen on, host and port."""
    host, _, port = address.rpartition(":")
    is_port = re.fullmatch(r"[0-9]{1,5}", port) and 0 < int(port) < 2**16
    bare = mend_host(host)[0]
    if not is_port or (":" in host) != (bare != host) or check_host(bare):
        return "is not a host and a port", "Write it like 127.0.0.1:8001 or [::1]:8001"
    return None


def url_of(host: str, port: int) -> str:
    """Return where a program on this machine reaches a server that listens on ``host``, without a path."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - where it listens
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself, in any way of writing it: no other machine can reach it there."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host.partition("%")[0])
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback
    with suppress(OSError):  # such as 127.1
        return socket.inet_aton(host)[0] == 127
    return False


# Upstreams


@dataclass(frozen=True, slots=True)
class AddressRules:
    """What an address of one dialect may not end in: paths that the gateway adds, and paths of the other dialect."""

    name: str
    added: tuple[str, ...]
    foreign: tuple[str, ...]
    instead: str

    def mend(self, text: str) -> Mended:
        """Take away what is no part of the address before the paths of the dialect."""
        clean = tidy(text)
        bare = clean.rstrip("/")
        ending = next((each for each in self.added if bare.lower().endswith(each)), "")
        if ending:
            clean = bare[: -len(ending)]
        elif self.name == "openai":
            clean = _with_path(clean)
        if clean == text:
            return text, None
        if ending:
            return clean, (f"ends in {ending}, which the gateway adds itself", f"Write {_shown(clean)}")
        return clean, ("is not quite an upstream's address", f"Write {_shown(clean)}")

    def check(self, url: str) -> tuple[str, str] | None:
        """Return what keeps an upstream's address from being one that can be built on."""
        parts = _split(url)
        if parts is not None and (parts.username or parts.password):
            return "holds a user name or a password", "Put the credential into api_key"
        if parts is not None and any(char.isspace() or not char.isprintable() for char in url):
            return (
                "holds a blank",
                f"Write {_shown(''.join(char for char in url if char.isprintable() and char != ' '))}",
            )
        if parts is None or parts.query or parts.fragment:
            return "is not an http(s) address", f"Write it like {self._suggestion(url)}, without a query"
        if "${" not in url and not _is_name(parts.hostname or ""):  # a variable that is not set is told already
            return "names a host that cannot be one", "Write the name or the address of the upstream's host there"
        if any(url.rstrip("/").lower().endswith(each) for each in self.foreign):
            return "is an address of another dialect", self.instead
        return None

    def _suggestion(self, url: str) -> str:
        """Return the address that was probably meant, or an example; what may be a secret is not repeated."""
        example = "https://host:port/v1" if self.name == "openai" else "https://host:port"
        rest = re.sub(r"^(https?:?/*)+", "", url.partition("?")[0].partition("#")[0], flags=re.IGNORECASE)
        if "@" in url or not _HOST_AND_PATH.fullmatch(rest):
            return example
        scheme = "http" if rest.startswith(("localhost", "127.")) or url.lower().startswith("http:") else "https"
        mended, _ = self.mend(f"{scheme}://{rest}")
        return mended if _split(mended) is not None else example


def _split(url: str) -> SplitResult | None:
    """Return the parts of an http(s) address; None when it is not one."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        return None
    if not usable or parts.hostname in ("http", "https"):
        return None
    return parts


def _is_name(host: str) -> bool:
    """Return whether a host may be one: an IP address, or a name that a name server can be asked for."""
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host.partition("%")[0]))
    if host.replace(".", "").isdecimal():
        with suppress(OSError):  # such as 127.1
            return bool(socket.inet_aton(host))
        return False
    return len(host) < 254 and all(map(_LABEL.fullmatch, host.removesuffix(".").split(".")))


def _with_path(url: str) -> str:
    """Add the path to a well-known host that has none; every call would be answered with 404 without it."""
    parts = _split(url)
    if parts is None or parts.query or parts.fragment or parts.username:
        return url
    path = parts.path.rstrip("/")
    if parts.port == _OLLAMA_PORT and path in ("", "/api", "/api/chat", "/api/generate"):
        return f"{parts.scheme}://{parts.netloc}/v1"
    known = _PATHS.get(parts.hostname or "")
    return f"{parts.scheme}://{parts.netloc}{known}" if known and not path else url


def _shown(url: str) -> str:
    """Return an address as it may be shown."""
    return re.sub(r"//[^/]*@", "//", url)


OPENAI = AddressRules(
    "openai",
    ("/chat/completions", "/completions", "/embeddings", "/responses", "/models"),
    ("/messages",),
    "For Anthropic's dialect write `type: claude`, or set CLAUDE_BASE_URL",
)
CLAUDE = AddressRules(
    "claude",
    ("/v1/messages/count_tokens", "/v1/messages/batches", "/v1/messages", "/messages", "/v1/models", "/v1/complete"),
    ("/chat/completions", "/responses"),
    "For OpenAI's dialect write `type: openai`, or set OPENAI_BASE_URL",
)
