"""Rules of the style guide that a program can check: sizes, headers of files, words that have no place here."""

import pathlib
import re

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
ROOMS = ("base", "fs", "snapshot", "tools", "tests", "docs", ".ci")
SUFFIXES = {".c", ".h", ".py", ".md", ".scd", ".build", ".txt", ".example", ".stillfs", ".bash-completion", ""}
MAX_LINES, MAX_HEADER = 600, 150
# what the files of the data side share is private to them, and grows with them
LONG_HEADERS = {"fs/core_int.h": 250}


def files(top=TOP):
    yield from (p for p in top.iterdir() if p.is_file() and p.suffix in SUFFIXES)
    for room in ROOMS:
        for p in sorted((top / room).rglob("*")):
            if p.is_file() and p.suffix in SUFFIXES and "__pycache__" not in p.parts:
                yield p


def too_long(path, text):
    name, n = str(path), text.count("\n")
    limit = LONG_HEADERS.get(name, MAX_HEADER) if path.suffix == ".h" else MAX_LINES
    if path.suffix in (".c", ".h", ".py") and n > limit:
        return [f"{name}: {n} lines, at most {limit}: split it by owner"]
    return []


def no_header(path, text):
    if path.suffix in (".c", ".h") and not text.startswith(f"/* {path} - "):
        return [f"{path}:1: expected a comment that starts \"/* {path} - \""]
    return []


# written in two parts, so that this file holds none of them
WORDS = re.compile(r"\b(%s)\b" % "|".join(a + b for a, b in (("TO", "DO"), ("FIX", "ME"), ("X", "XX"), ("HA", "CK"))))
FORBIDDEN = {
    "a path of somebody's machine": re.compile(r"(?<![\w.])/(?:wo" r"rk|ho" r"me|ro" r"ot)/\w"),
    "a mark of a merge": re.compile(r"^(?:<{7}|>{7}|={7})(?: |$)", re.M),
    "a private key": re.compile("PRIVATE" r" KEY-----"),
    "an access key": re.compile(r"\bAK" r"IA(?!IOSFODNN7EXAMPLE)[0-9A-Z]{16}\b"),
}


def words(path, text):
    out = [f"{path}: the word {m.group(1)}: finish it, or write down what is missing where users look"
           for m in WORDS.finditer(text)]
    return out + [f"{path}: {what}: {m.group(0)!r}" for what, rule in FORBIDDEN.items() for m in rule.finditer(text)]


def blanks(path, text):
    out = [f"{path}:{i}: blanks at the end of the line" for i, line in enumerate(text.split("\n"), 1)
           if line != line.rstrip() and path.suffix in (".c", ".h", ".py", ".build")]
    return out + ([f"{path}: no newline at the end"] if text and not text.endswith("\n") else [])


RULES = [too_long, no_header, words, blanks]


@pytest.mark.parametrize("rule", RULES)
def test_every_file_keeps_the_rule(rule):
    seen, bad = 0, []
    for path in files():
        seen += 1
        bad += rule(path.relative_to(TOP), path.read_text(errors="replace"))
    assert seen > 80, "the files were not found"
    assert not bad, "\n".join(bad)


@pytest.mark.parametrize("rule,name,text,message", [
    (too_long, "fs/a.c", "\n" * 601, "fs/a.c: 601 lines, at most 600"),
    (too_long, "tests/a.py", "\n" * 601, "tests/a.py: 601 lines, at most 600"),
    (too_long, "fs/a.h", "\n" * 151, "fs/a.h: 151 lines, at most 150"),
    (no_header, "fs/a.c", "#include <a.h>\n", "fs/a.c:1: expected a comment"),
    (no_header, "fs/a.c", "/* fs/b.c - was copied */\n", "fs/a.c:1: expected a comment"),
    (words, "docs/a.md", "this is a TO" + "DO.\n", "docs/a.md: the word TO" + "DO"),
    (words, "docs/a.md", "see /ho" + "me/me/file\n", "docs/a.md: a path of somebody's machine"),
    (words, "fs/a.c", "<" * 7 + " HEAD\n", "fs/a.c: a mark of a merge"),
    (words, "tests/k", "-----BEGIN PRIVATE" + " KEY-----\n", "tests/k: a private key"),
    (words, "docs/a.md", "AK" + "IA0123456789ABCDEF\n", "docs/a.md: an access key"),
    (blanks, "fs/a.c", "int a; \n", "fs/a.c:1: blanks at the end"),
    (blanks, "fs/a.c", "int a;", "fs/a.c: no newline at the end"),
])
def test_a_breach_is_found(rule, name, text, message):
    found = rule(pathlib.PurePosixPath(name), text)
    assert len(found) == 1 and found[0].startswith(message)


@pytest.mark.parametrize("rule,name,text", [
    (too_long, "fs/a.c", "\n" * 600), (too_long, "docs/a.md", "\n" * 2000),
    (no_header, "fs/a.c", "/* fs/a.c - owns a. */\n"), (no_header, "tests/a.py", "import os\n"),
    (words, "fs/a.c", 'mkdtemp("/tmp/a.' + "X" * 6 + '");\n'), (words, "docs/a.md", "AK" + "IAIOSFODNN7EXAMPLE\n"),
])
def test_what_is_allowed_is_no_breach(rule, name, text):
    assert rule(pathlib.PurePosixPath(name), text) == []
