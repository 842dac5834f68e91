"""``patchword serve`` as a program: one line when it is ready, an orderly end, and one line when it can not start."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from served import wait_until
from small import command, refused

TOKEN = "t0ken-of-24-characters-xx"


@contextmanager
def program(index: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[str], str]]:
    """The process, the lines it has said, and its address."""
    words = command("serve", index, "--port", "0", *options)
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    said: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: said.extend(process.stderr))  # type: ignore[arg-type]
    reader.start()
    try:
        wait_until(lambda: any(" at http://" in line for line in said) or process.poll() is not None, 90)
        assert process.poll() is None, said
        yield process, said, re.search(r"http://[\d.]+:\d+", "".join(said))[0]  # type: ignore[index]
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()
        process.stdout.close()  # type: ignore[union-attr]


@pytest.mark.integration
def test_it_says_where_it_is_and_stops_in_order(small_index: Path) -> None:
    with program(small_index) as (process, said, address):
        assert len(said) == 1
        assert re.search(r"INFO serving 13 images \(chan, generation \d+\) at http://127\.0\.0\.1:\d+/$", said[0])
        host, port = address.removeprefix("http://").split(":")
        with (
            httpx.Client(base_url=address, timeout=20) as idle,
            socket.create_connection((host, int(port)), timeout=20) as busy,
        ):
            assert idle.get("/search", params={"q": "a red wall"}).status_code == 200
            body = b'{"parts":[{"text":"a red wall"}]}'
            kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
            busy.sendall(f"POST /search HTTP/1.1\r\nHost: {host}\r\n{kind}\r\n\r\n".encode() + body[:5])
            time.sleep(0.3)  # a request has begun
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((host, int(port)), timeout=5).close()
            busy.sendall(body[5:])
            assert busy.recv(4000).startswith(b"HTTP/1.1 200 ")  # it is finished
        assert process.wait(20) == 0
    assert len(said) == 1, said


@pytest.mark.integration
def test_a_request_that_never_ends_does_not_keep_it_from_stopping(small_index: Path, tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text(f"{TOKEN}\n", encoding="utf-8")
    with program(small_index, "--token-file", str(tmp_path / "token.txt"), "--grace", "2") as (process, said, address):
        host, port = address.removeprefix("http://").split(":")
        right = f"Authorization: Bearer {TOKEN}"
        assert httpx.get(f"{address}/info").status_code == 401
        assert httpx.get(f"{address}/info", headers=dict([right.split(": ")])).json()["images"] == 13
        with socket.create_connection((host, int(port))) as raw:
            head = f"POST /search HTTP/1.1\r\nHost: localhost\r\n{right}\r\nContent-Length: 50\r\n\r\n"
            raw.sendall(head.encode() + b"{")
            time.sleep(0.3)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
            assert time.monotonic() - started < 9  # not the ten seconds that are usual
        assert TOKEN not in "".join(said)


def test_what_can_not_be_served_is_one_line(
    small_index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not an index" in refused(["serve", tmp_path / "nothing", "--port", "0"], capsys, kind="DataError")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = refused(["serve", small_index, "--port", port], capsys, kind="ConfigError")
        assert re.search(rf"can not listen on 127\.0\.0\.1, port {port}: Address already in use\. .*--port", said)
    wrong: list[tuple[list[str], str]] = [
        (["--host", "0.0.0.0"], "no token was given"),
        (["--host", "no.such.host.invalid", "--no-token"], "which is no address of this machine"),
        (["--host", "192.0.2.1", "--no-token"], "can not listen on 192.0.2.1"),
        (["--token", "a", "--token-file", "b"], "Expected one of them"),
        (["--token-file", str(tmp_path / "none")], "can not be read"),
        (["--max-k", "0"], "`max_k` is 0"),
        (["--timeout", "nan"], "`timeout_s` is nan"),
        (["--grace", "0"], "`grace` is 0.0 s. Expected 1 or more"),
    ]
    for options, expected in wrong:
        assert expected in refused(["serve", small_index, "--port", "0", *options], capsys, kind="ConfigError")


def test_without_the_web_packages_it_says_what_to_install(
    small_index: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from patchword.web import server

    find = server.find_spec
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "uvicorn" else find(name))
    said = refused(["serve", small_index], capsys, kind="ConfigError")
    assert "uvicorn is not installed. In a clone of patchword: pip install '.[web]'" in said
