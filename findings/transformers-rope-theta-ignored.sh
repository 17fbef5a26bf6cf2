#!/usr/bin/env bash
# transformers: which model types heed a top-level rope_theta depends on whether their config has a rope default.
#
# Versions: transformers 5.24.0, torch 2.13.0. Seen 2026-11-28.
#
# Expected: version 5 moved rope_theta into rope_parameters and still reads it from its old place, at the top of config.json,
#   for files written before: for every model type, or it says that it did not.
# What happens: the old key only fills a gap. Llama and Mistral leave rope_parameters empty, so it is used; Ministral 3 and some
#   others put a whole default there first, which has a rope_theta, and the one in the file is dropped without a word:
#   the config that is saved again no longer has it and the model turns with the default. Give rope_scaling besides, and the
#   old key counts again; give rope_scaling alone, and the base is 10000 and not the default of the model type.
#
# Output (rope_theta that a model made of the file has):
#   file                                    llama    mistral     ministral3
#   nothing                                 10000      10000        1000000
#   rope_theta 5e6                        5000000    5000000        1000000
#   rope_theta 5e6, rope_scaling yarn     5000000    5000000        5000000
#   rope_scaling yarn                       10000      10000          10000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 transformers==5.24.0 numpy==2.3.5

HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM

file = Path(sys.argv[1]) / "model" / "config.json"
file.parent.mkdir()
small = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=4096)
yarn = {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 2048}
contents = {
    "nothing": {},
    "rope_theta 5e6": {"rope_theta": 5e6},
    "rope_theta 5e6, rope_scaling yarn": {"rope_theta": 5e6, "rope_scaling": yarn},
    "rope_scaling yarn": {"rope_scaling": yarn},
}
types = ("llama", "mistral", "ministral3")


def theta(model_type, content):
    file.write_text(json.dumps({"model_type": model_type, **small, **content}))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(file.parent))
    model.config.save_pretrained(file.parent)
    again = json.loads(file.read_text())
    assert "rope_theta" not in again and again["rope_parameters"] == model.config.rope_parameters
    return int(model.config.rope_parameters["rope_theta"])


print(f"{'file':34} {types[0]:>10} {types[1]:>10} {types[2]:>14}")
rows = {}
for what, content in contents.items():
    rows[what] = tuple(theta(model_type, content) for model_type in types)
    print(f"{what:34} {rows[what][0]:>10} {rows[what][1]:>10} {rows[what][2]:>14}")
as_described = list(rows.values()) == [(10000, 10000, 1000000), (5000000, 5000000, 1000000),
                                       (5000000, 5000000, 5000000), (10000, 10000, 10000)]
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
