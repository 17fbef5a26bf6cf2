"""The CUDA kernels of src/cuda on the card that is here: each held to its formula in fp64 first, then timed, with the
bytes that it must move and the share of the rate at which the card copies. Needs nvcc and a torch with CUDA, and nothing of
the program's build. With --emulator g++ compiles the same files for the CPU and nothing is timed: that tries this script.

  kernels.py [--emulator] [--json FILE]
"""
import argparse
import ctypes
import itertools
import json
import pathlib
import shutil
import subprocess
import tempfile

import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
BF16, FP32 = torch.bfloat16, torch.float32
ROUNDING = {FP32: 1e-5, BF16: 2.0**-8}  # of ||error|| / ||reference||; a value of bf16 is rounded twice at most
ABSENT = None  # a null pointer
OUT_OF_CACHE = 2**28  # bytes that go round before the same are read again


def build(folder, emulator):
    """The kernels as a shared library."""
    sources, library = sorted(ROOT.glob("src/cuda/*.cu")), folder / "kernels.so"
    if emulator:
        tests = ROOT / "tests"
        command = ["g++", "-std=c++20", "-O1", "-fPIC", "-shared", "-fno-strict-aliasing", "-U_FORTIFY_SOURCE", f"-I{ROOT / 'src'}",
                   f"-I{tests}", f"-I{tests / 'kernels/host_cuda'}", "-Wno-unknown-pragmas", "-x", "c++", *sources,
                   tests / "kernels/host_cuda/emulator.cpp", "-lfmt", "-o", library]
    else:
        major, minor = torch.cuda.get_device_capability()
        name = f"{major}{minor}" + ("a" if major >= 9 else "")
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        command = [nvcc, "-std=c++20", "-O3", "-Xcompiler", "-fPIC", "-shared", "--threads", "0", f"-I{ROOT / 'src'}",
                   f"-gencode=arch=compute_{name},code=sm_{name}", *sources, "-o", library]
    subprocess.run(command, check=True)
    return library


class Kernels:
    def __init__(self, library):
        self.library = ctypes.CDLL(library)
        listed = subprocess.run(["nm", "-D", library], check=True, capture_output=True, text=True).stdout
        self.symbols = [line.split()[-1] for line in listed.splitlines() if line]

    def __call__(self, name, *structs):
        """Calls trestle::cuda::NAME; a tuple stands for a struct, its members in their order."""
        symbol, = [each for each in self.symbols if each.startswith(f"_ZN7trestle4cuda{len(name)}{name}E")]
        stream = torch.cuda.current_stream().cuda_stream if torch.cuda.is_available() else None
        held = [ctypes.c_void_p(each.data_ptr()) if torch.is_tensor(each) else ctypes.byref(packed(each)) for each in structs]
        failed = self.library[symbol](*held, ctypes.c_void_p(stream))
        if failed:
            raise SystemExit(f"{name}: CUDA error {failed}")


def packed(members):
    """A C struct: int for int64_t, float for double, bool for bool, a dtype for Type, a tuple for a struct within."""
    fields, values = [], []
    for i, member in enumerate(members):
        kind, value = ctypes.c_void_p, member
        if torch.is_tensor(member):
            value = member.data_ptr()
        elif isinstance(member, torch.dtype):
            kind, value = ctypes.c_int, int(member == BF16)
        elif isinstance(member, (bool, int, float)):
            kind = {bool: ctypes.c_bool, int: ctypes.c_int64, float: ctypes.c_double}[type(member)]
        elif isinstance(member, tuple):
            value = packed(member)
            kind = type(value)
        fields.append((f"member{i}", kind))
        values.append(value)
    return type("Packed", (ctypes.Structure,), {"_fields_": fields})(*values)


class Bench:
    def __init__(self, kernels, device, scale):
        self.call, self.device, self.scale = kernels, device, scale
        self.copy_rate, self.lines = None, []
        if device == "cuda":
            source = torch.empty(2**30, dtype=torch.uint8, device=device)
            target = torch.empty_like(source)
            self.copy_rate = 2 * 2**30 / self.seconds(lambda: target.copy_(source))

    def random(self, *shape, dtype=BF16, factor=1.0):
        return (torch.randn(*shape, device=self.device) * factor).to(dtype)

    def copies(self, tensor):
        """The same again and again, in other memory until the cache has forgotten it."""
        count = 1 + OUT_OF_CACHE // tensor.nbytes if self.device == "cuda" else 1
        return itertools.cycle([tensor] + [tensor.clone() for _ in range(count)])

    def seconds(self, run, times=20):
        for _ in range(3):
            run()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(times):
            run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / times

    def add(self, name, run, moved, results):
        """results: (got, wanted in fp64) of the kernel's first run."""
        run()
        worst = 0.0
        for got, wanted in results():
            error = ((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-30)).item()
            worst = max(worst, error / ROUNDING[got.dtype])
        line = {"kernel": name, "error_over_limit": round(worst, 3), "right": worst <= 1, "bytes": moved}
        if self.device == "cuda":
            line["microseconds"] = round(1e6 * self.seconds(run), 2)
            line["gb_per_s"] = round(moved / line["microseconds"] / 1e3, 1)
            line["share_of_copy"] = round(line["gb_per_s"] * 1e9 / self.copy_rate, 3)
        self.lines.append(line)
        print(json.dumps(line), flush=True)


def norms_and_gates(bench):
    call, dtype = bench.call, BF16
    rows, columns = 16384 // bench.scale, 3072
    x, weight, up = (bench.random(rows, columns, factor=3.0), bench.random(columns), bench.random(rows, columns))
    y, dx, dweight = torch.empty_like(x), torch.empty_like(x), torch.empty_like(weight)
    inverse = torch.empty(rows, device=bench.device)
    partial = torch.empty(528, columns, device=bench.device)
    some = slice(0, min(rows, 256))

    def exact(part):
        leaf, gain = x[part].double().requires_grad_(), weight.double().requires_grad_()
        out = gain * (leaf * torch.rsqrt(leaf.square().mean(-1, True) + 1e-5))
        out.backward(up[part].double())
        return out.detach(), leaf.grad, gain.grad

    bench.add("rms_norm", lambda: call("rms_norm_forward", (dtype, rows, columns, 1e-5, x, weight, y, inverse)), 4 * x.numel(),
              lambda: [(y[some], exact(some)[0])])
    for trains in (False, True):
        bench.add("rms_norm backward" + ", weight too" * trains,
                  lambda: call("rms_norm_backward", (dtype, rows, columns, up, x, weight, inverse, dx,
                                                     dweight if trains else ABSENT, partial)), 6 * x.numel(),
                  lambda: [(dx[some], exact(some)[1])] + ([(dweight, exact(slice(None))[2])] if trains else []))
    rows, columns = 4096 // bench.scale, 9216
    fused, dy = bench.random(rows, 2 * columns), bench.random(rows, columns)
    y, dfused = torch.empty_like(dy), torch.empty_like(fused)
    halves = lambda tensor: (tensor, tensor.view(-1)[columns:])  # where each half begins

    def gated():
        leaf = fused[some].double().requires_grad_()
        gate, value = leaf.chunk(2, -1)
        out = torch.nn.functional.silu(gate) * value
        out.backward(dy[some].double())
        return out.detach(), leaf.grad

    bench.add("swiglu", lambda: call("swiglu_forward", (dtype, rows, columns, 2 * columns, *halves(fused), y)), 6 * y.numel(),
              lambda: [(y[some], gated()[0])])
    bench.add("swiglu backward", lambda: call("swiglu_backward", (dtype, rows, columns, 2 * columns, dy, *halves(fused),
                                                                  *halves(dfused))), 10 * y.numel(),
              lambda: [(dfused[some], gated()[1])])


def rope_and_loss(bench):
    call, dtype = bench.call, BF16
    tokens, groups, heads, size = 16384 // bench.scale, 8, 5, 128
    qkv, out = bench.random(tokens, groups, heads + 1, size), bench.random(tokens, groups, heads, size)
    angles = torch.rand(tokens, size // 2, device=bench.device).mul(6).repeat(1, 2)
    cos, sin, scale = angles.cos().to(dtype), angles.sin().to(dtype), bench.random(tokens)

    def turned():
        x = qkv[:, :, :heads].double()
        wide = lambda table: table.double()[:, None, None]
        a, b = x.chunk(2, -1)
        y = x * wide(cos) + torch.cat([-b, a], -1) * wide(sin)
        y[:, :, :heads - 1] *= scale.double()[:, None, None, None]
        return y

    bench.add("rope", lambda: call("rope", (dtype, tokens, groups, heads, size, heads - 1,
                                            (qkv, groups * (heads + 1) * size, (heads + 1) * size),
                                            (out, groups * heads * size, heads * size), cos, sin, scale, False)),
              4 * out.numel(), lambda: [(out, turned())])
    rows, columns = max(2, 2048 // bench.scale), 131072
    logits, targets = bench.random(rows, columns, factor=3.0), torch.randint(columns, (rows,), device=bench.device)
    kept, numbers = logits[:2].clone(), torch.empty(3, rows, device=bench.device)

    def losses():
        leaf = kept.double().requires_grad_()
        loss = torch.nn.functional.cross_entropy(leaf, targets[:2], reduction="none")
        loss.sum().backward()
        return [(numbers[0][:2], loss.detach()), (logits[:2], leaf.grad)]

    bench.add("cross_entropy with gradient", lambda: call("cross_entropy", (dtype, rows, columns, logits, targets, *numbers, True)),
              6 * logits.numel(), losses)


def decoding(bench):
    call = bench.call
    for rows, columns in ((18432 // bench.scale, 3072), (3072 // bench.scale, 9216), (131072 // bench.scale, 3072)):
        x, y = bench.random(1, columns), bench.random(1, rows)
        product = (BF16, 1, rows, columns, 1.0, False, x, y)
        name = f"row_product [{columns} -> {rows}]"
        weight = bench.random(rows, columns)
        weights = bench.copies(weight)
        bench.add(name, lambda: call("row_product", product, next(weights)), 2 * weight.numel(),
                  lambda: [(y, x.double() @ weight.double().t())])
        absmax = torch.rand(rows, columns // 64, device=bench.device)
        values = torch.empty(rows, columns, device=bench.device)
        scales, grid_row = torch.rand(1, 1, device=bench.device), torch.zeros(rows, dtype=torch.int32, device=bench.device)
        for form, stride, more in (("nf4", columns // 2, 4 / 64), ("int8", columns, 4 / 64), ("fp8", columns, 0)):
            codes = torch.randint(0, 120, (rows, stride), dtype=torch.uint8, device=bench.device)
            rest = (scales, grid_row, stride, 1, 1 << 40, 0) if form == "fp8" else (absmax, stride, columns // 64)
            call(f"dequantize_{form}", (FP32, rows, columns, values), (codes, *rest))
            held = bench.copies(codes)
            bench.add(f"{name} {form}", lambda: call(f"row_product_{form}", product, (next(held), *rest)),
                      int(codes.numel() + more * rows * columns), lambda: [(y, x.double() @ values.double().t())])
    logits = bench.random(1, 131072, dtype=FP32, factor=3.0)
    ids, offset = torch.zeros(1, dtype=torch.int64, device=bench.device), torch.zeros(1, dtype=torch.int64, device=bench.device)
    likely = logits[0].topk(50).indices
    for name, options, among in (("greedy", (0.0, 0, 1.0, 0.0), likely[:1]), ("top-k 50, top-p 0.9", (1.0, 50, 0.9, 0.0), likely)):
        bench.add(f"sample, {name}", lambda: call("sample", (FP32, 1, 131072, logits, *options, 1, offset, ids)),
                  4 * logits.numel(), lambda: [(torch.isin(ids, among).float(), torch.ones(1, device=bench.device).double())])


def optimizer(bench):
    call, chunk = bench.call, 16384
    counts = [2_000_000 // bench.scale + i for i in range(48)]
    masters, averages, gradients = ([bench.random(count, dtype=kind) for count in counts] for kind in (FP32, FP32, BF16))
    squares = [bench.random(count, dtype=FP32).abs() for count in counts]
    weights, rows, first = [master.to(BF16) for master in masters], [], 0
    for held in zip(masters, averages, squares, weights, gradients):
        count = held[0].numel()
        rows.append([first, count, *(tensor.data_ptr() for tensor in held), 1])  # 1: bf16 gradients, group 0
        first += -(-count // chunk)
    table = (torch.tensor(rows, dtype=torch.int64, device=bench.device), len(rows), first)
    partial, result = torch.empty(first, dtype=torch.float64, device=bench.device), torch.zeros(3, device=bench.device)
    total = sum(counts)
    norm = torch.cat(gradients).double().norm()
    bench.add("gradient_norm", lambda: call("gradient_norm", (table, 1.0, ABSENT, partial, result)), 2 * total,
              lambda: [(result[0], norm), (result[1], 1 / (norm + 1e-6))])
    g = gradients[0].double() / (norm + 1e-6)
    m, v = 0.9 * averages[0].double() + 0.1 * g, 0.95 * squares[0].double() + 0.05 * g * g
    wanted = masters[0].double() * (1 - 1e-3) - 1e-2 * (m / 0.1) / ((v / 0.05).sqrt() + 1e-8)
    bench.add("adamw", lambda: call("adamw", (table, ((1e-2, 0.1),) * 4, 0.9, 0.95, 1e-8, 1, result)), 28 * total,
              lambda: [(masters[0], wanted), (averages[0], m), (squares[0], v), (weights[0], wanted)])
    rows, rank = 18432 // bench.scale, 32
    weight, a, b = bench.random(rows, 512, dtype=FP32), bench.random(rank, 512), bench.random(rows, rank)
    squares_of_rows = weight.double().square().sum(1)
    products, gram, norms = weight @ a.float().t(), a.float() @ a.float().t(), torch.empty(rows, device=bench.device)
    bench.add("dora_norms", lambda: call("dora_norms", (BF16, rows, rank, 0.5, products, gram, b, ABSENT,
                                                        squares_of_rows, norms, ABSENT)), rows * (6 * rank + 12),
              lambda: [(norms, (weight.double() + 0.5 * b.double() @ a.double()).norm(dim=1))])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--emulator", action="store_true")
    parser.add_argument("--json", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.manual_seed(1)
    with tempfile.TemporaryDirectory(prefix="trestle-") as folder:
        kernels = Kernels(build(pathlib.Path(folder), arguments.emulator))
        bench = Bench(kernels, "cpu" if arguments.emulator else "cuda", 256 if arguments.emulator else 1)
        for part in (norms_and_gates, rope_and_loss, decoding, optimizer):
            part(bench)
    wrong = [line["kernel"] for line in bench.lines if not line["right"]]
    if arguments.json:
        card = None if arguments.emulator else torch.cuda.get_device_name()
        arguments.json.write_text(json.dumps({"card": card, "copy_bytes_per_s": bench.copy_rate, "kernels": bench.lines}, indent=1))
    raise SystemExit(f"wrong: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()
