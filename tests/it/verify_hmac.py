"""Checks webhook signatures with Python's own hmac. Standard input: {"secret", "body", "hmac"} or
{"secret", "body", "id", "timestamp", "standard"}; exits non-zero when one does not hold."""

import base64
import hashlib
import hmac
import json
import sys

case = json.load(sys.stdin)
body = case["body"].encode()


def sign(key, message):
    return base64.b64encode(hmac.new(key, message, hashlib.sha256).digest()).decode()


if "hmac" in case:
    expected = "sha256=" + sign(case["secret"].encode(), body)
    assert case["hmac"] == expected, (case["hmac"], expected)
else:
    key = base64.b64decode(case["secret"].removeprefix("whsec_"))
    expected = "v1," + sign(key, f"{case['id']}.{case['timestamp']}.".encode() + body)
    assert expected in case["standard"].split(" "), (case["standard"], expected)
