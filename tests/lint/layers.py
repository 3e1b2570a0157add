"""tests/lint/layers.py [TOP] - the dependency rule of the rooms, read from every #include.

fs/ and snapshot/ know nothing of each other; they meet in base/door.h.  tools/ include neither, base/ includes nobody,
and nobody includes tests/.  Libraries stay in their room.  Prints each breach; exit 1 when there is one.
"""

import pathlib
import re
import sys

ROOMS = ("base", "fs", "snapshot", "tools", "tests")
MAY_INCLUDE = {
    "base": {"base"},
    "fs": {"base", "fs"},
    "snapshot": {"base", "snapshot"},
    "tools": {"base", "tools"},
    "tests": set(ROOMS),
}
# fs/main.c plugs the engine in, and needs no more than the door for it
LIBRARIES = {
    r"fuse3?/|fuse(_lowlevel|_opt)?\.h": {"fs", "tests"},
    r"linux/fuse\.h": {"fs", "tests"},
    r"liburing": {"fs", "tests"},
    r"ini\.h": {"fs", "tests"},
    r"openssl/|curl/|libxml/|bson|mongoc": {"snapshot", "tests"},
    r"mysql|mariadb": {"snapshot", "tests"},
    r"json-c/": {"snapshot", "tools", "tests"},
}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*(?:include|import|include_next)\b[ \t]*(.*)$', re.M)


def room_of(path):
    """The room of a path relative to TOP, or None."""
    return path.parts[0] if path.parts and path.parts[0] in ROOMS else None


def target(top, source, name):
    """Where an include leads: a path relative to TOP, or None for what is not ours."""
    for base in (source.parent, top):
        found = (base / name).resolve()
        if found.is_file() and found.is_relative_to(top):
            return found.relative_to(top)
    path = pathlib.PurePosixPath(name)
    return path if room_of(path) else None  # not there (any more), but meant


def breaches_of(top, source):
    room = room_of(source.relative_to(top))
    text = re.sub(r"\\\n", "", source.read_text(errors="replace"))
    for m in INCLUDE.finditer(text):
        where = f"{source.relative_to(top)}:{text.count(chr(10), 0, m.start()) + 1}"
        name = re.match(r'[<"]([^>"]+)[>"]', m.group(1))
        if not name:
            yield f"{where}: #include {m.group(1)}: only a plain file name can be checked"
            continue
        leads_to = target(top, source, name.group(1))
        other = room_of(leads_to) if leads_to else None
        if other and other not in MAY_INCLUDE[room]:
            yield f"{where}: {room}/ includes {leads_to}"
        for library, rooms in LIBRARIES.items():
            if re.match(library, name.group(1)) and room not in rooms:
                yield f"{where}: {name.group(1)} belongs to {', '.join(sorted(rooms - {'tests'}))}"


def breaches(top):
    top = pathlib.Path(top).resolve()
    found = []
    for room in ROOMS:
        for source in sorted((top / room).rglob("*.[ch]")):
            found += breaches_of(top, source)
    return found


if __name__ == "__main__":
    result = breaches(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2])
    print("\n".join(result), end="\n" if result else "")
    sys.exit(1 if result else 0)
