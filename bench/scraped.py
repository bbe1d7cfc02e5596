"""What a process of the system shows at /metrics."""

from __future__ import annotations

from urllib.request import urlopen

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


def scraped(port: int, timeout_s: float = 5.0) -> list[Sample]:
    """Every sample, with its labels; none while nobody answers there."""
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=timeout_s) as answer:
            text = answer.read().decode()
    except OSError:
        return []
    families: list[Metric] = list(text_string_to_metric_families(text))
    return [sample for family in families for sample in family.samples]
