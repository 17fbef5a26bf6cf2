#!/usr/bin/env python3
"""Runs fuzz targets one after the other and fails on the first finding.

  .venv/bin/python fuzz/run.py --build build/fuzz --seconds 60 [TARGET ...]     # make fuzz SECONDS=60
  .venv/bin/python fuzz/run.py --build build/fuzz --runs 2000 TARGET            # as ctest does

A run starts from seeds/TARGET. With --seconds it also starts from what earlier runs found interesting, which is kept in
BUILD/corpus/TARGET. A finding is left in BUILD/findings; `fuzz_TARGET FILE` repeats it.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FUZZ = Path(__file__).resolve().parent
# An input of at most 64 KB has no business with a block of 64 MB: sizes are checked before memory is asked for.
LIMITS = ["-max_len=65536", "-malloc_limit_mb=64", "-rss_limit_mb=2048", "-timeout=10", "-seed=1"]
# libtorch and Arrow are not instrumented, and keep memory until the end.
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=0:detect_container_overflow=0:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "OMP_NUM_THREADS": "1",
}
SKIPPED = 77  # to ctest


def fuzz(build, target, runs, seconds):
    program = build / f"fuzz_{target}"
    if not program.exists():
        print(f"{program} is not built; make fuzzers builds it", file=sys.stderr)
        return SKIPPED
    findings = build / "findings"
    findings.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        corpus = Path(scratch)
        if seconds:
            corpus = build / "corpus" / target
            corpus.mkdir(parents=True, exist_ok=True)
        effort = f"-max_total_time={seconds}" if seconds else f"-runs={runs}"
        done = subprocess.run(
            [program, *LIMITS, effort, "-print_final_stats=1", f"-artifact_prefix={findings}/{target}-", corpus,
             FUZZ / "seeds" / target], env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace")
    stats = dict(line.removeprefix("stat::").split(":") for line in done.stdout.splitlines() if line.startswith("stat::"))
    if done.returncode == 0:
        print(f"{target}: {int(stats['number_of_executed_units'])} inputs, {int(stats['new_units_added'])} new, "
              f"{int(stats['peak_rss_mb'])} MB")
    else:
        print(done.stdout[-12000:])
    return done.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, required=True)
    effort = parser.add_mutually_exclusive_group(required=True)
    effort.add_argument("--runs", type=int)
    effort.add_argument("--seconds", type=int)
    parser.add_argument("targets", nargs="*", help="default: all")
    args = parser.parse_args()
    for target in args.targets or sorted(path.stem for path in FUZZ.glob("*.cpp")):
        status = fuzz(args.build.resolve(), target, args.runs, args.seconds)
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
