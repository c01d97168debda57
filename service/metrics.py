"""Prometheus metrics of one application; states of jobs are read when they are asked for."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from service.assessment_table import AssessmentTable

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class ServiceMetrics:
    """What is counted; routes are named by their rule, never by what a caller wrote."""

    def __init__(self, jobs: AssessmentTable) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "rlrisk_http_requests_total",
            "Answered requests",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "rlrisk_http_request_seconds",
            "Time to the first byte of an answer",
            ("method", "route"),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.decisions = Counter(
            "rlrisk_decisions_total", "Decisions", ("outcome",), registry=self.registry
        )
        self.registry.register(_Jobs(jobs))


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
