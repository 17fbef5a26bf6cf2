#!/usr/bin/env python3
"""Writes what bitsandbytes makes of some matrices, and what peft makes of a model with such weights.

  .venv/bin/pip install --no-deps bitsandbytes==0.50.2   # no requirement of anything else
  .venv/bin/python tools/make_quantized_goldens.py

tests/bridge/golden/quantized.safetensors: NAME (fp32 [rows, columns]) and, for BITS 4 and 8, NAME.BITS.codes,
.absmax [rows, blocks], .fp32 and .bf16 (the values). A row is a matrix of its own to bitsandbytes, so
that blocks never go over its end; 8 bits are row-wise int8 of each block.

tests/golden/tied/lora_4bit, lora_8bit, dora_4bit: as lora and dora beside them (the same
adapters, but for DoRA's magnitudes), on the model whose linears, without the head, hold the values.
"""

import copy
import sys
import tempfile
from pathlib import Path

import torch
import transformers
from bitsandbytes import functional
from safetensors.torch import load_file, save

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from goldens import checks, lora, models, record  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
BLOCK = 64
ops = torch.ops.bitsandbytes


def stack(rows):
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def nf4_row(row):
    packed, state = functional.quantize_4bit(row, blocksize=BLOCK, quant_type="nf4")
    values = [ops.dequantize_4bit(packed, state.absmax, BLOCK, "nf4", [1, row.numel()], dtype)
              for dtype in (torch.float32, torch.bfloat16)]
    return {"codes": packed.flatten(), "absmax": state.absmax, "fp32": values[0].flatten(),
            "bf16": values[1].flatten()}


def int8_row(row):
    blocks = [ops.int8_vectorwise_quant(block[None], 0.0)[:2] for block in row.split(BLOCK)]
    values = torch.cat([ops.int8_vectorwise_dequant(*block).flatten() for block in blocks])
    return {"codes": torch.cat([codes.flatten() for codes, _ in blocks]),
            "absmax": torch.cat([absmax for _, absmax in blocks]), "fp32": values,
            "bf16": values.bfloat16()}


def quantized(matrix, bits):
    return stack([(nf4_row if bits == 4 else int8_row)(row) for row in matrix])


def matrices():
    generator = torch.Generator().manual_seed(11)
    out = {
        f"normal{columns}": torch.randn(5, columns, generator=generator) * 0.02
        for columns in (192, 80, 48, 33, 1)
    }
    out["bf16"] = torch.randn(3, 160, generator=generator).bfloat16().float()
    # Levels, the bounds between them and their neighbours, in a whole block and in the rest of a row.
    levels = functional.get_4bit_type("nf4", "cpu")
    bounds = (levels[:-1] + levels[1:]) / 2
    ends = torch.tensor([torch.inf])
    near = torch.cat([bounds, torch.nextafter(bounds, ends), torch.nextafter(bounds, -ends), levels])
    near = torch.cat([near, -near[:3]])  # 64
    halves = (torch.arange(64) - 32.5) / 127
    halves[0] = 1
    out["ties"] = torch.stack([torch.cat([each, each[-40:]]) for each in (near, halves, near / 3)])
    out["large"] = (torch.randn(2, 96, generator=generator) * 1e38).clamp(-3e38, 3e38)
    return out


def write(path, tensors):
    tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(save(tensors, {"format": "pt"}))
    print(f"  {path.relative_to(ROOT)}: {len(tensors)} tensors, {path.stat().st_size} bytes")


def make_matrices():
    golden = {}
    for name, matrix in matrices().items():
        golden[name] = matrix
        for bits in (4, 8):
            golden |= {f"{name}.{bits}.{key}": value
                       for key, value in quantized(matrix, bits).items()}
    # bitsandbytes' int8 of zeros is 0 * inf; its NF4 is well.
    zeros = torch.zeros(2, 80)
    zeros[1, 70] = 1e-39
    golden["zeros"] = zeros
    golden |= {f"zeros.4.{key}": value for key, value in quantized(zeros, 4).items()}
    write(ROOT / "tests" / "bridge" / "golden" / "quantized.safetensors", golden)


def quantize_model(reference, bits):
    """Every linear but the head, as a model with peft.base_bits holds it."""
    for name, module in reference.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith("lm_head"):
            values = quantized(module.weight.data.float(), bits)["fp32"]
            module.weight.data = values.to(module.weight.dtype)
    return reference


def make_model(model, form, bits):
    folder = GOLDEN / model.name
    batch, _ = models.make_batch(model)
    make = {"lora": lora.separate, "dora": lora.dora}[form]
    base = quantize_model(models.load_model(model, folder), bits)
    dense = load_file(folder / form / "golden.safetensors")
    target = folder / f"{form}_{bits}bit"
    golden = make(copy.deepcopy(base), batch, target, model.seed)
    moved = (golden["logits"] - dense["logits"]).abs().max().item()
    print(f"    {form}, {bits} bits: moves the logits by {moved:.3g}; losses",
          golden["losses"].tolist())
    assert moved > checks.VISIBLE / 10
    with tempfile.TemporaryDirectory() as scratch:
        exact = make(base.double(), checks.in_fp64(batch), Path(scratch), model.seed)
    checks.compare(golden, exact)
    golden = {name: value for name, value in golden.items() if not name.startswith("final.base")}
    write(target / "golden.safetensors", golden)


def main():
    torch.set_num_threads(1)  # one order of summation, whatever the machine
    transformers.logging.disable_progress_bar()
    make_matrices()
    tied = next(model for model in models.all_models() if model.name == "tied")
    for form, bits in (("lora", 4), ("lora", 8), ("dora", 4)):
        make_model(tied, form, bits)


if __name__ == "__main__":
    main()
