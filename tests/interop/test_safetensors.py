#!/usr/bin/env python3
"""Headers of safetensors files against the library itself: which it opens, and what is then in them.

  .venv/bin/python tests/interop/test_safetensors.py --trestle build/release/trestle

Every dtype that the library knows, whole or packed in 4 and 6 bits, in shapes that fit bytes and that do not, with data
of the right length and of others: `trestle inspect --check` opens what the library opens, `inspect --json` lists the
same, and `--sha256` hashes the same bytes. Files are given to one process together, as the shards of a directory, each
of which is checked, and what is good of them once more in one file. Ends with "N passed, M failed".
"""

import hashlib
import json
import random
import shutil
import struct
import sys
from pathlib import Path

import safetensors

import checks
from checks import require, run

FIXTURE = Path(__file__).resolve().parent.parent / "fixtures" / "hf"
# In bits, as the library's tensor.rs has them.
BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
        "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
        "C64": 64, "F64": 64, "I64": 64, "U64": 64}
UNKNOWN = ("F6", "F3", "F4_E2M1", "f4", "F8", "MXFP4")
SHAPES = ([], [0], [1], [2], [3], [4], [8], [7, 3], [2, 5], [4, 3], [5, 0, 3], [3, 1, 4], [16, 16])


def count(shape):
    product = 1
    for size in shape:
        product *= size
    return product


def file_of(entries, data):
    header = json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": list(span)}
                         for name, (dtype, shape, span) in entries.items()}).encode()
    return struct.pack("<Q", len(header)) + header + data


def one(dtype, shape, off=0):
    """A file with one tensor of the length that it needs, rounded up to bytes, and `off` more."""
    size = max(0, -(-count(shape) * BITS.get(dtype, 8) // 8) + off)
    return file_of({"a": (dtype, shape, (0, size))}, bytes(range(256))[:size].ljust(size, b"\7"))


def random_file(choose):
    entries, data = {}, b""
    for i in range(choose.randint(1, 4)):
        dtype, shape = choose.choice(list(BITS)), choose.choice(SHAPES)
        size = -(-count(shape) * BITS[dtype] // 8)
        entries[f"t{i}"] = (dtype, shape, (len(data), len(data) + size))
        data += choose.randbytes(size)
    return file_of(entries, data)


def library(content):
    """{name: (dtype, shape, hash)}, or why it does not open."""
    try:
        read = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        return str(error)
    return {name: (info["dtype"], list(info["shape"]), hashlib.sha256(info["data"]).hexdigest()) for name, info in read}


def check_files(trestle, scratch, files):
    """Whether each of {what: content} is opened. Returns those that are."""
    shutil.copy(FIXTURE / "config.json", scratch)
    paths = {f"model-{i:04}.safetensors": what for i, what in enumerate(files)}
    for name, what in paths.items():
        (scratch / name).write_bytes(files[what])
    refused = {name for name, what in paths.items() if isinstance(library(files[what]), str)}
    require(refused, "the library refuses none of them")
    problems = json.loads(run(trestle, "inspect", scratch, "--check", "--json", status=2).stdout)["problems"]
    for problem in problems:
        require("\n" not in problem and ": tensor " in problem, problem)
    named = [next(name for name in paths if str(scratch / name) in problem) for problem in problems]
    wrong = sorted(set(named) ^ refused)
    require(not wrong, f"refused by one alone: {[(paths[name], library(files[paths[name]])) for name in wrong]}")
    require(len(named) == len(refused), f"named twice: {problems}")
    said = run(trestle, "inspect", scratch / min(refused), status=2).stderr
    require(len(said.splitlines()) == 1 and "tensor " in said, said)
    for name in paths:
        (scratch / name).unlink()
    return {what: files[what] for name, what in paths.items() if name not in refused}


def compare(trestle, scratch, content, what):
    """What is in a file that opens."""
    path = scratch / "a.safetensors"
    path.write_bytes(content)
    theirs = library(content)
    require(not isinstance(theirs, str), f"{what}: {theirs}")
    listed = json.loads(run(trestle, "inspect", path, "--json", "--sha256").stdout)["tensors"]
    ours = {name: (entry["dtype"], entry["shape"], entry["sha256"]) for name, entry in listed.items()}
    require(ours == theirs, f"{what}: {ours}, the library has {theirs}")


def check_dtype(trestle, dtype, scratch):
    files = {f"{dtype} {shape} {off:+}": one(dtype, shape, off) for shape in SHAPES for off in (0, 1, -1)}
    good = check_files(trestle, scratch, files)
    require(bool(good) == (dtype in BITS), f"{dtype}: the library opens {list(good)}")
    entries, data = {}, b""
    for what, content in good.items():
        (_, info), = safetensors.deserialize(content)
        entries[what] = (info["dtype"], info["shape"], (len(data), len(data) + len(info["data"])))
        data += info["data"]
    if good:
        compare(trestle, scratch, file_of(entries, data), dtype)


def check_random(trestle, scratch):
    choose = random.Random(1)
    good = check_files(trestle, scratch, {f"file {number}": random_file(choose) for number in range(200)})
    require(len(good) >= 20, f"the library opens only {len(good)}")
    for what in list(good)[:20]:
        compare(trestle, scratch, good[what], what)


def check_huge(trestle, scratch):
    """Sizes whose bits pass 64 are refused by both."""
    good = check_files(trestle, scratch, {
        f"{dtype} {shape}": file_of({"a": (dtype, shape, (0, 0))}, b"")
        for dtype in ("F4", "F6_E2M3", "U8") for shape in ([2**62, 2], [2**61, 2], [2**32, 2**32])})
    require(not good, f"the library opens {list(good)}")


def main():
    args = checks.parser(__doc__).parse_args()
    counted = checks.Counted(args.only)
    for dtype in (*BITS, *UNKNOWN):
        counted.run_in_scratch(dtype, lambda scratch: check_dtype(args.trestle, dtype, scratch))
    counted.run_in_scratch("random files", lambda scratch: check_random(args.trestle, scratch))
    counted.run_in_scratch("sizes past 64 bits", lambda scratch: check_huge(args.trestle, scratch))
    return counted.status()


if __name__ == "__main__":
    sys.exit(main())
