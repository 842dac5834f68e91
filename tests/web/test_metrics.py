"""What is counted, read back with a parser of Prometheus' text format."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient


def numbers(client: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Name and labels -> number."""
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def requests(found: dict[tuple[str, tuple[tuple[str, str], ...]], float]) -> dict[tuple[str, str], float]:
    """Route and status -> answers."""
    return {
        (dict(labels)["route"], dict(labels)["status"]): value
        for (name, labels), value in found.items()
        if name == "patchword_requests_total"
    }


def test_answers_times_and_batches_are_counted(client: TestClient, small_index: Path) -> None:
    for _ in range(3):
        client.get("/search", params={"q": "a red wall"})
    client.get("/search", params={"q": "a red wall", "where": "nonsense = 1"})
    client.post("/similar", content=b"no picture", headers={"Content-Type": "image/png"})
    raw = (small_index.parent / "pictures" / "turned.jpg").read_bytes()
    client.post("/similar", content=raw, headers={"Content-Type": "image/jpeg"})
    client.get("/explain", params={"id": 1, "q": "a red wall"})
    client.get("/thumb/1")
    client.get("/thumb/1")
    found = numbers(client)
    told = requests(found)
    assert told[("/search", "200")] == 3
    assert told[("/search", "400")] == 1
    assert told[("/similar", "422")] == told[("/similar", "200")] == told[("/explain", "200")] == 1
    assert told[("/thumb/{id}", "200")] == 2

    def stage(name: str) -> float:
        return found[("patchword_stage_seconds_count", (("stage", name),))]

    assert stage("queue") == 4
    assert stage("score") == found[("patchword_batch_size_count", ())] == 4
    assert (stage("decode"), stage("picture"), stage("explain"), stage("thumb")) == (2, 1, 1, 1)
    assert found[("patchword_images", ())] == 13
    assert found[("patchword_generation", ())] == client.get("/info").json()["generation"]
    assert found[("patchword_in_flight", ())] == found[("patchword_queue", ())] == 0
    assert found[("process_resident_memory_bytes", ())] > 1e7


def test_what_clients_write_never_becomes_a_label(client: TestClient) -> None:
    before = len(requests(numbers(client)))
    for k in range(20):
        client.get(f"/nowhere/{k}")
        client.get(f"/thumb/99{k}")
        client.get(f"/static/{k}")
        client.request(f"METHOD{k}", "/search")
    assert len(requests(numbers(client))) <= before + 5
