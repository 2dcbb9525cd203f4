"""``verify_api_key``: which clients may call."""

import hmac
import ipaddress
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flask import g, request
from werkzeug.datastructures import Headers

from one_api.accounts.keys import digest_of
from one_api.contract import Caller
from one_api.errors import AccountsUnavailable, Forbidden, Unauthorized
from one_api.serving.bridge import await_
from one_api.serving.current import current_application, current_globals, current_request
from one_api.serving.host import name_in
from one_api.settings.kinds import Secret
from one_api.settings.origins import is_within
from one_api.settings.sections import AdminConfig, KeyConfig, key_names
from one_api.utils.guards import View, guarded

if TYPE_CHECKING:
    from one_api.accounts.service import Accounts

#: Headers that a proxy on this machine adds to what comes from elsewhere.
_FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")

_LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1"))
#: Where a key may stand, beside ``Authorization``.
KEY_HEADERS = ("x-api-key", "api-key")
#: Where WSGI has these headers.
_KEY_VARIABLES = tuple((name, f"HTTP_{name.upper().replace('-', '_')}") for name in ("Authorization", *KEY_HEADERS))


class KeyRing:
    """The keys of a configuration, by their SHA-256 digests: a key itself is nowhere kept."""

    def __init__(self, keys: tuple[KeyConfig, ...] = ()) -> None:
        digests = [digest_of(entry.key.reveal()) for entry in keys]
        callers = [Caller(name, secret=digest) for digest, name in zip(digests, key_names(keys), strict=True)]
        self._callers = dict(zip(digests, callers, strict=True))
        self._names = frozenset(caller.name for caller in callers)

    def __repr__(self) -> str:
        return f"KeyRing({len(self._callers)} keys)"

    @property
    def names(self) -> frozenset[str]:
        """Return what the keys are called."""
        return self._names

    def caller(self, key: str) -> Caller | None:
        """Return whose key this is.

        It is looked up by its digest, which no client can choose: how long that takes says nothing of the keys.
        """
        return self._callers.get(digest_of(key))

    def has(self, caller: Caller) -> bool:
        """Return whether a caller's key is one of these."""
        return caller.secret in self._callers

    def authenticate(
        self, headers: Headers | dict[str, str], more: Callable[[str], Caller | None] | None = None
    ) -> Caller:
        """Return the caller that the headers of a request name; raises Unauthorized.

        ``more`` knows further keys; of two callers with one name the one of this ring counts.

        The key is read from ``Authorization``, ``x-api-key`` (Anthropic's clients) and ``api-key`` (Azure's). Headers
        that are empty count as not sent; of several keys all must be the same, and no header is sent twice.
        """
        if not self._callers and more is None:
            raise Unauthorized("This gateway has no API key yet: set API_KEYS in its environment, and restart it.")
        authorization = headers.get("Authorization", "").strip()
        scheme, _, bearer = authorization.partition(" ")
        if authorization and scheme.lower() != "bearer":
            raise _not_a_bearer()
        given = {bearer.strip(), *[headers.get(name, "").strip() for name in KEY_HEADERS]} - {""}
        if not given:
            if authorization:
                raise _not_a_bearer()
            raise Unauthorized("No API key: send it in the header `Authorization: Bearer YOUR_KEY`.")
        if len(given) > 1:
            raise Unauthorized(
                "The headers hold different API keys: send one, in `Authorization: Bearer YOUR_KEY`, and remove "
                f"{' and '.join(f'`{name}`' for name in KEY_HEADERS)}."
            )
        key = given.pop()
        caller = self.caller(key)
        if caller is None and more is not None and (caller := more(key)) is not None and caller.name in self._names:
            caller = None
        if caller is None:
            raise Unauthorized("This API key is not known here: use one that this gateway's operator gave out.")
        return caller


def _not_a_bearer() -> Unauthorized:
    return Unauthorized("The Authorization header is not `Bearer YOUR_KEY`.")


def verify_api_key(view: View) -> View:
    """Let only known keys through; ``g.caller`` says whose it was."""
    return guarded(view, authenticate)


def authenticate() -> None:
    """Set ``g.caller`` to the caller of the current request; raises Unauthorized, or Forbidden for another role."""
    known = current_globals()
    ring: KeyRing = known.snapshot.keys
    environ = current_request().environ
    # As plain texts: Werkzeug's headers take ten times as long to look into.
    headers = {name: environ.get(variable, "") for name, variable in _KEY_VARIABLES}
    further = _further_keys(
        ("client",), ring, known.snapshot.admin.keys, "This is the operator's key, for /admin alone"
    )
    known.caller = caller = ring.authenticate(headers, further)
    known.call.called_by(caller.name)


def for_the_operator(view: View) -> View:
    """Let only the operator's key through, from a process of this machine, and not through a proxy."""
    return guarded(view, authenticate_operator)


class AdminAccess:
    """At which address ``/admin`` is, from where it may be asked, and with which key of the configuration."""

    def __init__(self, settings: AdminConfig) -> None:
        self.keys = KeyRing(() if settings.key is None else (KeyConfig(key=settings.key, name="operator"),))
        self._host: str | None
        self._port: int | None
        self._host, self._port = settings.address or (None, None)
        self._networks = [ipaddress.ip_network(each, strict=False) for each in settings.allow]

    def is_here(self) -> bool:
        """Return whether the current request came to the address where ``/admin`` is."""
        return self._port is None or request.environ.get("SERVER_PORT") == str(self._port)

    def is_allowed(self) -> bool:
        """Return whether the current request comes from where it may, not through a proxy, and by a name of our own.

        A page whose name was made to lead here sends that name as ``Host``.
        """
        is_direct = not any(name in request.headers for name in _FORWARDED)
        return is_direct and is_within(request.remote_addr, self._networks) and self._is_own_name()

    def _is_own_name(self) -> bool:
        name = name_in(request.headers.get("Host", ""))
        if name is None:
            return False
        if self._host is None:
            return name == "localhost" or _is_loopback(name)
        return name in ("localhost", self._host.lower()) or _is_address(name)


#: The addresses that may ask where nothing is set.
_THIS_MACHINE = AdminAccess(AdminConfig())


def authenticate_operator() -> None:
    """Set ``g.caller`` to the operator; raises Forbidden, also for another role, or Unauthorized."""
    access: AdminAccess = g.snapshot.admin
    if not access.is_allowed():
        raise Forbidden("This address answers on the gateway's own machine only, or where admin.allow says.")
    ring, accounts = access.keys, _accounts()
    if not ring.names and accounts is None:
        raise Forbidden("This address is closed: set ADMIN_KEY in the gateway's environment, and reload or restart it.")
    roles = ("viewer", "admin") if request.method in ("GET", "HEAD") else ("admin",)
    try:
        further = _further_keys(roles, ring, g.snapshot.keys, "This key has the role client")
        g.caller = caller = ring.authenticate(request.headers, further)
    except Unauthorized as error:
        what = f"This address is for the operator's key, ADMIN_KEY. {error.message}"
        raise Unauthorized(what, code=error.code) from None
    g.call.called_by(caller.name)


def for_scrapers(view: View) -> View:
    """Let those through that have ``metrics.token``; where there is none, processes of this machine."""
    return guarded(view, _check_scraper)


def _check_scraper() -> None:
    token: Secret | None = g.snapshot.config.metrics.token
    if token is None:
        if not _THIS_MACHINE.is_allowed():
            raise Forbidden("Without metrics.token this address answers on the gateway's own machine only: set it.")
        return
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    is_known = hmac.compare_digest(digest_of(given.strip()), digest_of(token.reveal()))
    if scheme.lower() != "bearer" or not is_known:
        raise Unauthorized("This address is for `Authorization: Bearer TOKEN`, with the token of metrics.token.")


def check_model(caller: Caller, model: str) -> None:
    """Check that a caller may use a model; raises Forbidden."""
    if not caller.may_use(model):
        raise Forbidden(
            f"This key may not use the model {model[:128]!r}: GET /v1/models lists those that it may.",
            param="model",
            code="model_not_allowed",
        )


def _accounts() -> "Accounts | None":
    accounts: Accounts | None = current_application().extensions["one_api"].accounts
    return accounts


def _further_keys(
    roles: tuple[str, ...], ring: KeyRing, apart: KeyRing, what: str
) -> Callable[[str], Caller | None] | None:
    """Return what finds the keys of the database that have one of these roles; None where no key can be known.

    Keys of ``apart`` have another role, and are ``what``.
    """
    accounts = _accounts()

    def find(key: str) -> Caller | None:
        found = None if accounts is None else _caller_of(accounts, key, roles)
        if found is None and apart.caller(key) is not None:
            raise _needs(roles, what)
        return found

    return None if accounts is None and not ring.names else find


def _needs(roles: tuple[str, ...], what: str) -> Forbidden:
    """Return the answer to a key that lacks these roles; ``what`` is said of it."""
    operators = ", or ADMIN_KEY" if "admin" in roles else ""
    needed = f"This address needs a key with the role {' or '.join(roles)}{operators}."
    return Forbidden(f"{what}. {needed}", code="role_not_allowed")


def _caller_of(accounts: "Accounts", key: str, roles: tuple[str, ...]) -> Caller | None:
    """Return whose key of the database this is; raises Unauthorized or Forbidden for one that does not count here."""
    found = accounts.find_key(key)
    if found is None and accounts.may_be_new(key):
        await_(accounts.look_again())
        found = accounts.find_key(key)
    if found is None and not accounts.knows_keys:
        raise AccountsUnavailable("The gateway cannot look up its keys now: try again.", retry_after_s=1)
    if found is None:
        return None
    if found.is_disabled:
        raise Unauthorized("This API key was revoked: ask this gateway's operator for another.", code="key_disabled")
    if found.is_expired(time.time() * 1000):
        raise Unauthorized("This API key has expired: ask this gateway's operator for another.", code="key_expired")
    if not found.is_allowed_from(request.remote_addr):
        raise Forbidden("This API key may not be used from your address.", code="network_not_allowed")
    if found.role not in roles:
        raise _needs(roles, f"This key has the role {found.role}")
    return found.caller


def is_from_this_machine() -> bool:
    """Return whether the current request comes from a process of this machine, and not through a proxy."""
    return _is_loopback(request.remote_addr) and not any(name in request.headers for name in _FORWARDED)


def _is_loopback(address: str | None) -> bool:
    return is_within(address, _LOOPBACK)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
