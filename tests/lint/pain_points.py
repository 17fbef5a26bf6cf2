"""Every test that docs/pain-points.md names exists and names its point in turn. Run by ctest."""
import pathlib
import re
import sys

root = pathlib.Path(__file__).resolve().parents[2]
table = (root / "docs" / "pain-points.md").read_text()
cpp = {path: path.read_text() for path in (root / "tests").glob("*/*.cpp")}
NEAR = 8  # lines above a test where its comment is looked for


def place_of(name):
    """(text of the file, where the test begins), or nothing."""
    if "::" in name:
        path, function = name.split("::")
        text = (root / path).read_text() if (root / path).is_file() else ""
        found = re.search(rf"^ *def {function}\(", text, re.M)
        return (text, found.start()) if found else None
    suite, test = name.split(".")
    for text in cpp.values():
        found = re.search(rf"^TEST(_F|_P)?\({suite}, {test}\)", text, re.M)
        if found:
            return text, found.start()
    return None


faults, tests = [], 0
rows = re.findall(r"^\| (\d+) \|.*\| ([^|]*) \|$", table, re.M)
for number, shown in rows:
    for name in re.findall(r"`([^`]+)`", shown):
        tests += 1
        place = place_of(name)
        if place is None:
            faults.append(f"point {number}: {name} is no test")
            continue
        above = place[0][:place[1]].splitlines()[-NEAR:]
        if not any(f"pain point {number}:" in line for line in above):
            faults.append(f"point {number}: {name} does not name it")
if [int(number) for number, _ in rows] != list(range(1, len(rows) + 1)) or len(rows) < 25:
    faults.append("the points are not numbered from 1 on")
print("\n".join(faults))
print(f"{len(rows)} points, {tests} tests, {len(faults)} faults")
sys.exit(bool(faults) or not tests)
