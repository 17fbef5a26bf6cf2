#!/usr/bin/env bash
# Every C++ and CUDA file is as the pinned clang-format leaves it; `make format` mends. Run by ctest.
set -euo pipefail
cd "$(dirname "$0")/../.."
mapfile -t files < <(find src tests tools fuzz -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
((${#files[@]})) || { echo "no C++ files found"; exit 1; }
faults=$(.venv/bin/clang-format --dry-run "${files[@]}" 2>&1 | sed -n 's/^\([^:]*\):[0-9:]* warning:.*/\1/p' | sort -u)
[[ -z $faults ]] || { echo "not as clang-format leaves them (make format mends):"; echo "$faults"; exit 1; }
echo "${#files[@]} files are formatted"
