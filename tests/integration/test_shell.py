"""A session of a person at a shell, with everything that goes wrong there: each gets its errno and its sentence, and the
policy and the sets stay as they were."""

import errno
import os
import subprocess
import threading

import pytest

from stillfs import Mount, Scratch
from test_retention import plan, sets, take

POLICY = "policy\ntimezone UTC\nkeep_last 2\n"


@pytest.fixture(scope="module")
def site():
    """One mount for all that is refused."""
    scratch = Scratch()
    m = Mount(scratch, provider="null", retention="keep_last 2")
    take(m, "a", "b", "c")
    yield m
    m.close()
    scratch.close()


@pytest.fixture
def m(make_mount):
    m = make_mount(provider="null", retention="keep_last 2")
    take(m, "a", "b", "c")
    yield m
    assert sets(m) == ["a", "b", "c"] and [c for c in m.null_calls() if c[1] == "remove"] == []


def sh(m, script):
    """bash says the errno in words; dash would not."""
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=m.control, timeout=60,
                          env={**os.environ, "LC_ALL": "C"})


@pytest.mark.parametrize("script,words,sentence", [
    ("echo keep_lsat 7 > retention", "Invalid argument", 'retention: "keep_lsat": unknown; the keys are'),
    ("echo keep_last seven > retention", "Invalid argument", 'retention: keep_last "seven": expected a number'),
    ("echo keep_last > retention", "Invalid argument", "retention: keep_last: its value is missing"),
    ("echo -n keep_last 1 > retention", "Invalid argument", "the last line does not end with a newline"),
    ("/usr/bin/printf 'keep_last 1\\nkeep_da' > retention", "Invalid argument", "the last line does not end with a newline"),
    ("printf '' | cat > retention; echo > retention; false", "", None),
    ("/bin/echo 'keep_daily 3\nkeep_wekly 2' >> retention", "Invalid argument", '"keep_wekly": unknown'),
    ("echo nonsense | tee retention", "Invalid argument", '"nonsense": unknown'),
    ("echo keep_last 14 | dd of=retention bs=1", "Invalid argument", "the last line does not end with a newline"),
    ("echo keep_last 14 | dd of=retention bs=11", "Invalid argument", "the last line does not end with a newline"),
    ("echo keep_last 14 | dd of=retention bs=64 seek=1", "Invalid argument", "write the whole command at once, at the start"),
    ("head -c 300 /dev/zero > retention", "Invalid argument", "a command is text of at most 8192 bytes"),
    ("head -c 300 /bin/true > retention", "Invalid argument", "a command is text of at most 8192 bytes"),
    ("printf '\\377\\376\\n' > retention", "Invalid argument", "unknown"),
    ("head -c 20000 /dev/zero | tr '\\0' k | dd of=retention bs=20000 iflag=fullblock", "Invalid argument", "a command is text of at most 8192 bytes"),
    ("cp retention retention.new", "Operation not permitted", "retention.new: no such control file, and none can be made"),
    ("sed -i s/2/1/ retention", "", "no such control file, and none can be made"),
    ("echo x > /tmp/.stillfs-x; mv /tmp/.stillfs-x retention", "", "control files cannot be removed"),
    ("rm -f retention", "Operation not permitted", "retention: control files cannot be removed"),
    ("chmod 666 retention", "Operation not permitted", None),
    ("echo aply > prune", "Invalid argument", 'prune: expected "apply [PLANID]", "adopt", "delete NAME force" or "delete ID orphan"'),
    ("echo -n apply > prune", "Invalid argument", "prune: the line does not end with a newline"),
    ("echo apply | dd of=prune bs=1", "Invalid argument", "prune: the line does not end with a newline"),
    ("echo apply all > prune", "Invalid argument", 'prune: "all" is no plan\'s id'),
    ("echo apply 0123456789abcdef > prune", "Resource temporarily unavailable", "read prune again"),
    ("echo apply 0123456789abcdef 1 > prune", "Invalid argument", "prune: expected"),
    ("/usr/bin/printf 'apply\\napply\\n' > prune", "Invalid argument", "prune: expected one line"),
    ("echo delete a > prune", "Invalid argument", "prune: expected"),
    ("echo delete nobody force > prune", "No such file or directory", "delete --force snapshots/nobody: no such set"),
    ("echo x > prune.log", "Permission denied", None),
    ("echo x > list", "Permission denied", None),
    ("echo maybe > snapshots/a/pin", "Invalid argument", "pin: expected yes or no"),
    ("rmdir snapshots/c", "Device or resource busy", "it is the newest complete set"),
    ("mv snapshots/a snapshots/z", "Operation not permitted", "neither control files nor sets can be renamed"),
    ("touch snapshots/a/note", "Operation not permitted", "none can be made"),
    ("exec 3>retention; printf keep_ >&3; printf 'last 1\\n' >&3; exec 3>&-; false", "Invalid argument",
     'retention: "last": unknown'),
    ("cp -p retention retention~", "Operation not permitted", "retention~: no such control file, and none can be made"),
    ("ln -s /etc/passwd snapshots/link", "Operation not permitted", "none can be made"),
    ("mkdir backups", "Operation not permitted", "directories are made and removed in snapshots/ only"),
    ("rmdir snapshots", "Operation not permitted", "directories are made and removed in snapshots/ only"),
    ("mkdir 'snapshots/b ad'", "Invalid argument", "mkdir snapshots/b ad: bad name: expected a letter or digit"),
    ("cat abort", "Permission denied", "this file can only be written"),
    ("echo x > status", "Permission denied", "this file can only be read"),
    ("echo 'd clas=nightly' > snapshot", "Invalid argument", "snapshot: "),
    ("echo 'd description=\"half' > snapshot", "Invalid argument", "snapshot: "),
    ("echo a > snapshot", "File exists", "snapshot a: a set of this name exists; choose another name"),
    ("echo ../a > snapshot", "Invalid argument", "snapshot: "),
    ("head -c 9000 /dev/zero | tr '\\0' d | dd of=snapshot bs=9000 iflag=fullblock", "Invalid argument",
     "a command is text of at most 8192 bytes"),
    ("head -c 100 /bin/true > snapshot", "Invalid argument", "a command is text of at most 8192 bytes"),
    ("echo clsoe > gate", "Invalid argument", 'gate: expected "open" or "close [timeout=SECONDS]"'),
    ("echo close timeout=99 > gate", "Invalid argument", "gate: timeout=99: expected timeout=SECONDS"),
    ("/usr/bin/printf '\\377\\n' > gate", "Invalid argument", "gate: expected"),
    ("echo yes no > snapshots/a/pin", "Invalid argument", "pin: expected yes or no"),
    ("head -c 60 /bin/true > snapshots/a/pin", "Invalid argument", "a command is text of at most 8192 bytes"),
    ("/usr/bin/printf 'two\\nlines\\n' > snapshots/a/description", "Invalid argument", "description: one line of UTF-8"),
    ("/usr/bin/printf '\\377\\n' > snapshots/a/description", "Invalid argument", "description: one line of UTF-8"),
    ("head -c 300 /dev/zero | tr '\\0' d | dd of=snapshots/a/description bs=300 iflag=fullblock", "Invalid argument",
     "description: longer than 255 bytes"),
    ("echo no-colon > snapshots/a/tags", "Invalid argument", 'tags: "no-colon": expected at most 40 lines KEY:VALUE'),
    ("echo aws:x:y | tee snapshots/a/tags", "Invalid argument", 'tags: "aws:x:y": expected'),
    ("echo 'a b' > verify", "Invalid argument", "expected a set's name"),
    ("echo rnu > doctor", "Invalid argument", "doctor: expected run"),
    ("echo now > abort", "No such file or directory", "abort: no snapshot is running"),
    ("echo strat > upgrade", "Invalid argument", "upgrade: expected"),
    ("echo > rescan", "Operation not supported", "rescan: provider null keeps no records"),
])
def test_what_is_mistyped_is_refused_and_changes_nothing(site, script, words, sentence):
    m = site
    files = [m.control / "gate", *(m.control / "snapshots" / "a" / f for f in ("pin", "description", "tags"))]
    state = [f.read_text() for f in files]
    before = m.read("last_error")
    r = sh(m, script)
    assert r.returncode != 0 and words in r.stderr, r
    if sentence:
        assert m.read("last_error") != before and sentence in m.last_error()["message"], m.last_error()
    assert m.read("retention") == POLICY and plan(m)[0]["delete"] == "1"
    assert [f.read_text() for f in files] == state and state[1] == "no\n"
    assert sets(m) == ["a", "b", "c"] and [c for c in m.null_calls() if c[1] == "remove"] == []


@pytest.mark.parametrize("file,script,text", [
    ("retention", "> retention", POLICY), ("retention", "truncate -s 0 retention", POLICY), ("retention", "touch retention", POLICY),
    ("prune", "cat prune > /dev/full; cat < prune > /dev/null", None),
    ("snapshots/a/pin", "echo -n yes > snapshots/a/pin", "yes\n"), ("snapshots/a/pin", "echo yes >> snapshots/a/pin", "yes\n"),
    ("snapshots/a/pin", "printf '  yes \\t\\n' | tee -a snapshots/a/pin", "yes\n"),
    ("snapshots/a/description", "echo -n 'before the upgrade' > snapshots/a/description", "before the upgrade\n"),
    ("snapshots/a/description", "echo one > snapshots/a/description; echo two >> snapshots/a/description", "two\n"),
    ("snapshots/a/tags", "cat > snapshots/a/tags <<END\nwhy:audit\n\nwho:me\nEND", "why:audit\nwho:me\n"),
    ("gate", "echo -n open > gate", "open\n"),
])
def test_what_a_shell_does_besides_is_harmless(m, file, script, text):
    sh(m, script)
    if text is not None:
        assert m.read(file) == text
    assert m.read("retention") == POLICY
    if file.endswith("pin"):
        assert sh(m, "rmdir snapshots/a").returncode == 1 and "it is pinned" in m.last_error()["message"]


@pytest.mark.parametrize("script,policy", [
    ("echo keep_last 3 > retention", "keep_last 3"),
    ("echo keep_last 3 >> retention", "keep_last 3"),
    ("echo keep_last 3 | tee retention", "keep_last 3"),
    ("echo keep_last 3 | tee -a retention", "keep_last 3"),
    ("echo keep_last 3 | dd of=retention bs=512", "keep_last 3"),
    ("/usr/bin/printf 'keep_last\\t3  \\r\\n\\n# a remark\\n' > retention", "keep_last 3"),
    ("cat retention > /tmp/.stillfs-p && cat /tmp/.stillfs-p > retention; rm /tmp/.stillfs-p; echo keep_last 3 > retention", "keep_last 3"),
    ("cp retention /tmp/.stillfs-p && echo keep_last 3 >> /tmp/.stillfs-p && cp /tmp/.stillfs-p retention; rm /tmp/.stillfs-p",
     "keep_last 3"),
])
def test_what_is_right_works_however_it_is_written(m, script, policy):
    r = sh(m, script)
    assert r.returncode == 0, r
    assert m.read("retention") == f"policy\ntimezone UTC\n{policy}\n"


def test_concurrent_writers_leave_one_whole_policy(m):
    """Each writes a policy of its own; what stands there is always one of them."""
    texts = [f"policy\nkeep_last {i}\nkeep_daily {i}\nkeep_tag writer:{i}\n" for i in range(1, 5)]
    failed = []

    def writer(text):
        for _ in range(25):
            if m.write("retention", text) != 0:
                failed.append(m.last_error())
    threads = [threading.Thread(target=writer, args=(t,)) for t in texts]
    for t in threads:
        t.start()
    seen = set()
    while any(t.is_alive() for t in threads):
        seen.add(m.read("retention"))
    for t in threads:
        t.join()
    assert failed == []
    whole = {f"policy\ntimezone UTC\nkeep_last {i}\nkeep_daily {i}\nkeep_tag writer:{i}\n" for i in range(1, 5)}
    assert seen <= whole | {POLICY} and m.read("retention") in whole


def test_concurrent_writers_of_a_set_leave_whole_texts(m):
    """A description and tags, each written by several at a time, are always one of those written; so is the record."""
    texts = [f"{c * 200}" for c in "abcd"]
    failed = []

    def writer(text):
        for _ in range(10):
            for file, what in (("description", text), ("tags", f"who:{text}\nwhy:{text}\n")):
                if m.write(f"snapshots/b/{file}", what) != 0:
                    failed.append(m.last_error())
    threads = [threading.Thread(target=writer, args=(t,)) for t in texts]
    for t in threads:
        t.start()
    seen = set()
    while any(t.is_alive() for t in threads):
        seen.add(m.read("snapshots/b/description").strip())
    for t in threads:
        t.join()
    assert failed == [] and seen <= {*texts, ""}
    description, tags = m.read("snapshots/b/description"), m.read("snapshots/b/tags")
    assert description.strip() in texts and tags in {f"who:{t}\nwhy:{t}\n" for t in texts}
    m.stop()
    m.start()
    assert (m.read("snapshots/b/description"), m.read("snapshots/b/tags")) == (description, tags)


def test_two_operators_apply_one_plan_and_one_of_them_is_told(make_mount):
    m = make_mount(provider="null", retention="keep_last 1")
    take(m, "a", "b", "c")
    old = plan(m)[0]["plan"]
    m.null("remove delay_ms 50\n")
    results = []
    threads = [threading.Thread(target=lambda: results.append(m.write("prune", f"apply {old}\n"))) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(results) == [0, errno.EAGAIN]
    assert sets(m) == ["c"]
