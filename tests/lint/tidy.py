#!/usr/bin/env python3
"""clang-tidy over src/ with the checks of .clang-tidy.

  tidy.py --clang-tidy PATH --build build/release [STAGE ...]

libtorch's headers cost clang-tidy ten seconds and more, so a stage is one translation unit that
includes its .cpp files; files whose file-local names clash are put into units of their own. A stage
without findings leaves a stamp in build/tidy, named by everything that was read, and is not looked
at again until one of these changes.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STAMPS = ROOT / "build" / "tidy"
INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


def flags_of(build, stage):
    """Defines, include folders and language of the file of a stage that sees most; nothing of g++'s own."""
    found = []
    for entry in json.loads((build / "compile_commands.json").read_text()):
        if Path(entry["file"]).parent == ROOT / "src" / stage:
            words = shlex.split(entry["command"])
            flags = [word for word in words if re.match(r"-(D|I|std=)", word)]
            for flag, folder in zip(words, words[1:]):
                if flag == "-isystem":
                    flags += [flag, folder]
            found.append(flags)
    if not found:
        raise SystemExit(f"{build}/compile_commands.json has no file of src/{stage}; configure first")
    return max(found, key=len)


def with_headers(sources):
    """The sources and every header of ours that they include, however indirectly."""
    found, waiting = set(), list(sources)
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        headers = (ROOT / "src" / name for name in INCLUDE.findall(file.read_text()))
        waiting += [header for header in headers if header.exists()]
    return sorted(found)


class Stage:
    def __init__(self, name, arguments):
        self.name = name
        self.tidy = arguments.clang_tidy
        self.flags = flags_of(arguments.build, name)
        self.sources = sorted((ROOT / "src" / name).glob("*.cpp"))
        key = hashlib.sha256(" ".join([str(self.tidy), *self.flags]).encode())
        for file in [ROOT / ".clang-tidy", Path(__file__), *with_headers(self.sources)]:
            key.update(hashlib.sha256(file.read_bytes()).digest())
        self.stamp = STAMPS / f"{name}-{key.hexdigest()[:24]}"

    def run(self, files):
        unit = STAMPS / f"{self.name}.cpp"
        unit.write_text("".join(f'#include "{file}"\n' for file in files))
        command = [self.tidy, "--quiet", f"--config-file={ROOT / '.clang-tidy'}", unit, "--",
                   *self.flags, "-ferror-limit=0"]
        done = subprocess.run(command, capture_output=True, text=True)
        broken = re.findall(r"^(.+?):\d+:\d+: error: .*\[clang-diagnostic-error\]$", done.stdout, re.M)
        return done, {Path(file) for file in broken}

    def check(self):
        """What clang-tidy found, or nothing."""
        if self.stamp.exists():
            return ""
        report, units = "", [self.sources]
        while units:
            files = units.pop()
            done, broken = self.run(files)
            if broken and len(files) > 1:
                clashing = [file for file in files if file in broken]
                if len(clashing) in (0, len(files)):
                    clashing = files[: len(files) // 2]
                units += [clashing, [file for file in files if file not in clashing]]
            elif done.returncode != 0:
                report += done.stdout or done.stderr
        if not report:
            for old in STAMPS.glob(f"{self.name}-*"):
                old.unlink()
            self.stamp.touch()
        return report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clang-tidy", default=ROOT / ".venv/bin/clang-tidy")
    parser.add_argument("--build", type=Path, default=ROOT / "build/release")
    parser.add_argument("stages", nargs="*", help="folders of src/; all of them when none is named")
    arguments = parser.parse_args()
    STAMPS.mkdir(parents=True, exist_ok=True)
    names = arguments.stages or [folder.name for folder in (ROOT / "src").iterdir() if folder.is_dir()]
    stages = [Stage(name, arguments) for name in names]
    stages.sort(key=lambda stage: -len(stage.sources))  # the longest first
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        reports = list(pool.map(Stage.check, stages))
    for stage, report in zip(stages, reports):
        print(f"{stage.name}: {'clean' if not report else ''}\n{report}".strip())
    sys.exit(any(reports))


if __name__ == "__main__":
    main()
