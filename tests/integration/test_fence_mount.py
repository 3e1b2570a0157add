"""The control file `fence`: up and down, over deaths of the daemon, beside snapshots, and from on to on hard. What holds under
load and over kills of the server is in test_fence_load.py."""

import errno
import os
import signal
import subprocess
import threading
import time

import pytest

from fence_site import Site, as_before, prepare_opened
from fences import READ_ONLY, insert, refused, settings
from stillfs import STILLCTL, once_each, wait_for


@pytest.fixture(scope="module")
def sites():
    with once_each(Site) as get:
        yield get


@pytest.fixture(params=["mariadb", "mysql"])
def site(request, sites):
    with as_before(sites(request.param)) as s:
        yield s


def test_on_and_off_through_the_control_file(site):
    m, server = site.m, site.server
    idle = server.connect("app", user="app", program_name="cron")
    assert site.fence() == ("off", []) and m.status()["fence"] == "off"
    site.on()
    assert insert(server) == READ_ONLY
    program = "cron" if site.kind == "mysql" else "-"
    assert site.value("ended_session") == f"app@localhost program={program} db=app" and site.value("ended") == "1"
    assert refused(lambda: idle.cursor().execute("SELECT 1"))
    assert m.status()["fence"] == "on"
    assert f'stillfs_fence{{name="{m.name}"}} 1\n' in m.read("metrics")
    assert "want on\n" in site.journal() and "done yes\n" in site.journal()
    if site.kind == "mysql":
        wait_for("the count of what was refused", lambda: int(site.value("refused")) > 0, 30)
    else:
        assert site.value("refused") == "-"
    assert m.write("snapshot", f"fenced-{site.kind}\n") == 0, m.last_error()  # snapshots go on
    site.write("on\n")  # again: it is looked after
    site.wait("on")
    site.off()
    assert site.events()[-2:] == ["on", "off"]
    assert f'stillfs_fence{{name="{m.name}"}} 0\n' in m.read("metrics")


def test_what_cannot_be_done_is_refused_with_a_sentence(site):
    for text, word in (("on hard now\n", "expected on"), ("up\n", "expected on, on hard"), ("on soft\n", "expected on"), ("\n", "expected"),
                       ("off force now\n", "expected"), ("retire\n", "has to be on")):
        site.write(text, errno.EINVAL)
        assert word in site.m.last_error()["message"], text
    site.server.query("CREATE USER writer@localhost")
    site.server.query(f"GRANT {'READ_ONLY ADMIN' if site.kind == 'mariadb' else 'SUPER'} ON *.* TO writer@localhost")
    try:
        site.write("on\n")
        site.wait("off")
        assert "writer@localhost" in site.value("error") and "fence.allow" in site.m.last_error()["message"]
        assert settings(site.server) == site.before and not site.journal()
        out = subprocess.run([STILLCTL, "-n", site.m.name, "fence", "on"], capture_output=True, text=True, timeout=60)
        assert out.returncode == 1 and "writer@localhost" in out.stderr
        out = subprocess.run([STILLCTL, "-n", site.m.name, "fence", "check"], capture_output=True, text=True, timeout=60)
        assert out.returncode == 1 and out.stdout.startswith("check writer@localhost has ")
    finally:
        site.server.query("DROP USER writer@localhost")
    for words, code in ((["check"], 0), (["on"], 0), (["retire"], 0), (["off"], 1), (["off", "force"], 0), (["away"], 2)):
        out = subprocess.run([STILLCTL, "-n", site.m.name, "fence", *words], capture_output=True, text=True, timeout=90)
        assert out.returncode == code, (words, out)
        assert "retired" not in out.stderr or words == ["off"]


def test_not_beside_a_snapshot(site):
    site.slow.touch()
    t = threading.Thread(target=site.m.write, args=("snapshot", f"slow-{site.kind}\n"))
    t.start()
    try:
        wait_for("the snapshot", lambda: site.m.status()["state"] == "preparing", 30)
        site.write("on\n", errno.EBUSY)
        assert f"slow-{site.kind}" in site.m.last_error()["message"]
    finally:
        site.slow.unlink()
        t.join()
    assert site.fence()[0] == "off"


def test_it_is_put_up_again_when_somebody_opens_it(site):
    site.on()
    site.server.query("SET GLOBAL read_only=OFF")
    wait_for("the look", lambda: site.value("renewed") == "1" and site.fence()[0] == "on", 30)
    assert insert(site.server) == READ_ONLY
    assert site.events()[-2:] == ["lost", "renewed"]


def kill_daemon(site):
    daemon = int(site.m.status()["pid"])
    os.kill(daemon, signal.SIGKILL)
    wait_for("the next daemon", lambda: int(site.m.status()["pid"]) != daemon, 30)


def test_it_outlives_the_daemon_with_all_that_it_says(site):
    idle = site.server.connect("app", user="app")
    site.on()
    said = [site.value(key) for key in ("since", "ended", "ended_session")]
    kill_daemon(site)
    site.wait("on")
    assert [site.value(key) for key in ("since", "ended", "ended_session")] == said and said[1] == "1"
    assert site.value("renewed") == "0" and insert(site.server) == READ_ONLY
    idle.close()
    site.write("retire\n")
    wait_for("that it is retired", lambda: site.value("retired"))
    kill_daemon(site)
    site.wait("on")
    site.write("off\n", errno.EPERM)
    assert site.value("retired") == "yes" and insert(site.server) == READ_ONLY
    site.off("off force\n")
    assert site.value("retired") is None


def test_it_outlives_the_whole_stillfs_and_the_server(site):
    site.on()
    since = site.value("since")
    site.server.stop()
    site.m.stop()
    site.m.start()
    site.wait("on unreachable")
    site.server.start()
    assert insert(site.server) == READ_ONLY
    site.wait("on")
    assert (site.value("since"), site.value("renewed")) == (since, "0")


def test_what_a_client_calls_itself_is_no_line_of_the_journal(site):
    """Neither its program's name nor that of its database, with which it could have the next daemon seal the mount."""
    lines = "x\nhard yes\nretired yes\ncheck ok\n\x7f y"
    site.server.query(f"CREATE DATABASE `{lines}`")
    site.server.query(f"GRANT SELECT ON `{lines}`.* TO app@localhost")
    idle = site.server.connect(lines, user="app", program_name=lines)
    try:
        site.on()
        word = "x_hard_yes_retired_yes_check_ok___y"
        assert site.value("ended_session") == f"app@localhost program={word if site.kind == 'mysql' else '-'} db={word}"
        forged = {"hard yes", "retired yes", "check ok"}
        assert not forged & set(site.journal().splitlines()) and not forged & set(site.fence()[1])
        kill_daemon(site)
        site.wait("on")
        assert site.value("retired") is None and insert(site.server) == READ_ONLY
    finally:
        idle.close()
        site.off("off force\n")
        site.server.query(f"REVOKE SELECT ON `{lines}`.* FROM app@localhost")
        site.server.query(f"DROP DATABASE `{lines}`")


@pytest.mark.parametrize("site", ["mariadb"], indirect=True)
def test_a_journal_is_believed_before_its_first_session_only(site):
    """What an earlier release wrote there as clients gave it."""
    site.on()
    since = site.value("since")
    site.server.stop()
    site.m.stop()
    path = site.scratch.dir / "state" / "db-fence.journal"
    path.write_text(site.journal() + "ended_session app@localhost program=x\nhard yes\nretired yes\nread_only ON\ny db=app\n")
    site.m.start()
    site.server.start()
    site.wait("on")
    assert site.value("retired") is None and site.value("since") == since
    site.off()


def test_off_while_it_is_being_put_up(site):
    """An account that is let through holds LOCK TABLES: it would be tried for a minute."""
    holder = site.server.connect("app")
    holder.cursor().execute("LOCK TABLES t WRITE")
    site.write("on\n")
    wait_for("its beginning", lambda: site.journal())
    assert site.fence()[0] == "turning on"
    began = time.monotonic()
    site.off()
    assert time.monotonic() < began + 40
    holder.close()


def new_session(site):
    """What is granted counts from the next one."""
    for number in [row[0] for row in site.server.query("SHOW PROCESSLIST") if row[1] == "stillfs"]:
        refused(lambda: site.server.query(f"KILL {number}"))


@pytest.mark.parametrize("site", ["mysql"], indirect=True)
def test_half_of_it_is_told_and_gone_on_with(site):
    """A session that our account may not end; then it has gone."""
    site.server.query("CREATE USER above@localhost")
    site.server.query("GRANT SYSTEM_USER ON *.* TO above@localhost")
    site.server.query("REVOKE SYSTEM_USER ON *.* FROM stillfs@localhost")
    new_session(site)
    try:
        above = site.server.connect(user="above")
        site.write("on\n")
        site.wait("on half")
        assert "above@localhost may not be ended" in site.value("error") and "done yes" not in site.journal()
        assert insert(site.server) == READ_ONLY and site.events()[-1] == "half"
        above.close()
        site.wait("on")
        assert site.value("error") is None and "done yes\n" in site.journal() and site.events()[-1] == "on"
        site.off()
    finally:
        if site.fence()[0] != "off":
            site.off("off force\n")
        site.server.query("GRANT SYSTEM_USER ON *.* TO stillfs@localhost")
        new_session(site)
        site.server.query("DROP USER above@localhost")


def test_prepared_xa_transactions_are_named(site):
    c = site.server.connect("app", user="app")
    for sql in ("XA START 'left'", "INSERT INTO t (v) VALUES (6)", "XA END 'left'", "XA PREPARE 'left'"):
        c.cursor().execute(sql)
    c.close()
    out = subprocess.run([STILLCTL, "-n", site.m.name, "fence", "check"], capture_output=True, text=True, timeout=60)
    site.write("on\n")
    if site.kind == "mysql":
        assert out.returncode == 1 and out.stdout == "check prepared XA transaction 'left': any account can commit it\n"
        site.wait("off")
        assert "XA ROLLBACK it" in site.value("error") and "'left'" in site.m.last_error()["message"]
    else:
        assert out.returncode == 0 and out.stdout.startswith("check ok\ncheck_note fence: 1 prepared XA transaction stays")
        site.wait("on")
        assert "1 prepared XA transaction stays" in site.value("note")
        site.off()
    site.server.query("XA ROLLBACK 'left'")


@pytest.mark.parametrize("site", ["mysql"], indirect=True)
def test_a_renewal_that_fails_is_half_until_all_of_it_is_done(site):
    """Whatever fails when the server is read-only again: here a transaction that was prepared while it was open."""
    site.on()
    prepare_opened(site.server, "since")
    try:
        site.wait("on half")
        seen, end = set(), time.monotonic() + 7  # it is tried again each 5 s
        while time.monotonic() < end:
            seen.add((site.fence()[0], "prepared XA transaction" in (site.value("error") or ""), "done yes\n" in site.journal()))
            time.sleep(0.05)
        assert seen == {("on half", True, False)}
        kill_daemon(site)
        site.wait("on half")
    finally:
        site.server.query("XA ROLLBACK 'since'")
    site.wait("on")
    assert site.value("error") is None and "done yes\n" in site.journal()


@pytest.mark.parametrize("site", ["mariadb"], indirect=True)
def test_hard_after_the_server_is_gone_and_back(site):
    """Up over SQL; the server dies, nobody shall start it; off takes back both, and what SQL has to undo when it answers."""
    site.on()
    site.write("on hard\n", errno.EBUSY)
    assert "has to be down" in site.m.last_error()["message"]
    site.server.kill()
    site.wait("on unreachable")
    site.write("on hard\n")
    site.wait("on hard")
    assert "hard yes\n" in site.journal() and "done yes\n" in site.journal()
    with pytest.raises(AssertionError):
        site.server.start()
    assert "ead-only file system" in site.server.log()
    site.write("on\n", errno.EBUSY)
    site.write("off\n")
    site.wait("turning off")
    wait_for("that the file of the fence is asked for", lambda: site.value("error"))
    site.server.start()
    site.wait("off")
