"""MySQL's group replication with three members, a secondary of them on a mount: a hold that is longer than the group's patience
with a silent member neither stops the primary's commits nor has the member expelled; a set of it taken under load starts where its
record says, and a replica follows from there."""

import contextlib
import time

import pytest

import replication
import roles
from mysql import MySQL
from stillfs import wait_for
from test_cluster import Writer

PATIENCE_S = 5  # after which a silent member is suspected; it is expelled at once then, as the options below say


class Group:
    def __init__(self, stack):
        self.mount, make, self.scratch = stack.enter_context(roles.site(MySQL, gate_timeout=40))
        self.make = make
        ports = [replication.free_port() for _ in "bca"]
        self.members = []
        for i, name in enumerate("bca"):  # a on the mount, last: the first is the primary
            data = self.mount.mnt / "d" if name == "a" else self.scratch.dir / f"data-{name}"
            s = make(name, data, i + 1, more=[
                "--plugin-load-add=group_replication.so", "--report-host=127.0.0.1", *(f"--loose-group-replication-{o}" for o in (
                    "group-name=aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa", "start-on-boot=OFF", f"local-address=127.0.0.1:{ports[i]}",
                    "group-seeds=" + ",".join(f"127.0.0.1:{p}" for p in ports), f"bootstrap-group={'OFF' if i else 'ON'}",
                    "ip-allowlist=127.0.0.1", "recovery-get-public-key=ON", "member-expel-timeout=0"))])
            replication.account(s)
            self.members.append(s)
            s.query("CHANGE REPLICATION SOURCE TO SOURCE_USER='repl', SOURCE_PASSWORD='r' FOR CHANNEL 'group_replication_recovery'")
            s.query("START GROUP_REPLICATION")
            wait_for(f"member {name}", lambda: all(self.sees(m) == i + 1 for m in self.members), 60)
        self.b, self.c, self.a = self.members
        roles.schema(self.b)

    @staticmethod
    def sees(member):
        """How many are in its group, as it says."""
        return len([s for s, in member.query("SELECT MEMBER_STATE FROM performance_schema.replication_group_members") if s == "ONLINE"])

    def whole(self):
        return all(self.sees(m) == 3 for m in self.members)

    def behind(self):
        return self.a.query("SELECT COUNT_TRANSACTIONS_IN_QUEUE + COUNT_TRANSACTIONS_REMOTE_IN_APPLIER_QUEUE FROM "
                            "performance_schema.replication_group_member_stats WHERE MEMBER_ID = @@server_uuid")[0][0]


@pytest.fixture(scope="module")
def group():
    with contextlib.ExitStack() as stack:
        yield Group(stack)


@pytest.fixture
def writer(group):
    w = Writer(group.b)
    w.run_for(20)
    yield w
    w.stop()


def test_a_hold_of_a_secondary_stops_nobody_and_does_not_have_it_expelled(group, writer):
    with group.mount.closed(30):
        end = time.monotonic() + PATIENCE_S + 2
        wait_for("the group's patience", lambda: time.monotonic() > end)
        writer.run_for(100)
        assert group.whole() and group.behind() > 100
    writer.stop()
    assert group.whole()
    sums = replication.checksums(group.b, "t")
    wait_for("equal tables", lambda: all(replication.checksums(m, "t") == sums for m in group.members), 60)


def test_a_set_of_a_secondary_is_where_its_record_says_and_a_replica_follows_from_there(group, writer):
    position = roles.take(group.mount)
    writer.run_for(20)
    writer.stop()
    assert group.whole() and position["gtid_executed"].startswith("aaaaaaaa-aaaa")
    clone = group.make("k", roles.clone_of(group.mount, group.scratch, "d"), 9, install=False, more=["--skip-replica-start"])
    roles.assert_equals_the_record(clone, position)
    replication.attach(clone, group.b.port)
    replication.catch_up(group.b, clone)
    sums = replication.checksums(group.b, "t")
    wait_for("equal tables", lambda: replication.checksums(clone, "t") == sums)
