"""Compares the verdicts of a gateway with those of protovalidate, which knows nothing but the options in the proto files,
over a corpus that is made from those options.

    check_constraints.py PROTO_DIRECTORY URL KEYED_URL KEY_OF_THE_APP_SHOP

The gateway at URL asks for no key. Prints a summary as JSON; fails at the first verdict that differs, unless
docs/events.md says that it does.
"""

import json
import math
import random
import struct
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict

import requests
from google.protobuf import json_format

EVENTS = 10_000
BATCH_BYTES = 2_000_000
JSON, BINARY = "application/json", "application/x-protobuf"
# Strings longer than this come in the cases that are about their length alone.
LONG = 1_000

proto, url, keyed_url, key = sys.argv[1:]
generated = tempfile.TemporaryDirectory()
files = ["buf/validate/validate.proto", "causality/v1/events.proto", "causality/v1/service.proto"]
protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}", f"--python_out={generated.name}", *files]
subprocess.run(protoc, check=True)
sys.path.insert(0, generated.name)
# Some versions of protovalidate bring these messages along, others take ours.
import protovalidate  # noqa: E402
from buf.validate import validate_pb2  # noqa: E402
from causality.v1 import events_pb2, service_pb2  # noqa: E402

rng = random.Random(14)
session = requests.Session()
ENVELOPE = events_pb2.EventEnvelope.DESCRIPTOR
PAYLOADS = list(ENVELOPE.oneofs_by_name["payload"].fields)


def kind(field):
    if field.message_type is None:
        return field.enum_type and "enum" or {1: "double", 2: "float", 3: "int64", 5: "int32", 8: "bool", 9: "string"}[field.type]
    if field.message_type.GetOptions().map_entry:
        return "map"
    return "properties" if field.message_type.full_name == "google.protobuf.Struct" else "message"


def options(field):
    return field.GetOptions().Extensions[validate_pb2.field]


def rules(message, prefix=""):
    """Each option that is set, by its path: `map.keys.string.max_bytes`."""
    for field, value in message.ListFields():
        assert not field.is_extension and field.name != "cel", f"no cases for {field.full_name}"
        if field.message_type is None:
            yield prefix + field.name, value
        else:
            yield from rules(value, f"{prefix}{field.name}.")


def places(message, path=()):
    """Every field of an event, as the fields that lead to it."""
    for field in message.fields:
        yield (*path, field)
        if kind(field) == "message":
            yield from places(field.message_type, (*path, field))


def fill(message):
    """Gives the message what it cannot go without."""
    for field in message.DESCRIPTOR.fields:
        if options(field).required and not getattr(message, field.name):
            setattr(message, field.name, "x")
    return message


def event_with(path):
    """A valid event, and in it the message that holds the last field of the path."""
    event = fill(events_pb2.EventEnvelope(app_id="shop"))
    if path[0] not in PAYLOADS:
        event.app_start.is_cold_start = True
    message = event
    for field in path[:-1]:
        if field.is_repeated:
            message = getattr(message, field.name).add()
        else:
            message = getattr(message, field.name)
            message.SetInParent()
        fill(message)
    return event, message


def put(message, field, value):
    if kind(field) == "map" or field.is_repeated:
        message.ClearField(field.name)
        holder = getattr(message, field.name)
        holder.update(value) if kind(field) == "map" else holder.extend(value)
    else:
        setattr(message, field.name, value)


# What can be there.

LETTERS = "azAZ059._- /~é世🦀\u00a0\u2028"
CONTROLS = "\x00\t\n\x1f\x7f\x80\x85\x9f"


def text_of(alphabet, most):
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(0, most)))


def texts_around(limit):
    """Of as many bytes as are allowed and of one more, in characters of one, two and four bytes."""
    longest = ["x", "é" * (limit // 2) + "a" * (limit % 2)]
    if limit < LONG:
        longest += ["", "a" * limit, "a" * (limit - 1), "🦀" * (limit // 4), "a" * (limit + 2), "🦀" * (limit // 4) + "a" * (limit % 4 + 1)]
    return longest + ["a" * (limit + 1), "é" * (limit // 2) + "a" * (limit % 2 + 1)]


def texts_like():
    """Among them those that each pattern allows, and each by a little not."""
    ascii_letters = [chr(code) for code in (*range(65, 91), *range(97, 123))]
    names = ["EUR", "eur", "EURO", "EU", "E1R", "", "é", "EUR\n", "\u0130AB", "a.b", "-a", ".a", "a b", "0-_.", "_"]
    free = [text_of(LETTERS, 12) for _ in range(6)]
    controlled = [text_of(LETTERS, 4) + control + text_of(LETTERS, 4) for control in CONTROLS]
    return names + free + controlled + ["".join(rng.choices(ascii_letters, k=3)) for _ in range(4)]


def integers_around(limit, bits):
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    near = [limit + step for step in (-2, -1, 0, 1, 2)]
    return [number for number in [*near, low, high, 0, -1, rng.randint(low, high)] if low <= number <= high]


def floats(name):
    greatest = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0] if name == "float" else sys.float_info.max
    return [0.0, -0.0, 1.5, -0.1, greatest, -greatest, 1e-40, math.nan, math.inf, -math.inf]


def member(name, step):
    return {"string": f"v{step}", "int64": step - 5, "double": step / 4, "bool": step % 2 == 0}[name]


def cases(field, rule, limit):
    """Values of the field on both sides of one of its rules."""
    name = kind(field)
    value_name = kind(field.message_type.fields_by_name["value"]) if name == "map" else name
    if rule == "required":
        return ["", "x", "é", None, "x y", None]
    if rule in ("string.max_bytes", "string.pattern"):
        return texts_around(limit) if rule == "string.max_bytes" else texts_like()
    if rule in ("int32.gte", "int32.lte", "int64.gte", "int64.lte"):
        return integers_around(limit, int(rule[3:5]))
    if rule in ("float.finite", "double.finite"):
        return floats(name)
    if rule in ("map.max_pairs", "repeated.max_items"):
        counts = [0, 1, limit - 1, limit, limit + 1, limit + 2, 2 * limit]
        if name == "map":
            return [{f"k{step}": member(value_name, step) for step in range(count)} for count in counts]
        make = field.message_type._concrete_class if name == "message" else str
        return [[make() for _ in range(count)] for count in counts]
    if rule == "repeated.items.string.max_bytes":
        return [["x", text] for text in texts_around(limit)]
    if rule == "map.keys.string.max_bytes":
        return [{text: member(value_name, 1), "b": member(value_name, 2)} for text in texts_around(limit)]
    if rule == "map.values.string.max_bytes":
        return [{"a": "x", "é": text} for text in texts_around(limit)]
    assert rule == "map.values.double.finite", f"no cases for {rule}"
    return [{"a": 1.0, "": number} for number in floats("double")]


def targeted():
    """Events about one rule of one field each, with the name of that rule."""
    for path in places(ENVELOPE):
        for rule, limit in rules(options(path[-1])):
            for value in cases(path[-1], rule, limit):
                event, message = event_with(path)
                message.ClearField(path[-1].name) if value is None else put(message, path[-1], value)
                # Without a key the gateway asks for it: one of the documented differences.
                event.app_id = event.app_id or "shop"
                yield ".".join(field.name for field in path) + " " + rule, event
    for payload in PAYLOADS:
        for _ in range(2):
            event = fill(events_pb2.EventEnvelope(app_id="shop"))
            yield "payload required", events_pb2.EventEnvelope.FromString(event.SerializeToString())
            getattr(event, payload.name).SetInParent()
            fill(getattr(event, payload.name))
            yield "payload required", event


def random_value(field, wild):
    name = kind(field)
    if name in ("map", "message", "properties"):
        return None
    if wild and (given := list(rules(options(field)))):
        rule, limit = rng.choice(given)
        if field.is_repeated or rule == "string.max_bytes" and limit > LONG:
            return None
        return rng.choice(cases(field, rule, limit))
    if field.is_repeated:
        return [text_of(LETTERS, 8) for _ in range(rng.randint(0, 5))]
    if name == "string":
        like_name = {"currency": ["", "EUR", "usd"], "app_id": ["shop", "a.b-c_9"]}.get(field.name)
        return rng.choice(like_name) if like_name else "x" + text_of(LETTERS, 10)
    if name in ("int32", "int64"):
        return rng.choice([0, 1, rng.randint(0, 100), 100])
    if name == "enum":
        return rng.choice(field.enum_type.values).number
    return {"bool": rng.random() < 0.5, "float": 0.5, "double": -2.25}[name]


def scatter(message, wild):
    """Fills in fields at random; `wild` ones may be what is not allowed."""
    for field in message.DESCRIPTOR.fields:
        if field in PAYLOADS or rng.random() < 0.4:
            continue
        name = kind(field)
        if name == "message":
            for _ in range(rng.randint(1, 3) if field.is_repeated else 1):
                inner = getattr(message, field.name)
                inner = inner.add() if field.is_repeated else inner
                inner.SetInParent()
                scatter(inner, wild)
        elif name == "map":
            value = kind(field.message_type.fields_by_name["value"])
            put(message, field, {text_of(LETTERS, 6): member(value, step) for step in range(rng.randint(0, 4))})
        elif name == "properties":
            getattr(message, field.name).update({"a é": [1, "x", {"b": None}], text_of(LETTERS, 5): True})
        elif (value := random_value(field, wild and rng.random() < 0.15)) is not None:
            put(message, field, value)


def scattered():
    event = fill(events_pb2.EventEnvelope(app_id="shop"))
    wild = rng.random() < 0.6
    scatter(event, wild)
    if not event.app_id:
        event.app_id = "shop"
    if not wild or rng.random() < 0.95:
        payload = getattr(event, rng.choice(PAYLOADS).name)
        payload.SetInParent()
        if not wild or rng.random() < 0.7:
            fill(payload)
        scatter(payload, wild)
    return event


# The two verdicts.

def violations(message):
    return protovalidate.collect_violations(message)


def post(path, body, content_type, base=url, headers={}):
    return session.post(base + path, data=body, headers={"Content-Type": content_type, **headers})


def as_json(event):
    escaped, own_names = event.ByteSize() < LONG, rng.random() < 0.5
    text = json_format.MessageToJson(event, indent=None, preserving_proto_field_name=own_names, ensure_ascii=escaped)
    return text.encode()


def gateway(bodies, content_type, **where):
    """What the gateway says of each event: None, or what is wrong. Each body is an encoded event."""
    errors, batch, size = [], [], 0

    def send():
        if content_type == JSON:
            body = b'{"events":[' + b",".join(batch) + b"]}"
        else:
            body = b"".join(b"\x0a" + varint(len(event)) + event for event in batch)
        reply = post("/v1/events/batch", body, content_type, **where)
        assert reply.status_code == 200, reply.text[:500]
        if content_type == JSON:
            results = json_format.Parse(reply.text, service_pb2.IngestEventBatchResponse()).results
        else:
            results = service_pb2.IngestEventBatchResponse.FromString(reply.content).results
        assert len(results) == len(batch)
        errors.extend(None if result.status == "accepted" else result.error for result in results)
        assert all((result.status == "accepted") != bool(result.error) for result in results)

    for body in bodies:
        if batch and (len(batch) == 1000 or size + len(body) > BATCH_BYTES):
            send()
            batch, size = [], 0
        batch.append(body)
        size += len(body)
    send()
    return errors


def varint(number):
    out = b""
    while number >= 0x80:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def pointer(name):
    """Where the gateway says that a field is."""
    steps, message = [], ENVELOPE
    for step in name.split()[0].split("."):
        field = message.fields_by_name[step]
        # Lists of messages have one, when the name leads into them.
        steps += [field.json_name, "0"] if field.is_repeated and kind(field) == "message" else [field.json_name]
        message = field.message_type
    return "/" + "/".join(steps[:-1] if steps[-1] == "0" else steps)


def compare():
    corpus = list(targeted())
    corpus += [("random", scattered()) for _ in range(EVENTS - len(corpus))]
    assert len(corpus) == EVENTS
    rng.shuffle(corpus)
    expected = [violations(event) for _, event in corpus]
    binary = gateway((event.SerializeToString() for _, event in corpus), BINARY)
    text = gateway((as_json(event) for _, event in corpus), JSON)
    shares = defaultdict(Counter)
    for (name, event), wrong, *errors in zip(corpus, expected, binary, text, strict=True):
        shares[name][bool(wrong)] += 1
        for error in errors:
            what = f"{name}: protovalidate says {[str(w.proto) for w in wrong]}, the gateway {error!r} of {str(event)[:300]!r}"
            assert bool(wrong) == bool(error), what
            if error and name not in ("random", "payload required"):
                assert error.startswith(pointer(name)), what
    for name, share in shares.items():
        assert share[True] >= 2 and share[False] >= 2, f"{name} is not tried on both sides: {share}"
    invalid = sum(map(bool, expected))
    of_rule = Counter(name.split()[-1] for name in shares if name != "random")
    return {"events": EVENTS, "invalid": invalid, "random": dict(shares["random"]), "rules": of_rule}


# What options cannot say: docs/events.md has the list.

def custom(**fields):
    return events_pb2.EventEnvelope(app_id="shop", device_id="d", custom_event=events_pb2.CustomEvent(event_name="e", **fields))


def with_properties(value):
    event = custom()
    event.custom_event.properties.update(value)
    return event


def nested(levels):
    value = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


def large(size):
    """An event that the gateway stores in about so many bytes: it adds an id and a timestamp."""
    event = custom(string_params={f"k{step}": "x" * 250_000 for step in range(3)})
    event.custom_event.string_params["rest"] = "x" * (size - 750_000)
    return event


def differing():
    """Events that protovalidate allows, with what the gateway says of them in the two forms."""
    of_properties = "/customEvent/properties"
    for value, at, detail in [
        (nested(31), "/a" * 30, "must not nest deeper than 30 levels"),
        ({f"k{step}": 1 for step in range(1_001)}, "", "must have at most 1000 values, at all levels together"),
        ({"a": {"k" * 257: 1}}, "/a/" + "k" * 128, "the key must have at most 256 bytes"),
        ({"a": ["x" * 262_145]}, "/a/0", "must have at most 262144 bytes"),
        ({"a": math.nan}, "/a", "must be a finite number"),
    ]:
        error = f"{of_properties}{at}: {detail}"
        event = with_properties(value)
        # JSON has no NaN, and the mapping does not let `properties` say it in words.
        yield event, event.SerializeToString(), None if detail.endswith("number") else as_json(event), (error, error)
    event = large(1_000_000)
    error = "must have at most 1000000 bytes when it is encoded, and has "
    yield event, event.SerializeToString(), as_json(event), (error, error)
    event = custom()
    event.app_id = ""
    yield event, event.SerializeToString(), as_json(event), ("/appId: is required",) * 2
    # Decoders keep the last of two payloads and the last of two entries with one key; the gateway counts what is sent.
    two = custom().SerializeToString() + events_pb2.EventEnvelope(app_start=events_pb2.AppStart()).SerializeToString()
    error = "/appStart: more than one payload: exactly one is allowed"
    yield events_pb2.EventEnvelope.FromString(two), two, None, (error, None)
    entry = events_pb2.CustomEvent(int_params={"k": 1}).SerializeToString()
    payload = events_pb2.CustomEvent(event_name="e").SerializeToString() + entry * 1_001
    twice = events_pb2.EventEnvelope(app_id="shop", device_id="d").SerializeToString()
    twice += varint(900 << 3 | 2) + varint(len(payload)) + payload
    error = "/customEvent/intParams: must have at most 1000 elements"
    yield events_pb2.EventEnvelope.FromString(twice), twice, None, (error, None)
    # A newer client's enum value has a number that has no name here.
    event = events_pb2.EventEnvelope(app_id="shop", device_id="d", battery_change=events_pb2.BatteryChange(state=99))
    error = "/batteryChange/state: must be one of "
    yield event, event.SerializeToString(), as_json(event), (None, error)


def check_differences():
    count = 0
    for event, binary, text, (of_binary, of_json) in differing():
        assert not violations(event), violations(event)
        count += 1
        for body, content_type, error in [(binary, BINARY, of_binary), (text, JSON, of_json)]:
            if body is None:
                continue
            [got] = gateway([body], content_type)
            assert (got or "").startswith(error or "") and bool(got) == bool(error), (got, error)
    # At the limits of `properties` both say yes.
    for event in [with_properties(nested(30)), with_properties({f"k{step}": 1 for step in range(1_000)}), large(999_500),
                  with_properties({"a": {"k" * 256: "x" * 262_144}})]:
        bodies = (event.SerializeToString(), BINARY), (as_json(event), JSON)
        assert not violations(event) and all(gateway([body], form) == [None] for body, form in bodies)
    # With a key, an event needs no app, and has no other.
    for app, error in [("", None), ("shop", None), ("other", "/appId: must be the app of the API key")]:
        event = custom()
        event.app_id = app
        for body, content_type in [(event.SerializeToString(), BINARY), (as_json(event), JSON)]:
            got = gateway([body], content_type, base=keyed_url, headers={"X-API-Key": key})
            assert not violations(event) and got == [error], got
    return count


def check_requests():
    """A request as a whole; a batch with one bad event is refused by protovalidate, and not by the gateway."""
    single, batch = service_pb2.IngestEventRequest, service_pb2.IngestEventBatchRequest
    good, bad = custom(), custom()
    bad.custom_event.event_name = ""
    for path, request, status in [
        ("ingest", single(), 400), ("ingest", single(event=good), 200), ("ingest", single(event=bad), 400),
        ("batch", batch(), 400), ("batch", batch(events=[good]), 200), ("batch", batch(events=[good] * 1_000), 200),
        ("batch", batch(events=[good] * 1_001), 400),
    ]:
        for body, content_type in [(request.SerializeToString(), BINARY), (as_json(request), JSON)]:
            reply = post(f"/v1/events/{path}", body, content_type)
            assert reply.status_code == status and bool(violations(request)) == (status == 400), (path, reply.text[:300])
    mixed = batch(events=[good, bad])
    assert violations(mixed) and post("/v1/events/batch", mixed.SerializeToString(), BINARY).status_code == 200


summary = compare()
summary["differences"] = check_differences()
check_requests()
print(json.dumps(summary))
