"""What the service counts, as Prometheus text."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

TEXT = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one service; several services in a process do not mix.

    Attributes:
        requests: answers by route (its pattern, never what a client wrote) and status.
        seconds: from the first byte of a request to the last of its answer, by route.
        stages: time by stage: ``queue`` (a search waits for its batch), ``score`` (a batch is encoded and scored),
            ``decode`` (an uploaded picture), ``picture`` (a query with an uploaded picture is encoded and scored),
            ``explain``, ``thumb``.
        batches: how many searches were answered together.
        batch_queries: queries of requests to ``/search/batch``, by the status that each of them got.
        reloads: how often a changed index was taken over.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("patchword_requests", "answers", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "patchword_request_seconds", "time of an answer", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.stages = Histogram(
            "patchword_stage_seconds", "time of a stage", ["stage"], buckets=_SECONDS, registry=self.registry
        )
        self.batches = Histogram(
            "patchword_batch_size", "searches answered together", buckets=_SIZES, registry=self.registry
        )
        self.batch_queries = Counter(
            "patchword_batch_queries", "queries sent in batches", ["status"], registry=self.registry
        )
        self.reloads = Counter("patchword_reloads", "changed indexes taken over", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show a number that is looked up when the metrics are read."""
        Gauge(f"patchword_{name}", about, registry=self.registry).set_function(value)

    def text(self) -> bytes:
        """All numbers in Prometheus' text format."""
        return generate_latest(self.registry)
