#!/usr/bin/env bash
# PyTorch on the CPU: without AVX-512 the backward of a bfloat16 linear layer is a scalar loop on one thread.
#
# Versions: torch 2.13.0 (CPU). Seen 2026-11-30 on a processor with AVX512_BF16 that libtorch and oneDNN were held to AVX2 on
#   (ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2), and 2026-11-28 on one that has AVX2 alone.
#
# Expected: bfloat16 is widened to float32 by a shift, so a product costs about what float32's does. `F.linear` comes within a
#   half to a fifth of that.
# What happens: the gradient of a linear layer's input, `grad @ weight` with neither side transposed, has no vectorised code:
#   0.7 to 1.3 GFLOP/s, on one thread however many there are, where float32 has 30 to 200. A LoRA step of a 3B model takes
#   minutes that takes seconds in float32. Widening the weight by hand, a few hundred rows at a time, comes near float32.
#   The backward of scaled_dot_product_attention goes the same way, 5 to 7 times slower than float32's (512 and 128 tokens).
#
# Output (2 threads beside other work; GFLOP/s):
#   grad @ weight          bfloat16 0.8, float32 25, bfloat16 widened by blocks of rows 17 (relative error 0.0017, one rounding)
#   F.linear               bfloat16 18, float32 28
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5

ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 "$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import torch
from torch.nn import functional as F

M, N, K = 64, 1024, 3072
generator = torch.Generator().manual_seed(0)
grad, x, weight = (torch.randn(shape, generator=generator).bfloat16() for shape in ((M, N), (M, K), (N, K)))


def rate(product):
    """GFLOP/s, the best of what two seconds hold."""
    seconds = []
    while sum(seconds) < 2:
        start = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - start)
    return 2 * M * N * K / min(seconds) / 1e9


def widened(grad, weight, rows=256):
    total = torch.zeros(M, K)
    for first in range(0, N, rows):
        total.addmm_(grad[:, first:first + rows].float(), weight[first:first + rows].float())
    return total.bfloat16()


exact = grad.double() @ weight.double()
error = (widened(grad, weight).double() - exact).norm() / exact.norm()
wide = grad.float(), weight.float(), x.float()
scalar, fp32, by_hand = rate(lambda: grad @ weight), rate(lambda: wide[0] @ wide[1]), rate(lambda: widened(grad, weight))
print(f"grad @ weight          bfloat16 {scalar:.1f}, float32 {fp32:.0f}, bfloat16 widened by blocks of rows {by_hand:.0f}"
      f" (relative error {error:.4f}, one rounding)")
print(f"F.linear               bfloat16 {rate(lambda: F.linear(x, weight)):.0f}, "
      f"float32 {rate(lambda: F.linear(wide[2], wide[1])):.0f}")
as_described = scalar * 5 < fp32 and scalar * 5 < by_hand and error < 0.003
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
