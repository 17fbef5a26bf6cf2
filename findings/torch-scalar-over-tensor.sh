#!/usr/bin/env bash
# PyTorch: `scalar / tensor` is no division.
#
# Versions: torch 2.13.0 (CPU), numpy 2.3.5. Seen 2026-11-28.
#
# Expected: `c / t` rounds the quotient once, as IEEE 754 has it, as NumPy does it and as torch.div does with a tensor that
#   holds c. So a number over itself is 1, above all a number that the type holds without error.
# What happens: the Python operator takes 1/t, rounds that to the tensor's type, and multiplies by c. Two roundings, and in
#   float16 the step between leaves the range: any t below about 1.5e-5 has no reciprocal there, so c / t is inf however
#   small c is. In float32 the last bit differs often enough to move an FP8 scale such as 448 / amax, and so the codes.
#
# Output:
#   float16   2**-17 over itself: operator inf, torch.div 1.0, NumPy 1.0
#   float32   41 over itself: operator 0.9999999403953552, torch.div 1.0, NumPy 1.0
#   float64   floor(49 / 49): operator 0.0, torch.div 1.0, NumPy 1.0
#   float32   448 / amax, 4096 values of amax: 1131 differ from torch.div and from NumPy; torch.div from NumPy: 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5

"$folder/venv/bin/python" - <<'PYTHON'
import sys

import numpy as np
import torch


def three(value, dtype):
    t = torch.tensor([value], dtype=dtype)
    n = t.numpy()
    divided = torch.div(torch.tensor([value], dtype=dtype), t)
    return (value / t)[0].item(), divided[0].item(), float((value / n)[0])


tiny = three(2.0**-17, torch.float16)
print("float16   2**-17 over itself: operator %s, torch.div %s, NumPy %s" % tiny)
single = three(41.0, torch.float32)
print("float32   41 over itself: operator %s, torch.div %s, NumPy %s" % single)
double = tuple(float(np.floor(x)) for x in three(49.0, torch.float64))
print("float64   floor(49 / 49): operator %s, torch.div %s, NumPy %s" % double)

amax = torch.arange(1, 4097, dtype=torch.float32) / 512
exact = torch.from_numpy(np.float32(448) / amax.numpy())
operator = 448.0 / amax
divided = torch.div(torch.tensor([448.0]), amax)
differ = int((operator != exact).sum())
print(f"float32   448 / amax, 4096 values of amax: {differ} differ from torch.div and from NumPy; "
      f"torch.div from NumPy: {int((divided != exact).sum())}")

as_described = (tiny == (float("inf"), 1.0, 1.0) and single[0] < 1 and single[1:] == (1.0, 1.0)
                and double == (0.0, 1.0, 1.0) and differ > 0 and torch.equal(divided, exact))
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
