#!/usr/bin/env python3
"""Our Megatron directories, read by the real torch.distributed.checkpoint, and the reverse.

  .venv/bin/python tests/interop/test_megatron_dcp.py --trestle build/release/trestle
      imports tests/fixtures/hf and checks what it wrote, its integrity.json too, against what plain torch made of it; a
      run without its optimizer; one of two ranks; and every tensor of
      every fixture, optimizers' too, by its hash against what DCP reads
  ... check DIRECTORY REFERENCE
      every tensor of DIRECTORY equals REFERENCE: a safetensors file with tensors under their
      keys on disk, or a directory that DCP reads
  ... dump DIRECTORY OUTPUT.safetensors
      what DCP reads, for comparison with what we read

DIRECTORY is an iteration (iter_0000000) with `.metadata`, or a run with one.
"""

import argparse
import hashlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
import yaml
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

from checks import ROOT, require, run, same_tensors

FIXTURES = ROOT / "tests" / "fixtures"


def iteration(path):
    path = Path(path)
    if (path / ".metadata").exists():
        return path
    state = torch.load(path / "latest_train_state.pt", weights_only=True)
    require((path / "latest_checkpointed_iteration.txt").read_text() == str(state["step"].item()),
            f"{path}: the two trackers disagree")
    return path / f"iter_{state['step'].item():07d}"


def read(directory):
    """Every tensor, by `dcp.load` into tensors made from `.metadata`, as megatron-core does it."""
    metadata = dcp.FileSystemReader(directory).read_metadata()
    state = {
        name: torch.zeros(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
    }
    dcp.load(state, storage_reader=dcp.FileSystemReader(directory), no_dist=True)
    return state


def check_items(directory):
    """torch.load takes each item and its checksums are right; extra states hold an empty tensor."""
    metadata = dcp.FileSystemReader(directory).read_metadata()
    for index, place in metadata.storage_data.items():
        with open(directory / place.relative_path, "rb") as file:
            file.seek(place.offset)
            item = file.read(place.length)
        require(zipfile.ZipFile(io.BytesIO(item)).testzip() is None, f"{index}: wrong checksum")
        value = torch.load(io.BytesIO(item), weights_only=True)
        if "_extra_state" in index.fqn:
            require(len(value) == 1 and value[0].dtype == torch.uint8 and value[0].numel() == 0,
                    f"{index.fqn} is {value}")
    return len(metadata.storage_data)


def check_manifest(directory):
    """integrity.json is what megatron-core 0.19's save_integrity_manifest makes of the directory, to the byte; a run's has a
    section of its own behind that."""
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()
             for path in sorted(directory.iterdir(), key=str) if path.is_file() and path.name != "integrity.json"}
    wanted = json.dumps({"algorithm": "sha256", "files": files}, indent=2)
    text = (directory / "integrity.json").read_text()
    manifest = json.loads(text)
    if list(manifest)[2:] == ["trestle"]:
        del manifest["trestle"]
        text = json.dumps(manifest, indent=2)
    require(text == wanted, f"{directory}/integrity.json is not {wanted}")
    return len(files)


def check(directory, reference):
    directory = iteration(directory)
    reference = Path(reference)
    theirs = read(iteration(reference)) if reference.is_dir() else load_file(reference)
    same_tensors("dcp.load", read(directory), theirs)
    keyless = {}
    _load_state_dict(keyless, storage_reader=dcp.FileSystemReader(directory),
                     planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    tensors = {name: value for name, value in keyless.items() if torch.is_tensor(value)}
    same_tensors("planner without keys", tensors, theirs)
    items = check_items(directory)

    common = torch.load(directory / "common.pt", weights_only=True)
    state = torch.load(directory / "train_state.pt", weights_only=True)
    require(common["checkpoint_version"] == 3.0 and "content_metadata" in common,
            f"common.pt is {common}")
    require(state["step"].dtype == torch.int64 and state["step"].shape == (),
            "train_state.pt: step")
    require(common["iteration"] == state["step"].item(), "common.pt and train_state.pt disagree")
    config = yaml.safe_load((directory / "run_config.yaml").read_text())
    require(config["model"]["hf_config"]["_target_"].startswith("transformers.models."),
            "run_config.yaml: hf_config")
    require(isinstance(config["model"]["layernorm_epsilon"], float),
            "run_config.yaml: layernorm_epsilon")
    print(f"passed: {len(theirs)} tensors, {items} items of {directory}")


def check_hashes(trestle):
    """Every tensor that we read of a fixture, training state included, is what DCP gives."""
    for name in ("import", "import_tied", "tp2", "sft", "lora", "dora"):
        folder = FIXTURES / "megatron" / name
        stored = read(next(folder.glob("iter_*")))
        listed = json.loads(run(trestle, "inspect", folder, "--sha256", "--json").stdout)
        seen = set()
        for section in ("tensors", "training_state"):
            for key, entry in listed.get(section, {}).items():
                tensor = stored.get(key)
                if tensor is not None:
                    seen.add(key)
                else:  # a layer of a stacked key
                    layer = re.search(r"(?<=decoder\.layers\.)(\d+)\.", key)
                    require(layer, f"{name}: DCP has no {key}")
                    stacked = key.replace(f"layers.{layer[1]}.", "layers.")
                    seen.add(stacked)
                    tensor = stored[stacked][int(layer[1])]
                data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
                require(list(tensor.shape) == entry["shape"], f"{name}: {key} has shape {entry['shape']}")
                require(hashlib.sha256(data).hexdigest() == entry["sha256"], f"{name}: {key} differs from DCP's")
        require(seen == stored.keys(), f"{name}: not listed: {sorted(stored.keys() - seen)[:3]}")
        print(f"passed: {len(seen)} tensors of {name}, {sum('optimizer' in key for key in seen)} of them an optimizer's")


def check_import(trestle):
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch, "run")
        run(trestle, "import", "--hf-model", FIXTURES / "hf", "--megatron-path", target)
        check(target, FIXTURES / "megatron" / "megatron_reference.safetensors")
        print(f"passed: the manifest of {check_manifest(iteration(target))} files")


def check_run(trestle):
    """A run's checkpoint without optimizer, written by a thread, is one for other readers too."""
    with tempfile.TemporaryDirectory() as scratch:
        data, target = Path(scratch, "data.jsonl"), Path(scratch, "run")
        data.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n")
        run(trestle, "finetune", "--recipe", "demo_config", "--peft-scheme", "none", "--dataset-type", "jsonl", *(
            f"{key}={value}" for key, value in {
                "checkpoint.pretrained_checkpoint": FIXTURES / "hf", "checkpoint.save": target, "dataset.path_or_dataset": data,
                "train.train_iters": 2, "train.global_batch_size": 1, "train.micro_batch_size": 1, "scheduler.lr_warmup_iters": 0,
                "checkpoint.save_optim": "false", "checkpoint.async_save": "true",
                "checkpoint.also_save_hf_checkpoint": "true"}.items()))
        directory = iteration(target)
        tensors, imported = read(directory), load_file(FIXTURES / "megatron" / "megatron_reference.safetensors")
        require(tensors.keys() - {"trestle.rng_state"} == imported.keys(), "a run's tensors are not those of its model")
        check_items(directory)
        require("optimizer" not in torch.load(directory / "common.pt", weights_only=True), "common.pt has an optimizer")
        require(load_file(directory / "hf" / "model.safetensors").keys() == load_file(FIXTURES / "hf" / "model.safetensors").keys(),
                "the export of a run has other tensors than the model that it is of")
        print(f"passed: a run without its optimizer, and the manifest of {check_manifest(directory)} files")


def check_ranks(trestle):
    """What two processes wrote at once, with an optimizer, is one checkpoint for other readers: its masters round to its
    weights, and the next run of one process goes on from it."""
    with tempfile.TemporaryDirectory() as scratch:
        data, target = Path(scratch, "data.jsonl"), Path(scratch, "run")
        data.write_text((json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n") * 4)

        def command(steps):
            return [trestle, "finetune", "--recipe", "demo_config", "--peft-scheme", "none", "--dataset-type", "jsonl", *(
                f"{key}={value}" for key, value in {
                    "checkpoint.pretrained_checkpoint": FIXTURES / "hf", "checkpoint.save": target, "checkpoint.load": "auto",
                    "dataset.path_or_dataset": data, "train.train_iters": steps, "train.global_batch_size": 2,
                    "train.micro_batch_size": 1, "scheduler.lr_warmup_iters": 0}.items())]

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        ranks = [subprocess.Popen(command(2), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={
            **os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}) for rank in range(2)]
        for rank, process in enumerate(ranks):
            said, _ = process.communicate(timeout=300)
            require(process.returncode == 0, f"rank {rank} ended with {process.returncode}: {said}")
        directory = iteration(target)
        require({path.name for path in directory.glob("*.distcp")} == {"__0_0.distcp", "__1_0.distcp"}, "not a file a rank")
        tensors = read(directory)
        masters = {name.removeprefix("optimizer.state.param."): value for name, value in tensors.items() if ".param." in name}
        require(len(masters) * 4 + 1 == len(tensors), f"{len(masters)} masters of {len(tensors)} tensors")
        for name, master in masters.items():
            require(torch.equal(master.to(tensors[name].dtype), tensors[name]), f"{name} is not its master's rounding")
        items = check_items(directory)
        print(f"passed: {items} items of two ranks, and the manifest of {check_manifest(directory)} files")
        run(trestle, "inspect", directory, "--check")
        run(*command(3))
        require(iteration(target).name == "iter_0000003", "one process does not go on from two ranks' checkpoint")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", help="the program; import and check")
    parser.add_argument("mode", nargs="?", choices=["check", "dump"])
    parser.add_argument("paths", nargs="*")
    arguments = parser.parse_args()
    if arguments.mode and len(arguments.paths) != 2:
        parser.error(f"{arguments.mode} takes two paths")
    if arguments.trestle:
        check_import(arguments.trestle)
        check_run(arguments.trestle)
        check_ranks(arguments.trestle)
        check_hashes(arguments.trestle)
    elif arguments.mode == "check":
        check(*arguments.paths)
    elif arguments.mode == "dump":
        save_file(read(iteration(arguments.paths[0])), arguments.paths[1])
    else:
        parser.error("give --trestle, check or dump")


if __name__ == "__main__":
    sys.exit(main())
