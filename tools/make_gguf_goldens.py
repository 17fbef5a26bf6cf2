#!/usr/bin/env python3
"""Writes tests/formats/golden/ with gguf-py, llama.cpp's own Python package.

Run again only when it moves:  .venv/bin/python tools/make_gguf_goldens.py

quants.safetensors: `values` [rows, 64] in fp32, and what gguf-py's quantisers make of them, as bytes: `q8_0`, `bf16`;
`dequantized`, what it reads back from `q8_0`. The rows hold many scales, zeros, ties between two int8, both signs of the
largest value, and scales that are subnormal or zero in float16.
small.gguf: a file of gguf-py's writer, with a key of every kind and a tensor of every type that Trestle reads.
"""

from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import save_file

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "formats" / "golden"
TYPE = gguf.GGMLQuantizationType


def values():
    rng = np.random.default_rng(20)
    rows = [rng.standard_normal(64) * scale for scale in 10.0 ** np.arange(-8, 6)]
    rows += [rng.standard_cauchy(64) for _ in range(24)]
    rows.append(np.zeros(64))
    rows.append(np.where(np.arange(64) == 40, -3.0, 0.0))  # one block of zeros, one of a single value
    rows.append((np.arange(64) % 32 - 16 + 0.5) * 127 / 15.5)  # ties: the scale is 1
    rows.append(np.concatenate([[127.0], np.arange(31) + 0.5, [-127.0], -np.arange(31) - 0.5]))
    # The float16 scale is the smallest subnormal, half of it (a tie to zero), and zero.
    rows += [np.concatenate([[127 * scale], rng.uniform(-100, 100, 63) * scale]) for scale in (2.0**-24, 2.0**-25, 1e-12)]
    return np.array(rows, dtype=np.float32)


def write_small(path):
    rng = np.random.default_rng(21)
    writer = gguf.GGUFWriter(path, "mistral3")
    writer.add_uint8("k.uint8", 200)
    writer.add_int8("k.int8", -100)
    writer.add_uint16("k.uint16", 60000)
    writer.add_int16("k.int16", -30000)
    writer.add_uint32("k.uint32", 4000000000)
    writer.add_int32("k.int32", -2000000000)
    writer.add_uint64("k.uint64", 2**62)
    writer.add_int64("k.int64", -(2**62))
    writer.add_float32("k.float32", 0.1)
    writer.add_float64("k.float64", 0.1)
    writer.add_bool("k.bool", True)
    writer.add_string("k.string", "a\nß\U0001f680")
    writer.add_array("k.strings", ["", "Ġa", "b"])
    writer.add_array("k.ints", [1, -2, 3])
    writer.add_array("k.floats", [0.5, -1.25])
    tensor = rng.standard_normal((3, 64)).astype(np.float32)
    writer.add_tensor("f32", tensor)
    writer.add_tensor("f16", tensor.astype(np.float16))
    for name, kind in {"bf16": TYPE.BF16, "q8_0": TYPE.Q8_0}.items():
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.add_tensor("line", tensor[0, :5])
    writer.add_tensor("conv", tensor.reshape(2, 3, 4, 8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    GOLDEN.mkdir(parents=True, exist_ok=True)
    rows = values()
    packed = gguf.quants.quantize(rows, TYPE.Q8_0)
    save_file({"values": rows, "q8_0": packed, "bf16": gguf.quants.quantize(rows, TYPE.BF16),
               "dequantized": gguf.quants.dequantize(packed, TYPE.Q8_0)}, GOLDEN / "quants.safetensors")
    write_small(GOLDEN / "small.gguf")


if __name__ == "__main__":
    main()
