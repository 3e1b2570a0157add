"""tests/harness/roots.py - programs of other Debian releases, each in a root file system of its own.

Made once by mmdebstrap and kept in a cache outside the checkout (STILLFS_TEST_CACHE); made again when missing.
"""

import os
import pathlib
import signal
import subprocess

CACHE = pathlib.Path(os.environ.get("STILLFS_TEST_CACHE", "/var/cache/stillfs-tests"))
MAKE_LIMIT_S = 240  # most of it is the download; the test that needs the root does not pay for it with its own limit


def make(name, suite, packages, probe, variant="apt"):
    """(root, "") of `packages` from `suite`; (None, reason) when it cannot be made. probe: a file that it must have.

    Variant "extract" has the packages and what they depend on, unpacked and not configured: no shell, no users.
    """
    root = CACHE / name
    if (root / probe).exists():
        return root, ""
    new = CACHE / f"{name}.{os.getpid()}"
    left_s = signal.alarm(0)
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        r = subprocess.run(["mmdebstrap", "--mode=root", f"--variant={variant}", "--aptopt=Acquire::Check-Valid-Until \"false\"",
                            "--aptopt=Acquire::Languages \"none\"", f"--include={','.join(packages)}", suite, str(new)],
                           capture_output=True, text=True, timeout=MAKE_LIMIT_S)
        if r.returncode:
            return None, "mmdebstrap: " + (r.stderr.strip().splitlines()[-1:] or ["no reason given"])[0]
        try:
            os.replace(new, root)
        except OSError:  # somebody else was faster
            if not (root / probe).exists():
                raise
        return (root, "") if (root / probe).exists() else (None, f"{suite} has no {probe} in {', '.join(packages)}")
    except (OSError, subprocess.TimeoutExpired) as e:
        return None, str(e)
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(new)], check=False)
        signal.alarm(left_s)
