#!/usr/bin/env bash
# torch.distributed.checkpoint: an optimizer's state that goes through dcp_to_torch_save is accepted and then not used.
#
# Versions: torch 2.13.0. Seen 2026-11-28.
#
# Expected: dcp_to_torch_save turns a DCP checkpoint into a torch.save file with the state dict that was saved, so that
#   optimizer.load_state_dict of it resumes, or refuses.
# What happens: DCP makes every key on the way to a tensor a string. An optimizer's state is keyed by parameter number, so 0
#   comes back as "0". load_state_dict keeps entries that it can't match to a parameter and says nothing; the next step finds
#   no moments and starts new ones. The optimizer goes on as if from step 0, and its own state dict then holds both: the
#   old moments under "0", the new under 0.
#   An optimizer that has no state yet (plain SGD) is refused: the empty dict "state" is not in the file at all.
#
# Output:
#   keys of the state saved: [0, 1]   after dcp_to_torch_save: ['0', '1']
#   AdamW after 100 steps and one more: step 101 without the detour, step 1 after it
#   a weight's move in that step: -0.000894 without the detour, +0.001001 after it
#   keys of the state then: ['0', '1', 0, 1]
#   SGD: KeyError 'state'
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.3.5

"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import copy
import sys

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

folder = sys.argv[1]
torch.manual_seed(0)
model = torch.nn.Linear(4, 4)


def step(model, optimizer, size):
    optimizer.zero_grad()
    (size * model(torch.ones(1, 4)).sum()).backward()
    optimizer.step()


def detour(state, name):
    dcp.save({"optimizer": state}, checkpoint_id=f"{folder}/{name}", no_dist=True)
    dcp_to_torch_save(f"{folder}/{name}", f"{folder}/{name}.pt")
    return torch.load(f"{folder}/{name}.pt")["optimizer"]


first = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(100):
    step(model, first, 1.0)
saved = first.state_dict()
detoured = detour(saved, "adamw")
print(f"keys of the state saved: {list(saved['state'])}   after dcp_to_torch_save: {list(detoured['state'])}")

steps, moves = [], []
for state in (saved, detoured):
    resumed = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(resumed.parameters(), lr=1e-3)
    optimizer.load_state_dict(copy.deepcopy(state))
    before = resumed.weight.detach().clone()
    step(resumed, optimizer, -0.1)
    steps.append(int(optimizer.state[resumed.weight]["step"]))
    moves.append((resumed.weight.detach() - before)[0, 0].item())
keys = list(optimizer.state_dict()["state"])
print(f"AdamW after 100 steps and one more: step {steps[0]} without the detour, step {steps[1]} after it")
print(f"a weight's move in that step: {moves[0]:+.6f} without the detour, {moves[1]:+.6f} after it")
print(f"keys of the state then: {keys}")

plain, sgd = torch.optim.SGD(model.parameters(), lr=1e-3), "accepted"
try:
    plain.load_state_dict(detour(plain.state_dict(), "sgd"))
except KeyError as error:
    sgd = f"KeyError {error}"
print(f"SGD: {sgd}")

as_described = steps == [101, 1] and moves[0] < 0 < moves[1] and sgd == "KeyError 'state'"
as_described &= sorted(map(repr, keys)) == ["'0'", "'1'", "0", "1"]
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
