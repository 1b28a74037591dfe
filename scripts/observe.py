"""The live line of `scripts/up`, read from ganesh's /metrics and NATS's monitoring port."""

import json
import re
import time
import urllib.request
from dataclasses import dataclass, field

SERIES = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)")
LABEL = re.compile(r'(\w+)="([^"]*)"')


def get(url):
    """The body of an answer 200 as text, otherwise None."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.read().decode() if answer.status == 200 else None
    except OSError:
        return None


@dataclass
class Metrics:
    """The shown series of one scrape."""

    settled: dict = field(default_factory=dict)  # outcome -> messages
    lag: int = 0  # messages that wait or are held
    buckets: dict = field(default_factory=dict)  # upper bound in seconds -> messages at or below it


def parse_metrics(text):
    metrics = Metrics()
    for line in text.splitlines():
        match = SERIES.match(line)
        if not match:
            continue
        name, value = match[1], float(match[3])
        labels = dict(LABEL.findall(match[2] or ""))
        if name == "ganesh_messages_settled_total":
            metrics.settled[labels["outcome"]] = int(value)
        elif name in ("ganesh_consumer_pending_messages", "ganesh_consumer_ack_pending_messages"):
            metrics.lag += int(value)
        elif name == "ganesh_end_to_end_seconds_bucket":
            metrics.buckets[float(labels["le"])] = value
    return metrics


def quantile(buckets, q):
    """Seconds, interpolated within the bucket as in Prometheus; None without observations."""
    bounds = sorted(buckets)
    total = buckets[bounds[-1]] if bounds else 0
    if total <= 0:
        return None
    below, lower = 0, 0.0
    for bound in bounds:
        if buckets[bound] >= q * total:
            if bound == float("inf"):
                return lower
            inside = buckets[bound] - below
            return lower + (bound - lower) * ((q * total - below) / inside if inside else 1)
        below, lower = buckets[bound], bound
    return lower


@dataclass
class Stream:
    """A stream and its consumer, as NATS counts them."""

    published: int = 0
    messages: int = 0  # still in the stream
    waiting: int = 0  # not delivered, or not acknowledged


def read_stream(nats_http_port, stream, consumer):
    """None when NATS does not answer; zeros before the stream exists."""
    text = get(f"http://127.0.0.1:{nats_http_port}/jsz?streams=1&consumers=1")
    if text is None:
        return None
    found = Stream()
    for account in json.loads(text).get("account_details") or []:
        for detail in account.get("stream_detail") or []:
            if detail["name"] != stream:
                continue
            found.published = detail["state"]["last_seq"]
            found.messages = detail["state"]["messages"]
            for reader in detail.get("consumer_detail") or []:
                if reader["name"] == consumer:
                    found.waiting = reader["num_pending"] + reader["num_ack_pending"]
    return found


@dataclass
class Sample:
    at: float
    stream: Stream
    metrics: Metrics


def take_sample(nats_http_port, metrics_url, stream, consumer):
    """None when one of the two does not answer."""
    state, text = read_stream(nats_http_port, stream, consumer), get(metrics_url)
    if state is None or text is None:
        return None
    return Sample(time.monotonic(), state, parse_metrics(text))


def _milliseconds(seconds):
    return "-" if seconds is None else f"{seconds * 1000:,.0f} ms"


def live_line(before, now, size_gib):
    """Rates and quantiles between the two samples; lag and size at the second."""
    seconds = max(now.at - before.at, 0.001)
    published = (now.stream.published - before.stream.published) / seconds
    stored_now, stored_before = (s.metrics.settled.get("stored", 0) for s in (now, before))
    buckets = {le: count - before.metrics.buckets.get(le, 0) for le, count in now.metrics.buckets.items()}
    return (
        f"in {published:>7,.0f}/s   stored {(stored_now - stored_before) / seconds:>7,.0f}/s   "
        f"lag {now.metrics.lag:>7,}   p50 {_milliseconds(quantile(buckets, 0.5)):>8}   "
        f"p99 {_milliseconds(quantile(buckets, 0.99)):>8}   .local {size_gib:.1f} GiB"
    )
