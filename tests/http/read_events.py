"""Reads answers with the CloudEvents SDK: one JSON object a line in, the events that the SDK made of it out."""

import base64
import json
import sys

from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

SINGLE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"


def read(content_type: str, body: str) -> list[BaseCloudEvent]:
    if content_type == SINGLE:
        return [from_http_event(HTTPMessage({"content-type": content_type}, body.encode()))]
    assert content_type == BATCH, content_type
    # The SDK has no batches: the format is an array of single events.
    return [event for one in json.loads(body) for event in read(SINGLE, json.dumps(one))]


def shown(event: BaseCloudEvent) -> dict[str, object]:
    data = event.get_data()
    if isinstance(data, bytes):
        data = {"base64": base64.b64encode(data).decode()}
    names = ("id", "source", "type", "specversion", "subject", "datacontenttype", "dataschema")
    attributes = event.get_attributes()
    time = event.get_time()
    return {
        "data": data,
        "time": round(time.timestamp() * 1_000_000) if time else None,
        "extensions": {k: v for k, v in attributes.items() if k not in (*names, "time")},
        **{name: attributes.get(name) for name in names},
    }


for line in sys.stdin:
    answer = json.loads(line)
    print(json.dumps([shown(event) for event in read(answer["content_type"], answer["body"])]), flush=True)
