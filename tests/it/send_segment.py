"""Sends one of each kind of call, and so many more while the server comes and goes, with Segment's own client.

    send_segment.py URL KEY MORE
"""

import sys
import time

from segment.analytics.client import Client

url, key, more = sys.argv[1:]
failed = []
client = Client(key, host=url, gzip=True, max_retries=15, upload_size=20, upload_interval=0.05,
                on_error=lambda error, batch: failed.append(str(error)))
client.identify("u", {"email": "é@example.com"}, anonymous_id="a")
client.track("u", "Order Completed", {"order_id": "o", "total": 9.99, "products": [{"product_id": "p", "quantity": 2}]})
client.page("u", "docs", "Intro", {"url": "https://example.com/docs"})
client.screen("u", "main", "Home", {})
client.group("u", "g", {"name": "Acme"})
client.alias("old", "u")
for number in range(int(more)):
    client.track("u", "Counted", {"number": number}, anonymous_id="a")
    time.sleep(0.002)
client.flush()
client.join()
assert not failed, failed
