"""The text of a scrape is what prometheus_client writes of the same families, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.utils import floatToGoString

from trunkline.metrics import exposition, text
from trunkline.metrics.series import SERIES

GAUGES = exposition.Gauges(7, 900, 5_000_000, 0, 12.5, 3, True, 0, 1, 0.25, False, 2, 3, ("1", 'a"\\\n', "blue"), 1.7e9)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


class Library:
    """The same families, handed to the library."""

    def __init__(self, families: list[text.Family]) -> None:
        self.families = families

    def collect(self) -> Iterator[Metric]:
        for name, kind, help_text, samples in self.families:
            if kind == "histogram":
                buckets = [(sample.labels["le"], sample.value) for sample in samples if "le" in sample.labels]
                yield HistogramMetricFamily(name, help_text, buckets=buckets, sum_value=samples[-1].value)
                continue
            labels = list(samples[0].labels) if samples else []
            make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            family = make(name, help_text, labels=labels)
            for sample in samples:
                family.add_metric(list(sample.labels.values()), sample.value)
            yield family


def library_text(families: list[text.Family]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Library(families))  # type: ignore[arg-type]
    return generate_latest(registry)


def meter() -> exposition.Meter:
    made = exposition.Meter()
    made.bytes_sent = 123_456_789_012
    made.disconnects.add("normal", "client", times=3)
    made.errors.add('an "odd"\\ code\n')
    for value in (0.00002, 0.3, 99.0):
        made.message_latency.observe(value, 1_000_000)
    return made


def test_a_node_as_the_library_writes_it() -> None:
    """Plain series, labelled ones, histograms and the aliases."""
    families = list(exposition.families(meter(), GAUGES, ("websocket",)))
    assert len(families) == len(SERIES) + 5
    assert text.render(families) == library_text(families)
    assert text.CONTENT_TYPE == CONTENT_TYPE_PLAIN_0_0_4


@given(st.floats() | st.integers(-(2**63), 2**63))
def test_numbers_as_the_library_writes_them(value: float) -> None:
    """Whatever a gauge may hold."""
    assert text.number(value) == floatToGoString(value)


@given(
    st.text(max_size=20),
    st.dictionaries(
        st.sampled_from(["reason", "backend", "answer"]), st.text(st.characters(codec="utf-8")), max_size=3
    ),
)
def test_texts_as_the_library_writes_them(help_text: str, labels: dict[str, str]) -> None:
    """Quotes, backslashes and line ends, in help and label values; labels in the order of their names."""
    families = [text.Family("a_total", "counter", help_text, [text.Sample("a_total", labels, 1.0)])]
    assert text.render(families) == library_text(families)
