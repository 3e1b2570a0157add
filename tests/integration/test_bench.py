"""The measuring commands run, and what they measure has the right order and proportion; no figure is a verdict."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

import pytest

from stillfs import BUILD

BENCH = pathlib.Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH / "lib"))


@pytest.fixture
def tmp():
    """Like tmp_path, but servers with a user of their own can pass."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="stillfs-benchtest.", dir=os.environ.get("STILLFS_TEST_TMP", "/tmp")))
    path.chmod(0o755)
    yield path
    subprocess.run(["rm", "-rf", "--one-file-system", str(path)], check=True)


def bench(tmp, command, *argv):
    """What the command wrote as JSON."""
    if not (BUILD / "tests" / "bench" / "blockdev").exists():
        pytest.skip("the build has no test_providers")
    out = tmp / "out.json"
    p = subprocess.Popen([str(BENCH / command), "--build", str(BUILD), "--json", str(out), *argv], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
                         env={**os.environ, "STILLFS_BENCH_TMP": str(tmp), "STILLFS_TEST_TMP": str(tmp)})
    try:
        text = p.communicate()[0]
    except BaseException:  # out of time: it cleans up on SIGTERM
        p.send_signal(signal.SIGTERM)
        p.communicate()
        raise
    assert p.returncode == 0, text
    assert str(tmp) not in pathlib.Path("/proc/mounts").read_text()
    assert not list(tmp.glob("stillfs-bench.*"))
    return json.loads(out.read_text())


def test_the_lock_does_not_last_as_long_as_the_provider(tmp):
    got = bench(tmp, "window", "--rounds", "5", "--delay", "1.0")
    local, null = ([t for t in got["results"] if t["provider"] == p] for p in ("local", "null"))
    assert len(local) == len(null) == 5
    for t in got["results"]:
        s = t["steps"]
        assert s.index("locked") < s.index("drained") < s.index("unlock_sent") < s.index("trigger") < s.index("gate_open")
    for t in null:
        assert t["hold_ms"] >= 1000
        assert t["lock_ms"] < t["hold_ms"] / 4
        assert t["hold_ms"] / 2 < t["stall_ms"] < 2 * t["hold_ms"]  # writers did wait, from when they came
        assert len(t["reads_held_ms"]) > 10  # and reads went on
        assert max(t["reads_held_ms"]) < t["hold_ms"] / 2
    for t in got["results"]:
        assert t["took_ms"]["unlocked"] >= t["asked_ms"] + t["position_ms"] + t["drain_ms"]
    pieces = subprocess.run([BENCH / "window", "--merge", tmp / "out.json", tmp / "out.json"], capture_output=True, text=True)
    assert pieces.returncode == 0 and "mariadb, local: 10 snapshots" in pieces.stdout, pieces


def test_pieces_of_one_measurement_are_shown_as_one(tmp):
    """The second was cut off before its clients were asked."""
    def piece(n, name="window", delay=1.0, **more):
        one = {"server": "mariadb", "provider": "local", "hold_ms": 2.0, "asked_ms": 1.0, "position_ms": 1.0, "drain_ms": 1.0, "rest_ms": 1.0}
        (tmp / f"{n}.json").write_text(json.dumps({"bench": name, "delay_s": delay, "results": [{**one, "lock_ms": k, **more} for k in range(n)]}))
        return tmp / f"{n}.json"

    def merge(*files):
        return subprocess.run([BENCH / "window", "--merge", *files], capture_output=True, text=True)
    clients = {"stall_ms": 4.0, "quiet_stall_ms": 4.0, "reads_before_ms": [1.0], "reads_held_ms": [1.0]}
    r = merge(piece(5, **clients), piece(2))
    assert r.returncode == 0 and "mariadb, local: 7 snapshots" in r.stdout, r
    lock, = [line.split() for line in r.stdout.splitlines() if line.startswith("lock ms")]
    assert lock[2] == "1.00" and lock[4] == "4.00", lock
    r = merge(piece(5, **clients), piece(3, delay=2.0))
    assert r.returncode and "different --delay" in r.stderr, r
    r = merge(piece(5, **clients), piece(4, name="takeover"))
    assert r.returncode and "4.json: not written by tests/bench/window --json" in r.stderr, r


def test_every_client_waits_for_a_take_over(tmp):
    got = bench(tmp, "takeover", "--rounds", "3", "--nodes", "3000", "--open", "100")
    assert got["nodes"] >= 3000 and got["open"] >= 100
    assert {"write", "read", "look up"} == {r["client"] for r in got["results"]}
    assert len(got["results"]) >= 3 * 3 and all(2 < r["ms"] < 5000 for r in got["results"])
    assert 2 < got["p50"] <= got["p99"] <= got["max"]


def test_the_slow_device_is_slow_in_proportion_and_native_equals_native(tmp):
    got = bench(tmp, "fio", "--profile", "iops3000", "--cell", r"r\.(psync1|aio16)$", "--rounds", "3",
                "--seconds", "1", "--what", "native,control,mount")
    by = {}
    for r in got["results"]:
        by.setdefault((r["cell"], r["view"]), []).append(r["iops"])
        assert r["ops"] > 0
    middle = {k: sorted(v)[1] for k, v in by.items()}
    assert 0.7 < middle["r.aio16", "control"] / middle["r.aio16", "native"] < 1.4
    assert middle["r.aio16", "native"] / 3000 < 1.1  # the limit holds
    assert middle["r.psync1", "native"] / 2500 < 1.05  # and so does the latency: at most one in 400 us
    assert all(r["threads_cpu_s"] for r in got["results"] if r["view"] == "mount")


def test_cpu_is_that_of_one_rate_for_all(tmp):
    got = bench(tmp, "cpu", "--profile", "raw", "--cell", "r.psync1$|log1", "--rounds", "1", "--seconds", "1", "--rate", "400",
                "--other", str(BUILD))["results"]
    views = {"native", "control", "mount", "other", "floor", "nothing"}
    assert {(r["cell"], r["view"]) for r in got} == {(c, v) for c in ("r.psync1", "log1") for v in views}
    assert all(150 < r["iops"] < 500 for r in got)  # the disk does thousands
    by = {r["view"]: r for r in got if r["cell"] == "r.psync1"}
    assert all(by[v]["threads_cpu_s"] for v in ("mount", "other", "floor")) and not by["nothing"]["threads_cpu_s"]
    assert by["nothing"]["p50_us"] < by["native"]["p50_us"]


def test_the_loop_devices_workers_wait_for_no_cpu_while_a_volume_is_open(tmp, monkeypatch):
    from device import Volume
    monkeypatch.setenv("STILLFS_BENCH_TMP", str(tmp))

    def workers():
        return {p.parent.name: os.sched_getscheduler(int(p.parent.name)) for p in pathlib.Path("/proc").glob("[0-9]*/comm")
                if p.read_text().startswith("kworker/u")}
    with Volume(BUILD, "raw", size_mb=512) as volume:
        raised = {int(p) for p, policy in workers().items() if policy == os.SCHED_FIFO}
        assert raised and raised <= volume.interrupts.raised
    assert not [p for p in volume.interrupts.raised if workers().get(str(p)) == os.SCHED_FIFO]


def test_ratios_are_taken_within_a_round_and_order_turns_and_rotates():
    from rounds import geometric_mean, interleave, percentile, ratios
    assert list(interleave(["a", "b", "c"], 3)) == [(0, "a"), (0, "b"), (0, "c"), (1, "c"), (1, "b"), (1, "a"),
                                                    (2, "c"), (2, "a"), (2, "b")]
    assert list(interleave(["a", "b"], 2, ["x", "y"])) == [(0, "x", "a"), (0, "x", "b"), (0, "y", "a"), (0, "y", "b"),
                                                           (1, "x", "b"), (1, "x", "a"), (1, "y", "b"), (1, "y", "a")]
    runs = [{"view": v, "round": n, "iops": x} for v, n, x in
            (("native", 0, 10), ("mount", 0, 5), ("mount", 1, 30), ("native", 1, 100))]
    assert ratios(runs, "mount") == [0.5, 0.3]
    assert percentile([4, 1, 3, 2], 50) == 2 and percentile([4, 1, 3, 2], 99) == 4
    assert abs(geometric_mean([2, 8]) - 4) < 1e-9


def test_a_measurement_that_is_cut_off_leaves_what_it_has(tmp):
    from rounds import Record
    out = tmp / "r.json"
    record = Record(out, "fio", within_s=3600)
    for n in (1, 2):  # the file is whole after each run
        record.append({"round": n})
        assert json.loads(out.read_text())["results"] == [{"round": k} for k in range(1, n + 1)] and not record.spent
    assert [p.name for p in tmp.iterdir()] == ["r.json"]
    late = Record(None, "fio", within_s=1e-9)
    assert not late.spent
    late.append({})
    assert late.spent


def test_no_run_begins_after_the_time_that_was_given(tmp):
    got = bench(tmp, "fio", "--profile", "raw", "--cell", "r.psync1$", "--rounds", "50", "--seconds", "0.3", "--what", "native",
                "--within", "1")["results"]
    assert [r["round"] for r in got] == [0]  # laying out the file took longer


def test_a_run_of_less_than_a_second_ends():
    import command  # noqa: F401  (makes the harness importable for it)
    import fiorun
    assert "--runtime=700ms" in fiorun.argv("r.psync1", pathlib.Path("/d"), 0.7)  # 0.7 is for ever to fio


def test_sysbench_runs_mysql_on_the_mount(tmp):
    got = bench(tmp, "sysbench", "--server", "mysql", "--profile", "raw", "--rounds", "1", "--seconds", "1", "--rows", "200",
                "--threads", "2", "--kind", "rw", "--what", "mount,floor")["results"]
    assert [(r["server"], r["view"], r["kind"], r["threads"]) for r in got] == \
        [("mysql", "native", "rw", 2), ("mysql", "mount", "rw", 2), ("mysql", "floor", "rw", 2)]
    assert all(r["tps"] > 1 and 0 < r["p50_ms"] <= r["p99_ms"] for r in got)
    native, mount, floor = (r["ours_ms_tx"] for r in got)
    assert native == 0 and mount > 0.01 and floor > 0.01  # so the server's calls came by the floor: nobody else uses it
    assert all(0.1 < r["writes_tx"] < 1000 for r in got)  # what the device was asked is counted


def test_peers_are_made_of_debians_sources_and_the_kernel_is_left_as_it_was(tmp):
    parameter = pathlib.Path("/sys/module/fuse/parameters/enable_uring")
    before = parameter.read_text() if parameter.exists() else None
    got = bench(tmp, "peers", "--profile", "raw", "--cell", "r.psync1$", "--rounds", "1", "--seconds", "0.3",
                "--peer", "hp,hp-kernel,hp-ring,bindfs")["results"]
    peers = {"hp", "hp-kernel", "bindfs", *(["hp-ring"] if before else [])}
    assert {r["view"] for r in got} == {"native", "control", "mount", *peers} and all(r["ops"] > 0 for r in got)
    assert before is None or parameter.read_text() == before


def test_a_pinned_view_is_the_same_mount_with_its_data_threads_bound(tmp, monkeypatch):
    monkeypatch.setenv("STILLFS_BENCH_TMP", str(tmp))
    import command  # noqa: F401
    import views
    from device import Volume, thread_ns

    def bound(view):
        return {name: os.sched_getaffinity(int(tid)) for tid, (name, _) in thread_ns(view.mount.daemon).items()
                if name.startswith("lane-")}
    cpus = sorted(os.sched_getaffinity(0))
    with Volume(BUILD, "raw", size_mb=512) as volume, \
            views.opened(volume, ["native", "pinned", "other"], "threads=3", str(BUILD), "threads=2") as got:
        assert list(got) == ["native", "mount", "pinned", "other"]
        got["pinned"].begin()
        assert bound(got["mount"]) == {f"lane-{i}": {cpus[i % len(cpus)]} for i in range(3)}
        assert bound(got["other"]) == {f"lane-{i}": set(cpus) for i in range(2)}
        got["mount"].begin()
        assert bound(got["mount"]) == {f"lane-{i}": set(cpus) for i in range(3)}
        for name in ("pinned", "other"):  # each has its own directory behind it
            (got[name].path / "name").write_text(name)
            assert (got[name].back / "name").read_text() == name


def test_sysbench_compares_two_builds_with_servers_that_stand_still_meanwhile(tmp):
    got = bench(tmp, "sysbench", "--warm", "--profile", "raw", "--rounds", "2", "--seconds", "1", "--rows", "200", "--threads", "2",
                "--kind", "rw", "--what", "mount,other-pinned", "--other", str(BUILD), "--other-opts", "threads=1",
                "--base", "mount")["results"]
    assert [(r["round"], r["view"]) for r in got] == [(0, "native"), (0, "mount"), (0, "other-pinned"),
                                                      (1, "other-pinned"), (1, "mount"), (1, "native")]
    assert all(r["tps"] > 1 and r["machine_ms_tx"] > 0 for r in got)
    assert all(r["ours_ms_tx"] == 0 for r in got if r["view"] == "native")


BESIDE = """
import os, sys, threading, time
fd, block, stop = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600), b"b" * 4096, threading.Event()
os.pwrite(fd, block * 64, 0)
os.fsync(fd)
def log():
    while not stop.is_set():
        os.pwrite(fd, block, 0)
        os.fdatasync(fd)
def write():
    took = []
    for i in range(200):
        time.sleep(0.002)
        begin = time.monotonic()
        os.pwrite(fd, block, 4096 * (1 + i % 63))
        took.append(time.monotonic() - begin)
    return sorted(took)[len(took) // 2]
alone = write()
t = threading.Thread(target=log)
t.start()
beside = write()
stop.set()
t.join()
print(beside * 1e6, alone * 1e6)
"""


def test_the_floor_for_databases_has_fuses_locks_and_keeps_nothing(tmp, monkeypatch):
    """A write beside somebody who syncs the same file waits for the device on the mount and on the floor, natively not."""
    monkeypatch.setenv("STILLFS_BENCH_TMP", str(tmp))
    import command  # noqa: F401
    import views
    from device import Volume
    with Volume(BUILD, "lat400", size_mb=512) as volume, \
            views.opened(volume, ["native", "floor", "mount"]) as got:
        volume.arm()
        env = {"native": None, "floor": got["floor"].preloaded(), "mount": None}
        us = {}
        for name, e in env.items():
            path = (got["mount"].path if name == "mount" else got["native"].path) / name
            us[name] = [float(x) for x in subprocess.run([sys.executable, "-c", BESIDE, str(path)], env=e, check=True,
                                                         capture_output=True, text=True).stdout.split()]
            assert (got["native"].path / name).read_bytes() == b"b" * 4096 * 64
    for name in ("floor", "mount"):
        beside, alone = us[name]
        assert us["native"][0] * 4 < beside and alone * 2 < beside, us  # it is not the message that takes so long


def test_tables_times_every_step_of_each_view(tmp):
    got = bench(tmp, "tables", "--tables", "60", "--rounds", "1", "--what", "mount")["results"]
    assert [(r["view"], r["tables"]) for r in got] == [("native", 60), ("mount", 60)]
    assert all(r[step] > 0 for r in got for step in ("start", "list", "open", "again", "stop"))


def test_a_clouds_snapshot_holds_writes_as_long_as_the_api_and_the_lock_for_less(tmp, ec2_root):
    got = bench(tmp, "ebs", "--rounds", "2", "--delay", "1.0", "--writers", "2", "--how", "mount,alone")
    assert [t["how"] for t in got["results"]] == ["mount", "mount", "alone", "alone"]
    for t in got["results"]:
        assert t["api_ms"] >= 1000 and t["stall_ms"] > t["api_ms"] / 2  # writers did wait, from when they came
        assert t["lock_ms"] < t["api_ms"]
        if t["how"] == "mount":
            assert t["steps"]["triggered"] >= t["api_ms"] and t["steps"]["gate_open"] >= t["steps"]["triggered"]
    assert {g["goal"] for g in got["goals"]} == {"own_ms p50", "own_ms max", "lock_ms p50", "lock_ms max"}


def test_clients_wait_through_every_part_of_a_cut_over_and_go_back_and_forth(tmp):
    got = bench(tmp, "cutover", "--rounds", "2", "--clients", "3", "--idle", "5", "--pause", "0.3")
    assert [(r["round"], r["server"], r["from"]) for r in got["results"]] == [(0, "mariadb", 1), (0, "mysql", 1), (1, "mysql", 2), (1, "mariadb", 2)]
    for r in got["results"]:
        closed = sum(r["parts"][p] for p in ("what A has", "wait for B", "look at A again"))  # from the fence until B is told
        assert len(r["clients"]) == len(r["failed"]) == 3 and all(f > 0 for f in r["failed"])
        assert 0 < closed < min(r["clients"]) <= max(r["clients"]) < r["command_ms"] + r["parts"]["from the hook's start to the last first commit on B"]
    assert [g["goal"] for g in got["goals"]] == ["mariadb stall max", "mysql stall max"]


def test_ratios_are_drawn(tmp):
    """A picture of the right kind and with every bar's value in it, from made-up rounds."""
    import plot
    results = [{"view": v, "round": n, "cell": c, "iops": x * (1 + n / 10)}
               for n in range(3) for c in ("r.psync1", "w_aio16") for v, x in (("native", 100), ("mount", 50), ("floor", 80))]
    out = tmp / "p.png"
    plot.draw(out, "what it's called", results, ["native", "mount", "floor"])
    assert out.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and out.stat().st_size > 4000
    script = plot.script(out, "t", results, ["native", "mount", "floor"])
    assert '"r.psync1" 0.500 0.500 0.500' in script and '"w aio16" 0.800 0.800 0.800' in script
    with pytest.raises(plot.Failed, match="gnuplot"):
        plot.draw(tmp / "no" / "such.png", "t", results, ["native", "mount"])


def test_pieces_of_a_measurement_are_reported_as_one(tmp):
    """Two files of made-up runs: their rounds do not meet, ratios and the floor's share are right, a picture each."""
    def piece(name, slower, profile="raw"):
        runs = [{"profile": profile, "view": v, "round": 0, "cell": "r.psync1", "iops": x / slower}
                for v, x in (("native", 100), ("mount", 50 * slower), ("floor", 200))]
        (tmp / name).write_text(json.dumps({"bench": "fio", "results": runs}))
        return str(tmp / name)
    pieces = [piece("a", 1), piece("b", 2), piece("c", 1, "lat400")]
    got = subprocess.run([BENCH / "report", "--out", str(tmp / "images"), *pieces], capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    raw, lat = got.stdout.split("fio, lat400: 1 rounds")
    assert "fio, raw: 2 rounds" in raw
    # (1/50 - 1/100) * 200 = 2 and (1/50 - 1/50) * 100 = 0
    # native and floor, one after the other: 1 / (1/100 + 1/200) = 67
    assert "| r.psync1 | 75 | 0.75 [0.50 1.00] | 2.00 [2.00 2.00] | 1.00 | 0.67 |" in raw
    assert "| r.psync1 | 100 | 0.50 [0.50 0.50] | 2.00 [2.00 2.00] | 2.00 | 0.67 |" in lat
    assert sorted(p.name for p in (tmp / "images").iterdir()) == ["fio-lat400.png", "fio-raw.png"]
    (tmp / "d").write_text(json.dumps({"bench": "window", "results": []}))
    for more, why in (("d", "results of window"), ("absent", "not a result of")):
        got = subprocess.run([BENCH / "report", *pieces, str(tmp / more)], capture_output=True, text=True)
        assert got.returncode == 1 and why in got.stderr and got.stderr.count("\n") == 1
