#!/usr/bin/env python3
"""Writes tests/bridge/golden/packed_{a,b}.safetensors: the same tensors twice, in the types whose values torch does not
tell, and in b's metadata what ml_dtypes makes of them, as JSON: `values` of F4's codes in order, and `differences`
{name: [elements that differ, largest |a - b|, largest |a|]}.

  python3 -m venv VENV && VENV/bin/pip install ml_dtypes==0.6.0 numpy
  VENV/bin/python tools/make_packed_goldens.py

Elements of F4 lie as torch's float4_e2m1fn_x2 has them, the first in a byte's lower half. Those of 6 bits are random
bytes: no specification says how they lie.
"""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "bridge" / "golden"
KINDS = {"F4": (ml_dtypes.float4_e2m1fn, 16), "F8_E8M0": (ml_dtypes.float8_e8m0fnu, 256)}


def packed(codes, dtype):
    if dtype == "F4":
        codes = codes[0::2] | codes[1::2] << 4
    return codes.astype(numpy.uint8).tobytes()


def largest(values):
    return float(values[numpy.isfinite(values)].max(initial=0))


def difference(a, b, dtype):
    a, b = (codes.astype(numpy.uint8).view(KINDS[dtype][0]).astype(numpy.float64) for codes in (a, b))
    same = (a == b) | (numpy.isnan(a) & numpy.isnan(b))
    error = numpy.where(same, 0.0, numpy.abs(a - b))
    return [int((~same).sum()), None if numpy.isnan(error).any() else float(error.max()), largest(numpy.abs(a))]


def write(name, tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for key, (dtype, shape, content) in tensors.items():
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (GOLDEN / name).write_bytes(struct.pack("<Q", len(text)) + text + data)


def main():
    choose = numpy.random.default_rng(3)
    left, right, found = {}, {}, {}

    def add(name, dtype, a, b):
        found[name] = difference(a, b, dtype)
        for side, codes in ((left, a), (right, b)):
            side[name] = (dtype, [len(codes)], packed(codes, dtype))

    for dtype, (_, count) in KINDS.items():
        every = numpy.arange(count, dtype=numpy.uint8)
        numbers = every[every != 255]  # E8M0's NaN
        changed = choose.choice(numbers, 64)
        for name, a, b in (("every code", numpy.repeat(every, count)[:4096], numpy.tile(every, count)[:4096]),
                           ("numbers", changed, numpy.where(choose.random(64) < 0.1, choose.choice(numbers, 64), changed)),
                           ("equal", changed, changed)):
            add(f"{dtype} {name}", dtype, a, b)
    codes = numpy.arange(16, dtype=numpy.uint8)
    add("F4 codes", "F4", codes, codes)
    zeros = numpy.zeros(6, numpy.uint8)
    add("F4 zeros", "F4", zeros, zeros | 8)
    nan = numpy.full(6, 255, numpy.uint8)
    add("F8_E8M0 nan", "F8_E8M0", nan, nan - numpy.arange(6, dtype=numpy.uint8))
    for dtype in ("F6_E2M3", "F6_E3M2"):
        for side in (left, right):
            side[f"{dtype} bytes"] = (dtype, [2, 4], choose.bytes(6))
            side[f"{dtype} equal"] = (dtype, [2, 4], bytes(range(6)))
    write("packed_a.safetensors", left, {})
    values = [float(value) for value in codes.view(ml_dtypes.float4_e2m1fn)]
    write("packed_b.safetensors", right, {"differences": json.dumps(found), "values": json.dumps(values)})


if __name__ == "__main__":
    main()
