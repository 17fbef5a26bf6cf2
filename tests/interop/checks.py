"""What the scripts with checks by name share: each in a scratch folder of its own, counted, and told in one line.

A check is a call that raises, or returns SKIPPED where it does not fit the model.
"""

import argparse
import tempfile
from pathlib import Path

SKIPPED = "skipped"


def parser(description):
    """The flags that all of them have."""
    flags = argparse.ArgumentParser(description=description.splitlines()[0])
    flags.add_argument("--trestle", required=True, type=lambda path: Path(path).resolve(), help="the program to test")
    flags.add_argument("--only", default="", help="run the checks whose name holds this")
    return flags


def quiet_transformers():
    """One thread, as ctest runs others beside it, and no bars."""
    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


class Counted:
    def __init__(self, only=""):
        self.only = only
        self.counts = {"ok": 0, SKIPPED: 0, "FAILED": 0}

    def run(self, name, call):
        """`call` with no argument."""
        if self.only not in name:
            return
        try:
            result, why = (SKIPPED if call() == SKIPPED else "ok"), ""
        except Exception as error:  # noqa: BLE001: whatever a peer raises is this check's alone
            result, why = "FAILED", f": {type(error).__name__}: {error}"
        self.counts[result] += 1
        print(f"{result:8}{name}{why}", flush=True)

    def run_in_scratch(self, name, call):
        """`call` with a folder that goes behind it."""
        with tempfile.TemporaryDirectory(prefix="trestle-") as scratch:
            self.run(name, lambda: call(Path(scratch)))

    def run_methods(self, of, name, prefixes=("check_",)):
        """Every method of an object that has such a prefix."""
        for method in sorted(method for method in dir(of) if method.startswith(prefixes)):
            self.run(f"{name} {method}", getattr(of, method))

    def status(self):
        """What the script ends with: nothing that passed is a failure too."""
        print(f"{self.counts['ok']} passed, {self.counts['FAILED']} failed")
        return 1 if self.counts["FAILED"] or not self.counts["ok"] else 0
