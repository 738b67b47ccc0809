"""What Schemathesis cannot know of the gateway from its document: forms that are not JSON, and what excludes what."""
import gzip
import json
import sys
import zlib
from pathlib import Path

import schemathesis
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
sys.dont_write_bytecode = True
from check import undocumented_headers


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, content):
    content = content if isinstance(content, bytes) else content.encode()
    return varint(number << 3 | 2) + varint(len(content)) + content


NAMES = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=20)


@st.composite
def requests(draw):
    """A request of one event, and at the same time a batch of one."""
    payload = field(1, draw(NAMES)) + field(2, field(1, draw(NAMES)) + field(2, draw(NAMES)))
    return field(1, field(2, "shop") + field(3, draw(NAMES)) + field(900, payload))


schemathesis.openapi.media_type(
    "application/x-protobuf", requests(), aliases=["application/protobuf", "application/octet-stream"]
)


@schemathesis.serializer("text/plain")
def beacon(context, value):
    return value if isinstance(value, (bytes, str)) else json.dumps(value).encode()


@schemathesis.serializer("application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines")
def lines(context, value):
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else json.dumps(value).encode()


@schemathesis.check
def no_undocumented_header(context, response, case):
    # Other methods than that of the operation are tried as well; what they are answered is not its.
    if case.method.upper() != case.operation.method.upper():
        return
    document, operation = case.operation.schema.raw_schema, case.operation.definition.raw
    unknown = undocumented_headers(document, operation, response.status_code, response.headers)
    assert not unknown, f"headers that are not documented: {', '.join(sorted(unknown))}"


@schemathesis.hook
def before_call(context, case, kwargs):
    headers = case.headers or {}
    if is_binary_cloud_event(case):
        # One header chooses the mode, the others are needed with it: no document can say that.
        headers.update({"ce-id": "1017", "ce-source": "/orders", "ce-type": "order.paid", "ce-appid": "shop"})
        headers.update({"ce-time": "2026-08-01T09:00:00Z", "ce-deviceid": "d-1", "ce-subject": "s"})
        headers.update({name: "x" for name in ("ce-userid", "ce-sessionid", "ce-correlationid") if name in headers})
        headers.pop("Idempotency-Key", None)
    if headers.get("Content-Encoding") in ("br", "zstd"):
        # What Python brings nothing for.
        headers["Content-Encoding"] = "gzip"
    if headers.get("Content-Encoding") in ("gzip", "deflate"):
        kwargs["auth"] = compress


def compress(request):
    """The last that happens to a request before it is sent."""
    body = request.body or b""
    body = body.encode() if isinstance(body, str) else body
    request.body = gzip.compress(body) if request.headers["Content-Encoding"] == "gzip" else zlib.compress(body)
    return request


def is_binary_cloud_event(case):
    return (case.headers or {}).get("ce-specversion") == "1.0" and "cloudevents" not in (case.media_type or "")


@schemathesis.hook
def filter_case(context, case):
    # The one protobuf message that the strategy does not make.
    return not (case.path == "/v1/logs" and case.media_type == "application/x-protobuf")


@schemathesis.hook
def filter_failure(context, failure, case, response):
    # A CloudEvent has a key of its own, which is beyond what a document can say of a header.
    if b"Idempotency-Key is not for CloudEvents" in response.content:
        return False
    # Each event of a batch is judged alone: what is wrong with one is in its result. Any text is a write key, and what
    # is not text becomes that in a path.
    if failure.code == "ST201" and (is_batch(case) or case.path.startswith("/v1/projects/")):
        return False
    # Any body is the data of a CloudEvent in the binary mode, and an empty coding is none.
    if failure.code == "ST201" and (is_binary_cloud_event(case) or (case.headers or {}).get("Content-Encoding") == ""):
        return False
    # Whoever tries one wrong token after the other is slowed down.
    return "429 Too Many Requests" not in failure.message


def is_batch(case):
    return case.path in ("/v1/events/batch", "/v1/batch", "/v1/b", "/v1/import") or "batch" in (case.media_type or "")
