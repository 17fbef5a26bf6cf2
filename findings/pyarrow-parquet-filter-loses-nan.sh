#!/usr/bin/env bash
# pyarrow: whether a filter finds a NaN in a Parquet file depends on the other values of its row group.
#
# Versions: pyarrow 26.0.1. Seen 2026-11-28.
#
# Expected: read_table(file, filters=e) gives the rows that read_table(file).filter(e) gives; statistics only save work.
# What happens: Parquet's least and largest value of a row group leave NaN out. The reader takes them as bounds of all values. If
#   they say that every row is at most 5, `not (loss <= 5)` is thought to be empty and the group is not read, though a NaN is
#   not <= 5. Where the other values are all one number the group counts as that number: then even is_nan() and != find
#   nothing. One larger neighbour, or a file written without statistics, and the same rows are there again. The usual search
#   for broken losses so misses them, first of all in the smooth stretches. (Issue 34162 of Apache Arrow has it of is_null.)
#
# Output (number of rows with NaN found; each file has one):
#   loss                  filter              in memory   from the file   file without statistics
#   [1.0, 2.0, nan]       not (loss <= 5)     1           0               1
#   [1.0, 2.0, nan, 9.0]  not (loss <= 5)     1           1               1
#   [1.0, 2.0, nan]       is_nan              1           1               1
#   [2.0, 2.0, nan]       is_nan              1           0               1
#   [2.0, 2.0, nan]       loss != 2           1           0               1
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1

"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import math
import sys

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

NAN = float("nan")
loss = pc.field("loss")
usual, bare = f"{sys.argv[1]}/usual.parquet", f"{sys.argv[1]}/bare.parquet"


def found(table):
    return sum(math.isnan(value) for value in table["loss"].to_pylist())


print(f"{'loss':21} {'filter':19} {'in memory':11} {'from the file':15} file without statistics")
as_described = True
for values, name, expression, seen in (
    ([1.0, 2.0, NAN], "not (loss <= 5)", ~(loss <= 5), 0),
    ([1.0, 2.0, NAN, 9.0], "not (loss <= 5)", ~(loss <= 5), 1),
    ([1.0, 2.0, NAN], "is_nan", loss.is_nan(), 1),
    ([2.0, 2.0, NAN], "is_nan", loss.is_nan(), 0),
    ([2.0, 2.0, NAN], "loss != 2", loss != 2, 0),
):
    table = pa.table({"loss": values})
    pq.write_table(table, usual)
    pq.write_table(table, bare, write_statistics=False)
    assert found(pq.read_table(usual)) == 1
    memory = found(table.filter(expression))
    file, plain = (found(pq.read_table(path, filters=expression)) for path in (usual, bare))
    print(f"{str(values):21} {name:19} {memory:<11} {file:<15} {plain}")
    as_described &= memory == plain == 1 and file == seen
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
