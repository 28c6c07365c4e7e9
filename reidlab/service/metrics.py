"""Figures of a service for Prometheus: counts and times, and no name of anybody or anything."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector


class Metrics:
    """The figures of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("reidlab_requests", "Requests by address and status", ["path", "status"],
                                registry=registry)  # fmt: skip
        self.seconds = Histogram("reidlab_request_seconds", "From a request's head to its answer", ["path"],
                                 registry=registry)  # fmt: skip
        self.batch = Histogram("reidlab_batch_images", "Images that were embedded together", registry=registry,
                               buckets=(1, 2, 4, 8, 16, 32, 64))  # fmt: skip
        self.waiting = Gauge("reidlab_accepted_requests", "Requests that are accepted and not answered",
                             registry=registry)  # fmt: skip
