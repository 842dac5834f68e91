"""A service takes over what `sync` has changed, and searches in work keep the index they began with."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from served import make_index, make_pictures, picture, serving, wait_until

from patchword.index import sync


def test_added_and_removed_pictures_are_found_and_gone_without_a_restart(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures", 4)
    index = make_index(pictures, tmp_path / "my.index")
    with serving(index, refresh_s=0.05) as served, ThreadPoolExecutor(4) as pool:
        assert served.get("/info").json()["images"] == 5
        before = served.get("/info").json()["generation"]
        stop = threading.Event()

        def keep_asking() -> set[int]:
            found = set()
            while not stop.is_set():
                found.add(served.get("/search", params={"q": "a red wall", "k": 100}).status_code)
            return found

        askers = [pool.submit(keep_asking) for _ in range(3)]
        picture((200, 20, 180), np.random.default_rng(5)).save(pictures / "new.png")
        (pictures / "green_1.png").unlink()
        sync(index)
        wait_until(lambda: served.get("/info").json()["generation"] > before)
        wait_until(lambda: served.get("/info").json()["images"] == 5)
        stop.set()
        assert set().union(*(one.result() for one in askers)) == {200}
        paths = {hit["path"] for hit in served.get("/search", params={"q": "a red wall"}).json()["hits"]}
        assert "new.png" in paths
        assert "green_1.png" not in paths
        assert served.metrics()["patchword_reloads_total"] >= 1


def test_an_index_that_vanishes_is_served_on(tmp_path: Path) -> None:
    index = make_index(make_pictures(tmp_path / "pictures", 4), tmp_path / "my.index")
    with serving(index, refresh_s=0.05) as served:
        shutil.move(index, tmp_path / "elsewhere")
        threading.Event().wait(0.3)
        assert served.get("/health").status_code == 200
        answer = served.get("/info")
        assert answer.status_code in (200, 400, 500)
        assert str(tmp_path) not in answer.text
        shutil.move(tmp_path / "elsewhere", index)
        wait_until(lambda: served.get("/search", params={"q": "a red wall"}).status_code == 200)
