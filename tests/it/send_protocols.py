"""Sends events with clients that people have, by changing their URL alone; the key comes as a header.

    send_protocols.py URL KEY
"""

import logging
import sys

import requests
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource


def cloud_events(url, headers):
    data_of_each = [
        ({"amount": 12.5, "note": "é"}, "application/json"),
        ("héllo", "text/plain"),
        (b"\x00\xff", "image/png"),
        (None, None),
    ]
    for number, (data, content_type) in enumerate(data_of_each):
        attributes = {"type": "order.paid", "source": "/orders", "id": str(number), "subject": "cart é"}
        if content_type:
            attributes["datacontenttype"] = content_type
        event = CloudEvent(attributes, data)
        # The same event twice, in each mode.
        for message in (to_binary_event(event), to_structured_event(event)):
            reply = requests.post(url + "/v1/events/ingest", data=message.body, headers={**message.headers, **headers})
            assert reply.status_code == 200, reply.text
            print(reply.json()["duplicate"])


def logs(url, headers):
    resource = Resource.create({"service.name": "shop web", "service.version": "1.2.3", "device.id": "d-1", "os.name": "iOS"})
    for compression in (Compression.NoCompression, Compression.Gzip):
        provider = LoggerProvider(resource=resource)
        exporter = OTLPLogExporter(endpoint=url + "/v1/logs", headers=headers, compression=compression)
        provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
        logger = logging.getLogger(compression.name)
        logger.setLevel(logging.INFO)
        logger.addHandler(LoggingHandler(logger_provider=provider))
        for number in range(100):
            logger.info("record %d", number, extra={"number": number, "list": ["a", "b"]})
        assert provider.force_flush()
        provider.shutdown()


url, key = sys.argv[1:]
cloud_events(url, {"x-api-key": key})
logs(url, {"x-api-key": key})
