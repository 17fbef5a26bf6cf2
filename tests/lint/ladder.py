"""Includes go only down the ladder of stages; no file passes 500 lines. Run by ctest."""
import pathlib
import re
import sys

LADDER = "base parallel model checkpoint bridge peft data generate train serve cli".split()
root = pathlib.Path(__file__).resolve().parents[2] / "src"
faults = []
files = sorted(root.rglob("*.h")) + sorted(root.rglob("*.cpp"))
for path in files:
    text = path.read_text()
    stage = path.relative_to(root).parts[0]
    for included in re.findall(r'#include "(\w+)/', text):
        if LADDER.index(included) > LADDER.index(stage):
            faults.append(f"{path.relative_to(root)} includes {included}/, which is above {stage}/")
    if path.suffix == ".h" and "#pragma once" not in text:
        faults.append(f"{path.relative_to(root)} has no #pragma once")
    if text.count("\n") > 500:
        faults.append(f"{path.relative_to(root)} has {text.count(chr(10))} lines; split it at 500")
print("\n".join(faults))
print(f"{len(files)} files, {len(faults)} faults")
sys.exit(bool(faults) or not files)
