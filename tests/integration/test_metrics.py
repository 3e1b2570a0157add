"""`metrics` as Prometheus reads it, and the alert rules: checked by promtool of Debian's package prometheus."""

import errno
import mmap
import os
import pathlib
import re
import subprocess
import threading
import time

from stillfs import wait_for
from test_retention import change_records, settled, take

ALERTS = pathlib.Path(__file__).resolve().parents[2] / "docs" / "alerts.yml"


def metrics(m):
    """{name with labels but `name`: value}"""
    out = {}
    for line in m.read("metrics").splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            labels = re.sub(r'name="[^"]*",?', "", name).replace("{}", "")
            assert f'name="{m.name}"' in line and labels not in out, line
            out[labels.removeprefix("stillfs_")] = float(value)
    return out


def promtool(*args, **kw):
    return subprocess.run(["promtool", *map(str, args)], capture_output=True, text=True, timeout=60, **kw)


def test_metrics_count_what_happened(make_mount):
    m = make_mount(provider="null", retention="keep_last 1")
    before = metrics(m)
    assert before['snapshots_total{outcome="complete"}'] == 0 and "newest_complete_age_seconds" not in before
    assert promtool("check", "metrics", input=m.read("metrics")).returncode == 0
    m.null("trigger delay_ms 150\n")
    take(m, "a", "b")
    m.null("trigger fail 5\n")
    assert m.write("snapshot", "bad\n") == errno.EIO
    wait_for("idle", lambda: m.status()["state"] == "idle")
    m.null("")
    (m.mnt / "f").write_text("x")
    (m.mnt / "f").read_text()
    assert m.write("prune", "apply\n") == 0
    settled(m)
    r = promtool("check", "metrics", input=m.read("metrics"))
    assert (r.returncode, r.stdout, r.stderr) == (0, "", "")
    now = metrics(m)
    assert (now['snapshots_total{outcome="complete"}'], now['snapshots_total{outcome="failed"}']) == (2, 1)
    assert now["hold_seconds_count"] >= 2 and now['hold_seconds_bucket{le="0.1"}'] <= now["hold_seconds_count"] - 2
    assert now['hold_seconds_bucket{le="+Inf"}'] == now["hold_seconds_count"] and now["hold_seconds_sum"] >= 0.3
    assert now["stall_seconds_sum"] >= now["hold_seconds_sum"]
    assert 0 <= now["newest_complete_age_seconds"] < 60 and "newest_verified_age_seconds" not in now
    assert (now['sets{state="complete"}'], now['sets{state="failed"}']) == (1, 1)
    assert (now["prune_runs_total"], now["prune_removed_total"], now["prune_left"]) == (1, 1, 0)
    assert now['operations_total{kind="write"}'] >= 1 and now["gate_closed"] == 0
    with m.closed():
        assert metrics(m)["gate_closed"] == 1
    m.stop()

    def foreign(record):
        record["lineage"] = "0" * 32
    change_records(m, foreign)
    m.start()
    assert "newest_complete_age_seconds" not in metrics(m)  # another host's sets are no backup of this one


def test_operations_are_counted_and_timed_by_their_kind(make_mount):
    m = make_mount(provider="null")
    (m.mnt / "warm").touch()
    before = metrics(m)
    fd = os.open(m.mnt / "f", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    page = mmap.mmap(-1, 8192)
    for i in range(10):
        assert os.pwritev(fd, [page], i * 8192) == 8192
    for i in range(5):
        assert os.preadv(fd, [page], i * 8192) == 8192
    os.fsync(fd)
    os.posix_fallocate(fd, 81920, 4096)
    os.close(fd)
    os.mkdir(m.mnt / "d")
    os.rename(m.mnt / "d", m.mnt / "e")
    os.rmdir(m.mnt / "e")
    os.listdir(m.mnt)

    def grown(key):
        return metrics(m)[key] - before[key]
    wait_for("the close", lambda: grown('operation_seconds_count{kind="close"}') >= 1)
    for kind, n in (("write", 10), ("read", 5), ("fsync", 1), ("fallocate", 1), ("name", 3)):
        assert grown(f'operation_seconds_count{{kind="{kind}"}}') == n, kind
        assert grown(f'operation_seconds_sum{{kind="{kind}"}}') > 0, kind
    for kind in ("read", "write", "fsync", "fallocate"):
        assert grown(f'operation_seconds_count{{kind="{kind}"}}') == grown(f'operations_total{{kind="{kind}"}}'), kind
    for kind in ("open", "lookup", "readdir"):
        assert grown(f'operation_seconds_count{{kind="{kind}"}}') >= 1, kind
    assert (grown("written_bytes_total"), grown("read_bytes_total")) == (81920, 40960)
    r = promtool("check", "metrics", input=m.read("metrics"))
    assert (r.returncode, r.stdout, r.stderr) == (0, "", "")


def test_the_time_that_an_operation_waits_at_the_gate_counts(make_mount):
    m = make_mount(provider="null")
    fd = os.open(m.mnt / "f", os.O_WRONLY | os.O_CREAT)
    long = 'operation_seconds_bucket{kind="write",le="+Inf"}', 'operation_seconds_bucket{kind="write",le="0.268435456"}'
    before = metrics(m)
    assert before[long[0]] == before[long[1]] == before['operation_seconds_count{kind="write"}']
    with m.closed():
        writer = threading.Thread(target=os.write, args=(fd, b"x"))
        writer.start()
        wait_for("the parked write", lambda: m.status()["parked"] == "1")
        time.sleep(1)
        assert metrics(m)['operation_seconds_count{kind="write"}'] == before['operation_seconds_count{kind="write"}']
    writer.join(30)
    os.close(fd)
    now = metrics(m)
    assert now[long[0]] - now[long[1]] == 1
    assert now['operation_seconds_sum{kind="write"}'] - before['operation_seconds_sum{kind="write"}'] >= 1
    buckets = [now[k] for k in now if k.startswith('operation_seconds_bucket{kind="write"')]
    assert buckets == sorted(buckets) and len(buckets) == 23


def test_the_alert_rules_are_good_and_ask_for_metrics_that_exist(make_mount):
    r = promtool("check", "rules", ALERTS)
    assert r.returncode == 0 and "SUCCESS: 10 rules found" in r.stdout, r
    m = make_mount(provider="null")
    take(m, "a")
    known = {line.split()[2] for line in m.read("metrics").splitlines() if line.startswith("# TYPE")}
    known |= {f"{k}_bucket" for k in known} | {f"stillfs_newest_verified_{k}_seconds" for k in ("age", "timestamp")}
    known.add("stillfs_orphans")  # absent while nobody has looked: test_orphans.py
    asked = set(re.findall(r"\bstillfs_\w+", ALERTS.read_text()))
    assert len(asked) >= 8 and asked <= known


def test_the_rules_fire_when_they_should(tmp_path):
    """promtool's own unit tests of rules."""
    series = {"stillfs_newest_complete_timestamp_seconds": "0x2000", "stillfs_prune_left": "2x2000"}
    text = f"rule_files: [{ALERTS}]\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  input_series:\n"
    for name, values in series.items():
        text += f"  - {{series: '{name}{{name=\"orders\"}}', values: '{values}'}}\n"
    text += "  alert_rule_test:\n"
    for alert, when, fires in (("StillfsNoRecentSet", "25h", False), ("StillfsNoRecentSet", "27h", True),
                               ("StillfsPruneStuck", "5h", False), ("StillfsPruneStuck", "7h", True)):
        text += f"  - {{eval_time: {when}, alertname: {alert}, exp_alerts: ["
        if fires:
            severity = "critical" if alert == "StillfsNoRecentSet" else "warning"
            text += f"{{exp_labels: {{severity: {severity}, name: orders}}, exp_annotations: "
            text += ("{summary: 'orders: the newest complete set is older than 26 hours', action: 'stillctl -n orders list; "
                     "cat /run/stillfs/orders/last_error'}}" if severity == "critical" else
                     "{summary: 'orders: 2 sets cannot be removed and go on costing money'}}")
        text += "]}\n"
    (tmp_path / "test.yml").write_text(text)
    r = promtool("test", "rules", tmp_path / "test.yml")
    assert r.returncode == 0, r.stdout + r.stderr
