#!/usr/bin/env python3
"""Makes small data sets in tests/data/golden/: Parquet in the schemas of MedPix-VQA and the_cauldron's raven, own
data as Parquet and as WebDataset, and tar files in each of Python's formats.

  .venv/bin/python tools/make_dataset_goldens.py

Written as the `datasets` library writes them: pictures are structs of bytes and path. The pictures are 28 x 28 PNGs.
"""

import io
import json
import tarfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
from PIL import Image

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "data" / "golden"
PICTURE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def picture(shade):
    buffer = io.BytesIO()
    Image.new("RGB", (28, 28), (shade, 128, 255 - shade)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": f"{shade}.png"}


def write(name, columns):
    FOLDER.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(table, FOLDER / name, row_group_size=2)


def own_tables():
    part = pyarrow.struct([("type", pyarrow.string()), ("text", pyarrow.string()), ("image", PICTURE)])
    message = pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.list_(part))])
    said = {"role": "assistant", "content": [{"type": "text", "text": "Green."}]}
    write("own-parts.parquet", {"messages": pyarrow.array([
        [{"role": "user", "content": [{"type": "image", "image": picture(80)}, {"type": "text", "text": "Which colour?"}]}, said],
        [{"role": "user", "content": [{"type": "text", "text": "And grass?"}]}, said]], pyarrow.list_(message)),
        "id": [1, 2]})
    turn = pyarrow.struct([("from", pyarrow.string()), ("value", pyarrow.string())])
    turns = [{"from": "human", "value": "<image>\nWhich?"}, {"from": "gpt", "value": "This."}]
    write("own-turns.parquet", {
        "conversations": pyarrow.array([turns, turns, [{"from": "human", "value": "None?"}, turns[1]]], pyarrow.list_(turn)),
        "image": pyarrow.array([picture(90), {"bytes": None, "path": "../../image/golden/exact_28x56.png"}, None], PICTURE)})
    write("own-json.parquet", {
        "messages": [json.dumps([{"role": "user", "content": "Call it."}, {"role": "assistant", "content": "Done."}])] * 3,
        "images": pyarrow.array([["../../image/golden/exact_28x56.png"], [], None], pyarrow.list_(pyarrow.string())),
        "tools": [json.dumps([{"type": "function", "function": {"name": "f", "parameters": {}}}]), None, None]})
    write("own-vqa-train.parquet", {
        "question": ["How many?", "Who?"], "answers": [["Two", "2"], ["Nobody"]],
        "images": pyarrow.array([[picture(100), picture(110)], []], pyarrow.list_(PICTURE))})


def add(archive, name, data, **changes):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in changes.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data) if data else None)


def archives():
    long = "/".join(f"folder-{i}" for i in range(30))  # 280 characters
    for name, form in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        with tarfile.open(FOLDER / f"{name}.tar", "w", format=form) as archive:
            add(archive, "folder/", b"", type=tarfile.DIRTYPE)
            add(archive, "folder/a.txt", b"first")
            add(archive, "empty.txt", b"")
            add(archive, "block.bin", bytes(range(256)) * 2)
            # ustar splits a name in two at a slash: 155 and 100 bytes at most.
            add(archive, (long[:130] if name == "ustar" else long) + "/long.txt", b"long")
            if name != "ustar":
                add(archive, "Stra\u00dfe \u20ac/\u65e5\u672c.txt", b"names")
            add(archive, "pipe", b"", type=tarfile.FIFOTYPE)
            add(archive, "last.txt", b"the end")
    talk = [{"role": "user", "content": "<image>\nHow many?"}, {"role": "assistant", "content": "Two."}]
    named = [{"role": "user", "content": [{"type": "image", "image": "b.2.png"}, {"type": "text", "text": "First?"}, {"type": "image"}]},
             {"role": "assistant", "content": "Yes."}]
    with tarfile.open(FOLDER / "web-train-000000.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        add(archive, "__worker__/notes.txt", b"none")
        add(archive, "x.y/a.jpg.note", b"")
        add(archive, "x.y/a.PNG", picture(120)["bytes"])
        add(archive, "x.y/a.json", json.dumps({"messages": talk}).encode())
        add(archive, "b.2.png", picture(130)["bytes"])
        add(archive, "b.1.png", picture(140)["bytes"])
        add(archive, "b.json", json.dumps(named).encode())
        add(archive, "README", b"belongs to no sample")
        add(archive, "._b.json", b"a Mac's")
    with tarfile.open(FOLDER / "web-train-000001.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        add(archive, "c.json", json.dumps({"url": "of img2dataset"}).encode())
        add(archive, "c.png", picture(150)["bytes"])
        add(archive, "c.txt", "A square, gr\u00fcn.\n".encode())
        add(archive, "d.json", json.dumps({"question": "Why?", "answer": "So."}).encode())


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
    own_tables()
    archives()


if __name__ == "__main__":
    main()
