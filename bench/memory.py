#!/usr/bin/env python3
"""What a step of LoRA training keeps on a card, counted from shapes: nothing here is measured.

  memory.py [--tokens 4096] [--rank 32]

Prints docs/gpu.md's two tables: bytes a token and layer between forward and backward, and the peak
of a step on one row. What a layer keeps is what tests/model/test_projection.cpp
(LayerMemory.ALoraLayerKeepsWhatNothingMakesAgain) counts in torch's allocator, term by term.
"""

import argparse

from random_model import GROUPS, HEAD_DIM, HEADS, SIZES, VISION, VISION_FFN, VISION_LAYERS, VOCAB

BF16, FP32 = 2, 4
ALL = SIZES | {"24b": dict(layers=40, hidden=5120, ffn=32768, tied=False)}
LOGITS = 2**24 * FP32  # kLogitsAtOnce of model/chunked_loss.h
# A weight and its gradient in bf16, master and both moments in fp32.
TRAINED = 2 * BF16 + 3 * FP32


def projections(size):
    """(in, out) of a layer's four."""
    hidden, ffn, heads = size["hidden"], size["ffn"], HEADS * HEAD_DIM
    return [(hidden, heads + 2 * GROUPS * HEAD_DIM), (heads, hidden), (hidden, 2 * ffn), (ffn, hidden)]


def layer(size, rank, kernels=True):
    """What of a layer is kept for one token, in bytes, by what keeps it."""
    hidden, ffn = size["hidden"], size["ffn"]
    heads, keys = HEADS * HEAD_DIM, GROUPS * HEAD_DIM
    kept = {
        "the stream, before and behind attention": 2 * hidden * BF16,
        "1 / rms of both norms": 2 * FP32,
        "q, k, v": (heads + 2 * keys) * BF16,
        "attention's output and log sums": heads * BF16 + HEADS * FP32,
        "gate and up": 2 * ffn * BF16,
        "x A^T of four projections": 4 * rank * BF16,
    }
    if not kernels:
        kept["the norms' inputs in fp32"] = 2 * hidden * FP32
        kept["silu(gate)"] = ffn * BF16
    return kept


def inputs(size):
    """What the projections' inputs would take, were they kept: the normed ones and fc2's."""
    return (2 * size["hidden"] + size["ffn"]) * BF16


def weights(size, weight_bytes):
    matrices = size["layers"] * sum(i * o for i, o in projections(size)) * weight_bytes
    embedding = VOCAB * size["hidden"] * (1 if size["tied"] else 2) * BF16
    vision = VISION_LAYERS * (4 * VISION**2 + 3 * VISION * VISION_FFN) + 4 * VISION**2
    projector = VISION * size["hidden"] + size["hidden"] ** 2
    return matrices + embedding + (vision + projector) * BF16


def peak(size, tokens, rank, weight_bytes=BF16, recompute=False):
    kept = sum(layer(size, rank).values())
    activations = size["hidden"] * BF16 * size["layers"] + kept if recompute else kept * size["layers"]
    # fc2's input again and its gradient, those of gate and up, of the stream and of fc1's input.
    passing = (4 * size["ffn"] + 3 * size["hidden"]) * BF16
    adapters = size["layers"] * rank * sum(i + o for i, o in projections(size)) * TRAINED
    # Logits and their gradient in bf16; the last hidden states and their gradient.
    head = 2 * LOGITS + tokens * 2 * size["hidden"] * BF16
    return weights(size, weight_bytes) + adapters + tokens * (activations + passing) + head


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rank", type=int, default=32)
    options = parser.parse_args()
    columns = [layer(ALL[name], options.rank) for name in ("3b", "8b")]
    print("| bytes a token and layer | 3B | 8B |\n|---|---|---|")
    for what in columns[0]:
        print(f"| {what} | " + " | ".join(f"{column[what]:,}" for column in columns) + " |")
    sums = [sum(column.values()) for column in columns]
    operators = [sum(layer(ALL[name], options.rank, kernels=False).values()) for name in ("3b", "8b")]
    for what, row in [("**all**", sums), ("all by torch's operators for norm and SwiGLU", operators),
                      ("not kept: the normed inputs and fc2's", [inputs(ALL[n]) for n in ("3b", "8b")])]:
        print(f"| {what} | " + " | ".join(f"{value:,}" for value in row) + " |")
    nf4 = 0.5 + FP32 / 64
    print(f"\n| LoRA r = {options.rank}, {options.tokens} tokens a step, bf16 | GB |\n|---|---|")
    for what, arguments in [("3B", ("3b",)), ("8B", ("8b",)), ("14B", ("14b",)),
                            ("14B, recompute_granularity=full", ("14b", BF16, True)),
                            ("24B, base_bits=4", ("24b", nf4)),
                            ("24B, base_bits=4, recompute_granularity=full", ("24b", nf4, True))]:
        name, *rest = arguments
        print(f"| {what} | {peak(ALL[name], options.tokens, options.rank, *rest) / 1e9:.1f} |")


if __name__ == "__main__":
    main()
