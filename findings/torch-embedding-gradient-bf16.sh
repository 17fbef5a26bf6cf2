#!/usr/bin/env bash
# PyTorch on the CPU: the gradient of a 16-bit embedding stops growing when a token is frequent.
#
# Versions: torch 2.13.0 (CPU tensors). Seen 2026-11-28.
#
# Expected: sums of 16-bit values are kept in float32 and rounded once, as sum, matmul and cumsum do on the CPU. Picking rows
#   by embedding(ids, w), w[ids], w.index_select(0, ids) or one_hot(ids) @ w is one function, so its gradient is one value.
# What happens: the backward of embedding and of w[ids] adds row after row in the tensor's own type. bfloat16 has 8 bits, so a
#   sum stops where the next term is under half a step: at 256 times the term. A token met 4096 times in a step (padding that
#   is trained, a newline, a turn's marker) gets a tenth of its gradient. index_select and the one-hot product are right.
#   index_add_ is both: right for a matrix, wrong for the same numbers as a vector.
#
# Output (what row 0 of w gets when it is picked so many times, each time with the same gradient):
#   bfloat16   1000 x 1  exact 1000  one-hot 1000  index_select 1000  embedding 256  w[ids] 256
#   bfloat16   4096 x 0.01  exact 41  one-hot 41  index_select 41  embedding 4  w[ids] 4
#   float16    4096 x 0.01  exact 40.9688  one-hot 40.9688  index_select 40.9688  embedding 32  w[ids] 32
#   bfloat16   index_add_ of 1000 ones: matrix 1000, vector 256
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5

"$folder/venv/bin/python" - <<'PYTHON'
import sys

import torch
from torch.nn import functional as F

as_described = True
for dtype, count, each in ((torch.bfloat16, 1000, 1.0), (torch.bfloat16, 4096, 0.01), (torch.float16, 4096, 0.01)):
    ids = torch.zeros(count, dtype=torch.long)
    gradient = torch.full((count, 8), each, dtype=dtype)
    w = torch.zeros(4, 8, dtype=dtype, requires_grad=True)
    ways = {
        "one-hot": F.one_hot(ids, 4).to(dtype) @ w,
        "index_select": w.index_select(0, ids),
        "embedding": F.embedding(ids, w),
        "w[ids]": w[ids],
    }
    exact = (count * gradient[0, 0].double()).to(dtype).item()
    got = {name: torch.autograd.grad(rows, w, gradient)[0][0, 0].item() for name, rows in ways.items()}
    print(f"{str(dtype).split('.')[1]:10} {count} x {each:g}  exact {exact:g}  "
          + "  ".join(f"{name} {value:g}" for name, value in got.items()))
    as_described &= got["one-hot"] == got["index_select"] == exact
    as_described &= got["embedding"] == got["w[ids]"] < 0.8 * exact

ids = torch.zeros(1000, dtype=torch.long)
matrix = torch.zeros(1, 8, dtype=torch.bfloat16).index_add_(0, ids, torch.ones(1000, 8, dtype=torch.bfloat16))[0, 0].item()
vector = torch.zeros(1, dtype=torch.bfloat16).index_add_(0, ids, torch.ones(1000, dtype=torch.bfloat16))[0].item()
print(f"bfloat16   index_add_ of 1000 ones: matrix {matrix:g}, vector {vector:g}")
as_described &= matrix == 1000 and vector == 256
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
