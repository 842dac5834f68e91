"""The verb that serves an index."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from patchword.errors import ConfigError
from patchword.verbs.options import Device, OptionalPath, OptionalText, device_of


def serve(
    index: Positional[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8008,
    token: OptionalText = None,
    token_file: OptionalPath = None,
    no_token: bool = False,
    name: tuple[str, ...] = (),
    model: OptionalPath = None,
    detector: OptionalText = None,
    device: Device = "cpu",
    max_body_mb: float = 20.0,
    max_pixels: int = 89_478_485,
    max_query: int = 1000,
    max_k: int = 1000,
    max_batch: int = 64,
    concurrency: int = 256,
    timeout: float = 30.0,
    grace: float = 10.0,
) -> int:
    """Serve an index over HTTP, with its search page, until Ctrl-C.

    Args:
        index: folder of the index.
        host: address to listen on.
        port: 0 takes a free one.
        token: what clients have to send; needed on other than this machine.
        token_file: file that holds the token.
        no_token: let everybody in who can reach the address.
        name: host names under which the service is reached.
        model: checkpoint, when not the one that the index names.
        detector: finds the regions of pictures that are sent.
        device: where queries are encoded: auto, cpu or cuda:0.
        max_body_mb: largest body.
        max_pixels: largest picture, width x height.
        max_query: characters of a sentence.
        max_k: most results.
        max_batch: queries of one request to /search/batch.
        concurrency: requests at a time; one more is told to wait.
        timeout: seconds to answer.
        grace: seconds that running requests may go on when it is stopped.
    """
    from patchword.web.server import serve as run_service
    from patchword.web.settings import Limits, Settings

    if token is not None and token_file is not None:
        raise ConfigError("--token and --token-file were given. Expected one of them.")
    limits = Limits(
        max_body_mb=max_body_mb,
        max_pixels=max_pixels,
        max_query=max_query,
        max_k=max_k,
        max_batch=max_batch,
        concurrency=concurrency,
        timeout_s=timeout,
    )
    settings = Settings(
        host=host,
        port=port,
        token=token if token_file is None else read_token(token_file),
        open_to_all=no_token,
        names=name,
        limits=limits,
        stop_s=grace,
    )
    run_service(index, settings=settings, model=model, detector=detector, device=device_of(device))
    return 0


def read_token(file: Path) -> str:
    """The token in a file, without the line's end.

    Raises:
        ConfigError: the file can not be read.
    """
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"'{file}' can not be read: {error}. Expected a file that holds the token.") from None
