"""A small index to serve, a server in a thread of this process, and clients that speak HTTP by hand."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image

from patchword.data.tokenizers import WordTokenizer
from patchword.data.vocab import Vocabulary
from patchword.index import build
from patchword.methods.chan import Chan, ChanConfig
from patchword.model import Model
from patchword.retrieve.engine import Index
from patchword.web.server import listen, make_server
from patchword.web.settings import Limits, Settings

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (30, 30, 220), "white": (250, 250, 250)}
SENTENCES = [f"a {colour} wall" for colour in COLOURS] + ["a picture of a wall", "nothing but colour everywhere"]
VIT = {
    "image_size": 32, "patch_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 16,
}  # fmt: skip


def make_model(folder: Path) -> Path:
    """A random CHAN over the pixels of 2 x 2 patches, saved."""
    torch.manual_seed(0)
    tokenizer = WordTokenizer(Vocabulary.build(SENTENCES, min_count=1))
    config = ChanConfig.model_validate(
        {
            "joint_dim": 16,
            "heads": 2,
            "image": {"kind": "vit", "arch": VIT},
            "text": {"kind": "bigru", "word_dim": 12, "vocab_size": tokenizer.size},
        }
    )
    Model(Chan(config).eval(), tokenizer, {"selected_on": "none"}).save(folder)
    return folder


def make_pictures(folder: Path, count: int = 12) -> Path:
    """Noisy pictures of one colour each, some in a sub-folder, one turned by its EXIF data."""
    draw = np.random.default_rng(0)
    (folder / "more").mkdir(parents=True)
    for k in range(count):
        colour = list(COLOURS)[k % len(COLOURS)]
        place = folder / "more" if k % 3 == 0 else folder
        picture(tuple(COLOURS[colour]), draw).save(place / f"{colour}_{k}.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # orientation: to be turned by 90 degrees
    picture((200, 120, 20), draw, (60, 30)).save(folder / "turned.jpg", exif=turned)
    return folder


def picture(colour: tuple[int, ...], draw: np.random.Generator, size: tuple[int, int] = (40, 40)) -> Image.Image:
    """Noise around a colour; ``size`` is width x height."""
    pixels = np.array(colour) + draw.integers(-20, 21, (size[1], size[0], 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_index(pictures: Path, out: Path) -> Path:
    """Index a folder of pictures with a random model, which is put beside the index."""
    build(pictures, out, model=make_model(out.parent / "model"))
    return out


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a picture file."""
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a megabyte of it, packed to a thousandth."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


class Served:
    """A running server.

    Attributes:
        port: on loopback.
        index: what it serves.
    """

    def __init__(self, port: int, index: Index) -> None:
        self.port, self.index = port, index
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Ask for a path."""
        return self.http.get(path, **options)

    def metrics(self) -> dict[str, float]:
        """Name with labels -> number."""
        lines = self.get("/metrics").text.splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    @contextmanager
    def raw(self) -> Iterator[socket.socket]:
        """A bare connection."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as found:
            yield found

    @contextmanager
    def connection(self) -> Iterator[HTTPConnection]:
        """A connection that sends exactly what it is told."""
        found = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            yield found
        finally:
            found.close()


@contextmanager
def serving(index: Path | Index, limits: Mapping[str, Any] | None = None, **settings: Any) -> Iterator[Served]:
    """A server on a free port, in a thread of this process."""
    opened = index if isinstance(index, Index) else Index.open(index)
    told = Settings(port=0, limits=Limits(**(limits or {})), **settings)
    try:
        with listen("127.0.0.1", 0) as place:
            server = make_server(opened, told, place)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [place]})
            thread.start()
            found = Served(place.getsockname()[1], opened)
            try:
                wait_until(lambda: server.started)
                yield found
            finally:
                found.http.close()
                server.should_exit = True
                thread.join(30)
                assert not thread.is_alive(), "the server did not stop"
    finally:
        if opened is not index:
            opened.close()


def wait_until(fact: Any, limit_s: float = 20) -> None:
    """Wait until something is true."""
    end = time.monotonic() + limit_s
    while not fact():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found
