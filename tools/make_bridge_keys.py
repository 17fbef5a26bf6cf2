#!/usr/bin/env python3
"""Writes src/recipes/bridge_names.cpp: every key that megatron-bridge's ConfigContainer has for Ministral 3.

  pip download --no-deps --python-version 3.12 --only-binary=:all: megatron-bridge==0.6.2 megatron-core==0.19.2
  .venv/bin/python tools/make_bridge_keys.py megatron_bridge-*.whl megatron_core-*.whl

Reads the dataclasses' source and runs none of it: the packages want GPUs.
"""

import ast
import sys
import textwrap
import zipfile
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "src" / "recipes" / "bridge_names.cpp"
SOURCE = """// Made by tools/make_bridge_keys.py: the keys of megatron-bridge 0.6.2 with megatron-core 0.19.2.
#include "recipes/bridge_keys.h"

namespace trestle {{

namespace {{

constexpr BridgeNames kNames[] = {{
{rows}
}};

}}  // namespace

std::span<const BridgeNames> bridge_names() {{ return kNames; }}

}}  // namespace trestle
"""
GROUPS = {
    "rng": ["RNGConfig"], "rerun_state_machine": ["RerunStateMachineConfig"], "train": ["TrainingConfig"],
    "validation": ["ValidationConfig"], "optimizer": ["OptimizerConfig"], "ddp": ["DistributedDataParallelConfig"],
    "scheduler": ["SchedulerConfig"], "logger": ["LoggerConfig"], "tokenizer": ["TokenizerConfig"],
    "checkpoint": ["CheckpointConfig"], "dist": ["DistributedInitConfig"], "ft": ["FaultToleranceConfig"],
    "straggler": ["StragglerDetectionConfig"], "nvrx_straggler": ["NVRxStragglerDetectionConfig"],
    "profiling": ["ProfilingConfig"], "comm_overlap": ["CommOverlapConfig"], "mixed_precision": ["MixedPrecisionConfig"],
    "tensor_inspect": ["TensorInspectConfig"], "inprocess_restart": ["InProcessRestartConfig"],
    "dataset": ["DirectHFSFTDatasetConfig"], "dataset.source": ["HFDatasetSourceConfig"],
    "peft": ["LoRA", "VLMLoRA", "DoRA"], "model": ["Ministral3ModelProvider", "TransformerConfig", "ModelParallelConfig"]}


def classes_of(wheels):
    """Class name -> [(base names, field names)], one for each class of that name."""
    classes = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if not name.endswith(".py"):
                    continue
                tree = ast.parse(archive.read(name))
                renamed = {alias.asname: alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                           for alias in node.names if alias.asname}
                for node in tree.body:
                    if isinstance(node, ast.ClassDef):
                        bases = [renamed.get(ast.unparse(base), ast.unparse(base)) for base in node.bases]
                        fields = [entry.target.id for entry in node.body
                                  if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name)]
                        classes.setdefault(node.name, []).append((bases, fields))
    return classes


def fields_of(classes, name, seen=()):
    """Of every class of that name, and of what they come from."""
    fields = set()
    for bases, own in classes.get(name, []):
        fields |= {field for field in own if not field.startswith("_")}
        for base in bases:
            if base not in seen:
                fields |= fields_of(classes, base, (*seen, name))
    return fields


def main():
    classes = classes_of(sys.argv[1:])
    keys = sorted(f"{group}.{field}" for group, names in GROUPS.items() for name in names
                  for field in fields_of(classes, name))
    assert len(keys) > 600, len(keys)
    sections = {}
    for key in dict.fromkeys(keys):
        section, name = key.split(".", 1)
        sections.setdefault(section, []).append(name)
    rows = []
    for section, names in sections.items():
        lines = textwrap.wrap(" ".join(names), 88, break_long_words=False, break_on_hyphens=False)
        text = "\n".join(f'     "{line} "' for line in lines[:-1]) + ("\n" if lines[1:] else "") + f'     "{lines[-1]}"'
        rows.append(f'    {{"{section}",\n{text}}},')
    OUT.write_text(SOURCE.format(rows="\n".join(rows)))


if __name__ == "__main__":
    main()
