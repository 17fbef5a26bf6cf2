"""Runs of many ranks as the scripts about processes make them: the embedded model's receipts in float32, started by
whoever starts ranks, and what such a run has left.
"""

import json
import os
import signal
import socket
from pathlib import Path

DEMO = Path(__file__).resolve().parent.parent.parent / "assets" / "demo"
# ctest runs others beside it; and sums are made in the same pieces whatever share of the cores a rank has.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def finetune(run, steps, *more, planned=100):
    """The words of a command that trains `run` up to `steps` and goes on with it where it is there. The learning rate
    is that of `planned` steps, so that a run and a shorter one are the same as far as both go."""
    settings = {
        "dataset.path_or_dataset": DEMO / "data", "dataset.image_max_edge": 112, "model.params_dtype": "float32",
        "train.train_iters": steps, "train.global_batch_size": 4, "train.micro_batch_size": 1, "optimizer.lr": 1e-3,
        "scheduler.lr_warmup_iters": 0, "scheduler.lr_decay_iters": planned,
        "checkpoint.save": run, "checkpoint.load": "auto", "checkpoint.save_interval": 2,
    }
    return ["finetune", "--recipe", "demo_config", "--pretrained-checkpoint", str(DEMO / "model"),
            *(f"{key}={value}" for key, value in settings.items()), *more]


def lines(run):
    """The whole lines of a run's metrics.jsonl that tell of a step; none where there is no file yet."""
    path = Path(run) / "metrics.jsonl"
    whole = path.read_text().split("\n")[:-1] if path.exists() else []
    return [line for line in map(json.loads, whole) if "loss" in line]


def differences(got, wanted, relative):
    """Where two runs differ: a step that one lacks or has twice, a loss or a norm that is further off."""
    steps = [[line["step"] for line in each] for each in (got, wanted)]
    if steps[0] != steps[1]:
        return [f"steps {steps[0]}, not {steps[1]}"]
    return [f"step {one['step']}: {key} {one[key]!r}, not {other[key]!r}" for one, other in zip(got, wanted)
            for key in ("loss", "grad_norm") if not abs(one[key] - other[key]) <= relative * abs(other[key])]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def descendants(pid):
    """Of a process: its children, theirs, and so on; zombies are none."""
    children = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found[1:]


def ranks_of(pid):
    """{rank: pid} of the program's processes below a launcher or torchrun that have begun to run."""
    found = {}
    for each in descendants(pid):
        try:
            words = Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")
            environment = Path(f"/proc/{each}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if words[1:2] == [b"finetune"]:
            found.update({int(word[5:]): each for word in environment if word.startswith(b"RANK=")})
    return found


def kill_with_ranks(process):
    """Ends a launcher and all below it, for a test that fails half-way."""
    for pid in [process.pid, *descendants(process.pid)]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.communicate()
