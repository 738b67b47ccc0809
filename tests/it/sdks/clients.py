"""`segment-analytics-python`, `cloudevents` and `opentelemetry-exporter-otlp-proto-http`, as the scripts beside this
one (see sending.js), with the clock as it is.

    clients.py NAME URL KEY
"""

import logging
import sys
import threading
import time
from datetime import datetime, timezone


def run(numbered, finish):
    enough = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), enough.set()), daemon=True).start()
    print("ready", flush=True)
    count = 0
    while not enough.wait(0.02):
        numbered(count)
        count += 1
    finish()
    print(count)


def segment(url, key):
    from segment.analytics.client import Client

    failed = []
    client = Client(key, host=url, gzip=True, upload_interval=0.05, on_error=lambda error, batch: failed.append(error))
    user = "segment-analytics-python"
    client.identify(user, {"email": "é@example.com"}, anonymous_id="a")
    client.track(user, "Order Completed", {"order_id": "o", "total": 9.99})
    client.page(user, "docs", "Intro", {"path": "/docs"})
    client.screen(user, "main", "Home", {})
    client.group(user, "g", {"name": "Acme"})
    client.alias("old", user)

    def finish():
        client.flush()
        client.join()
        assert not failed, failed

    run(lambda number: client.track(user, "Counted", {"number": number}), finish)


def cloudevents(url, key):
    import requests
    from cloudevents.core.bindings.http import to_binary_event, to_structured_event
    from cloudevents.core.v1.event import CloudEvent

    # Sending again is up to its caller.
    def stored(message):
        while True:
            try:
                headers = {**message.headers, "x-api-key": key}
                reply = requests.post(url + "/v1/events/ingest", data=message.body, headers=headers)
            except requests.ConnectionError:
                time.sleep(0.1)
                continue
            if reply.status_code != 503:
                assert reply.status_code == 200, reply.text
                return

    def event(**attributes):
        data = attributes.pop("data", None)
        common = {"source": "/orders/py", "subject": "cart é", "userid": "cloudevents-pypi"}
        return CloudEvent({**common, **attributes}, data)

    for event_of_kind in [
        event(type="order.paid", id="json", data={"amount": 12.5}, datacontenttype="application/json"),
        event(type="order.paid", id="text", data="héllo", datacontenttype="text/plain"),
        event(type="order.paid", id="bytes", data=b"\x00\xff", datacontenttype="application/octet-stream"),
        event(type="order.paid", id="none"),
    ]:
        stored(to_binary_event(event_of_kind))
        stored(to_structured_event(event_of_kind))

    def numbered(number):
        now = datetime.now(timezone.utc)
        stored(to_binary_event(event(type="Counted", id=str(number), time=now, data={"number": number})))

    run(numbered, lambda: None)


def logs(url, key):
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
    from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    resource = Resource.create({"service.name": "shop web", "user.id": "opentelemetry-pypi"})
    provider = LoggerProvider(resource=resource)
    endpoint, headers = url + "/v1/logs", {"x-api-key": key}
    exporter = OTLPLogExporter(endpoint=endpoint, headers=headers, compression=Compression.Gzip, timeout=60)
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter, schedule_delay_millis=200))
    logger = logging.getLogger("counted")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(LoggingHandler(logger_provider=provider))

    def finish():
        assert provider.force_flush(60_000)
        provider.shutdown()

    run(lambda number: logger.info("counted", extra={"event.name": "Counted", "number": number}), finish)


name, url, key = sys.argv[1:]
{"segment-analytics-python": segment, "cloudevents-pypi": cloudevents, "opentelemetry-pypi": logs}[name](url, key)
