#!/usr/bin/env bash
# transformers: in a packed row, texts see each other or not by whether a cache is asked for.
#
# Versions: transformers 5.24.0, torch 2.13.0. Seen 2026-11-28.
#
# Expected: use_cache only says whether keys and values are handed back, and a mask of ones says what no mask says. So position
#   ids that start again at 0 either part the texts of a row or they don't.
# What happens: they part them only with use_cache=False and no mask at all. A forward pass with nothing but ids and positions
#   makes a cache (the config's default), and with it, or with a mask of ones as a tokenizer gives it, the
#   second text attends to the first. The same call in training mode changes its meaning when gradient checkpointing is
#   turned on, since that turns the cache off. transformers' Trainer sets the config's use_cache to False; a loop of
#   one's own, or an evaluation, that leaves it alone trains or measures something else and is told nothing.
#   (That a mask rules is meant so, says a reviewer of pull request 46634. The cache is not spoken of there.)
#
# Output (largest difference of the second text's logits from the same text alone):
#   ids and positions                      0.169
#   with use_cache=True                    0.169
#   with use_cache=False                   0.000
#   with use_cache=False, mask of ones     0.169
#   training mode                          0.169
#   training mode, checkpointed            0.000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 numpy==2.3.5

HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import torch
from transformers import Ministral3Config, Ministral3ForCausalLM

torch.manual_seed(0)
config = Ministral3Config(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                          num_attention_heads=4, num_key_value_heads=2, head_dim=8)
model = Ministral3ForCausalLM(config).eval()
first, second = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[7, 8, 9]])
row = torch.cat([first, second], dim=1)
positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
alone = model(second).logits.detach()


def leak(**options):
    together = model(row, position_ids=positions, **options).logits[:, 4:]
    return (together - alone).abs().max().item()


seen = {
    "ids and positions": leak(),
    "with use_cache=True": leak(use_cache=True),
    "with use_cache=False": leak(use_cache=False),
    "with use_cache=False, mask of ones": leak(use_cache=False, attention_mask=torch.ones_like(row)),
}
model.train()  # the config has no dropout
seen["training mode"] = leak()
model.gradient_checkpointing_enable()
seen["training mode, checkpointed"] = leak()

for what, difference in seen.items():
    print(f"{what:38} {difference:.3f}")
parted = [what for what, difference in seen.items() if difference < 1e-5]
joined = [what for what, difference in seen.items() if difference > 1e-2]
as_described = parted == ["with use_cache=False", "training mode, checkpointed"] and len(joined) == 4
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
