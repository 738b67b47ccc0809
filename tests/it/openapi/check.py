"""Validates the OpenAPI document of a server, sends it every example, and compares the answers with the document.

check.py gateway URL KEY
check.py open URL
check.py admin URL TOKEN GATEWAY_URL KEY

`open` is a gateway that asks for no key and keeps what it refuses.
"""
import json
import re
import sys
import time

import requests
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from openapi_spec_validator import OpenAPIV31SpecValidator

# Of the message on the wire, not of what it says.
OF_THE_WIRE = {"connection", "content-length", "content-type", "date", "transfer-encoding"}
# Where events, CloudEvents and Segment's messages name their app.
NAMES_OF_APPS = ("appId", "appid", "writeKey")
METHODS = ("get", "head", "post", "put", "patch", "delete")
# What is there before it is looked at, and is looked at before it is gone.
ORDER = {"post": 0, "get": 1, "head": 1, "put": 2, "patch": 3, "delete": 5}
# Examples that cannot find what they name.
EXPECTED = {
    ("get", "/api/admin/dead-letters/{id}"): 404,
    ("delete", "/api/admin/dead-letters/{id}"): 404,
    ("post", "/api/admin/dead-letters/{id}/replay"): 404,
    ("post", "/api/admin/deliveries/{id}/retry"): 409,
}


def resolve(document, value):
    while isinstance(value, dict) and "$ref" in value:
        found = document
        for part in value["$ref"][2:].split("/"):
            found = found[part.replace("~1", "/").replace("~0", "~")]
        value = found
    return value


def validate(document, schema, instance):
    # At the root, so that references within the document lead somewhere.
    whole = {**schema, "components": document["components"]}
    Draft202012Validator(whole, format_checker=FormatChecker()).validate(instance)


def undocumented_headers(document, operation, status, headers):
    """What a reply has and its response in the document does not; nothing of a status that is not documented itself."""
    if str(status) not in operation["responses"]:
        return set()
    response = resolve(document, operation["responses"][str(status)])
    return {name.lower() for name in headers} - {name.lower() for name in response.get("headers", {})} - OF_THE_WIRE


def check_answer(document, operation, reply, name):
    documented = operation["responses"]
    assert str(reply.status_code) in documented, f"{name}: {reply.status_code} is not documented: {reply.text[:300]}"
    unknown = undocumented_headers(document, operation, reply.status_code, reply.headers)
    assert not unknown, f"{name}: {reply.status_code} with {unknown}, which is not documented"
    response = resolve(document, documented[str(reply.status_code)])
    for header, given in response.get("headers", {}).items():
        if header in reply.headers:
            schema = resolve(document, given)["schema"]
            value = int(reply.headers[header]) if schema["type"] == "integer" else reply.headers[header]
            validate(document, schema, value)
    content = response.get("content")
    if not reply.content or reply.request.method == "HEAD":
        return
    media_type = reply.headers["content-type"].split(";")[0]
    assert content and media_type in content, f"{name}: {media_type} is not documented"
    if media_type.endswith("json"):
        validate(document, content[media_type].get("schema", {}), reply.json())


def encode(media_type, value):
    return (value if isinstance(value, str) else json.dumps(value)).encode()


class Client:
    def __init__(self, url, headers):
        self.url, self.headers = url, headers
        self.document = requests.get(f"{url}/openapi.json", timeout=60).json()
        OpenAPIV31SpecValidator(self.document).validate()
        self.check_examples_fit()

    def check_examples_fit(self):
        for path, method, operation in self.operations():
            contents = [operation.get("requestBody", {}).get("content", {})]
            contents += [resolve(self.document, r).get("content", {}) for r in operation["responses"].values()]
            for content in contents:
                for media in content.values():
                    examples = [example["value"] for example in media.get("examples", {}).values()]
                    examples += [media["example"]] if "example" in media else []
                    for example in examples:
                        validate(self.document, media["schema"], example)
            for parameter in operation.get("parameters", []):
                if "example" in parameter:
                    validate(self.document, parameter["schema"], parameter["example"])

    def operations(self):
        for path, item in self.document["paths"].items():
            for method in METHODS:
                if method in item:
                    yield path, method, item[method]

    def bodies(self, operation):
        """Each content type with each example; nothing where no body is sent."""
        if "requestBody" not in operation:
            return [(None, None)]
        found = []
        for media_type, media in operation["requestBody"]["content"].items():
            found += [(media_type, encode(media_type, e["value"])) for e in media.get("examples", {}).values()]
        return found

    def send(self, path, method, operation, values=None):
        sent = 0
        for media_type, body in self.bodies(operation):
            target, query, headers = path, {}, dict(self.headers)
            for parameter in operation.get("parameters", []):
                name, example = parameter["name"], (values or {}).get(parameter["name"], parameter.get("example"))
                if parameter["in"] == "path":
                    target = target.replace("{" + name + "}", requests.utils.quote(str(example), safe=""))
                elif example is not None and parameter["in"] == "query":
                    query[name] = example
                elif example is not None and (name != "Idempotency-Key" or media_type == "application/json"):
                    headers[name] = str(example)
            if media_type:
                headers["Content-Type"] = media_type
            reply = requests.request(method, self.url + target, params=query, headers=headers, data=body, timeout=60)
            name = f"{method} {target} {media_type} {body and body[:200]}"
            check_answer(self.document, operation, reply, name)
            expected = EXPECTED.get((method, path))
            ok = reply.status_code == expected if expected else reply.status_code < 300
            assert ok, f"{name}: {reply.status_code} {reply.text[:300]}"
            sent += 1
        return sent


def without_app(value):
    if isinstance(value, dict):
        return {name: without_app(member) for name, member in value.items() if name not in NAMES_OF_APPS}
    if isinstance(value, list):
        return [without_app(element) for element in value]
    return value


def is_valid(document, schema, instance):
    try:
        validate(document, schema, instance)
    except ValidationError:
        return False
    return True


def check_apps(client, asks_for_keys):
    """Who names no app is taken in where a key says which it is, and nowhere else; the document says the same."""
    sent = 0
    for path, method, operation in client.operations():
        for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
            for example in media.get("examples", {}).values():
                value = example["value"]
                if isinstance(value, str):
                    value = "".join(f"{json.dumps(without_app(json.loads(line)))}\n" for line in value.splitlines())
                elif without_app(value) == value:
                    continue
                else:
                    value = without_app(value)
                    assert is_valid(client.document, media["schema"], value) == asks_for_keys, f"{path} {media_type} {value}"
                headers = {**client.headers, "Content-Type": media_type}
                reply = requests.request(method, client.url + path, headers=headers, data=encode(media_type, value), timeout=60)
                name = f"{path} {media_type} without an app"
                check_answer(client.document, operation, reply, name)
                accepted = reply.status_code == 200 and not reply.json().get("rejectedCount")
                assert accepted == asks_for_keys, f"{name}: {reply.status_code} {reply.text[:300]}"
                assert ("X-Quarantined" in reply.headers) != asks_for_keys, f"{name}: {reply.headers}"
                sent += 1
    return sent


def check_binary_mode(client, asks_for_keys):
    """A CloudEvent whose attributes are headers, with each of them, and without each that is needed."""
    content = client.document["paths"]["/v1/events/ingest"]["post"]["requestBody"]["content"]
    event = content["application/cloudevents+json"]["examples"]["orderPaid"]["value"]
    attributes = {f"ce-{name}": text for name, text in event.items() if not name.startswith("data")}
    more = ("ce-subject", "ce-dataschema", "ce-userid", "ce-sessionid", "ce-correlationid")
    attributes.update({name: "x" for name in more})
    needed = {"ce-id", "ce-source", "ce-type"} | (set() if asks_for_keys else {"ce-appid"})
    sent = 0
    for path in ("/v1/events/ingest", "/v1/events/batch"):
        operation = client.document["paths"][path]["post"]
        documented = {one["name"]: one for one in operation["parameters"]}
        assert set(attributes) == {name for name in documented if name.startswith("ce-")}, documented.keys()
        about = documented["ce-specversion"]["description"]
        assert {name for name in attributes if f"`{name}`" in about} == needed, about
        for left_out in (None, *attributes):
            headers = {name: text for name, text in attributes.items() if name != left_out}
            headers.update(client.headers, **{"Content-Type": "application/json"})
            reply = requests.post(client.url + path, headers=headers, data=json.dumps(event["data"]), timeout=60)
            name = f"{path} in the binary mode without {left_out}"
            check_answer(client.document, operation, reply, name)
            # Without a version it is no CloudEvent, and no event either.
            taken_in = left_out not in needed | {"ce-specversion"}
            assert (reply.status_code == 200) == taken_in, f"{name}: {reply.status_code} {reply.text[:300]}"
            sent += 1
    return sent


def open_gateway(url):
    client = Client(url, {"Origin": "https://shop.example"})
    sent = sum(client.send(path, method, operation) for path, method, operation in client.operations())
    return sent + check_apps(client, False) + check_binary_mode(client, False)


def gateway(url, key):
    client = Client(url, {"X-API-Key": key, "Origin": "https://shop.example"})
    sent = check_apps(client, True) + check_binary_mode(client, True)
    for path, method, operation in client.operations():
        # What only protobuf has no example for is sent by the other tests.
        sent += client.send(path, method, operation)
        if operation["security"] and not re.fullmatch(r"/v1/m|.*/settings", path):
            for media_type, body in client.bodies(operation):
                headers = {"Content-Type": media_type}
                reply = requests.request(method, url + path, headers=headers, data=body and body.replace(b"writeKey", b"x"), timeout=60)
                assert reply.status_code == 401, f"{method} {path} without a key: {reply.status_code}"
                check_answer(client.document, operation, reply, f"{method} {path} without a key")
    return sent


def admin(url, token, gateway_url, key):
    client = Client(url, {"Authorization": f"Bearer {token}"})
    operations = sorted(client.operations(), key=lambda one: place(one[0], one[1]))
    sent, delivery = 0, None
    for path, method, operation in operations:
        values = {}
        if "/deliveries/{id}" in path:
            delivery = delivery or make_delivery(client, gateway_url, key)
            values["id"] = delivery
        sent += client.send(path, method, operation, values)
        if operation["security"]:
            target = re.sub(r"\{id\}", "7", path)
            reply = requests.request(method, url + target, timeout=60)
            assert reply.status_code == 401, f"{method} {path} without a token: {reply.status_code}"
            check_answer(client.document, operation, reply, f"{method} {path} without a token")
    return sent


def place(path, method):
    """When an operation is tried: a webhook is there before the rule that calls it, and stays while that does."""
    creating = ["/webhooks", "/rules", "/anomalies"]
    rank = next((n for n, part in enumerate(creating) if part in path), len(creating))
    if method == "delete":
        return ORDER[method], -rank
    # A delivery is made once the example of PATCH has disabled the webhook, so that nobody is called.
    return (4, 0) if "/deliveries/{id}" in path else (ORDER[method], rank)


def make_delivery(client, gateway_url, key):
    """Owed by a webhook that is disabled: nobody is called."""
    def api(method, path, body=None):
        reply = requests.request(method, f"{client.url}/api/admin{path}", json=body, headers=client.headers, timeout=60)
        assert reply.ok, reply.text
        return reply.json()

    api("PATCH", "/webhooks/ops", {"enabled": False})
    api("PATCH", "/rules/big%20purchase", {"enabled": True})
    event = {"appId": "shop", "deviceId": "d", "purchaseComplete": {"orderId": "1", "totalCents": 20000, "currency": "EUR"}}
    deadline = time.time() + 60
    while time.time() < deadline:
        reply = requests.post(f"{gateway_url}/v1/events/ingest", json={"event": event}, headers={"X-API-Key": key}, timeout=60)
        assert reply.ok, reply.text
        found = api("GET", "/deliveries?limit=1")["items"]
        if found:
            return found[0]["id"]
        time.sleep(0.2)
    raise AssertionError("no delivery")


if __name__ == "__main__":
    print({"gateway": gateway, "open": open_gateway, "admin": admin}[sys.argv[1]](*sys.argv[2:]))
