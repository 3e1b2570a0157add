"""A session of a person at a shell, with everything that goes wrong there: each gets its errno and its sentence, and the
policy and the sets stay as they were."""

import errno
import os
import subprocess
import threading

import pytest

from test_retention import plan, sets, take

POLICY = "policy\ntimezone UTC\nkeep_last 2\n"


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
    ("echo aply > prune", "Invalid argument", 'prune: expected "apply [PLANID]", "adopt" or "delete NAME force"'),
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
])
def test_what_is_mistyped_is_refused_and_changes_nothing(m, script, words, sentence):
    before = m.read("last_error")
    r = sh(m, script)
    assert r.returncode != 0 and words in r.stderr, r
    if sentence:
        assert m.read("last_error") != before and sentence in m.last_error()["message"], m.last_error()
    assert m.read("retention") == POLICY and plan(m)[0]["delete"] == "1"


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
