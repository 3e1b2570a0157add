#!/usr/bin/python3
"""tests/unit/fs/opcodes.py - preprocessed linux/fuse.h on stdin, a list of the names of enum fuse_opcode on stdout."""

import re
import sys

body = re.search(r"enum\s+fuse_opcode\s*\{([^}]*)\}", sys.stdin.read())
if not body:
    sys.exit("linux/fuse.h: no enum fuse_opcode")
names = re.findall(r"\b([A-Z][A-Z0-9_]*)\s*=", body.group(1))
print("#define FUSE_OPCODES(X) \\\n\t" + " \\\n\t".join(f"X({n})" for n in names))
