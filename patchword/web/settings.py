"""What a service is told at its start: where it listens, who may ask, and how much it takes on."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from patchword.errors import ConfigError

PIXELS = 89_478_485  # what Pillow decodes without a warning
USUAL_K = 20  # results, when a client does not say how many
LARGEST_BATCH = 1024  # queries of one request, whatever the limits are
MOST_PARTS = 256  # of one query, likewise
_SHORTEST_TOKEN = 16  # characters, when others than this machine can ask


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how much is worked on at a time.

    Attributes:
        max_body_mb: largest body, in 1e6 bytes; a picture inside JSON is a third larger than its file.
        max_pixels: largest picture that is decoded, width x height.
        max_query: characters of a sentence, and of a filter.
        max_k: most results.
        max_parts: sentences and pictures of one query.
        max_batch: queries of one request to ``/search/batch``.
        concurrency: requests that are worked on or wait for it; one more is answered 503.
        timeout_s: time to answer after the request has arrived, then 504; also how long a client may read nothing.
        body_grace_s: time a body may take however slow it comes; after that it has to keep `body_rate`.
        body_rate: bytes per second.
    """

    max_body_mb: float = 20.0
    max_pixels: int = PIXELS
    max_query: int = 1000
    max_k: int = 1000
    max_parts: int = 16
    max_batch: int = 64
    concurrency: int = 256
    timeout_s: float = 30.0
    body_grace_s: float = 10.0
    body_rate: float = 16_000.0

    @property
    def max_body(self) -> int:
        """Largest body in bytes."""
        return int(self.max_body_mb * 1e6)

    def __post_init__(self) -> None:
        sizes = ("max_body_mb", "max_pixels", "max_query", "max_k", "max_parts", "max_batch")
        for name in (*sizes, "concurrency", "timeout_s"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigError(f"`{name}` is {value}. Expected a number above 0.")
        if self.max_k < USUAL_K:
            raise ConfigError(f"`max_k` is {self.max_k}. At least {USUAL_K} are sent when nobody says how many.")
        if self.max_pixels > PIXELS:
            raise ConfigError(f"`max_pixels` is {self.max_pixels:,}. At most {PIXELS:,} pixels can be decoded.")
        if self.max_batch > LARGEST_BATCH:
            raise ConfigError(f"`max_batch` is {self.max_batch:,}. At most {LARGEST_BATCH:,} queries are read.")
        if self.max_parts > MOST_PARTS:
            raise ConfigError(f"`max_parts` is {self.max_parts:,}. At most {MOST_PARTS:,} parts of a query are read.")


@dataclass(frozen=True)
class Settings:
    """Where a service listens and who may ask.

    Attributes:
        host: address to listen on.
        port: 0 takes a free one.
        token: what a client has to know; None lets everybody in.
        open_to_all: said on purpose: no token although other machines can reach the service.
        names: host names under which the service is reached, beside `host` and those of this machine.
        limits: see `Limits`.
        refresh_s: how often it looks whether the index has changed.
        cache_mb: memory for thumbnails.
        workers: threads that decode pictures, and as many that encode and explain.
        stop_s: how long running requests may go on when the service is stopped.
    """

    host: str = "127.0.0.1"
    port: int = 8008
    token: str | None = None
    open_to_all: bool = False
    names: tuple[str, ...] = ()
    limits: Limits = Limits()
    refresh_s: float = 1.0
    cache_mb: float = 64.0
    workers: int = 2
    stop_s: float = 10.0

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"`port` is {self.port}. Expected 0 to 65535.")
        if not 1 <= self.stop_s < float("inf"):
            raise ConfigError(f"`grace` is {self.stop_s} s. Expected 1 or more.")
        if self.token is not None:
            self._check_token(self.token)
        elif not self.is_local and not self.open_to_all:
            raise ConfigError(
                f"other machines can reach '{self.host}', and no token was given. "
                "Add --token-file FILE, or --no-token to let everybody in."
            )

    def _check_token(self, token: str) -> None:
        if self.open_to_all:
            raise ConfigError("a token and --no-token were given. Expected one of them.")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("the token is empty, or has spaces or letters beyond ASCII. Expected letters and digits.")
        if not self.is_local and len(token) < _SHORTEST_TOKEN:
            raise ConfigError(
                f"the token has {len(token)} characters, and other machines can try to guess it. "
                f"Expected {_SHORTEST_TOKEN} or more."
            )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only.

    Example:
        >>> [is_loopback(host) for host in ("localhost", "127.0.0.7", "::1", "0.0.0.0", "example.com")]
        [True, True, True, False, False]
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
