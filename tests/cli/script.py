"""How the scripts of tests/ end: which program they run, and which of their tests.

    if __name__ == "__main__":
        script.read_line(__doc__)
        unittest.main()
"""

import argparse
import sys
from pathlib import Path

TRESTLE = None  # the program, absolute


def read_line(doc, **more):
    """Takes --trestle, and `more` of the script's own (a name with what argparse is to know of it), off the command
    line and returns them; what is left of the line is unittest's."""
    global TRESTLE
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--trestle", type=lambda path: Path(path).resolve(), required=True)
    for name, settings in more.items():
        parser.add_argument(f"--{name}", **settings)
    known, others = parser.parse_known_args()
    sys.argv[1:] = others
    TRESTLE = known.trestle
    return known


# The library of faults.c, which is loaded before the program.
FAULTS = {"type": lambda path: Path(path).resolve(), "required": True}
