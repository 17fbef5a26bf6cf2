#!/usr/bin/env bash
# torch.distributed.checkpoint: a consolidated safetensors file has 0 where a tensor without dimensions was saved.
#
# Versions: torch 2.13.0, safetensors 0.8.0. Seen 2026-11-28.
#
# Expected: HuggingFaceStorageWriter(save_distributed=True, enable_consolidation=True) writes each rank's shards under sharded/
#   and then one file with every tensor whole, so the whole file holds what the shards hold.
# What happens: a tensor of shape [] (a learned temperature or logit scale, a per-tensor FP8 scale) is in the consolidated
#   header with its name, type and size, and its bytes are zero. Its shard is right. Without
#   consolidation, or as shape [1], it is right too. Nothing is said, and DCP's own reader hands back the zero.
#   The step that copies a shard into its place takes an empty list of dimensions for an empty tensor and copies nothing.
#
# Output:
#   saved           weight 1.5, scale 0.125 (shape []), scale_1 0.125 (shape [1])
#   shard           weight 1.5, scale 0.125, scale_1 0.125
#   consolidated    weight 1.5, scale 0, scale_1 0.125
#   DCP reads back  weight 1.5, scale 0, scale_1 0.125
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 safetensors==0.8.0 numpy==2.3.5

"$folder/venv/bin/python" -W ignore - "$folder/checkpoint" <<'PYTHON'
import sys
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageReader, HuggingFaceStorageWriter

folder = Path(sys.argv[1])
saved = {
    "weight": torch.full((2, 3), 1.5),
    "scale": torch.tensor(0.125),
    "scale_1": torch.tensor([0.125]),
}
writer = HuggingFaceStorageWriter(str(folder), save_distributed=True, enable_consolidation=True)
dcp.save(saved, storage_writer=writer, no_dist=True)


def first_of_each(tensors):
    return {name: tensors[name].flatten()[0].item() for name in saved}


def show(what, values):
    print(f"{what:15} " + ", ".join(f"{name} {value:g}" for name, value in values.items()))


shard = first_of_each(load_file(next((folder / "sharded").glob("*.safetensors"))))
whole = first_of_each(load_file(next(folder.glob("*.safetensors"))))
target = {name: torch.full_like(tensor, 99) for name, tensor in saved.items()}
dcp.load(target, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
back = first_of_each(target)

print("saved           weight 1.5, scale 0.125 (shape []), scale_1 0.125 (shape [1])")
show("shard", shard)
show("consolidated", whole)
show("DCP reads back", back)
right = first_of_each(saved)
as_described = shard == right and whole == back == {**right, "scale": 0.0}
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
