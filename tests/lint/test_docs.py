"""Help, manual, example and completion say the same, in both directions. The binaries are asked, not the sources."""

import pathlib
import re
import subprocess

import pytest

from stillfs import STILLCTL, STILLFS, run

TOP = pathlib.Path(__file__).resolve().parents[2]
MAN = TOP / "docs" / "man"
EXAMPLE = TOP / "docs" / "stillfs.conf.example"
NOT_IN_THE_FILE = {"name"}  # it chooses the file


def section(text, title):
    """The body of one section of a page in scdoc."""
    m = re.search(rf"^# {title}\n(.*?)(?=^# |\Z)", text, re.M | re.S)
    assert m, f"no section {title}"
    return m.group(1)


def plain(text):
    """scdoc without its marks, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\)[*]|(?<![\\\w])_|_(?!\w)", "", text))).strip()


def entries(body):
    """[(the line of the term, its text)] of a definition list in scdoc."""
    return [(m.group(1), m.group(2)) for m in re.finditer(r"^(\*\S.*)\n((?:\t.*\n|\n(?=\t))+)", body, re.M)]


def default_in_words(text):
    m = re.search(r"[Dd]efault: (.*?)\.?$", text)
    return m.group(1) if m else ""


@pytest.fixture(scope="module")
def listed():
    return run(STILLFS, "--list-options").split()


@pytest.fixture(scope="module")
def helped():
    """{option: (metavariable, default)} of --help."""
    text = run(STILLFS, "--help").split("Options (default in brackets):\n")[1]
    out = {}
    for m in re.finditer(r"^  ([a-z_.]+)=(\S+)\n {8}(.*)$", text, re.M):
        fixed = re.search(r" \[(.*)\]$", m.group(3))
        out[m.group(1)] = m.group(2), fixed.group(1) if fixed else default_in_words(m.group(3))
    return out


@pytest.fixture(scope="module")
def manual():
    """{option: (metavariable, default)} of stillfs.conf(5)."""
    out = {}
    for term, text in entries(section((MAN / "stillfs.conf.5.scd").read_text(), "OPTIONS")):
        name, arg = plain(term).split("=", 1)
        assert name not in out, f"{name} is described twice"
        out[name] = arg, default_in_words(plain(text))
    return out


@pytest.fixture(scope="module")
def example():
    """{option: value} of the example, whose options are commented out."""
    out = {}
    for line in EXAMPLE.read_text().splitlines():
        m = re.fullmatch(r"#([a-z_.]+) = (.+)", line)
        assert m or line == "" or line.startswith("# ") or line == "#", f"neither comment nor option: {line!r}"
        if m:
            assert m.group(1) not in out, f"{m.group(1)} stands there twice"
            out[m.group(1)] = m.group(2)
    return out


def test_every_option_is_in_the_help_and_the_manual_in_their_order(listed, helped, manual):
    assert list(helped) == listed
    assert list(manual) == listed


def test_every_option_of_the_file_is_in_the_example_and_no_other(listed, example):
    assert set(example) == set(listed) - NOT_IN_THE_FILE


def test_metavariables_and_defaults_are_the_same_everywhere(helped, manual, example):
    assert manual == helped
    fixed = {k: v for k, (_, v) in helped.items() if re.fullmatch(r"\S+", v) and k not in NOT_IN_THE_FILE}
    assert len(fixed) > 15
    assert {k: example[k] for k in fixed} == fixed


def test_the_example_is_a_file_that_can_be_used(example, tmp_path):
    """With every option switched on it is refused for what it says, not for how it says it."""
    text = re.sub(r"^#(?=[a-z])", "", EXAMPLE.read_text(), flags=re.M)
    assert len(re.findall(r"^[a-z_.]+ = ", text, re.M)) == len(example)
    assert max(len(line) for line in text.splitlines()) < 200  # what the reader of the file takes


def test_the_commands_of_stillctl_are_the_same_in_help_manual_and_completion():
    text = run(STILLCTL, "--help").split("Commands:\n")[1]
    assert max(len(line) for line in text.splitlines()) < 80
    text = re.sub(r"\n {6}(?=\S)", " ", text)  # lines that were broken
    helped = re.findall(r"^  ([a-z-]+)((?: .*)?)$", text, re.M)
    manual = [plain(term).split(" ", 1) for term, _ in entries(section((MAN / "stillctl.8.scd").read_text(), "COMMANDS"))]
    assert [(m[0], " " + m[1] if len(m) > 1 else "") for m in manual] == helped
    commands = [name for name, _ in helped]
    completion = (TOP / "tools" / "stillctl.bash-completion").read_text()
    offered = re.search(r'"-n ([^"]*)"', completion).group(1).split()
    assert [w for w in offered if not w.startswith("-")] == commands
    known = re.search(r"^\t\t([\w-]+(?: \| [\w-]+)+)\) command=", completion, re.M).group(1).split(" | ")
    assert known == commands
    zsh = (TOP / "tools" / "stillctl.zsh-completion").read_text()
    assert re.search(r"^\tcommands=\((.*)\)$", zsh, re.M).group(1).split() == commands
    assert re.search(r"compadd -- (-n .*) \$commands", zsh).group(1).split() == ["-n", *[w for w in offered if w.startswith("-")]]


def test_every_command_of_stillctl_has_an_example():
    commands = re.findall(r"^  ([a-z-]+)", run(STILLCTL, "--help").split("Commands:\n")[1], re.M)
    page = section((MAN / "stillctl.8.scd").read_text(), "EXAMPLES")
    examples = re.findall(r"^stillctl (?:-\S+ \S+ )*([a-z-]+)", page, re.M)
    assert set(examples) == set(commands)


def test_the_switches_are_the_same_in_help_manual_and_completion():
    for binary, page in ((STILLFS, "stillfs.8.scd"), (STILLCTL, "stillctl.8.scd")):
        helped = re.findall(r"^  (-[-\w]+)", run(binary, "--help").split("ptions (default")[0].split("Commands:")[0], re.M)
        manual = [plain(t).split()[0] for t, _ in entries(section((MAN / page).read_text(), "OPTIONS"))]
        assert sorted(manual) == sorted(helped), page
    completion = (TOP / "tools" / "stillctl.bash-completion").read_text()
    offered = re.search(r'"(-n [^"]*)"', completion).group(1).split()
    assert sorted(w for w in offered if w.startswith("-")) == sorted(helped)


# scdoc ends each paragraph twice and breaks no lines: both are harmless
HARMLESS = r"skipping paragraph macro|input text line longer|lower case character in document title"


@pytest.mark.parametrize("page", sorted(p.name for p in MAN.glob("*.scd")))
def test_manual_pages_render_without_complaint(page, tmp_path):
    rendered = tmp_path / page[:-len(".scd")]
    with open(MAN / page) as source, open(rendered, "w") as out:
        subprocess.run(["scdoc"], stdin=source, stdout=out, check=True)
    said = subprocess.run(["mandoc", "-T", "lint", "-W", "style", str(rendered)], capture_output=True, text=True).stdout
    assert [line for line in said.splitlines() if not re.search(HARMLESS, line)] == []
    text = subprocess.run(["mandoc", "-T", "ascii", str(rendered)], capture_output=True, text=True, check=True).stdout
    assert len(text) > 1000


def test_the_pages_refer_only_to_pages_that_exist():
    ours = {f"{p.name[:-6]}({p.name[-5]})" for p in MAN.glob("*.scd")}
    for page in MAN.glob("*.scd"):
        named = re.findall(r"\*?(stillfs(?:\.conf)?|stillctl)\*?\((\d)\)", page.read_text())
        assert {f"{a}({b})" for a, b in named} <= ours, page.name
