"""The retention policy against an oracle of its own: random histories, 10,000 cases (STILLFS_RETENTION_CASES), time zones
with daylight saving time, leap days, equal times, dates in the future, gaps of failures. The oracle works from the other
end (for each set it asks each rule) and takes dates from zoneinfo."""

import collections
import datetime
import os
import pathlib
import random
import subprocess
import zoneinfo

import pytest

from stillfs import BUILD

DRIVER = BUILD / "tests" / "unit" / "snapshot" / "retention_driver"
CASES = int(os.environ.get("STILLFS_RETENTION_CASES", "10000"))
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "America/St_Johns",
         "Asia/Kolkata", "America/Havana", "Africa/Casablanca", "Pacific/Chatham"]
EPOCHS = [(2026, 1, 1), (2024, 2, 29), (2026, 3, 29), (2025, 11, 2), (2011, 12, 30), (2020, 12, 31), (2040, 10, 28),
          (2008, 3, 9)]
# clocks set back, in UTC: hours come twice; in St. John's, at one minute past midnight, a day does
SET_BACK = [("America/New_York", (2025, 11, 2, 6)), ("Europe/Berlin", (2026, 10, 25, 1)),
            ("America/St_Johns", (2008, 11, 2, 2, 31)), ("Australia/Lord_Howe", (2025, 4, 5, 15)),
            ("America/Havana", (2025, 11, 2, 5))]
CALENDAR = {"keep_hourly": lambda d: (d.date(), d.hour, d.utcoffset()), "keep_daily": lambda d: d.date(),
            "keep_weekly": lambda d: d.isocalendar()[:2], "keep_monthly": lambda d: (d.year, d.month),
            "keep_yearly": lambda d: d.year}
UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 365 * 86400}
Set = collections.namedtuple("Set", "name cls created seq state pin verified held tags")
Rule = collections.namedtuple("Rule", "cls key value")


class Driver:
    def __init__(self):
        self.p = subprocess.Popen([str(DRIVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, zone, rules, sets, now):
        """{name: (kept, floor)}"""
        lines = [f"now {now}", f"rule timezone {zone}"]
        lines += [f"rule {r.cls + '.' if r.cls else ''}{r.key} {r.value}" for r in rules]
        lines += [f"set {s.name} {s.cls} {s.created} {s.seq} {s.state} {int(s.pin)} {int(s.verified)} {int(s.held)} "
                  f"{','.join(s.tags) or '-'}" for s in sets]
        self.p.stdin.write("\n".join(lines) + "\njudge\n")
        self.p.stdin.flush()
        out = {}
        while (line := self.p.stdout.readline().split()) != ["."]:
            out[line[0]] = line[1] == "keep", line[2] == "floor"
        return out

    def offset(self, zone, t):
        self.p.stdin.write(f"offset {zone} {t}\n")
        self.p.stdin.flush()
        return int(self.p.stdout.readline())

    def close(self):
        self.p.stdin.close()
        assert self.p.wait(10) == 0
        self.p.stdout.close()


@pytest.fixture(scope="module")
def driver():
    d = Driver()
    yield d
    d.close()


def seconds(text):
    return int(text[:-1]) * UNITS[text[-1]]


def oracle(zone, rules, sets, now):
    tz = zoneinfo.ZoneInfo(zone)
    complete = sorted((s for s in sets if s.state == "complete"), key=lambda s: (s.created, s.seq))
    past = [s for s in complete if s.created <= now]
    newest = past[-1] if past else complete[-1] if complete else None
    ref = min(newest.created, now) if newest else None
    verified = [s for s in complete if s.verified]
    protected = {s.name for s in (newest, complete and max(complete, key=lambda s: s.seq), verified and verified[-1]) if s}
    out = {}
    for s in sets:
        mine = [r for r in rules if (r.cls == s.cls if r.cls else s.cls != "manual")]
        keep = s.pin or s.held or s.state == "running" or s.created > now or s.name in protected
        floor = s.name in protected
        keep |= not any(r.key.startswith("keep_") for r in mine)
        family = [o for o in past if o.cls == s.cls]
        if s.state == "failed":
            ages = [seconds(r.value) for r in mine if r.key == "failed_age"]
            keep |= not ages or ref is None or ref - s.created <= max(ages)
        if s in family:
            newer = family[family.index(s) + 1:]
            for r in mine:
                count = float("inf") if r.value == "all" else int(r.value) if r.value.isdigit() else 0
                if r.key in ("keep_last", "min_keep"):
                    hit = len(newer) < count
                elif r.key in CALENDAR:
                    period = [CALENDAR[r.key](datetime.datetime.fromtimestamp(o.created, tz)) for o in [s, *newer]]
                    hit = period[0] not in period[1:] and len(set(period[1:])) < count
                elif r.key in ("keep_within", "max_age"):
                    hit = ref - s.created <= seconds(r.value)
                elif r.key == "keep_tag":
                    hit = any(t == r.value if ":" in r.value else t.split(":")[0] == r.value for t in s.tags)
                else:
                    hit = False
                keep |= hit
                floor |= hit and r.key == "min_keep"
        out[s.name] = bool(keep), bool(floor)
    return out


def random_rules(rng, most=6):
    rules = {}
    for _ in range(rng.randint(0, most)):
        key = rng.choice([*CALENDAR, "keep_last", "keep_within", "keep_tag", "max_age", "min_keep", "failed_age"])
        if key in ("keep_within", "max_age", "failed_age"):
            value = f"{rng.randint(1, 40)}{rng.choice('mhdw')}"
        elif key == "keep_tag":
            value = rng.choice(["a", "a:1", "b:2", "b"])
        else:
            value = rng.choice(["1", "2", "3", str(rng.randint(1, 30)), "all"])
        r = Rule(rng.choice(["", "", "", "hourly", "nightly", "manual"]), key, value)
        rules[r.cls, r.key, r.value if key == "keep_tag" else ""] = r
    return list(rules.values())


def random_case(rng):
    zone, when = rng.choice(ZONES), rng.choice(EPOCHS)
    step = rng.choice([300, 1800, 3600, 6 * 3600, 86400, 7 * 86400, 40 * 86400])
    if rng.random() < 0.25:
        (zone, when), step = rng.choice(SET_BACK), rng.choice([20, 60, 300, 1800])
    start = int(datetime.datetime(*when, tzinfo=datetime.timezone.utc).timestamp())
    t, sets = start - rng.randint(0, 20) * step, []
    failing = 0
    for i in range(rng.randint(0, 40)):
        t += rng.choice([0, step, step, step, rng.randint(0, 3 * step)])
        if rng.random() < 0.05:
            failing = rng.randint(1, 10)
        failing -= failing > 0
        state = "failed" if failing else rng.choice(["complete"] * 12 + ["failed", "running"])
        created = t + (rng.choice([10**8, -10**8]) if rng.random() < 0.02 else 0)
        tags = rng.sample(["a:1", "a:2", "b:2", "c:3"], rng.randint(0, 2))
        sets.append(Set(f"s{i}", rng.choice(["nightly", "nightly", "hourly", "manual", "x"]), created, i + 1, state,
                        rng.random() < 0.08, state == "complete" and rng.random() < 0.1, rng.random() < 0.04, tags))
    rng.shuffle(sets)
    now = t + rng.choice([0, 1, step, 11 * step, -step])
    return zone, random_rules(rng), sets, now


def deleted(result):
    return {name for name, (keep, _) in result.items() if not keep}


def test_what_is_kept_is_what_the_oracle_keeps(driver):
    rng = random.Random(20260301)
    lost = 0
    for case in range(CASES):
        zone, rules, sets, now = random_case(rng)
        result = driver.ask(zone, rules, sets, now)
        assert result == oracle(zone, rules, sets, now), (case, zone, rules, sets, now)
        gone = deleted(result)
        lost += len(gone)
        for s in sets:  # said once more in words, so that oracle and code cannot forget it together
            assert not (s.name in gone and (s.pin or s.held or s.state == "running")), (case, s)
            assert not (s.name in gone and result[s.name][1]), (case, s)
        complete = [s for s in sets if s.state == "complete"]
        assert not complete or [s for s in complete if s.name not in gone], case
        left = [s for s in sets if s.name not in gone]
        assert deleted(driver.ask(zone, rules, left, now)) == set(), ("a second time", case)
    assert lost > 2 * CASES  # the cases were not all empty


def test_a_rule_more_or_a_greater_one_never_deletes_more(driver):
    rng = random.Random(20260302)
    seen = 0
    for case in range(CASES):
        zone, rules, sets, now = random_case(rng)
        if not rules:
            continue
        before = deleted(driver.ask(zone, rules, sets, now))
        if rng.random() < 0.5:
            i = rng.randrange(len(rules))
            r = rules[i]
            if r.key == "keep_tag" or r.value == "all":
                continue
            value = f"{int(r.value[:-1]) + rng.randint(1, 50)}{r.value[-1]}" if r.value[-1] in UNITS else \
                rng.choice(["all", str(int(r.value) + rng.randint(1, 20))])
            more = [*rules[:i], r._replace(value=value), *rules[i + 1:]]
        else:
            extra = [r for r in random_rules(rng, 2) if (r.cls, r.key) not in {(o.cls, o.key) for o in rules}]
            # the first keep_* rule of a class ends its emptiness: that one may
            had = {c for c in {s.cls for s in sets} if any(
                o.key.startswith("keep_") and (o.cls == c if o.cls else c != "manual") for o in rules)}
            sets = [s for s in sets if s.cls in had]
            before = deleted(driver.ask(zone, rules, sets, now))
            # and the first failed_age ends the stay of failed ones
            more = rules + [r for r in extra if r.key.startswith("keep_") or r.key == "min_keep"]
        after = deleted(driver.ask(zone, more, sets, now))
        assert after <= before, (case, zone, rules, more, after - before)
        seen += len(before) > len(after)
    assert seen > CASES / 50


@pytest.mark.parametrize("zone", ZONES)
def test_the_time_zone_is_that_of_the_system(driver, zone):
    tz = zoneinfo.ZoneInfo(zone)
    rng = random.Random(7)
    for _ in range(2000):
        t = rng.randint(0, 4 * 10**9)  # until 2096: the rule of the footer
        assert driver.offset(zone, t) == int(datetime.datetime.fromtimestamp(t, tz).utcoffset().total_seconds()), (zone, t)


def test_the_tables_may_be_thin(driver):
    """Some systems' tables leave all to the footer; ours must not need the years written out."""
    root = pathlib.Path("/usr/share/zoneinfo")
    named = [z for z in ("Asia/Tokyo", "America/Sao_Paulo", "Europe/London", "Africa/Cairo", "Asia/Tehran",
                         "America/Nuuk", "Antarctica/Troll", "Europe/Dublin") if (root / z).exists()]
    rng = random.Random(8)
    for zone in named:
        tz = zoneinfo.ZoneInfo(zone)
        for _ in range(500):
            t = rng.randint(-10**9, 8 * 10**9)
            want = datetime.datetime.fromtimestamp(t, tz).utcoffset().total_seconds()
            assert driver.offset(zone, t) == int(want), (zone, t)
