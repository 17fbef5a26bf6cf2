"""What the scripts of this folder share: checks by name, each in a scratch folder of its own, counted, and told in one
line; calls of the program; tensors compared to the bit or within a limit.

A check is a call that raises, or returns SKIPPED where it does not fit the model. To import this puts tools/ on the
path, where goldens.models is.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))

SKIPPED = "skipped"


def parser(description):
    """The flags that all of them have."""
    flags = argparse.ArgumentParser(description=description.splitlines()[0])
    flags.add_argument("--trestle", required=True, type=lambda path: Path(path).resolve(), help="the program to test")
    flags.add_argument("--only", default="", help="run the checks whose name holds this")
    return flags


def quiet_transformers():
    """One thread, as ctest runs others beside it, and no bars."""
    import transformers  # only some of the scripts need it

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def require(condition, message):
    """Raises AssertionError with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def at_most(what, measured, limit):
    """Raises unless a number is within the limit, which a NaN never is."""
    require(measured <= limit, f"{what} is {measured:.3g}, allowed {limit:g}")


def close(what, ours, theirs, limit):
    """Raises unless two tensors have one shape and differ nowhere by more than the limit."""
    require(ours.shape == theirs.shape, f"{what}: shape {tuple(ours.shape)}, not {tuple(theirs.shape)}")
    at_most(f"{what}: the largest difference", (ours - theirs).abs().max().item(), limit)


def same_tensors(what, ours, theirs):
    """Raises unless two dicts {name: tensor} have the same names, and under each the same dtype, shape and bits; also
    if they hold no tensor, or a NaN."""
    require(theirs, f"{what}: no tensors")
    require(ours.keys() == theirs.keys(), f"{what}: names differ: {sorted(ours.keys() ^ theirs.keys())[:4]}")
    for name, value in theirs.items():
        other = ours[name]
        require(other.dtype == value.dtype and other.shape == value.shape,
                f"{what}: {name} is {other.dtype} {tuple(other.shape)}, not {value.dtype} {tuple(value.shape)}")
        bits, wanted = (tensor.reshape(-1).view(torch.uint8) for tensor in (other, value))
        require(torch.equal(bits, wanted), f"{what}: {name}: bits differ")
        require(not value.float().isnan().any(), f"{what}: {name} holds a NaN")


def weights_of(folder, stem):
    """{name: tensor} of all files FOLDER/STEM*.safetensors; raises if there is none, or a name is in two of them."""
    tensors = {}
    for file in sorted(Path(folder).glob(f"{stem}*.safetensors")):
        part = load_file(file)
        twice = sorted(tensors.keys() & part.keys())
        require(not twice, f"{file} and a file before it hold {twice[:4]}")
        tensors |= part
    require(tensors, f"no tensors in {folder}/{stem}*.safetensors")
    return tensors


def inner_names(tensors, spelling):
    """{name: tensor} under the names of transformers' modules. `spelling` is the file's, one of goldens.models; raises
    if two names become one."""
    result = {}
    for name, value in tensors.items():
        for inner, outer in spelling:
            if name.startswith(outer):
                name = inner + name[len(outer):]
                break
        require(name not in result, f"{name} is stored twice")
        result[name] = value
    return result


def write_as(source, target, dtype=None, shards=1):
    """A copy of a checkpoint in another dtype, or cut into shards with an index; returns `target`."""
    target.mkdir()
    for file in source.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy(file, target)
    tensors = load_file(source / "model.safetensors")
    if dtype:
        config = json.loads((target / "config.json").read_text())
        config["dtype"] = str(dtype).removeprefix("torch.")
        (target / "config.json").write_text(json.dumps(config))
        tensors = {name: value.to(dtype) for name, value in tensors.items()}
    if shards == 1:
        save_file(tensors, target / "model.safetensors", {"format": "pt"})
        return target
    index = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        save_file(part, target / file, {"format": "pt"})
        index |= {name: file for name in part}
    size = sum(value.nbytes for value in tensors.values())
    (target / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {"total_size": size}, "weight_map": index}))
    return target


def run(trestle, *arguments, stdin=None, status=0):
    """The program's CompletedProcess, with stdout and stderr as text; raises if it exits with another status."""
    done = subprocess.run([trestle, *map(str, arguments)], input=stdin, capture_output=True, encoding="utf-8")
    require(done.returncode == status,
            f"trestle {arguments[0]} exits {done.returncode}, not {status}: {done.stderr.strip()}")
    return done


def through_megatron(trestle, source, megatron, *export):
    """Imports the checkpoint `source` into the run `megatron`, and exports that as the flags say."""
    run(trestle, "import", "--hf-model", source, "--megatron-path", megatron)
    run(trestle, "export", "--megatron-path", megatron, *export)


def logits(trestle, folder, batch, *more, option="--hf-model-path", dtype="float32", status=0):
    """What `trestle logits` makes of a batch of goldens.models, `more` being flags: ({"logits": BSV, and with labels
    "loss"}, the run's stderr), the dict empty where the status is not 0."""
    with tempfile.TemporaryDirectory(prefix="trestle-") as scratch:
        inputs, output = Path(scratch, "in.safetensors"), Path(scratch, "out.safetensors")
        save_file({name: value.contiguous() for name, value in batch.items()}, inputs)
        done = run(trestle, "logits", option, folder, "--inputs", inputs, "--output", output, "--dtype", dtype, *more,
                   status=status)
        return {} if status else load_file(output), done.stderr


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

    def run_methods(self, make, name, prefixes=("check_",)):
        """Every method with such a prefix of what `make` returns for a folder, which goes behind the last."""
        with tempfile.TemporaryDirectory(prefix="trestle-") as scratch:
            of = make(Path(scratch))
            for method in sorted(method for method in dir(of) if method.startswith(prefixes)):
                self.run(f"{name} {method}", getattr(of, method))

    def status(self):
        """What the script ends with: nothing that passed is a failure too."""
        print(f"{self.counts['ok']} passed, {self.counts['FAILED']} failed")
        return 1 if self.counts["FAILED"] or not self.counts["ok"] else 0
