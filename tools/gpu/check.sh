#!/usr/bin/env bash
# What is checked and measured on a machine with a card; all of it goes to the folder OUT.
set -uo pipefail
cd "$(dirname "$0")"
out=$(realpath -m "${1:-out}")
mkdir -p "$out"
python=${PYTHON:-python3}
failed=0
ctest --test-dir build/cuda -L gpu --output-on-failure 2>&1 | tee "$out/ctest.txt"
((PIPESTATUS[0] == 0)) || failed=1
"$python" bench/kernels.py 2>&1 | tee "$out/kernels.txt"
((PIPESTATUS[0] == 0)) || failed=1
"$python" bench/gpu.py --trestle build/cuda/trestle --work "$out/work" --out "$out" --seconds "${BENCH_SECONDS:-240}" 2>&1 | tee "$out/bench.txt"
((PIPESTATUS[0] == 0)) || failed=1
rm -rf "$out/work"
exit $failed
