"""tools/demo.py - the demonstration itself; tools/demo builds and calls it: demo.py WORKDIR BUILDDIR.

Starts MariaDB with its datadir on a stillfs mount, runs writers that log each acknowledged commit, takes three
snapshots by echo, mkdir and stillctl, deletes one with rmdir, starts a second MariaDB on a copy of the newest
clone in namespaces of its own, and proves what a backup must be. Exit code 0 only if every proof holds.
"""

import calendar
import os
import pathlib
import pwd
import signal
import subprocess
import sys
import threading
import time

import pymysql

CLIENTS = 6
work = pathlib.Path(sys.argv[1])
build = pathlib.Path(sys.argv[2])
NAME = f"demo-{os.getpid()}"
CONTROL = pathlib.Path("/run/stillfs") / NAME
undo = []  # what to take back, last first
checks = []  # (what, holds, detail)


def say(text):
    print(text, flush=True)


def run(*argv, **kw):
    return subprocess.run([str(a) for a in argv], check=True, text=True, capture_output=True, **kw).stdout


def wait_for(what, condition, seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise RuntimeError(f"{what}: not within {seconds} s")


def control(name):
    return (CONTROL / name).read_text()


def flat(text):
    return dict(line.split(" ", 1) for line in text.splitlines() if " " in line)


# ---- filesystem and mount ----


def scratch_filesystem():
    """A reflink XFS in an image file: the filesystem at hand may have no reflink."""
    image, mount = work / "scratch.xfs", work / "xfs"
    mount.mkdir()
    with open(image, "wb") as f:
        f.truncate(2 << 30)
    run("mkfs.xfs", "-q", "-m", "reflink=1", image)
    run("mount", "-o", "loop", image, mount)
    undo.append(lambda: run("umount", mount))
    return mount


def ended(pid):
    """Gone, or a zombie that only its parent can remove."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def start_stillfs(backing, mountpoint, defaults):
    run(build / "fs" / "stillfs", "-o",
        f"name={NAME},state_dir={work}/state,log_file={work}/stillfs.log,db=mysql,db.defaults_file={defaults},"
        f"db.socket={work}/db1/sock,provider=local", backing, mountpoint)
    keeper = int(flat(control("status"))["keeper_pid"])

    def stop():
        os.kill(keeper, signal.SIGTERM)
        wait_for("the end of stillfs", lambda: ended(keeper), 20)
    undo.append(stop)


# ---- MariaDB ----


class Server:
    def __init__(self, name, datadir, server_id, namespaces=False):
        self.dir = work / name
        self.dir.mkdir()
        user = pwd.getpwnam("mysql")
        os.chown(self.dir, user.pw_uid, user.pw_gid)
        self.datadir = datadir
        self.server_id = server_id
        self.namespaces = namespaces
        self.process = None

    def options(self):
        return ["--no-defaults", f"--datadir={self.datadir}", f"--socket={self.dir}/sock",
                f"--pid-file={self.dir}/pid", f"--log-error={self.dir}/error.log", f"--tmpdir={self.dir}",
                "--skip-networking", f"--server-id={self.server_id}", "--log-bin=binlog", "--sync-binlog=1",
                "--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=64M",
                "--innodb-log-file-size=32M", "--user=mysql"]

    def start(self):
        argv = ["mariadbd", *self.options()]
        if self.namespaces:
            argv = ["unshare", "--mount", "--net", "--uts", *argv]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        undo.append(self.stop)
        wait_for(f"start of {self.dir.name} (see {self.dir}/error.log)", self.answers, 60)

    def answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.dir.name} ended: " + (self.dir / "error.log").read_text()[-2000:])
        try:
            self.connect().close()
            return True
        except pymysql.Error:
            return False

    def connect(self, db=None):
        return pymysql.connect(unix_socket=str(self.dir / "sock"), user="root", database=db, autocommit=True,
                               read_timeout=60, write_timeout=60)

    def query(self, sql, db=None):
        connection = self.connect(db)
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall()
        finally:
            connection.close()

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None


def first_server(mountpoint):
    user = pwd.getpwnam("mysql")
    os.chown(mountpoint, user.pw_uid, user.pw_gid)
    # --force: where there is no /etc/hosts, as in a bare container, it would refuse for want of "localhost"
    run("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={mountpoint}", "--force",
        "--auth-root-authentication-method=normal", "--skip-test-db")
    server = Server("db1", mountpoint, 1)
    server.start()
    server.query("CREATE DATABASE demo")
    server.query("CREATE TABLE ins (id BIGINT AUTO_INCREMENT PRIMARY KEY, client INT, n BIGINT, pad VARCHAR(200),"
                 " UNIQUE KEY (client, n)) ENGINE=InnoDB", "demo")
    server.query("CREATE TABLE ctr (client INT PRIMARY KEY, v BIGINT, deleted BIGINT) ENGINE=InnoDB", "demo")
    for c in range(CLIENTS):
        server.query(f"INSERT INTO ctr VALUES ({c}, 0, 0)", "demo")
    server.query("GRANT RELOAD, PROCESS, BINLOG MONITOR, SLAVE MONITOR ON *.* TO stillfs@localhost "
                 "IDENTIFIED BY 'demo-secret'")
    return server


# ---- the load ----


class Client(threading.Thread):
    """Inserts row n, sets its counter to n, deletes an old row: lost or doubled ranges show. Each acknowledged
    commit is logged, synced, on another filesystem than the database's."""

    def __init__(self, server, number, stop):
        super().__init__(daemon=True)
        self.server, self.number, self.stopping = server, number, stop
        self.acked = []  # (n, wall time of the acknowledgement)
        self.stalls = []  # (start, end) of each transaction, wall time
        self.error = None

    def run(self):
        log = os.open(work / f"acked-{self.number}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            connection = self.server.connect("demo")
            connection.autocommit(False)
            cursor = connection.cursor()
            n = 0
            while not self.stopping.is_set():
                n += 1
                start = time.time()
                cursor.execute("INSERT INTO ins (client, n, pad) VALUES (%s, %s, %s)", (self.number, n, "x" * 150))
                if n % 3 == 0:
                    cursor.execute("DELETE FROM ins WHERE client=%s AND n=%s", (self.number, n // 3))
                    cursor.execute("UPDATE ctr SET v=%s, deleted=%s WHERE client=%s", (n, n // 3, self.number))
                else:
                    cursor.execute("UPDATE ctr SET v=%s WHERE client=%s", (n, self.number))
                connection.commit()
                end = time.time()
                os.write(log, f"{n} {end:.6f}\n".encode())
                os.fsync(log)
                self.acked.append((n, end))
                self.stalls.append((start, end))
            connection.close()
        except Exception as e:  # shown as a failed proof, not lost in a thread
            self.error = e
        finally:
            os.close(log)


def longest_stall(clients, since, until):
    return max((end - start for c in clients for start, end in list(c.stalls) if end >= since and start <= until),
               default=0.0)


# ---- snapshots ----


def lock_time(name):
    """When the lock was asked for: the `locked` line of the set's log, less how long it took."""
    for line in control(f"snapshots/{name}/log").splitlines():
        words = line.split()
        if words[1] == "locked":
            t = time.strptime(words[0][:19], "%Y-%m-%dT%H:%M:%S")
            return calendar.timegm(t) + float(words[0][19:23]) - float(words[2]) / 1000
    raise RuntimeError(f"{name}: no lock in its log")


def take(clients, name, how):
    since = time.time()
    if how == "echo":
        say(f"  # echo '{name} class=nightly' > {CONTROL}/snapshot")
        (CONTROL / "snapshot").write_text(f"{name} class=nightly\n")
    elif how == "mkdir":
        say(f"  # mkdir {CONTROL}/snapshots/{name}; cat {CONTROL}/snapshots/{name}/wait")
        os.mkdir(CONTROL / "snapshots" / name)
        control(f"snapshots/{name}/wait")
    else:
        say(f"  # stillctl -n {NAME} snapshot {name} class=nightly")
        run(build / "tools" / "stillctl", "-n", NAME, "snapshot", name, "class=nightly")
    until = time.time()
    wait_for(f"completion of {name}", lambda: control(f"snapshots/{name}/state").strip() != "pending", 60)
    time.sleep(0.3)
    stall = longest_stall(clients, since, until)
    lock = float(control(f"snapshots/{name}/lock_ms"))
    hold = float(control(f"snapshots/{name}/hold_ms"))
    say(f"  {name}: lock {lock:.1f} ms, hold {hold:.1f} ms, longest stall of a client {stall * 1000:.1f} ms")
    return {"name": name, "lock": lock, "hold": hold, "stall": stall * 1000}


# ---- proofs ----


def check(what, holds, detail=""):
    checks.append((what, bool(holds), detail))
    say(f"  {'ok  ' if holds else 'FAIL'} {what}{': ' + detail if detail else ''}")


def prove(source, clients, name, position, asked):
    data = os.readlink(CONTROL / "snapshots" / name / "data")
    say(f"\nproving {name}: a second MariaDB on a copy of {data}")
    set_dir = pathlib.Path(data).parent
    result = subprocess.run(["sha256sum", "--quiet", "-c", "manifest.sha256"], cwd=set_dir, capture_output=True)
    check("every file matches the manifest", result.returncode == 0)
    restored = work / "xfs" / "restored"
    run("cp", "-a", "--reflink=always", data, restored)  # the set itself stays as it is
    clone = Server("db2", restored, 2, namespaces=True)
    clone.start()
    check("the second server recovered and answers", clone.query("SELECT 1") == ((1,),))
    values = dict(clone.query("SELECT client, v FROM ctr", "demo"))
    lost = []
    for c in clients:
        before = max((n for n, t in c.acked if t < asked), default=0)
        if values[c.number] < before:
            lost.append(f"client {c.number}: {before} acknowledged, {values[c.number]} there")
    total = sum(1 for c in clients for _, t in c.acked if t < asked)
    check(f"all {total} commits acknowledged before the lock are there", not lost, "; ".join(lost))
    wrong = []
    for c in clients:
        v = values[c.number]
        rows = {r[0] for r in clone.query(f"SELECT n FROM ins WHERE client={c.number}", "demo")}
        if rows != set(range(v // 3 + 1, v + 1)):
            wrong.append(f"client {c.number}")
    check("no row is missing, doubled or from the future", not wrong, ", ".join(wrong))
    logs = {r[0]: r[1] for r in clone.query("SHOW BINARY LOGS")}
    file, pos = position["binlog_file"], int(position["binlog_pos"])
    check("the clone's binary log ends exactly at the recorded position", logs.get(file) == pos,
          f"{file}:{pos}, the clone has {logs.get(file)}")
    gtid = clone.query("SELECT @@GLOBAL.gtid_binlog_pos")[0][0]
    check("its GTID position is exactly the recorded one", gtid == position["gtid_binlog_pos"],
          f"{position['gtid_binlog_pos']}, the clone has {gtid}")
    source_logs = [r[0] for r in source.query("SHOW BINARY LOGS")]
    files = [source.datadir / f for f in source_logs[source_logs.index(file):]]
    replay = subprocess.Popen(["mariadb-binlog", "--no-defaults", f"--start-position={pos}", *map(str, files)],
                              stdout=subprocess.PIPE)
    applied = subprocess.run(["mariadb", "--no-defaults", "-uroot", f"--socket={clone.dir}/sock"],
                             stdin=replay.stdout, capture_output=True, text=True)
    replay.stdout.close()
    check("the source's binary log replays from there", replay.wait() == 0 and applied.returncode == 0,
          applied.stderr.strip()[-200:])
    sums = [dict(s.query("CHECKSUM TABLE demo.ins, demo.ctr")) for s in (source, clone)]
    check("and yields the source's tables, by checksum", sums[0] == sums[1] and None not in sums[0].values(),
          str(sums[0]))
    clone.stop()


def summary(taken, clients):
    commits = sum(len(c.acked) for c in clients)
    say("\n" + "=" * 78)
    say(f"MariaDB on a stillfs mount, {CLIENTS} clients, {commits} acknowledged commits, "
        f"{len(taken)} snapshots under load:")
    say(f"  {'set':<12}{'database lock':>16}{'writes held':>16}{'longest stall':>16}")
    for t in taken:
        say(f"  {t['name']:<12}{t['lock']:>13.1f} ms{t['hold']:>13.1f} ms{t['stall']:>13.1f} ms")
    good = all(ok for _, ok, _ in checks)
    for what, ok, detail in checks:
        if not ok:
            say(f"  FAILED: {what}: {detail}")
    say(f"{sum(ok for _, ok, _ in checks)} of {len(checks)} proofs hold: the newest snapshot "
        f"{'restores' if good else 'DOES NOT RESTORE'}.")
    say("=" * 78)
    return good


def demo():
    os.chmod(work, 0o755)
    xfs = scratch_filesystem()
    backing, mountpoint = xfs / "mysql", work / "mysql"
    backing.mkdir()
    mountpoint.mkdir()
    defaults = work / "stillfs.cnf"
    defaults.touch(0o600)
    defaults.write_text("[stillfs]\nuser=stillfs\npassword=demo-secret\n")
    start_stillfs(backing, mountpoint, defaults)
    say(f"mounted {backing} on {mountpoint}, control tree {CONTROL}")
    source = first_server(mountpoint)
    say(f"MariaDB {source.query('SELECT VERSION()')[0][0]} runs on it; {CLIENTS} clients write")
    stop = threading.Event()
    clients = [Client(source, c, stop) for c in range(CLIENTS)]
    for c in clients:
        c.start()
    time.sleep(2)
    taken = []
    for name, how in (("first", "echo"), ("second", "mkdir"), ("third", "stillctl")):
        taken.append(take(clients, name, how))
        time.sleep(1.5)
    asked = lock_time("third")
    position = flat(control("snapshots/third/position"))
    stop.set()
    for c in clients:
        c.join(30)
    say(f"\n  # rmdir {CONTROL}/snapshots/first")
    os.rmdir(CONTROL / "snapshots" / "first")
    say(f"  # cat {CONTROL}/list")
    say("\n".join("  " + line for line in control("list").splitlines()))
    check("no client saw an error", not any(c.error for c in clients), "; ".join(str(c.error) for c in clients if c.error))
    check("rmdir deleted the first set", not (CONTROL / "snapshots" / "first").exists())
    prove(source, clients, "third", position, asked)
    source.stop()
    return summary(taken, clients)


def main():
    def interrupted(*_):
        raise KeyboardInterrupt
    signal.signal(signal.SIGTERM, interrupted)
    good = False
    try:
        good = demo()
    except KeyboardInterrupt:
        say("demo: interrupted")
    except Exception as e:
        say(f"demo: {type(e).__name__}: {e}")
        if isinstance(e, subprocess.CalledProcessError):
            say((e.stdout or "") + (e.stderr or ""))  # some programs complain on standard output
        log = work / "stillfs.log"
        if log.exists():
            say(log.read_text()[-2000:])
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for step in reversed(undo):
            try:
                step()
            except Exception as e:
                say(f"demo: clean-up: {e}")
                good = False
    return 0 if good else 1


sys.exit(main())
