"""``patchword serve``: open an index, listen, and answer until a signal says stop."""

from __future__ import annotations

import contextlib
import logging
import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from patchword.errors import ConfigError
from patchword.retrieve.engine import Index
from patchword.web.settings import Settings

if TYPE_CHECKING:
    import uvicorn

_NEEDED = ("fastapi", "uvicorn", "prometheus_client")


def serve(
    index: Path | str,
    *,
    settings: Settings | None = None,
    model: Path | str | None = None,
    detector: Path | str | None = None,
    device: str = "cpu",
) -> None:
    """Serve an index over HTTP until SIGTERM or Ctrl-C; then running requests are finished.

    Args:
        index: folder of the index.
        settings: where to listen, who may ask, limits.
        model: checkpoint; None takes the one that the index names.
        detector: finds the regions of pictures that are sent, in an index of region features.
        device: where queries are encoded and scored.

    Raises:
        ConfigError: the web packages are missing, or the address can not be used.
        DataError, CheckpointError: the index or its model can not be opened.
    """
    require_web()
    settings = settings or Settings()
    with listen(settings.host, settings.port) as place:
        _log_to_stderr()
        with Index.open(index, model=model, device=device, detector=detector) as opened, _signals_are_no_failure():
            make_server(opened, settings, place).run(sockets=[place])


def require_web() -> None:
    """Refuse when a package of the service is not installed.

    Raises:
        ConfigError: naming the first one that is missing.
    """
    for name in _NEEDED:
        if find_spec(name) is None:
            raise ConfigError(f"{name} is not installed. In a clone of patchword: pip install '.[web]'")


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that listens; connections are answered once the server runs.

    Raises:
        ConfigError: there is no such address, or another program has it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        place = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"`host` is '{host}', which is no address of this machine: {_reason(error)}.") from None
    with place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind(address)
            place.listen(128)  # from now on nobody else can have it; who connects early waits until the model is loaded
        except OSError as error:
            raise ConfigError(
                f"can not listen on {host}, port {port}: {_reason(error)}. Choose another with --port."
            ) from None
        yield place


def _reason(error: OSError | UnicodeError) -> str:
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else str(error)


def address_of(place: socket.socket) -> str:
    """What to open in a browser."""
    host, port = place.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/"


def make_server(opened: Index, settings: Settings, place: socket.socket) -> uvicorn.Server:
    """A server for an open index; ``run(sockets=[place])`` answers until ``should_exit`` is set or a signal comes."""
    import uvicorn

    from patchword.web.app import create_app
    from patchword.web.connection import PatientConnection

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            generation = opened.images.snapshot.generation
            what = f"{len(opened):,} images ({opened.manifest.model.method}, generation {generation})"
            logging.getLogger("patchword.web").info("serving %s at %s", what, address_of(place))

    return Server(
        uvicorn.Config(
            create_app(opened, settings),
            http=PatientConnection,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,  # addresses and queries of people are not written down
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=int(settings.stop_s),
            # A connection costs little, a request in work more: see `Limits.concurrency` for those.
            limit_concurrency=4 * settings.limits.concurrency + 64,
        )
    )


@contextlib.contextmanager
def _signals_are_no_failure() -> Iterator[None]:
    """uvicorn raises a signal again after it has stopped; to us a stop that was asked for is no failure."""
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _log_to_stderr() -> None:
    """One line per event on standard error, and nothing about damaged EXIF blocks."""
    for name, level in (("patchword.web", logging.INFO), ("uvicorn", logging.WARNING)):
        logger = logging.getLogger(name)
        if not logger.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
            logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    warnings.filterwarnings("ignore", module=r"PIL\.")
