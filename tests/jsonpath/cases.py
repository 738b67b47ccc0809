"""Paths and documents with what jsonpath-rfc9535 answers, one JSON object a line.

The seed is fixed, so that every run has the same cases. Members of objects are in the order of their
names, as ours are.
"""

import json
import random
import re
import sys

from jsonpath_rfc9535 import JSONPathEnvironment, JSONPathError

CASES = int(sys.argv[1])
# Mistakes of theirs: a comparison of a comparison, and a comma after the last argument, are taken.
MISTAKES = [re.compile(r"(==|!=|<=?|>=?)[^&|()\[\],?'\"]*(==|!=|<|>)"), re.compile(r",\s*\)")]


class Random:
    """Draws the same on every version of Python, which promises that of `random()` alone."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def randrange(self, start, stop=None):
        start, stop = (0, start) if stop is None else (start, stop)
        return start + int(self.random() * (stop - start))

    def choice(self, values):
        return values[self.randrange(len(values))]


rng = Random(9535)
NAMES = ["a", "b", "c", "é", "x y"]


def document(depth):
    kind = rng.randrange(10 if depth else 6)
    if kind == 0:
        return rng.choice([0, 1, 2, -1, 10, 9007199254740993, 9007199254740992, 18446744073709551615])
    if kind == 1:
        return rng.choice([0.5, 1.0, -1.5, 9007199254740992.0, 1e300])
    if kind == 2:
        return rng.choice(["", "a", "ab", "b", "é", "a.b", "1", "\n", "A"])
    if kind == 3:
        return rng.choice([True, False, None])
    if kind in (4, 6, 7):
        return [document(depth - 1) for _ in range(rng.randrange(4))] if depth else []
    names = sorted(name for name in NAMES if rng.random() < 0.4)
    return {name: document(depth - 1) if depth else 1 for name in names}


def blank():
    return rng.choice(["", "", "", "", " ", "\n", "\t "])


def quoted(text):
    if rng.random() < 0.5:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
    return json.dumps(text, ensure_ascii=rng.random() < 0.5)


def integer():
    return str(rng.choice([0, 1, 2, 3, -1, -2, -3, 9007199254740991]))


def selector(depth):
    kind = rng.randrange(10)
    if kind < 3:
        return quoted(rng.choice(NAMES))
    if kind < 5:
        return integer()
    if kind == 5:
        return "*"
    if kind == 6:
        parts = [rng.choice(["", integer()]) for _ in range(rng.randrange(2, 4))]
        return (blank() + ":" + blank()).join(parts)
    return "?" + blank() + logical(depth - 1) if depth else "*"


def segment(depth):
    kind = rng.randrange(8)
    if kind < 3:
        return "." + rng.choice(["a", "b", "c", "é", "*", "_x"])
    if kind == 3:
        return ".." + rng.choice(["a", "b", "*", "[0]", "[*]", "['a','b']"])
    selectors = [selector(depth) for _ in range(rng.choice([1, 1, 1, 1, 2]))]
    return "[" + blank() + (blank() + "," + blank()).join(selectors) + blank() + "]"


def query(depth, root="@"):
    # They take a query without segments, in a filter, for its value.
    least = 0 if root == "$" else 1
    if root == "@" and rng.random() < 0.2:
        root = "$"
    return root + "".join(blank() * (rng.random() < 0.1) + segment(depth) for _ in range(rng.randrange(least, 4)))


def singular():
    def step():
        return rng.choice([".a", ".b", "['c']", "[0]", "[-1]", ".é"])

    return rng.choice(["@", "@", "@", "$"]) + "".join(step() for _ in range(rng.randrange(3)))


def comparable(depth):
    kind = rng.randrange(12)
    if kind < 5:
        return singular()
    if kind < 7:
        return rng.choice(["0", "1", "-1", "1.0", "0.5", "1e0", "-0", "9007199254740993", "9007199254740992", "10E-1"])
    if kind < 9:
        return quoted(rng.choice(["", "a", "ab", "é", "1"]))
    if kind == 9:
        return rng.choice(["true", "false", "null"])
    if kind == 10:
        return "length(" + blank() + rng.choice([singular(), quoted("ab")]) + blank() + ")"
    # They do not take a comma after a filter inside of a function.
    return rng.choice(["count(", "value("]) + query(0) + ")"


def logical(depth):
    kind = rng.randrange(12)
    if kind < 4 or depth <= 0:
        sign = rng.choice(["==", "!=", "<", "<=", ">", ">="])
        return comparable(max(depth, 0)) + blank() + sign + blank() + comparable(max(depth, 0))
    if kind < 6:
        return query(depth)
    if kind == 6:
        return "!" + blank() + query(depth)
    if kind == 7:
        return "!(" + blank() + logical(depth - 1) + blank() + ")"
    if kind == 8:
        pattern = rng.choice([quoted(p) for p in ["a", "a.", ".*", "[ab]+", "a|b", "\\p{L}", "a\\.b", ".", "^a"]] + [singular()])
        return rng.choice(["match(", "search("]) + singular() + blank() + "," + blank() + pattern + ")"
    sign = rng.choice(["&&", "||"])
    return logical(depth - 1) + blank() + sign + blank() + logical(depth - 1)


def mutated(path):
    """A path with a mistake in it, often."""
    place = rng.randrange(len(path))
    other = rng.choice(list("$@.[]()'\"?*,:!=<>&|-0159eaé\\ \n") + ["..", "&&", "true", "count(", "\\u00e9", "\\ud800"])
    return rng.choice([path[:place] + path[place + 1 :], path[:place] + other + path[place:], path[:place] + other + path[place + 1 :]])


environment = JSONPathEnvironment()
for _ in range(CASES):
    path = query(3, "$")
    if rng.random() < 0.3:
        path = mutated(path)
    value = document(4)
    try:
        compiled = environment.compile(path)
        found = [node.value for node in compiled.find(value)]
    except JSONPathError:
        found = None
    except (AttributeError, RecursionError, TypeError):
        # A mistake of theirs says nothing of ours.
        continue
    if found is not None and any(mistake.search(path) for mistake in MISTAKES):
        continue
    print(json.dumps({"path": path, "document": value, "found": found}))
