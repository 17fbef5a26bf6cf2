"""Every .cu file of src/ compiles for sm_80 and sm_90a without a warning, and no kernel spills registers to memory. Skipped
(77) where no nvcc is found. Run by ctest.
"""
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parents[2]
ARCHITECTURES = ("80", "90a")
nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
if nvcc is None:
    print("skipped: no nvcc in PATH or /usr/local/cuda/bin, so no CUDA kernel was compiled")
    sys.exit(77)


def compile_one(job):
    """What is wrong with one file for one architecture, and how many kernels it has."""
    path, architecture = job
    name = f"{path.relative_to(ROOT)} for sm_{architecture}"
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [nvcc, "-std=c++20", "-O3", f"-I{ROOT / 'src'}", "--Werror", "all-warnings", "-cubin", "-Xptxas=-v",
             f"-gencode=arch=compute_{architecture},code=sm_{architecture}", "-o", f"{folder}/kernels.cubin", path],
            capture_output=True, text=True)
    if done.returncode != 0:
        return f"{name}:\n{done.stdout}{done.stderr}", 0
    kernels = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores", done.stderr, re.S)
    spilling = [f"{name}: {kernel} spills {spilled} bytes of registers" for kernel, spilled in kernels if int(spilled)]
    return "\n".join(spilling), len(kernels)


jobs = [(path, architecture) for path in sorted((ROOT / "src").rglob("*.cu")) for architecture in ARCHITECTURES]
with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
    results = list(pool.map(compile_one, jobs))
faults = [fault for fault, _ in results if fault]
count = sum(kernels for _, kernels in results)
print("\n".join(faults))
print(f"{len(jobs) // len(ARCHITECTURES)} files, {count} kernels for {', '.join('sm_' + a for a in ARCHITECTURES)}, "
      f"{len(faults)} faults")
sys.exit(bool(faults) or not count)
