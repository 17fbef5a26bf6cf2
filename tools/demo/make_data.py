"""Makes the demo's vocabulary, its data set and the receipts its model is pre-trained on.

python tools/demo/make_data.py model --out assets/demo/model          tekken.json and side files
python tools/demo/make_data.py dataset --out assets/demo/data         cord-v2-like train and test
python tools/demo/make_data.py pretrain --out build/demo --rows 98304 not committed
"""

import argparse
import io
import json
import os
import random
import time
from multiprocessing import Pool
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from formats import READ_PROMPT, as_text, format_pair, ground_truth
from receipts import GRID_COLS, GRID_ROWS, draw_receipt, render

SHARD_ROWS = 4096
# As many rows in a row have one grid, so that a batch's images can share one attention call.
GRID_ROWS_ALIKE = 32


def write_table(table, path, **options):
    partial = path.with_suffix(".part")
    pq.write_table(table, partial, **options)
    partial.replace(path)


def png(pixels):
    """A 4-bit palette PNG; `pixels` holds multiples of 17 only."""
    image = Image.fromarray(pixels // 17).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([17 * grey for grey in range(16) for _ in range(3)])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", bits=4, optimize=True)
    return buffer.getvalue()


def dataset_split(split, rows, level, seed):
    """Rows in cord-v2's columns; also the keys that tell receipts apart."""
    rng = random.Random(f"{seed} {split}")
    images, truths, keys = [], [], set()
    while len(images) < rows:
        grid = rng.randint(*GRID_ROWS), rng.randint(*GRID_COLS)
        receipt = draw_receipt(rng, level, *grid, split)
        key = (receipt.items, receipt.total)
        if key in keys:
            continue
        keys.add(key)
        pixels, _ = render(receipt, rng, level, *grid)
        height, width = pixels.shape
        meta = dict(
            version="trestle-demo-1",
            split=split,
            image_id=len(images),
            image_size=dict(width=width, height=height),
        )
        images.append(dict(bytes=png(pixels), path=f"{split}_{len(images):04d}.png"))
        truths.append(json.dumps(dict(gt_parse=ground_truth(receipt), meta=meta)))
    # What the `datasets` package reads to know that `image` is an image.
    features = dict(image=dict(_type="Image"), ground_truth=dict(dtype="string", _type="Value"))
    schema = pa.schema(
        [
            ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("ground_truth", pa.string()),
        ],
        metadata={"huggingface": json.dumps(dict(info=dict(features=features)))},
    )
    return pa.table(dict(image=images, ground_truth=truths), schema=schema), keys


def make_dataset(options):
    seen = {}
    for split, rows in (("train", options.train_rows), ("test", options.test_rows)):
        table, seen[split] = dataset_split(split, rows, options.level, options.seed)
        path = options.out / f"{split}.parquet"
        write_table(table, path, compression="zstd")
        print(f"{path}: {rows} receipts, {path.stat().st_size / 1e6:.2f} MB")
    shared = seen["train"] & seen["test"]
    if shared:
        raise SystemExit(f"{len(shared)} receipts are in both splits")


def level_weights(progress):
    """Shares of the three levels: easy receipts first, as attention must learn where to look."""
    if progress < 0.1:
        return 1, 0, 0
    if progress < 0.2:
        return 0.5, 0.5, 0
    return 0.05, 0.8, 0.15


def pretrain_shard(arguments):
    index, shards, rows, seed, path = arguments
    rng = random.Random(f"{seed} pretrain {index}")
    progress = index / shards
    columns = {name: [] for name in PRETRAIN_SCHEMA.names}
    for row in range(rows):
        if row % GRID_ROWS_ALIKE == 0:
            grid = rng.randint(*GRID_ROWS), rng.randint(*GRID_COLS)
        level = rng.choices((0, 1, 2), level_weights(progress))[0]
        receipt = draw_receipt(rng, level, *grid, "pretrain")
        pixels, characters = render(receipt, rng, level, *grid)
        prompt, target = format_pair(rng, receipt, 1.0 if progress < 0.2 else 0.5)
        values = (pixels.tobytes(), *pixels.shape, *grid, characters.tobytes(), level) + (
            READ_PROMPT,
            as_text(receipt),
            prompt,
            target,
        )
        for name, value in zip(columns, values):
            columns[name].append(value)
    table = pa.table(columns, schema=PRETRAIN_SCHEMA)
    write_table(table, path, compression="zstd", compression_level=1, row_group_size=1024)
    return rows


PRETRAIN_SCHEMA = pa.schema(
    [
        ("pixels", pa.binary()),  # grey uint8 [height, width]
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("grid_rows", pa.int32()),  # ceil(height / 28)
        ("grid_cols", pa.int32()),
        ("characters", pa.binary()),  # uint8 [2 grid_rows, 4 grid_cols], 0 or code - 32
        ("level", pa.int32()),
        ("read_prompt", pa.string()),
        ("read_target", pa.string()),
        ("format_prompt", pa.string()),
        ("format_target", pa.string()),
    ]
)


def make_pretrain(options):
    shards = -(-options.rows // SHARD_ROWS)
    jobs = []
    for i in range(shards):
        rows = min(SHARD_ROWS, options.rows - i * SHARD_ROWS)
        jobs.append((i, shards, rows, options.seed, options.out / f"pretrain-{i:05d}.parquet"))
    start = time.time()
    with Pool(options.processes) as pool:
        made = 0
        for rows in pool.imap(pretrain_shard, jobs):
            made += rows
            print(f"{made} receipts, {1000 * (time.time() - start) / made:.2f} ms each", flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    model = commands.add_parser("model")
    dataset = commands.add_parser("dataset")
    dataset.add_argument("--train-rows", type=int, default=600)
    dataset.add_argument("--test-rows", type=int, default=120)
    dataset.add_argument("--level", type=int, default=1)
    pretrain = commands.add_parser("pretrain")
    pretrain.add_argument("--rows", type=int, default=24 * SHARD_ROWS)
    pretrain.add_argument("--processes", type=int, default=os.cpu_count())
    for command in (model, dataset, pretrain):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.command == "model":
        from model_files import write_model_files

        write_model_files(options.out)
    elif options.command == "dataset":
        make_dataset(options)
    else:
        make_pretrain(options)


if __name__ == "__main__":
    main()
