"""A process that has imported everything and forks a child for each action, so that children can be killed by dozens.

It reads one JSON object per line: ``action``, ``arguments``, and where the child dies: ``line`` (the n-th line of
patchword/index that it executes), ``delay_s``, or neither. It answers with what became of the child: ``killed`` or the
exit code, and with ``trace`` the lines that were executed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import patchword.index as actions
from patchword.index import building, captions, compacting, removing, sources, syncing
from patchword.loading import load
from patchword.shortlist import build

HOME = str(Path(building.__file__).parent)
MODULES = (build, building, captions, compacting, removing, sources, syncing)  # imported before the first fork


class Counter:
    """Kills its process at a line; also remembers the lines."""

    def __init__(self, stop: int | None) -> None:
        self.count, self.stop, self.lines = 0, stop, list[str]()

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(HOME):
            return None
        if event == "line":
            self.count += 1
            self.lines.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
            if self.count == self.stop:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def child(task: dict[str, Any], pipe: int) -> int:
    """Do one action."""
    counter = Counter(task.get("line"))
    if "line" in task:
        threading.settrace(counter)
        sys.settrace(counter)
    getattr(actions, task["action"])(**{**task["arguments"], **({"model": MODEL} if task.get("model") else {})})
    sys.settrace(None)
    os.write(pipe, json.dumps(counter.lines).encode())
    return 0


def main() -> None:
    """Serve until the input ends."""
    for text in sys.stdin:
        task = json.loads(text)
        read, write = os.pipe()
        number = os.fork()
        if number == 0:
            code = 1
            try:
                os.close(read)
                code = child(task, write)
            except BaseException as error:  # noqa: BLE001 - reported, whatever it is
                os.write(write, json.dumps(f"{type(error).__name__}: {error}").encode())
            finally:
                os._exit(code)
        os.close(write)
        if "delay_s" in task:
            time.sleep(task["delay_s"])
            os.kill(number, signal.SIGKILL)  # a zombie at most: it was not waited for yet
        with open(read, "rb") as file:
            said = file.read()
        status = os.waitpid(number, 0)[1]
        killed = os.WIFSIGNALED(status)
        sys.stdout.write(json.dumps({"killed": killed, "code": os.waitstatus_to_exitcode(status)}) + "\n")
        sys.stdout.write((said.decode() if not killed and said else "null") + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    MODEL = load(sys.argv[1])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    main()
