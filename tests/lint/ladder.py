"""Includes go only down the ladder of src/ladder.txt; every folder is a rung and holds no more than a newcomer can; no
file passes 500 lines; README's reading order and CONTRIBUTING's ladder name the rungs as they are. Run by ctest.

  ladder.py [ROOT]
"""
import pathlib
import re
import sys

MOST_OF_A_FILE, MOST_OF_A_ROOM = 500, 3500
SOURCES = (".h", ".cpp", ".cuh", ".cu")
root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2]).resolve()
src = root / "src"
LADDER = re.findall(r"^[a-z]+$", (src / "ladder.txt").read_text(), re.M)
rooms = [rung for rung in LADDER if (src / rung).is_dir()]
faults = [f"src/{path.name} is no rung of src/ladder.txt" for path in sorted(src.iterdir())
          if path.is_dir() and path.name not in LADDER]
faults += [f"src/{path.name} is in no folder" for path in sorted(src.iterdir()) if path.suffix in SOURCES]
files = sorted(path for path in src.rglob("*") if path.suffix in SOURCES)
lines = dict.fromkeys(rooms, 0)
for path in files:
    text, name = path.read_text(), path.relative_to(root)
    room = name.parts[1]
    if room not in LADDER:
        continue  # told above
    count = text.count("\n")
    lines[room] += count
    for included in re.findall(r'^\s*#\s*include\s*[<"](?:\.\./)*([\w-]+)/', text, re.M):
        if included not in LADDER and not (src / included).is_dir():
            continue  # a library's
        if included not in LADDER:
            faults.append(f"{name} includes {included}/, which is no rung of src/ladder.txt")
        elif LADDER.index(included) > LADDER.index(room):
            faults.append(f"{name} includes {included}/, which is above {room}/")
    if path.suffix in (".h", ".cuh") and "#pragma once" not in text:
        faults.append(f"{name} has no #pragma once")
    if count > MOST_OF_A_FILE:
        faults.append(f"{name} has {count} lines; split it at {MOST_OF_A_FILE}")
faults += [f"src/{room} has {count} lines; a room of more than {MOST_OF_A_ROOM} is two" for room, count in lines.items()
           if count > MOST_OF_A_ROOM]
told = re.findall(r"\]\(src/([a-z]+)\)", (root / "README.md").read_text())
if told != rooms:
    faults.append(f"README.md reads {' '.join(told)}; the ladder is {' '.join(rooms)}")
told = re.search(r"^ {4}(\w+(?: < \w+)+)(?:\n +(< .*))?$", (root / "CONTRIBUTING.md").read_text(), re.M)
told = re.findall(r"\w+", " ".join(filter(None, told.groups()))) if told else []
if told != LADDER:
    faults.append(f"CONTRIBUTING.md's ladder is {' < '.join(told)}; src/ladder.txt's is {' < '.join(LADDER)}")
print("\n".join(faults))
print(f"{len(files)} files in {len(rooms)} rooms, {len(faults)} faults")
sys.exit(bool(faults) or not files)
