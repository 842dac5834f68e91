"""What ``patchword bench service`` measures."""

from __future__ import annotations

from pathlib import Path

import pytest
from served import serving
from small import refused

from patchword.bench.service import Load, ask, bench_service, told
from patchword.retrieve.engine import Index


def test_the_requests_of_a_load_are_bounded_and_all_counted(opened: Index) -> None:
    with serving(opened) as served:
        load = ask(
            served.port, ["/search?q=a+red+wall", "/search?q=wall", "/nowhere"], clients=5, seconds=20.0, most=90
        )
        assert sum(map(len, load.times_s)) == 60
        assert load.failures == 30
        assert served.metrics()['patchword_requests_total{route="/search",status="200"}'] == 60
        short = ask(served.port, ["/health"], clients=2, seconds=0.2)
        assert 0 < max(map(sum, short.times_s)) < 2


def test_rates_and_times_are_those_of_the_answers() -> None:
    found = told(Load([[0.1] * 50, [0.2] * 50], 3), 5.0)
    assert found == {"requests": 100, "failures": 3, "per_s": 20.0, "p50_ms": 150.0, "p95_ms": 200.0, "p99_ms": 200.0}
    assert told(Load(), 1.0) == {"requests": 0, "failures": 0}


@pytest.mark.integration
def test_searches_and_thumbnails_are_measured_over_loopback(small_index: Path) -> None:
    lines = list(bench_service(small_index, seconds=0.4, clients=(1, 4)))
    assert [(line["what"], line["clients"]) for line in lines] == [
        ("search", 1), ("search", 4), ("thumb", 1), ("thumb", 4),
    ]  # fmt: skip
    for line in lines:
        assert (line["bench"], line["images"], line["failures"]) == ("service", 13, 0)
        assert line["requests"] > 0
        assert line["p50_ms"] <= line["p95_ms"] <= line["p99_ms"]
        assert line["resident_gib"] > 0.05
    assert lines[0]["searches_per_batch"] == 1
    assert lines[2]["searches_per_batch"] == 0


def test_what_can_not_be_measured_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Missing from patchword bench service" in refused(["bench", "service"], capsys, kind="ConfigError")
    assert "is not an index" in refused(["bench", "service", tmp_path], capsys, kind="DataError")
