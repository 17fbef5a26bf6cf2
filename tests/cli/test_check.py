#!/usr/bin/env python3
"""`trestle inspect --check` accepts every fixture and what real writers make, and names each damage.

  .venv/bin/python tests/cli/test_check.py --trestle build/release/trestle [TestCase.test ...]
"""

import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import script

import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
HF, MEGATRON = FIXTURES / "hf", FIXTURES / "megatron"
DEMO = FIXTURES.parent.parent / "assets" / "demo" / "model"


class Checks(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def run_check(self, path, *flags):
        return subprocess.run([script.TRESTLE, "inspect", path, "--check", *flags], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60, env=os.environ | {"OMP_NUM_THREADS": "1"})

    def passes(self, path, tensors=None, size=None):
        done = self.run_check(path)
        self.assertEqual((done.returncode, done.stderr), (0, ""), f"{path}: {done.stdout}{done.stderr}")
        self.assertRegex(done.stdout, r"\Aok: \d+ tensors, \d+ bytes\n\Z")
        words = done.stdout.split()
        if tensors is not None:
            self.assertEqual((int(words[1]), int(words[3])), (tensors, size))

    def fails(self, path, *problems):
        """Each of `problems` (words of one line) is a line of its own, and there is no other."""
        done = self.run_check(path)
        lines = done.stdout.splitlines()
        what = f"{path}:\n{done.stdout}{done.stderr}"
        self.assertEqual(done.returncode, 2, what)
        self.assertEqual(len(lines), len(problems), what)
        for words in problems:
            self.assertTrue(any(all(str(word) in line for word in words) for line in lines), f"{words} is missing: {what}")
        self.assertRegex(done.stderr, rf"\Atrestle: .*: {len(problems)} problems?\n\Z")
        report = self.run_check(path, "--json")
        self.assertEqual(report.returncode, 2)
        report = json.loads(report.stdout)
        self.assertEqual((report["ok"], len(report["problems"])), (False, len(lines)))

    def copy(self, source):
        return Path(shutil.copytree(source, self.folder / "copy"))


class HuggingFace(Checks):
    def test_fixtures(self):
        for path in (HF, FIXTURES / "hf_tied", MEGATRON / "adapter_lora", HF / "model.safetensors"):
            with self.subTest(path=path.name):
                self.passes(path)
        tensors = safetensors.torch.load_file(HF / "model.safetensors")
        self.passes(HF, len(tensors), sum(tensor.nbytes for tensor in tensors.values()))
        report = json.loads(self.run_check(HF, "--json").stdout)
        self.assertEqual((report["ok"], report["problems"], report["tensors"]), (True, [], len(tensors)))

    def test_weights_against_config(self):
        model = self.copy(HF)
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        q = next(name for name in tensors if name.endswith("layers.1.self_attn.q_proj.weight"))
        norm = next(name for name in tensors if name.endswith("layers.0.input_layernorm.weight"))
        k = next(name for name in tensors if name.endswith("layers.0.self_attn.k_proj.weight"))
        tensors[q] = tensors[q][:-1].clone()
        tensors[k] = tensors[k].to(torch.float64)
        tensors["model.layers.0.extra.weight"] = torch.zeros(2)
        del tensors[norm]
        safetensors.torch.save_file(tensors, model / "model.safetensors")
        self.fails(model, ["layers.1.self_attn.q_proj.weight", "shape"], ["layers.0.input_layernorm.weight", "missing"],
                   ["layers.0.self_attn.k_proj.weight", "F64", "must agree"],
                   ["model.layers.0.extra.weight", "no place"])

    def shards(self, model):
        """The fixture in three shards."""
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        (model / "model.safetensors").unlink()
        names = sorted(tensors)
        where = {name: f"model-{i % 3 + 1:05}-of-00003.safetensors" for i, name in enumerate(names)}
        for shard in set(where.values()):
            safetensors.torch.save_file({name: tensors[name] for name in names if where[name] == shard}, model / shard)
        index = model / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
        return index, where

    def test_every_damaged_shard_is_named(self):
        model = self.copy(HF)
        self.shards(model)
        self.passes(model)
        for number in (1, 3):
            file = model / f"model-{number:05}-of-00003.safetensors"
            os.truncate(file, file.stat().st_size - 1)
        self.fails(model, ["model-00001-of", "truncated"], ["model-00003-of", "truncated"])

    def test_index(self):
        model = self.copy(HF)
        index, where = self.shards(model)
        name = sorted(where)[0]
        index.write_text(json.dumps({"weight_map": where | {name: "model-00002-of-00003.safetensors"}}))
        self.fails(model, [name, "model-00002-of-00003.safetensors"])
        index.write_text("{")
        self.fails(model, [index, "JSON"])

    def test_fp8_scales(self):
        model = self.copy(HF)
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        names = [name for name in tensors if name.endswith("mlp.down_proj.weight") and "vision" not in name]
        for name in names:
            tensors[name] = tensors[name].to(torch.float8_e4m3fn)
            tensors[name + "_scale_inv"] = torch.tensor(0.5, dtype=torch.bfloat16)
        safetensors.torch.save_file(tensors, model / "model.safetensors")
        self.passes(model)
        for name in names[:2]:
            tensors[name + "_scale_inv"] = torch.tensor(float("nan"))
        safetensors.torch.save_file(tensors, model / "model.safetensors")
        self.fails(model, *([name, "not finite"] for name in names[:2]))

    def test_adapter(self):
        adapter = self.copy(MEGATRON / "adapter_lora")
        tensors = safetensors.torch.load_file(adapter / "adapter_model.safetensors")
        first, second = [name for name in sorted(tensors) if name.endswith("lora_A.weight")][:2]
        tensors[first] = tensors[first][:-1].clone()
        del tensors[second]
        safetensors.torch.save_file(tensors, adapter / "adapter_model.safetensors")
        (adapter / "adapter_config.json").write_text("[]")
        self.fails(adapter, ["adapter_config.json"], [first, "rank"], [second.replace("lora_A", "lora_B"), "has no"])

    def test_adapter_against_its_config(self):
        adapter = self.copy(GOLDEN / "lora", "adapter")
        self.passes(adapter)
        file = adapter / "adapter_config.json"
        config = json.loads(file.read_text())
        for change, words in (({"r": 8}, ["has rank 4", "says 8"]), ({"use_dora": True}, ["has no magnitude", "use_dora=true"]),
                              ({"layers_to_transform": [0]}, ["layers.1.", "leaves out"]),
                              ({"exclude_modules": ["q_proj"]}, ["q_proj", "leaves out"])):
            with self.subTest(change):
                file.write_text(json.dumps(config | change))
                self.fails(adapter, words)

    def test_adapter_against_its_config(self):
        adapter = self.copy(FIXTURES.parent / "golden" / "tied" / "lora")
        self.passes(adapter)
        file = adapter / "adapter_config.json"
        config = json.loads(file.read_text())
        for change, words in (({"r": 8}, ["21 tensors have another rank", "lora_A.weight"]),
                              ({"use_dora": True}, ["21 modules have no magnitude", "use_dora=true"]),
                              ({"layers_to_transform": [0]}, ["14 modules are of those", "leaves out", "layers.1."]),
                              ({"exclude_modules": ["q_proj"]}, ["3 modules are of those", "q_proj"])):
            with self.subTest(change):
                file.write_text(json.dumps(config | change))
                self.fails(adapter, words)

    def test_names_cannot_write_lines_of_their_own(self):
        """What a file calls a tensor stays on one line and moves no cursor."""
        model = self.copy(HF)
        tensors = safetensors.torch.load_file(model / "model.safetensors")
        safetensors.torch.save_file(tensors | {"a\nok: 1\x1b[2J": torch.zeros(1)}, model / "model.safetensors")
        self.fails(model, ["tensor a ok: 1?[2J", "no place"])
        listed = subprocess.run([script.TRESTLE, "inspect", model / "model.safetensors"], capture_output=True, text=True)
        self.assertNotIn("\x1b", listed.stdout)


class Megatron(Checks):
    def setUp(self):
        super().setUp()
        self.run_folder = self.copy(MEGATRON / "import")
        self.iteration = next(self.run_folder.glob("iter_*"))

    def test_fixtures(self):
        for path in sorted(MEGATRON.iterdir()):
            if path.is_dir():
                with self.subTest(path=path.name):
                    self.passes(path)

    def metadata(self):
        return pickle.loads((self.iteration / ".metadata").read_bytes())

    def rewrite(self, metadata):
        (self.iteration / ".metadata").write_bytes(pickle.dumps(metadata))

    def items(self):
        """(place, key) of every item, in the order of the file."""
        return sorted((info.offset, info.length, index.fqn) for index, info in self.metadata().storage_data.items())

    def damage(self, offset, length):
        """Flips a bit in the middle of an item's tensor data."""
        file = self.iteration / "__0_0.distcp"
        data = bytearray(file.read_bytes())
        with tempfile.TemporaryFile() as item:
            item.write(data[offset:offset + length])
            item.seek(0)
            tensor = torch.load(item, weights_only=True)
        at = data.find(tensor.reshape(-1).view(torch.uint8).numpy().tobytes(), offset, offset + length)
        self.assertGreater(at, 0)
        data[at + tensor.nbytes // 2] ^= 1
        file.write_bytes(data)

    def test_flipped_bits(self):
        # One chunk a tensor: every problem names its tensor, the first of its chunks that is damaged.
        chunks = {item[2]: item for item in self.items() if item[2].endswith("weight") and "_extra_state" not in item[2]}
        damaged = list(chunks.values())[::7]
        for offset, length, _ in damaged:
            self.damage(offset, length)
        self.assertGreater(len(damaged), 2)
        keys = sorted({key for _, _, key in damaged})
        self.assertEqual(len(keys), len(damaged))
        self.fails(self.run_folder, *([key, "damaged"] for key in keys))

    def test_sums_that_were_not_recorded(self):
        """Archives as torch writes them under set_crc32_options(False)."""
        done = {}
        for recorded in (True, False):
            torch.serialization.set_crc32_options(recorded)
            try:
                torch.save({"iteration": 0, "more": torch.arange(100)}, self.iteration / "common.pt")
            finally:
                torch.serialization.set_crc32_options(True)
            self.passes(self.run_folder)
            data = bytearray((self.iteration / "common.pt").read_bytes())
            at = data.find(struct.pack("<3q", 50, 51, 52))
            data[at] ^= 1
            (self.iteration / "common.pt").write_bytes(data)
            done[recorded] = self.run_check(self.run_folder).returncode
        self.assertEqual(done, {True: 2, False: 0})

    def test_chunks_that_do_not_tile(self):
        metadata = self.metadata()
        key = next(key for key, value in metadata.state_dict_metadata.items()
                   if key.endswith("linear_proj.weight") and hasattr(value, "chunks"))
        entry = metadata.state_dict_metadata[key]
        entry.size = torch.Size([*entry.size[:-1], entry.size[-1] + 1])
        self.rewrite(metadata)
        self.fails(self.run_folder, [key, "do not tile"], *(
            [key.replace("decoder.layers.", f"decoder.layers.{layer}."), "shape"] for layer in range(entry.size[0])))

    def test_missing_and_strange_tensors(self):
        metadata = self.metadata()
        tensors = metadata.state_dict_metadata
        tensors["language_model.decoder.final_layernorm.wait"] = tensors.pop("language_model.decoder.final_layernorm.weight")
        metadata.storage_data = {
            (type(index)("language_model.decoder.final_layernorm.wait", index.offset, index.index)
             if index.fqn == "language_model.decoder.final_layernorm.weight" else index): info
            for index, info in metadata.storage_data.items()}
        self.rewrite(metadata)
        self.fails(self.run_folder, ["final_layernorm.weight", "missing"], ["final_layernorm.wait", "no place"])

    def test_files(self):
        state = self.iteration / "train_state.pt"
        good = state.read_bytes()
        state.write_bytes(good[:-30])
        self.fails(self.run_folder, [state, "archive"])
        state.write_bytes(good)
        (self.iteration / "run_config.yaml").write_text("a: [")
        self.fails(self.run_folder, ["run_config.yaml", "YAML"])
        os.truncate(self.iteration / "__0_0.distcp", 1000)
        self.fails(self.run_folder, ["__0_0.distcp", "cut short"])
        (self.iteration / "metadata.json").unlink()
        self.fails(self.run_folder, ["metadata.json", "cut off"])

    def test_memory_is_bounded(self):
        """256 MB in one chunk are read in pieces: the mapped file does not stay in memory."""
        path = self.folder / "large"
        dcp.save({"rng_state.large": torch.ones(1 << 26)}, checkpoint_id=path, no_dist=True)
        (path / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
        torch.save({"iteration": 0}, path / "common.pt")
        self.assertLess(self.peak(path) - self.peak(self.run_folder), 100 << 20)

    def peak(self, path):
        """Peak resident bytes of a check."""
        # A child's ru_maxrss begins with the peak of its parent, which here has torch: hence one between.
        between = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL); "
                   "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
        done = subprocess.run([sys.executable, "-c", between, script.TRESTLE, "inspect", path, "--check"], capture_output=True,
                              text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        self.assertEqual(done.returncode, 0, done.stderr)
        return int(done.stdout) * 1024


class Gguf(Checks):
    """What export writes is whole, whichever of the two files it is; each damage has its line."""

    def setUp(self):
        super().setUp()
        for kind in ("bf16", "q8_0"):
            subprocess.run([script.TRESTLE, "export", "--hf-model", DEMO, "--gguf-path", self.folder, "--gguf-type", kind],
                           check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        self.file = self.folder / "model-BF16.gguf"
        self.good = self.file.read_bytes()

    def test_whole(self):
        for name in ("model-BF16.gguf", "mmproj-model-BF16.gguf", "model-Q8_0.gguf", "mmproj-model-Q8_0.gguf"):
            with self.subTest(file=name):
                listed = subprocess.run([script.TRESTLE, "inspect", self.folder / name], capture_output=True, text=True).stdout
                sizes = [int(size) for size in re.findall(r"stored as \S+, (\d+) bytes", listed)]
                self.passes(self.folder / name, len(sizes), sum(sizes))
                report = json.loads(self.run_check(self.folder / name, "--json").stdout)
                self.assertEqual((report["ok"], report["kind"]), (True, "GGUF file"))

    def test_another_models_file(self):
        """Of another family only the form is known: a tensor of four Q4_K blocks' worth of zeros."""
        name, values = b"x", 256
        text = lambda value: struct.pack("<Q", len(value)) + value
        header = (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
                  + text(name) + struct.pack("<IQIQ", 1, values, 12, 0))
        data = header + bytes(-len(header) % 32) + bytes(144)
        self.file.write_bytes(data)
        self.passes(self.file, 1, 144)
        self.file.write_bytes(data[:-1])
        self.fails(self.file, [self.file, "144 bytes", "143 bytes", "truncated"])

    def test_damage(self):
        for kept in (3, 20, 2000, len(self.good) - 1, len(self.good) // 2):
            self.file.write_bytes(self.good[:kept])
            self.fails(self.file, [self.file])
        self.damaged(b"token_embd.weight", b"token_embd.wait!!", ["token_embd.weight"])
        key = b"mistral3.block_count" + struct.pack("<I", 4)
        layers = self.good[self.good.index(key) + len(key)]
        self.damaged(key + bytes([layers]), key + bytes([layers - 1]), [f"blk.{layers - 1}.", "no place"])
        self.damaged(key + bytes([layers]), key + bytes([layers + 1]), [f"blk.{layers}.", "no tensor"])

    def damaged(self, old, new, words):
        self.assertEqual(self.good.count(old), 1)
        self.file.write_bytes(self.good.replace(old, new))
        self.fails(self.file, [self.file, *words])

    def test_a_gap(self):
        """ggml refuses a file whose tensors are not one behind the other."""
        text = lambda value: struct.pack("<Q", len(value)) + value
        for offset in (64, 0):
            header = (b"GGUF" + struct.pack("<IQQ", 3, 2, 0) + text(b"a") + struct.pack("<IQIQ", 1, 8, 0, 0)
                      + text(b"b") + struct.pack("<IQIQ", 1, 8, 0, offset))
            self.file.write_bytes(header + bytes(-len(header) % 32) + bytes(128))
            self.fails(self.file, ["tensor b", f"byte {offset}", "32"])

    def test_directory(self):
        done = self.run_check(self.folder)
        self.assertEqual(done.returncode, 2)
        self.assertIn("is a directory of GGUF files; name one of them", done.stderr)


class Others(Checks):
    def test_parts(self):
        """What is no checkpoint by itself is refused by name, and not called damaged."""
        metadata = next(MEGATRON.rglob(".metadata"))
        for path, word in ((HF / "config.json", "holds no tensors"), (HF / "tokenizer.json", "holds no tensors"),
                           (FIXTURES / "mistral" / "tekken.json", "holds no tensors"),
                           (metadata.parent / "run_config.yaml", "holds no tensors"),
                           (metadata, "a part of a checkpoint"), (metadata.parent / "__0_0.distcp", "a part"),
                           (metadata.parent / "train_state.pt", "a part")):
            for flags in ([], ["--check"]):
                done = subprocess.run([script.TRESTLE, "inspect", path, *flags], capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
                self.assertIn(f"{path} ", done.stderr)
                self.assertIn(word, done.stderr)

    def test_mistral(self):
        for name in ("mistral", "mistral_tied"):
            self.passes(FIXTURES / name)
        self.passes(FIXTURES / "mistral" / "consolidated.safetensors")

    def test_nothing_there(self):
        done = self.run_check(self.folder / "absent")
        self.assertEqual(done.returncode, 2)
        self.assertIn("does not exist", done.stderr)
        self.fails(self.folder, ["config.json"])

    def test_json_without_check_lists(self):
        done = subprocess.run([script.TRESTLE, "inspect", HF, "--json"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        listed = json.loads(done.stdout)
        self.assertEqual(listed["kind"], "Hugging Face checkpoint, untied embeddings")
        self.assertEqual(listed["tensors"]["model.norm.weight"], {"dtype": "BF16", "shape": [48], "file": "model.safetensors"})

    def test_json_has_what_is_listed_of_a_gguf_file(self):
        subprocess.run([script.TRESTLE, "export", "--hf-model", DEMO, "--gguf-path", self.folder, "--gguf-type", "q8_0"], check=True,
                       capture_output=True)
        listed_of = {"string": 0, "array": 0, "number": 0}
        for path in self.folder.glob("*.gguf"):
            plain, as_json = (subprocess.run([script.TRESTLE, "inspect", path, *flags], capture_output=True, text=True, check=True).stdout
                              for flags in ([], ["--json"]))
            listed = json.loads(as_json)
            lines = dict(line.split(None, 1) for line in plain.splitlines())
            for key, value in listed["metadata"].items():
                shown = lines[key].strip()
                if isinstance(value, dict):
                    listed_of["array"] += 1
                    self.assertEqual(shown, " ".join(f"{count} {what}" for what, count in value.items()), key)
                elif isinstance(value, str):
                    listed_of["string"] += 1
                    start, _, _ = shown.partition("... (")
                    self.assertTrue(value.startswith(json.loads(start)), key)
                    self.assertTrue("... (" in shown or value == json.loads(start), key)
                else:
                    listed_of["number"] += 1
                    self.assertEqual(json.loads(shown), value, key)
            for name, tensor in listed["tensors"].items():
                self.assertIn(f"stored as {tensor['stored_as']}, {tensor['stored_bytes']} bytes", lines[name])
            self.assertEqual(len(lines), len(listed["metadata"]) + len(listed["tensors"]) + 2, "a line that JSON has not")
        self.assertTrue(all(count > 1 for count in listed_of.values()), listed_of)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
