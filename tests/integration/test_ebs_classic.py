"""The classic tool's command line over a mount: it runs unchanged, prints ids, hides what is secret. Without a mount:
test_ebs_alone.py."""

import pathlib
import re
import subprocess

from cloud import cloud, make_cloud, tags_of  # noqa: F401
from stillfs import BUILD, wait_for

CLASSIC = BUILD / "tools" / "ec2-consistent-snapshot"
# of the classic tool's latest release, those that its manual leaves out included
ITS_OPTIONS = """signature-version ec2-endpoint mongo-init help debug quiet noaction aws-access-key-id aws-secret-access-key aws-access-key-id-file
aws-secret-access-key-file aws-credentials-file use-iam-role region description tag freeze-filesystem xfs-filesystem
no-freeze-filesystem mongo mongo-host mongo-port mongo-username mongo-password mongo-stop mysql mysql-defaults-file mysql-host
mysql-socket mysql-username mysql-password mysql-master-status-file mysql-stop percona snapshot-timeout lock-timeout lock-tries
lock-sleep pre-freeze-command post-thaw-command""".split()


def classic(cloud, *args):  # noqa: F811
    return subprocess.run([str(CLASSIC), *map(str, args)], capture_output=True, text=True, env=cloud.elsewhere(), timeout=50)


def test_it_has_every_option_of_the_classic_tool_and_its_manual_has_them_too():
    helped = re.findall(r"^  --([\w-]+)", subprocess.run([str(CLASSIC), "-h"], capture_output=True, text=True, check=True).stdout, re.M)
    assert sorted(helped) == sorted(ITS_OPTIONS + ["version"])
    page = (pathlib.Path(__file__).parents[2] / "docs" / "man" / "ec2-consistent-snapshot.8.scd").read_text()
    assert [o for o in helped if f"*--{o}*" not in page] == []


def test_a_scripts_old_line_runs_and_its_secrets_are_hidden(cloud, make_mount, scratch):  # noqa: F811
    m = make_mount(env=cloud.env, **cloud.options)
    cloud.faults["CreateSnapshot"] = ["late 1.0"]
    p = subprocess.Popen([str(CLASSIC), "-d", "--aws-access-key-id", "KEYKEYKEY", "--aws-secret-access-key=SECRETSECRET", "--region", "us-east-1",
                          "--description", 'nightly "D"', "--tag", "team=db;a=b c", "--xfs-filesystem", str(m.mnt), "--mysql-username", "U",
                          "--mysql-password", "PASSWORDPASSWORD", "--mysql-master-status-file", "/x/status", cloud.volumes[0]],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=cloud.elsewhere())
    wait_for("the snapshot to begin", lambda: m.status()["state"] != "idle")
    shown = pathlib.Path(f"/proc/{p.pid}/cmdline").read_text()
    assert "xfs-filesystem" in shown and not re.search("KEYKEY|SECRETSECRET|PASSWORDPASSWORD", shown)
    out, err = p.communicate(timeout=50)
    assert p.returncode == 0 and out == f"{cloud.made[0]}\n", (out, err)
    assert "warning: keys on the command line" in err and ".stillfs-position in the snapshot" in err and "SECRETSECRET" not in err
    form, = cloud.sent("CreateSnapshot")
    assert form["Description"] == 'nightly "D"' and tags_of(form)["team"] == "db" and tags_of(form)["a"] == "b c"


WRONG = [
    (["--bogus"], 2, "unrecognized option"),
    (["--mysql"], 2, "neither volume ids nor a filesystem"),
    (["--freeze-filesystem", "{mnt}", "x"], 2, "not a volume id"),
    (["--freeze-filesystem", "/", "--freeze-filesystem", "{mnt}"], 1, "no stillfs is mounted there, and another one of the filesystems is one"),
    (["--freeze-filesystem", "{mnt}", "--mysql"], 1, "this stillfs locks no MySQL; mount it with db=mysql, it has db=none"),
    (["--freeze-filesystem", "{mnt}", "--region", "eu-west-1"], 1, "another one than the mount's: us-east-1"),
    (["--freeze-filesystem", "{mnt}", "--tag", "a=b", "--tag", "c=d"], 2, "once for each volume id"),
    (["--freeze-filesystem", "{mnt}", "--tag", "a=b", "--tag", "c=d", "vol-1", "vol-2"], 1, "--tag for each volume is not possible"),
    (["--freeze-filesystem", "{mnt}", "--pre-freeze-command", "exit 3"], 1, "nothing was taken: exit 3"),
    (["--freeze-filesystem", "{mnt}", "-n"], 0, "would write to"),
]


def test_what_it_refuses_takes_nothing_and_a_foreign_volume_is_named(cloud, make_mount):  # noqa: F811
    m = make_mount(env=cloud.env, **cloud.options)
    for args, code, words in WRONG:
        r = classic(cloud, *[a.format(mnt=m.mnt) for a in args])
        assert (r.returncode, r.stdout) == (code, "") and words in r.stderr, r
    assert not cloud.made and m.read("list").count("\n") == 1
    r = classic(cloud, "-q", "--freeze-filesystem", m.mnt, cloud.volumes[0], "vol-0123456789abcdef0")
    assert r.returncode == 1 and r.stdout == f"{cloud.made[0]}\n", r
    assert "does not lie on this volume, so it is not in it: vol-0123456789abcdef0" in r.stderr
