#!/usr/bin/env python3
"""Makes small Parquet files in the schemas of MedPix-VQA and the_cauldron's raven: tests/golden/datasets/.

  .venv/bin/python tools/make_dataset_goldens.py

Written as the `datasets` library writes them: pictures are structs of bytes and path. The pictures are 28 x 28 PNGs.
"""

import io
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden" / "datasets"
PICTURE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def picture(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), (shade, 128, 255 - shade)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{shade}.png"}


def write(name, columns):
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, FOLDER / name, row_group_size=2)


def main():
    write("medpix-train-00000-of-00001.parquet", {
        "image_id": pyarrow.array([picture(10), picture(20), picture(30)], PICTURE),
        "mode": ["CT", "MR", "CT"],
        "case_id": ["a", "b", "c"],
        "question": ["What is shown?", "Which plane?", "Where is it?"],
        "answer": ["A chest.", "Axial.", "On the left."]})
    text = pyarrow.struct([("user", pyarrow.string()), ("assistant", pyarrow.string()), ("source", pyarrow.string())])
    pairs = [{"user": "Which figure is next?\nA, B, C or D?", "assistant": "B", "source": "RAVEN"},
             {"user": "Again?", "assistant": "C", "source": "RAVEN"}]
    write("raven-train-00000-of-00001.parquet", {
        "images": pyarrow.array([[picture(40), picture(50)], [], [picture(60)], None, [picture(70)]], pyarrow.list_(PICTURE)),
        "texts": pyarrow.array([pairs, pairs, [], pairs, pairs[1:]], pyarrow.list_(text))})


if __name__ == "__main__":
    main()
