#!/usr/bin/env python3
"""No committed text names a folder of somebody's machine or a package registry. Run by ctest."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FORBIDDEN = re.compile(rb"(?<![\w./-])/(?:work|root|home|Users|mnt|opt)/[\w.-]+"
                       rb"|\bpypi\.org|\bpythonhosted\.org|\bdownload\.pytorch\.org|--(?:extra-)?index-url")


def main():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    files = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    faults = 0
    for file in files:
        if not file.is_file() or file == Path(__file__).resolve():
            continue
        data = file.read_bytes()
        if b"\0" in data:  # not text: pictures, weights
            continue
        for number, line in enumerate(data.splitlines(), 1):
            for found in FORBIDDEN.findall(line):
                faults += 1
                print(f"{file.relative_to(ROOT)}:{number}: {found.decode()}")
    print(f"{len(files)} files, {faults} faults")
    sys.exit(bool(faults) or not files)


if __name__ == "__main__":
    main()
