#!/usr/bin/env python3
"""Writes tests/recipes/golden/schedules.json: what megatron-core's own scheduler makes of each step.

  pip download --no-deps --python-version 3.12 --only-binary=:all: megatron-core==0.19.2
  .venv/bin/python tools/make_schedule_goldens.py megatron_core-*.whl

Its optimizer_param_scheduler.py runs alone: megatron.core.utils, of which it wants a logger, needs GPUs' packages.
"""

import importlib.util
import json
import sys
import tempfile
import types
import zipfile
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "tests" / "recipes" / "golden" / "schedules.json"
BATCH, ITERS = 4, 20
USUAL = {"lr": 1e-3, "min_lr": 1e-5, "lr_warmup_iters": 0, "lr_warmup_init": 0.0, "lr_decay_iters": 20, "lr_decay_style": "cosine",
         "start_weight_decay": 0.1, "end_weight_decay": 0.1, "weight_decay_incr_style": "constant"}
CASES = [
    {}, {"lr_warmup_iters": 5}, {"lr_warmup_iters": 5, "lr_warmup_init": 2e-4, "lr_decay_style": "linear"},
    {"lr_decay_style": "constant", "lr_warmup_iters": 3}, {"lr_decay_iters": 12, "lr_warmup_iters": 2},
    {"lr_warmup_fraction": 0.17}, {"lr_warmup_fraction": 0.0}, {"lr_decay_style": "inverse-square-root", "lr_warmup_iters": 4},
    {"lr_decay_style": "inverse-square-root"}, {"lr_decay_style": "inverse-square-root", "lr_warmup_fraction": 0.01},
    *({"lr_decay_style": "WSD", "lr_wsd_decay_style": style, "lr_wsd_decay_iters": 8, "lr_warmup_iters": 3}
      for style in ("exponential", "linear", "cosine", "minus_sqrt")),
    {"start_weight_decay": 0.01, "weight_decay_incr_style": "linear"},
    {"start_weight_decay": 0.0, "end_weight_decay": 0.3, "weight_decay_incr_style": "cosine", "lr_warmup_iters": 5},
]


def load(wheel):
    """The module out of the wheel, its one import from Megatron stood in for."""
    utils = types.ModuleType("megatron.core.utils")
    utils.log_single_rank = lambda *_, **__: None
    sys.modules |= {"megatron": types.ModuleType("megatron"), "megatron.core": types.ModuleType("megatron.core"), utils.__name__: utils}
    with tempfile.TemporaryDirectory() as scratch:
        path = zipfile.ZipFile(wheel).extract("megatron/core/optimizer_param_scheduler.py", scratch)
        spec = importlib.util.spec_from_file_location("optimizer_param_scheduler", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.OptimizerParamScheduler


def main():
    scheduler_class, cases = load(sys.argv[1]), []
    for case in CASES:
        given = USUAL | case
        decay = given["lr_decay_iters"] * BATCH
        fraction = given.get("lr_warmup_fraction")
        group = {"wd_mult": 1.0}
        scheduler = scheduler_class(
            types.SimpleNamespace(param_groups=[group]), init_lr=given["lr_warmup_init"], max_lr=given["lr"], min_lr=given["min_lr"],
            lr_warmup_steps=given["lr_warmup_iters"] * BATCH if fraction is None else fraction * decay, lr_decay_steps=decay,
            lr_decay_style=given["lr_decay_style"], start_wd=given["start_weight_decay"], end_wd=given["end_weight_decay"],
            wd_incr_steps=ITERS * BATCH, wd_incr_style=given["weight_decay_incr_style"], use_checkpoint_opt_param_scheduler=False,
            wsd_decay_steps=given.get("lr_wsd_decay_iters", 0) * BATCH or None, lr_wsd_decay_style=given.get("lr_wsd_decay_style"))
        steps = []
        for _ in range(ITERS + 4):
            steps.append([group["lr"], group["weight_decay"]])
            scheduler.step(BATCH)
        cases.append({"keys": {key: value for key, value in case.items()}, "steps": steps})
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]\n")


if __name__ == "__main__":
    main()
