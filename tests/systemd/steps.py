#!/usr/bin/env python3
"""What docs/systemd.md promises, tried one after the other in a machine that systemd has booted. tests/systemd/run
starts it; the package is /package.deb."""

import http.client
import json
import os
import pathlib
import re
import secrets
import signal
import stat
import subprocess
import sys
import threading
import time

SETTINGS = pathlib.Path("/etc/causality/causality.toml")
DATA = pathlib.Path("/var/lib/causality")
EVENT = {"event": {"appId": "shop", "deviceId": "d", "userLogin": {}}}
CONFIG = ["--config", str(SETTINGS)]


def sh(*command, check=True, **more):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def out(*command, **more):
    return sh(*command, **more).stdout.strip()


def systemctl(*arguments, check=True):
    return sh("systemctl", *arguments, check=check)


def shown(unit, name):
    return out("systemctl", "show", "--value", "--property", name, unit)


def main_pid(unit="causality.service"):
    return int(shown(unit, "MainPID"))


def wait(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"after {seconds} s: {what}"
        time.sleep(0.05)


def answer(path="/ready", port=8080, body=None, key=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json"} | ({"X-API-Key": key} if key else {})
    data = None if body is None else json.dumps(body)
    connection.request("GET" if body is None else "POST", path, data, headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def create_key(app="shop"):
    made = out("causality", "keys", "create", "--app", app, "--name", secrets.token_hex(8), "--requests-per-second", "1000000",
               "--burst", "1000000", "--json", *CONFIG)
    key = json.loads(made)["key"]
    # The gateway hears of it a moment later. Without a body the answer is 400 then, and nothing is stored.
    wait("the key is known", lambda: answer("/v1/events/ingest", body={}, key=key)[0] != 401)
    return key


def send(key):
    status, text = answer("/v1/events/ingest", body=EVENT, key=key)
    assert status == 200, (status, text)
    return json.loads(text)["eventId"]


def set_setting(name, value):
    lines = [line for line in SETTINGS.read_text().splitlines() if not line.startswith(f"{name} =")]
    SETTINGS.write_text("\n".join([*lines, f"{name} = {json.dumps(value)}", ""]))


def refused_connections():
    """Connections of this machine that nobody accepted, as its kernel counts them, of every client."""
    names, values = [line.split() for line in pathlib.Path("/proc/net/snmp").read_text().splitlines()
                     if line.startswith("Tcp:")]
    return int(values[names.index("AttemptFails")])


class Prober(threading.Thread):
    """Opens a connection a moment after the last, sends an event on it, and counts how each ended."""

    def __init__(self, key, pause=0.01):
        super().__init__(daemon=True)
        self.key, self.pause, self.outcomes, self.longest, self.over = key, pause, {}, 0.0, threading.Event()

    def run(self):
        while not self.over.wait(self.pause):
            began = time.monotonic()
            try:
                outcome = answer("/v1/events/ingest", body=EVENT, key=self.key)[0]
            except (OSError, http.client.HTTPException) as error:
                outcome = type(error).__name__
            self.longest = max(self.longest, time.monotonic() - began)
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def stop(self):
        """Every connection was accepted and every event with it."""
        self.over.set()
        self.join()
        assert set(self.outcomes) == {200}, self.outcomes
        return f"{self.outcomes}, the slowest after {self.longest:.1f} s"


def install():
    sh("dpkg", "-i", "/package.deb")
    assert shown("causality.service", "ActiveState") == "inactive", "an installation starts nothing"
    assert shown("causality.socket", "ActiveState") == "inactive"
    mode = SETTINGS.stat()
    assert (stat.S_IMODE(mode.st_mode), SETTINGS.owner(), SETTINGS.group()) == (0o640, "root", "causality"), mode
    found = re.findall(r'= "([0-9a-f]{64})"', SETTINGS.read_text())
    assert len(set(found)) == 2, "two random secrets"
    return f"causality.toml {oct(mode.st_mode)[-4:]} root:causality with two secrets; nothing runs"


def notify():
    began = time.monotonic()
    systemctl("enable", "--now", "causality.service")
    took = time.monotonic() - began
    status, text = answer()
    assert status == 200, f"ready as soon as systemctl returns: {status} {text}"
    assert shown("causality.socket", "ActiveState") == "active"
    assert out("systemctl", "is-enabled", "causality.socket", "causality.service") == "enabled\nenabled"
    line = shown("causality.service", "StatusText")
    assert line, "a status line"
    return f"ready {took * 1000:.0f} ms after the start; status line {line!r}"


def credentials():
    token = re.search(r'admin_token = "(\w+)"', SETTINGS.read_text())[1]
    pid = main_pid()
    environment = pathlib.Path(f"/proc/{pid}/environ").read_text()
    arguments = pathlib.Path(f"/proc/{pid}/cmdline").read_text()
    assert token not in environment + arguments, "no secret in the environment or the arguments"
    copy = pathlib.Path("/run/credentials/causality.service/causality.toml")
    assert token in copy.read_text() and stat.S_IMODE(copy.stat().st_mode) in (0o400, 0o440), copy.stat()
    assert answer("/api/admin/status", 9090)[0] == 401, "the admin API asks for a token"
    assert answer("/v1/events/ingest", body=EVENT)[0] == 401, "the gateway asks for a key"
    event = send(create_key())
    status = out("causality", "status", *CONFIG)
    as_nobody = sh("sudo", "-u", "nobody", "cat", str(SETTINGS), check=False)
    assert as_nobody.returncode != 0, "nobody else reads the settings"
    return f"event {event}; {status.splitlines()[0]}"


def data():
    assert (DATA.owner(), stat.S_IMODE(DATA.stat().st_mode)) == ("causality", 0o700)
    wait("a Parquet file", lambda: list(DATA.rglob("events_*.parquet")), 30)
    return ", ".join(sorted(path.name for path in DATA.iterdir()))


def security():
    score = {}
    for unit in ["causality.service", "causality@sink.service"]:
        text = out("systemd-analyze", "security", "--no-pager", "--threshold=20", unit)
        score[unit] = re.search(r"level for .*: ([0-9.]+)", text)[1]
    sh("systemd-analyze", "verify", "--man=no", *score, "causality.socket", "causality@gateway.service",
       "causality@gateway.socket")
    status = pathlib.Path(f"/proc/{main_pid()}/status").read_text()
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status, status
    return f"verify clean; {score}"


def watchdog():
    key = create_key()
    send(key)
    pid, restarts = main_pid(), int(shown("causality.service", "NRestarts"))
    limit = float(shown("causality.service", "WatchdogUSec").rstrip("s"))
    os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    wait("another process", lambda: int(shown("causality.service", "NRestarts")) > restarts, limit * 2 + 20)
    wait("it is ready", lambda: shown("causality.service", "ActiveState") == "active")
    took = time.monotonic() - began
    assert main_pid() != pid
    wait("events are taken", lambda: answer("/v1/events/ingest", body=EVENT, key=key)[0] == 200)
    journal = out("journalctl", "--no-pager", "-u", "causality.service", "-g", "Watchdog timeout")
    assert "Watchdog timeout" in journal, journal
    return f"stopped by SIGSTOP, killed and ready again after {took:.1f} s (WatchdogSec={limit:.0f})"


def killed():
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    key_wait = time.monotonic()
    assert answer("/health")[0] == 200, "it waits in the backlog"
    return f"answered {time.monotonic() - key_wait:.1f} s after a SIGKILL"


def load(connections=1000, seconds=30, restarts=3, rate=300):
    key, before = create_key("bench-shop"), refused_connections()
    prober = Prober(create_key())
    prober.start()
    bench = subprocess.Popen(
        ["causality", "bench", "--connections", str(connections), "--batch", "1", "--rate", str(rate), "--duration", f"{seconds}s",
         "--idempotency-keys", "--verify", str(DATA / "warehouse"), "--json"],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"CAUSALITY_API_KEY": key})
    took = []
    for _ in range(restarts):
        time.sleep(seconds / (restarts + 2))
        began = time.monotonic()
        systemctl("restart", "causality.service")
        took.append(round(time.monotonic() - began, 1))
    printed, problems = bench.communicate(timeout=180)
    outcomes = prober.stop()
    assert bench.returncode == 0, (printed, problems)
    report = json.loads(printed)
    assert refused_connections() == before, "no connection is refused"
    statuses, verified = report["statuses"], report["verification"]
    assert set(statuses) == {"200"} and verified["lost"] == 0 and verified["doubled"] == 0, report
    assert report["broken_connections"] <= restarts * connections, report
    return (f"{restarts} restarts of {took} s under {connections} connections, {rate} requests a second: no connection "
            f"refused; {report['accepted']} events accepted, none lost or doubled; answers {statuses}; "
            f"{report['broken_connections']} connections closed while idle, {report['retries']} requests sent again, "
            f"{report['unacknowledged']} not by the end of the run; beside it new connections: {outcomes}")


def activation():
    systemctl("stop", "causality.service")
    assert shown("causality.service", "ActiveState") == "inactive"
    began = time.monotonic()
    assert answer("/health")[0] == 200
    took = time.monotonic() - began
    wait("it is ready", lambda: shown("causality.service", "ActiveState") == "active")
    systemctl("stop", "causality.socket", "causality.service")
    try:
        answer("/health")
        raise AssertionError("with both stopped nothing listens")
    except ConnectionRefusedError:
        pass
    systemctl("start", "causality.service")
    assert shown("causality.socket", "ActiveState") == "active", "the service takes its socket with it"
    return f"a connection starts the service; answered after {took:.1f} s"


def drop_in(unit, text):
    """What `systemctl edit` writes; returns its file."""
    file = pathlib.Path(f"/etc/systemd/system/{unit}.d/override.conf")
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    systemctl("daemon-reload")
    return file


def variants():
    send(create_key())
    wait("a Parquet file", lambda: list(DATA.rglob("events_*.parquet")), 30)
    dry = out("sudo", "-u", "causality", "causality", "lake", "compact", "--dry-run", *CONFIG)
    foreign = [path for path in DATA.rglob("*") if path.owner() != "causality"]
    assert not foreign, foreign
    encrypted = "/etc/causality/causality.cred"
    sh("systemd-creds", "encrypt", "--name=causality.toml", str(SETTINGS), encrypted)
    file = drop_in("causality.service",
                   f"[Service]\nLoadCredential=\nLoadCredentialEncrypted=causality.toml:{encrypted}\n")
    away = SETTINGS.rename("/root/causality.toml")
    systemctl("restart", "causality.service")
    assert answer("/api/admin/status", 9090)[0] == 401, "it has the token of the encrypted file"
    file.unlink()
    systemctl("daemon-reload")
    assert systemctl("restart", "causality.service", check=False).returncode != 0
    assert shown("causality.service", "ExecMainStatus") == "243", "without its settings it does not start"
    away.rename(SETTINGS)
    systemctl("stop", "causality.socket", "causality.service")
    systemctl("mask", "causality.socket")
    systemctl("start", "causality.service")
    assert answer()[0] == 200, "without the socket it listens by itself"
    systemctl("stop", "causality.service")
    systemctl("unmask", "causality.socket")
    systemctl("reset-failed", "causality.service", "causality.socket", check=False)
    systemctl("start", "causality.service")
    return f"encrypted settings; missing ones are 243/CREDENTIALS; no socket; lake compact: {dry.splitlines()[0]!r}"


def refusals():
    before = SETTINGS.read_text()
    set_setting("http_addr", "nonsense")
    assert systemctl("restart", "causality.service", check=False).returncode != 0
    assert shown("causality.service", "ExecMainStatus") == "64"
    time.sleep(4)
    assert shown("causality.service", "NRestarts") == "0" and shown("causality.service", "ActiveState") == "failed"
    SETTINGS.write_text(before)
    systemctl("reset-failed", "causality.service", "causality.socket")
    systemctl("restart", "causality.service")
    # A socket that reaches further than the setting.
    override = drop_in("causality.socket", "[Socket]\nListenStream=\nListenStream=8080\n")
    systemctl("stop", "causality.socket", "causality.service")
    assert systemctl("start", "causality.service", check=False).returncode != 0
    said = out("journalctl", "--no-pager", "-u", "causality.service", "-n", "20", "-o", "cat")
    assert "set http_addr to the address of the socket" in said, said
    override.unlink()
    systemctl("daemon-reload")
    systemctl("stop", "causality.socket", "causality.service")
    systemctl("reset-failed", "causality.service", "causality.socket", check=False)
    systemctl("start", "causality.service")
    return "wrong settings end with 64 and stay down; a socket wider than http_addr is refused"


def upgrade():
    pid = main_pid()
    prober = Prober(create_key())
    prober.start()
    time.sleep(1)
    sh("dpkg", "-i", "/package.deb")
    time.sleep(1)
    outcomes = prober.stop()
    assert main_pid() != pid, "what runs is restarted"
    return f"new connections meanwhile: {outcomes}"


def roles():
    systemctl("disable", "--now", "causality.socket", "causality.service")
    pathlib.Path("/run/systemd/system/nats.service").write_text(
        "[Service]\nExecStart=/usr/local/bin/nats-server -js -sd /var/tmp/nats -a 127.0.0.1\n")
    systemctl("daemon-reload")
    systemctl("start", "nats.service")
    before = SETTINGS.read_text()
    # Without keys, and so without a PostgreSQL.
    set_setting("nats_url", "nats://127.0.0.1:4222")
    set_setting("nats_stream_readers", "sink")
    set_setting("nats_stream_max_bytes", "64MiB")
    set_setting("auth_enabled", False)
    systemctl("enable", "--now", "causality@gateway.service", "causality@sink.service")
    assert out("systemctl", "is-enabled", "causality@gateway.socket") == "enabled"
    for unit, port in [("causality@gateway.service", 9091), ("causality@sink.service", 9092)]:
        assert answer("/ready", port)[0] == 200, unit
    files = len(list(DATA.rglob("events_*.parquet")))
    prober = Prober(None)
    prober.start()
    time.sleep(1)
    systemctl("restart", "causality@gateway.service", "causality@sink.service")
    time.sleep(1)
    outcomes = prober.stop()
    wait("the sink writes", lambda: len(list(DATA.rglob("events_*.parquet"))) > files, 30)
    systemctl("disable", "--now", "causality@gateway.socket", "causality@gateway.service", "causality@sink.service")
    SETTINGS.write_text(before)
    systemctl("enable", "--now", "causality.service")
    return f"gateway and sink apart; new connections through a restart of both: {outcomes}"


def removal():
    sh("dpkg", "-r", "causality")
    assert shown("causality.service", "ActiveState") != "active" and not pathlib.Path("/usr/bin/causality").exists()
    enabled = [path for path in pathlib.Path("/etc/systemd/system").rglob("causality*") if path.is_symlink()]
    assert not enabled, enabled
    assert SETTINGS.exists() and (DATA / "bus.db").exists(), "settings and data stay"
    sh("dpkg", "-P", "causality", env=os.environ | {"CAUSALITY_KEEP_DATA": "1"})
    assert SETTINGS.exists() and (DATA / "bus.db").exists(), "asked to keep them"
    sh("dpkg", "-i", "/package.deb")
    systemctl("start", "causality.service")
    assert answer()[0] == 200, "an installation goes on with the data"
    sh("dpkg", "-P", "causality")
    assert not SETTINGS.parent.exists() and not DATA.exists(), "nothing stays"
    return "removed: settings and data stay; purged: kept if asked, else gone"


STEPS = [install, notify, credentials, data, security, watchdog, killed, load, activation, variants, refusals, upgrade,
         roles, removal]


def main():
    chosen = sys.argv[1:]
    for step in STEPS:
        if chosen and step.__name__ not in ["install", "notify", *chosen]:
            continue
        try:
            print(f"{step.__name__}: {step()}", flush=True)
        except BaseException:
            print(f"{step.__name__}: failed", flush=True)
            units = ["-u", "causality*", "-u", "init.scope"]
            print(out("journalctl", "--no-pager", "-n", "40", "-o", "short", *units), flush=True)
            raise


main()
