#!/usr/bin/env python3
"""Makes the small seeds of the fuzz targets, fuzz/seeds/NAME/*, with the real writers of each format.

  .venv/bin/python fuzz/make_seeds.py

Inputs that once were findings are kept beside them as seeds/NAME/found_*; they are not made here, and stay.
"""

import base64
import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import gguf
import numpy
import pyarrow
import pyarrow.parquet
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ROOT / "fuzz" / "seeds"
FIXTURES = ROOT / "tests" / "fixtures"


def seed(target, name, data):
    folder = SEEDS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def pickles():
    value = OrderedDict(key=[1, -2, 3 << 40, 1 << 80, 1.5, None, True, "text \u20ac", b"bytes"], size=torch.Size([2, 3]),
                        shared=({1, 2}, frozenset([3])))
    value["again"] = value["key"]
    for protocol in (2, 3, 4, 5):
        seed("pickle", f"protocol{protocol}", pickle.dumps(value, protocol=protocol))


def archives():
    seed("torch_save", "tensor", saved(torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)))
    seed("torch_save", "strided", saved(torch.arange(6.0).reshape(2, 3).t()))
    seed("torch_save", "state", saved({"step": torch.tensor(3), "rate": torch.tensor(1e-4), "done": torch.tensor(True),
                                       "list": [torch.zeros(0), {"a": 1.5}]}))
    seed("torch_save", "fp8", saved(torch.zeros(4, dtype=torch.float8_e4m3fn)))
    small = io.BytesIO()  # without the padding of torch.save
    with zipfile.ZipFile(io.BytesIO(saved(torch.tensor([7])))) as archive, zipfile.ZipFile(small, "w") as out:
        for name in archive.namelist():
            if not name.endswith((".format_version", ".storage_alignment", "serialization_id")):
                out.writestr(zipfile.ZipInfo(name), archive.read(name))
    seed("torch_save", "small", small.getvalue())


def directories():
    for name, state in (("two", {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.bfloat16),
                                 "object": {"step": 3}}),
                        ("one", {"a": torch.arange(4)})):
        with tempfile.TemporaryDirectory() as folder:
            dcp.save(state, checkpoint_id=folder, no_dist=True)
            metadata = pickle.loads((Path(folder) / ".metadata").read_bytes())
            data = (Path(folder) / "__0_0.distcp").read_bytes()
        metadata.storage_meta.checkpoint_id, metadata.storage_meta.save_id = "folder", "0"  # the same on every machine
        metadata = pickle.dumps(metadata)
        seed("torch_dist_metadata", name, metadata)
        seed("torch_dist", name, struct.pack("<I", len(metadata)) + metadata + data)


def texts():
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(3, dtype=torch.bfloat16), "c": torch.zeros(0, 2)}
    seed("safetensors", "three", safetensors.torch.save(tensors, {"format": "pt"}))
    seed("safetensors", "none", safetensors.torch.save({}))
    header = b'{"a":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]},"b":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[3,6]}}'
    seed("safetensors", "packed", struct.pack("<Q", len(header)) + header + b"abcdef")

    config = json.loads((FIXTURES / "hf" / "config.json").read_text())
    seed("json", "config", json.dumps(config))
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128],
                                     "activation_scheme": "static"}
    seed("json", "config_fp8", json.dumps(config))
    seed("json", "config_text", json.dumps({**config["text_config"], "architectures": ["Ministral3ForCausalLM"]}))
    seed("json", "adapter", (FIXTURES / "megatron" / "adapter_lora" / "adapter_config.json").read_bytes())
    seed("json", "index", json.dumps({"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    seed("json", "conversation", json.dumps({"images": ["a.png"], "tools": [], "messages": [
        {"role": "system", "content": "s"}, {"from": "human", "value": "<image>\nWhat?"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}, {"type": "text", "text": "t"}]},
        {"role": "assistant", "content": "a", "weight": 0, "tool_calls": [
            {"id": "123456789", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "123456789", "content": "r"}]}))
    seed("json", "settings", json.dumps({
        "messages": [{"role": "user", "content": "u"}], "reasoning_effort": "high",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {
            "type": ["object"], "required": ["a"], "properties": {"a": {"pattern": "^(?P<a>[a-z]{2,})(?<=b)\\1$", "minLength": 1}},
            "patternProperties": {"(?i:b)|c": True}, "dependencies": {"a": ["b"]}, "anyOf": [{"items": [False]}]}}}}))
    seed("json", "receipt", json.dumps({"gt_parse": {"menu": [{"nm": "Tea", "price": "1"}, {"nm": "<s_a>"}], "total": {}}}))

    run_config = (FIXTURES / "megatron" / "import" / "iter_0000000" / "run_config.yaml").read_text()
    seed("yaml", "run_config", run_config)
    seed("yaml", "aliases", "a: &x [1, .inf, ~, 'q', \"\\u20ac\"]\nb: *x\nc: !!set {d: null}\ne: |\n  text\n")
    seed("yaml", "overrides", "optimizer:\n  lr: 1e-4\npeft:\n  target_modules: [linear_qkv, linear_proj]\n")


def ggufs():
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in (("q8_0", gguf.GGMLQuantizationType.Q8_0), ("f16", gguf.GGMLQuantizationType.F16)):
            path = Path(folder) / name
            writer = gguf.GGUFWriter(path, "mistral3")
            writer.add_array("words", ["a", "\u20ac", ""])
            writer.add_array("numbers", [1, -2, 3])
            writer.add_float32("rate", 0.5)
            writer.add_bool("flag", True)
            writer.add_tensor("a.weight", gguf.quants.quantize(numpy.arange(64, dtype=numpy.float32).reshape(2, 32), kind),
                              raw_dtype=kind)
            writer.add_tensor("b", numpy.ones(3, dtype=numpy.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            seed("gguf", name, path.read_bytes())


def tokenizers():
    words = [bytes([i]) for i in range(256)] + [b"th", b"the", b" p"]

    def tekken(version, **more):
        return json.dumps({
            "config": {"pattern": r"\p{L}+|\p{N}|[^\p{L}\p{N}]+", "num_vocab_tokens": len(words), "version": version,
                       "default_vocab_size": len(words) + 3, "default_num_special_tokens": 3},
            "special_tokens": [{"rank": i, "token_str": name, "is_control": True}
                               for i, name in enumerate(("<unk>", "<s>", "[INST]"))],
            "image": {"image_patch_size": 14, "max_image_size": 1540, "spatial_merge_size": 2}, **more,
            "vocab": [{"rank": i, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
                      for i, word in enumerate(words)]}, separators=(",", ":"))

    seed("tokenizer", "tekken", tekken("v13"))
    seed("tokenizer", "tekken_v15", tekken(
        "v15", model_settings_builder={
            "reasoning_effort": {"type": "enum", "accepts_none": True, "default": "none", "values": ["none", "high"]},
            "json_schema": {"type": "json_schema", "accepts_none": False, "default": None}}))
    seed("tokenizer", "tokenizer_json", (FIXTURES / "hf" / "tokenizer.json").read_bytes())


def pictures():
    picture = Image.linear_gradient("L").resize((16, 12)).convert("RGB")
    picture.putpixel((3, 3), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, form, mode, options in (
            ("rgb.jpg", "JPEG", "RGB", {"exif": exif}), ("progressive.jpg", "JPEG", "RGB", {"progressive": True}),
            ("cmyk.jpg", "JPEG", "CMYK", {}), ("rgb.png", "PNG", "RGB", {"exif": exif}), ("palette.png", "PNG", "P", {}),
            ("bits.png", "PNG", "1", {}), ("alpha.png", "PNG", "RGBA", {}), ("sixteen.png", "PNG", "I;16", {}),
            ("lossy.webp", "WEBP", "RGB", {"exif": exif}), ("lossless.webp", "WEBP", "RGBA", {"lossless": True})):
        buffer = io.BytesIO()
        source = picture.convert("L").convert("I;16") if mode == "I;16" else picture.convert(mode)
        source.save(buffer, form, **options)
        seed("image", name, buffer.getvalue())


def tables():
    truth = json.dumps({"gt_parse": {"total": "1"}})
    rows = pyarrow.table({"image": [{"bytes": b"picture", "path": "a.png"}, {"bytes": None, "path": None}, None],
                          "ground_truth": [truth, truth, None]})
    for name, options in (("plain", {"compression": "none", "use_dictionary": False}), ("snappy", {}),
                          ("groups", {"row_group_size": 1, "compression": "zstd"})):
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(rows, buffer, store_schema=False, **options)
        seed("parquet", name, buffer.getvalue())


def own_tables():
    turn = {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}
    rows = pyarrow.table({"messages": [[turn], None, []], "images": [[{"bytes": b"picture", "path": None}], [], None],
                          "numbers": [1, None, 3], "tools": [None, "[]", "x"]})
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(rows, buffer, store_schema=False, compression="none", use_dictionary=False)
    seed("parquet", "own", buffer.getvalue())


def tars():
    for name, form in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
            for path in ("a.txt", ("folder/" * 20 if name == "ustar" else "folder/" * 40) + "\u20ac.json"[name == "ustar":]):
                member = tarfile.TarInfo(path)
                member.size = len(path)
                archive.addfile(member, io.BytesIO(path.encode()))
            member = tarfile.TarInfo("folder")
            member.type = tarfile.DIRTYPE
            archive.addfile(member)
        # Without the padding to 20 blocks: the fuzzer learns more from short inputs.
        seed("tar", name, buffer.getvalue().rstrip(b"\0") + bytes(1024))


if __name__ == "__main__":
    torch.manual_seed(0)
    for made in (pickles, archives, directories, texts, ggufs, tokenizers, pictures, tables, own_tables, tars):
        made()
