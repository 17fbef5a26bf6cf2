#!/usr/bin/env python3
"""Samples a second of a fine-tuning whose rows come in random order from row groups of hundreds of pictures.

  bench/parquet.py OLD_TRESTLE NEW_TRESTLE [--groups 3] [--rows 400] [--pixels 768x576] [--rounds 3]

Makes a Parquet file as the `datasets` library writes one (columns `image` {bytes, path} and `ground_truth`, snappy), of JPEGs
with the detail of photographs, and lets both programs in turns make the same LoRA steps on it with the embedded model. Pictures
are made small (dataset.image_max_edge), so that reading counts and not the model. Each makes 2 steps, which meet every group for
the first time, and 26: of the difference the samples a second of the CPU's time, which a neighbour on the machine changes little,
and by the clock; of the whole the peak of its memory. One thread.
"""

import argparse
import io
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

import numpy
import pyarrow
import pyarrow.parquet
from PIL import Image

DEMO = Path(__file__).resolve().parent.parent / "assets" / "demo"
BATCH, SHORT, LONG = 16, 2, 26
TRUTH = json.dumps({"gt_parse": {"total": "12.00"}})


def photograph(random, width, height):
    """Soft shapes and a little noise: about a byte for three pixels at quality 90."""
    soft = Image.fromarray(random.integers(0, 256, (height // 32, width // 32, 3), dtype=numpy.uint8))
    pixels = numpy.asarray(soft.resize((width, height), Image.BICUBIC), dtype=numpy.int16)
    pixels = pixels + random.integers(-12, 13, (height, width, 1), dtype=numpy.int16)
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def write_rows(path, groups, rows, width, height):
    random = numpy.random.default_rng(1)
    kinds = [photograph(random, width, height) for _ in range(32)]
    # No two rows are the same bytes, which a dictionary would hold once.
    pictures = [kinds[row % len(kinds)] + row.to_bytes(4, "little") for row in range(groups * rows)]
    table = pyarrow.table({"image": [{"bytes": each, "path": None} for each in pictures],
                           "ground_truth": [TRUTH] * len(pictures)})
    pyarrow.parquet.write_table(table, path, row_group_size=rows)


def finetune(program, folder, rows, steps):
    """Seconds of the CPU and of the steps by the clock, the peak of memory, and the losses."""
    run = Path(folder, "run")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([program, "finetune", "--recipe", "ministral3_3b_peft_config", "--pretrained-checkpoint", DEMO / "model",
                    f"dataset.path_or_dataset={rows}", "dataset.image_max_edge=56", "model.params_dtype=float32",
                    f"train.global_batch_size={BATCH}", f"train.micro_batch_size={BATCH}", f"train.train_iters={steps}",
                    "scheduler.lr_warmup_iters=1", f"scheduler.lr_decay_iters={LONG}", "validation.eval_interval=0",
                    f"checkpoint.save={run}"],
                   check=True, stderr=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(run)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, sum(line["seconds"] for line in lines),
            lines[-1]["peak_memory_bytes"] / 1e9, [line["loss"] for line in lines])


def measure(program, folder, rows):
    short, long = (finetune(program, folder, rows, steps) for steps in (SHORT, LONG))
    samples = BATCH * (LONG - SHORT)
    return {"by_cpu": samples / (long[0] - short[0]), "by_clock": samples / (long[1] - short[1]), "first_steps": short[1],
            "peak_gb": long[2], "losses": long[3]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--pixels", default="768x576")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    programs = {"old": options.old.resolve(), "new": options.new.resolve()}
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.parquet")
        # In a process of its own: a program's peak begins with that of whoever starts it.
        shape = (options.groups, options.rows, *map(int, options.pixels.split("x")))
        writer = multiprocessing.get_context("spawn").Process(target=write_rows, args=(rows, *shape))
        writer.start()
        writer.join()
        size = rows.stat().st_size
        print(f"{options.groups} groups of {options.rows} rows of {size / options.groups / options.rows / 1000:.0f} kB, {size / 1e6:.0f} MB", flush=True)
        found = {name: [] for name in programs}
        for turn in range(options.rounds):
            for name in sorted(programs, reverse=turn % 2 == 0):
                found[name].append(measure(programs[name], folder, rows))
    assert found["old"][0]["losses"] == found["new"][0]["losses"], "the samples differ"
    for name, runs in found.items():
        for what in ("by_cpu", "by_clock", "first_steps", "peak_gb"):
            print(name, what, *(f"{run[what]:.2f}" for run in runs))
    for what in ("by_cpu", "by_clock"):
        ratios = [new[what] / old[what] for old, new in zip(found["old"], found["new"])]
        print(f"samples a second, new / old, {what}: {statistics.median(ratios):.2f} of", *(f"{each:.2f}" for each in ratios))


if __name__ == "__main__":
    main()
