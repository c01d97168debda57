"""Prometheus metrics of the API; states of jobs are read when they are asked for.

Several API processes count into one folder, which `prometheus_client` looks for when it is
imported, and whichever is asked answers for all of them.
"""

import os
from collections.abc import Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.tables.assessments import AssessmentTable

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class ServiceMetrics:
    """What is counted; routes are named by their rule, never by what a caller wrote."""

    def __init__(self, jobs: AssessmentTable) -> None:
        own = CollectorRegistry()
        self._requests = Counter(
            "rlrisk_http_requests_total",
            "Answered requests",
            ("method", "route", "status"),
            registry=own,
        )
        self._seconds = Histogram(
            "rlrisk_http_request_seconds",
            "Time to the first byte of an answer",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=own,
        )
        self._decisions = Counter("rlrisk_decisions_total", "Decisions", ("outcome",), registry=own)
        self.registry = own
        if folder := os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry, folder)  # type: ignore[no-untyped-call]
        self.registry.register(_Jobs(jobs))
        # Finding a counter by its labels costs as much as counting; routes and statuses are few.
        self._request = cache(self._requests.labels)
        self._second = cache(self._seconds.labels)
        self._decision = cache(self._decisions.labels)

    def answered(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count a request that was answered."""
        self._request(method, route, status).inc()
        self._second(method, route).observe(seconds)

    def decided(self, outcome: str) -> None:
        """Count a decision."""
        self._decision(outcome).inc()


class _Jobs(Collector):
    def __init__(self, jobs: AssessmentTable) -> None:
        self._jobs = jobs

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Known without asking the database."""
        yield GaugeMetricFamily("rlrisk_assessments", "Assessments by state", labels=["state"])

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Ask the database."""
        (family,) = self.describe()
        for state, count in self._jobs.counts().items():
            family.add_metric([state], count)
        yield family
