#!/usr/bin/env bash
# torch.distributed, Gloo: what a bfloat16 all_reduce makes of the same four numbers depends on where in the tensor they stand.
#
# Version: torch 2.13.0 (CPU), four processes of one machine. Seen 2026-11-30.
#
# Expected: one rounding for all elements alike. Each rank's tensor holds one number throughout, so every element is the same
#   sum of the same four numbers; float16 and float32 do give one value everywhere.
# What happens: Gloo's ring cuts the tensor into parts, each of which starts its way at another rank, and rounds to bfloat16 at
#   every hop. Where the largest number comes first, each small one behind it is lost; where it comes later, they have been
#   added up before and count. So half of the tensor is 1.0 and the other half 1.015625 (the exact sum is 1.01171875). Reduced
#   in two calls of half the length, other elements are the ones that lose. A gradient's value thus depends on its place in a
#   bucket, and bucket sizes or another order of parameters change the training.
#
# Output:
#   float32   as one tensor of 4096: 1.01171875 x 4096
#   float16   as one tensor of 4096: 1.01171875 x 4096
#   bfloat16  as one tensor of 4096: 1.0 x 2048, 1.015625 x 2048
#   bfloat16  in two calls of 2048: 2048 elements differ from that
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5

cat > "$folder/reduce.py" <<'PYTHON'
import sys

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

HELD = (1.0, 2**-8, 2**-8, 2**-8)  # by rank
LENGTH = 4096


def counts(x):
    values, times = x.double().unique(return_counts=True)
    return list(zip(values.tolist(), times.tolist()))


def run(rank, store, changed):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=len(HELD))
    seen = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        whole = torch.full((LENGTH,), HELD[rank], dtype=dtype)
        dist.all_reduce(whole)
        seen[dtype] = counts(whole)
        if rank == 0:
            print(f"{str(dtype)[6:]:9} as one tensor of {LENGTH}: " + ", ".join(f"{v} x {n}" for v, n in seen[dtype]))
    halves = torch.full((LENGTH,), HELD[rank], dtype=torch.bfloat16).chunk(2)
    for half in halves:
        dist.all_reduce(half)
    moved = int((torch.cat(halves) != whole).sum())
    if rank == 0:
        print(f"bfloat16  in two calls of {LENGTH // 2}: {moved} elements differ from that")
        exact = [(sum(HELD), LENGTH)]
        as_described = (seen[torch.float32] == exact and seen[torch.float16] == exact
                        and [value for value, _ in seen[torch.bfloat16]] == [1.0, 1.015625] and moved > 0)
        changed.value = not as_described
    dist.destroy_process_group()


if __name__ == "__main__":
    changed = mp.get_context("spawn").Value("b", True)
    mp.spawn(run, args=(sys.argv[1], changed), nprocs=len(HELD))
    print("CHANGED" if changed.value else "as described")
    sys.exit(changed.value)
PYTHON
"$folder/venv/bin/python" "$folder/reduce.py" "$folder/store" 2> >(grep -v "Gloo" >&2)
