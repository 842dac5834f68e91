"""Who may ask: the host name that was called, and the token."""

from __future__ import annotations

import hmac
import re
from hashlib import sha256
from urllib.parse import parse_qs

from starlette.responses import RedirectResponse, Response

from patchword.web.bodies import Scope, header
from patchword.web.refusals import Refusal
from patchword.web.settings import Settings, is_loopback

OPEN = ("/health",)  # answered without a token
_YEAR_S = 365 * 24 * 3600


class Guard:
    """Checks every request before its body is read.

    A page of another site can reach a service on this machine by a host name that it points here; so a service on
    loopback answers only to names of this machine. The page is opened once with ``?token=...``, which becomes a cookie
    that scripts can not read and other sites do not send; programs send ``Authorization: Bearer``.

    Args:
        settings: of the service.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.names = {name.lower() for name in settings.names}
        token = settings.token
        self._token = None if token is None else token.encode("ascii")
        # The cookie does not hold the token itself, and services on other ports of this host have other names.
        self.cookie = "" if token is None else f"patchword_{_derived(token, 'name')[:8]}"
        self._cookie_value = b"" if token is None else _derived(token, "value").encode("ascii")

    def check(self, scope: Scope) -> Response | None:
        """Let a request pass (None), or answer it.

        Raises:
            Refusal: 400, the host is not one of this service; 401, the token is missing or wrong.
        """
        self._check_host(scope)
        if self._token is None or scope["path"] in OPEN:
            return None
        given = self._query_token(scope)
        if given is not None:
            if not _same(given, self._token):
                raise _unknown("the token in the address is wrong.")
            answer = RedirectResponse("/", status_code=303, headers={"Cache-Control": "no-store"})
            answer.set_cookie(
                self.cookie, self._cookie_value.decode("ascii"), max_age=_YEAR_S, httponly=True, samesite="strict"
            )
            return answer
        bearer = header(scope, b"authorization")
        if bearer is not None:
            kind, _, word = bearer.partition(" ")
            if kind.lower() != "bearer" or not _same(word.strip(), self._token):
                raise _unknown("the token is wrong.")
            return None
        if not any(_same(value, self._cookie_value) for value in _cookies(scope, self.cookie)):
            raise _unknown("this service asks for a token. Open /?token=... once, or send Authorization: Bearer ...")
        return None

    def _check_host(self, scope: Scope) -> None:
        if not self.settings.is_local and not self.names:
            return
        name = host_name(header(scope, b"host") or "")
        known = {*self.names, self.settings.host.lower()}
        if name not in known and not (self.settings.is_local and is_loopback(name)):
            raise Refusal(400, f"this service is not known as {name[:80]!r}. Add --name when it should be.")

    def _query_token(self, scope: Scope) -> str | None:
        """The token with which the page is opened."""
        if scope["path"] != "/" or scope["method"] != "GET":
            return None
        found = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        return found[0] if found else None


def host_name(host: str) -> str:
    """A Host header without its port, in lower case.

    Example:
        >>> [host_name(host) for host in ("LocalHost:8008", "[::1]:8008", "127.0.0.1", "")]
        ['localhost', '::1', '127.0.0.1', '']
    """
    found = re.fullmatch(r"\[([^\]]*)\](?::\d*)?|([^:]*)(?::\d*)?", host.strip())
    return "" if found is None else (found[1] or found[2] or "").lower().rstrip(".")


def _derived(token: str, what: str) -> str:
    return hmac.new(token.encode("ascii"), f"patchword {what}".encode(), sha256).hexdigest()


def _same(given: str, known: bytes) -> bool:
    """Compare in a time that does not tell how much was right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), known)


def _cookies(scope: Scope, name: str) -> list[str]:
    """Values of the cookies of a name."""
    found = []
    for key, value in scope["headers"]:
        if key == b"cookie":
            for part in bytes(value).decode("latin-1").split(";"):
                before, _, after = part.strip().partition("=")
                if before == name:
                    found.append(after)
    return found


def _unknown(message: str) -> Refusal:
    return Refusal(401, message, {"WWW-Authenticate": "Bearer"})
