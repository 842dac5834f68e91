"""Memory of a process is its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from patchword.console import status_gib

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of one process is not told")

CHILD = "from patchword.console import peak_memory_gib; print(peak_memory_gib())"
PARENT = f"""
import subprocess, sys
held = bytearray(b"x") * (300 << 20)
subprocess.run([sys.executable, "-c", {CHILD!r}], check=True)
exec({CHILD!r})
"""


def test_the_peak_is_not_that_of_the_process_that_started_this_one() -> None:
    said = subprocess.run([sys.executable, "-c", PARENT], check=True, capture_output=True, text=True)
    child, parent = map(float, said.stdout.split())
    assert parent - child > 0.25
    assert 0 < child < 0.2


def test_the_peak_holds_what_was_given_back() -> None:
    code = """
from patchword.console import peak_memory_gib, status_gib
before = status_gib("VmRSS")
held = bytearray(b"x") * (200 << 20)
highest = status_gib("VmRSS")
del held
print(before, highest, status_gib("VmRSS"), peak_memory_gib())
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    before, highest, after, peak = map(float, said.stdout.split())
    assert peak >= highest - 0.01 > before + 0.15
    assert after < highest - 0.15
    assert status_gib("no_such") is None
