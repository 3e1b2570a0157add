"""The rooms include only what they may; and the check sees a breach of each kind."""

import pathlib

import pytest

import layers

TOP = pathlib.Path(__file__).resolve().parents[2]


def test_no_room_includes_what_it_may_not():
    assert not layers.breaches(TOP)


def test_every_room_is_read():
    assert all(list((TOP / room).rglob("*.c")) for room in layers.ROOMS)


@pytest.fixture
def tree(tmp_path):
    for name in ("base/door.h", "base/conf.h", "fs/gate.h", "snapshot/set.h", "tests/harness/fake.h"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "tools").mkdir()

    def write(name, line):
        (tmp_path / name).write_text(f"/* text */\n{line}\n")
        return layers.breaches(tmp_path)
    return write


@pytest.mark.parametrize("name,line,breach", [
    ("snapshot/run.c", '#include "fs/gate.h"', "snapshot/run.c:2: snapshot/ includes fs/gate.h"),
    ("snapshot/run.c", "#  include <fs/gate.h>", "snapshot/run.c:2: snapshot/ includes fs/gate.h"),
    ("snapshot/run.c", '#include "../fs/gate.h"', "snapshot/run.c:2: snapshot/ includes fs/gate.h"),
    ("snapshot/run.c", '#include \\\n"fs/gate.h"', "snapshot/run.c:2: snapshot/ includes fs/gate.h"),
    ("snapshot/run.c", '#include "fs/not_there.h"', "snapshot/run.c:2: snapshot/ includes fs/not_there.h"),
    ("fs/ctl.c", '#include "snapshot/set.h"', "fs/ctl.c:2: fs/ includes snapshot/set.h"),
    ("fs/ctl.h", '#include "snapshot/set.h"', "fs/ctl.h:2: fs/ includes snapshot/set.h"),
    ("tools/stillctl.c", '#include "fs/gate.h"', "tools/stillctl.c:2: tools/ includes fs/gate.h"),
    ("tools/stillctl.c", '#include "snapshot/set.h"', "tools/stillctl.c:2: tools/ includes snapshot/set.h"),
    ("base/log.c", '#include "fs/gate.h"', "base/log.c:2: base/ includes fs/gate.h"),
    ("fs/ctl.c", '#include "tests/harness/fake.h"', "fs/ctl.c:2: fs/ includes tests/harness/fake.h"),
    ("snapshot/run.c", "#include <liburing.h>", "snapshot/run.c:2: liburing.h belongs to fs"),
    ("fs/ctl.c", "#include <openssl/evp.h>", "fs/ctl.c:2: openssl/evp.h belongs to snapshot"),
    ("fs/ctl.c", "#include HEADER", "fs/ctl.c:2: #include HEADER: only a plain file name can be checked"),
])
def test_a_breach_is_found(tree, name, line, breach):
    assert tree(name, line) == [breach]


@pytest.mark.parametrize("name,line", [
    ("snapshot/run.c", '#include "base/door.h"'),
    ("fs/ctl.c", '#include "base/door.h"'),
    ("fs/ctl.c", '#include "gate.h"'),
    ("fs/ctl.c", "#include <fuse3/fuse_lowlevel.h>"),
    ("tests/test_a.c", '#include "snapshot/set.h"'),
    ("snapshot/run.c", "#include <stdio.h>"),
    ("snapshot/run.c", '/* #include "fs/gate.h" would be one */'),
])
def test_what_is_allowed_is_no_breach(tree, name, line):
    assert tree(name, line) == []
