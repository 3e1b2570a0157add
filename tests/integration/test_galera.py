"""A Galera cluster of three nodes, two of them on mounts: what a hold of one does to the commits of the others, with db.galera=desync
and without; that it expels nobody; and that a clone of a node's set is where its record says, follows and joins."""

import contextlib
import re
import threading
import time

import pymysql
import pytest

import replication
import roles
from mariadb import MariaDB
from stillfs import Mount, Scratch, scratch_dir, wait_for
from test_cluster import Writer, galera, wsrep


class Cluster:
    """a: on a mount whose provider hangs when told; b: on one that clones; c: on none, and it is c that is written to."""

    def __init__(self, stack):
        self.ports, self.nodes, self.mounts = [], {}, {}
        plain = scratch_dir(stack)
        for name in "abc":
            if name == "c":
                where, data = plain, plain / "data"
            else:
                scratch = Scratch(size_mb=1200)
                stack.callback(scratch.close)
                m = Mount(scratch, start=False, provider="null" if name == "a" else "local", db="mysql", db__socket=scratch.dir / name / "sock",
                          db__galera="desync", gate_timeout=40)
                stack.callback(m.close)
                m.start()
                self.mounts[name] = m
                where, data = scratch.dir, m.mnt / "d"
            self.start(stack, name, where / name, data)
        self.a, self.b, self.c = (self.nodes[n] for n in "abc")
        roles.schema(self.c)
        replication.account(self.b)

    def start(self, stack, name, directory, data, install=True, more=(), tries=3):
        """Of its four ports one can be taken by somebody else meanwhile: then with others."""
        data.mkdir(exist_ok=True)
        port, own = replication.free_port(), replication.free_port()
        s = MariaDB(directory, data, len(self.ports) + 1, install=install, options=[
            *replication.options(MariaDB, own), *galera(port, "gcomm://" + ",".join(f"127.0.0.1:{p}" for p in self.ports)), *more,
            f"--wsrep-sst-receive-address=127.0.0.1:{replication.free_port()}", f"--wsrep-node-name={name}"])
        s.port = own
        stack.callback(s.close)
        try:
            s.start()
        except AssertionError:
            if tries == 1:
                raise
            s.close()
            return self.start(stack, name, directory, data, False, more, tries - 1)
        stack.callback(lambda: s.process and s.kill())
        self.ports.append(port)
        self.nodes[name] = s
        return wait_for(f"node {name}", lambda: self.is_synced(s), 60)

    @staticmethod
    def is_synced(node):
        try:
            return wsrep(node, "ready") == "ON" and wsrep(node, "local_state_comment") == "Synced"
        except pymysql.Error:  # one that joins ends connections that came too early
            return False

    def whole(self):
        return all(wsrep(n, "cluster_size") == str(len(self.nodes)) for n in self.nodes.values())

    def equal(self):
        def sums():
            return [replication.checksums(n, "t") for n in self.nodes.values()]
        wait_for("equal tables", lambda: len({tuple(sorted(s.items())) for s in sums()}) == 1)


@pytest.fixture(scope="module")
def cluster():
    with contextlib.ExitStack() as stack:
        yield Cluster(stack)


@pytest.fixture
def writer(cluster):
    w = Writer(cluster.c)
    w.run_for(20)
    yield w
    w.stop()


def test_a_hold_without_desync_stops_the_commits_of_all_and_expels_nobody(cluster, writer):
    with cluster.mounts["a"].closed(30):
        wait_for("a commit that waits", lambda: time.monotonic() - writer.began > 6)  # longer than Galera suspects a node that is silent
        assert wsrep(cluster.a, "local_state_comment") == "Synced" and cluster.whole()
        assert int(wsrep(cluster.a, "flow_control_sent")) > 0
    writer.run_for(20)
    assert cluster.whole()


def test_with_desync_the_others_commit_through_a_snapshots_hold(cluster, writer):
    m = cluster.mounts["a"]
    m.null("trigger hang\n")
    t = threading.Thread(target=m.write, args=("snapshot", "one\n"))
    t.start()
    try:
        wait_for("the hold", lambda: any(call == "trigger" for _, call, _ in m.null_calls()))
        assert wsrep(cluster.a, "local_state_comment") == "Donor/Desynced"
        assert cluster.a.query("SELECT @@GLOBAL.wsrep_desync")[0][0] == 1  # a backup stage desyncs by itself, until it ends
        writer.run_for(100)
        assert int(wsrep(cluster.a, "local_recv_queue")) > 20 and m.gate() == "closed"
    finally:
        m.null("")
        t.join(60)
    m.wait_state("one", "complete", 40)
    wait_for("the node", lambda: cluster.is_synced(cluster.a))
    assert cluster.whole() and cluster.a.query("SELECT @@GLOBAL.wsrep_desync")[0][0] == 0
    writer.stop()
    cluster.equal()


def test_a_clone_of_a_node_is_where_its_record_says_and_follows(cluster, writer):
    m = cluster.mounts["b"]
    position = roles.take(m)
    writer.run_for(20)
    writer.stop()
    wait_for("the node", lambda: cluster.is_synced(cluster.b))
    with contextlib.ExitStack() as stack:
        data = roles.clone_of(m, m.scratch, "d")
        clone = MariaDB(m.scratch.dir / "k", data, 9, install=False, options=[
            *replication.options(MariaDB, replication.free_port()), "--skip-slave-start"])
        stack.callback(clone.close)
        clone.start()
        stack.callback(clone.kill)
        roles.assert_equals_the_record(clone, position)
        roles.follow(clone, cluster.b, position["gtid_binlog_pos"])
        cluster.equal()
        assert replication.checksums(clone, "t") == replication.checksums(cluster.b, "t")


@pytest.mark.long
def test_a_clone_joins_the_cluster_with_what_it_lacks_alone(cluster, writer):
    m = cluster.mounts["b"]
    roles.take(m, "two")
    writer.run_for(20)
    data = roles.clone_of(m, m.scratch, "d", "two")
    (data / "gvwstate.dat").unlink(missing_ok=True)  # the node's own identity
    d = m.scratch.dir / "j"
    recover = MariaDB(d, data, 9, install=False, options=[*galera(replication.free_port()), "--wsrep-recover"])
    assert recover.launch().process.wait(60) == 0, recover.log()[-2000:]
    found = re.findall(r"Recovered position: ([0-9a-f-]+:[0-9]+)", recover.log())
    with contextlib.ExitStack() as stack:
        cluster.start(stack, "j", d, data, install=False, more=[f"--wsrep-start-position={found[-1]}"])
        assert cluster.whole()
        writer.stop()
        cluster.equal()
        log = cluster.nodes.pop("j").log()
    came = re.search(r"Receiving IST: \d+ writesets, seqnos (\d+)-", log)
    assert came and int(came[1]) == int(found[-1].split(":")[1]) + 1, re.findall(r".*(?:IST|SST).*", log)
