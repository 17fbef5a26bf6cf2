#!/usr/bin/env python3
"""What the built program says to bad files, flags and disks.

  .venv/bin/python tests/cli/test_bad_input.py --trestle build/release/trestle [TestCase.test ...]

Every refusal is one line on stderr that names the file or flag and the values, exit status 2 (1 for
the machine's faults), within seconds, and leaves no file behind that was not there before.
"""

import hashlib
import json
import os
import pickle
import resource
import shutil
import stat
import struct
import subprocess
import tempfile
import unittest
import zipfile
import zlib
from pathlib import Path

import script

TESTS = Path(__file__).resolve().parent.parent
HF, MEGATRON = TESTS / "fixtures" / "hf", TESTS / "fixtures" / "megatron" / "import"
DEMO = TESTS.parent / "assets" / "demo" / "model"
IMAGE = TESTS / "image" / "golden" / "exact_28x56.png"
USER, MACHINE = 2, 1
NOBODY = 65534


def contents(folder):
    """Every file below a folder with a digest of what it holds, and every directory."""
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).digest() if path.is_file() else None
            for path in Path(folder).rglob("*")}


def edit_json(file, change):
    value = json.loads(file.read_text())
    change(value)
    file.write_text(json.dumps(value))


def make_v15(folder, **builder):
    """The tokenizer of a copy of the demo's model becomes one of layout v15, with this model_settings_builder."""
    def change(tekken):
        tekken["config"]["version"] = "v15"
        for number, name in ((36, "[MODEL_SETTINGS]"), (37, "[/MODEL_SETTINGS]")):
            tekken["special_tokens"][number]["token_str"] = name
        tekken["model_settings_builder"] = builder
    edit_json(folder / "tekken.json", change)


EFFORT = {"default": "none", "values": ["none", "high"]}


def edit_header(file, change):
    """Rewrites a safetensors header; the data stay as they are."""
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size:])


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def huge_png(width, height):
    return (b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + png_chunk(b"IDAT", zlib.compress(bytes(64))) + png_chunk(b"IEND", b""))


def huge_jpeg(width, height):
    frame = struct.pack(">BHHB", 8, height, width, 3) + bytes([1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    scan = bytes([3, 1, 0, 2, 0, 3, 0, 0, 63, 0])
    segments = ((b"\xff\xc0", frame), (b"\xff\xda", scan))
    return (b"\xff\xd8" + b"".join(marker + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
            + bytes(64) + b"\xff\xd9")


class Refusals(unittest.TestCase):
    """A scratch folder for each test, and the one way to run the program in it."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def model(self, name="model"):
        """A copy of the Hugging Face fixture, to be damaged."""
        return Path(shutil.copytree(HF, self.folder / name))

    def run_trestle(self, *arguments, **options):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run([script.TRESTLE, *map(str, arguments)], capture_output=True, text=True,
                              errors="surrogateescape", cwd=self.folder,
                              env=environment, stdin=subprocess.DEVNULL, timeout=60, **options)

    def refused(self, *arguments, names, status=USER, progress=False, **options):
        """Runs it; checks status, the one line, what it names, and that no file came, went or changed.

        With `progress` the command had begun and other lines may stand before the last.
        """
        before = contents(self.folder)
        done = self.run_trestle(*arguments, **options)
        lines = done.stderr.splitlines()
        what = f"trestle {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stderr}"
        self.assertEqual(done.returncode, status, what)
        self.assertTrue(lines and lines[-1].startswith("trestle: "), what)
        if not progress:
            self.assertEqual(len(lines), 1, what)
        for name in names:
            self.assertIn(str(name), lines[-1], what)
        self.assertEqual(contents(self.folder), before, f"files differ after {what}")
        return lines[-1]


class HfFiles(Refusals):
    def imports(self, model, names):
        self.refused("import", "--hf-model", model, "--megatron-path", "run", names=names)

    def every_command(self, model, names):
        """The commands that read a checkpoint all refuse it."""
        self.imports(model, names)
        self.refused("generate", "--hf-model-path", model, "--prompt", "a", "--max-new-tokens", 1, names=names)
        self.refused("inspect", model, names=names)

    def test_no_such_directory(self):
        self.every_command("absent", ["absent"])

    def test_no_weights(self):
        model = self.model()
        (model / "model.safetensors").unlink()
        self.every_command(model, [model, "safetensors"])

    def test_no_config(self):
        model = self.model()
        (model / "config.json").unlink()
        self.every_command(model, ["config.json"])

    def test_truncated_weights(self):
        model = self.model()
        file = model / "model.safetensors"
        size = file.stat().st_size
        header = 8 + struct.unpack("<Q", file.read_bytes()[:8])[0]
        for kept in (size - 1, size // 2):
            os.truncate(file, kept)
            self.every_command(model, [file, f"{kept - header} bytes", "truncated"])
        for kept in (100, 7, 0):  # inside the header
            os.truncate(file, kept)
            self.imports(model, [file, kept])

    def test_index_names_an_absent_shard(self):
        model = self.model()
        (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
        with open(model / "model-00001-of-00002.safetensors", "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        shards = {name: "model-00001-of-00002.safetensors" for name in header if name != "__metadata__"}
        shards[sorted(shards)[0]] = "model-00002-of-00002.safetensors"
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
        self.every_command(model, ["model-00002-of-00002.safetensors"])

    def test_index_leaves_the_directory(self):
        model = self.model()
        (model / "model.safetensors").rename(self.folder / "outside.safetensors")
        (model / "model.safetensors.index.json").write_text(
            json.dumps({"weight_map": {"lm_head.weight": "../outside.safetensors"}}))
        self.every_command(model, ["../outside.safetensors"])

    def test_header_longer_than_the_file(self):
        model = self.model()
        file = model / "model.safetensors"
        data = file.read_bytes()
        for length in (len(data), 1 << 40, (1 << 64) - 1):
            file.write_bytes(struct.pack("<Q", length) + data[8:])
            self.imports(model, [file, length])

    def test_header_that_is_no_json(self):
        model = self.model()
        file = model / "model.safetensors"
        data = file.read_bytes()
        for text in (b"{" * 100000, b"[1, 2]", b'{"a": 1}', b"\xff\xfe\xfd\xfc"):
            file.write_bytes(struct.pack("<Q", len(text)) + text + data)
            self.imports(model, [file])

    def test_header_that_lies_about_a_tensor(self):
        name = "model.language_model.norm.weight"
        model = self.model()
        file = model / "model.safetensors"
        good = file.read_bytes()
        header = json.loads(good[8:8 + struct.unpack("<Q", good[:8])[0]])
        name = name if name in header else next(each for each in header if each.endswith("norm.weight"))
        begin, end = header[name]["data_offsets"]
        for key, value in (("shape", [1 << 40]), ("shape", [49]), ("shape", [1 << 32, 1 << 32, 48]), ("shape", [-48]),
                           ("data_offsets", [begin, end + (1 << 40)]), ("data_offsets", [end, begin]),
                           ("data_offsets", [0, end - begin]), ("dtype", "F7")):
            with self.subTest(key=key, value=value):
                file.write_bytes(good)
                edit_header(file, lambda header: header[name].update({key: value}))
                self.imports(model, [file, "overlap" if value == [0, end - begin] else name])

    def test_git_lfs_pointer(self):
        model = self.model()
        (model / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
        self.every_command(model, [model / "model.safetensors", "git lfs"])


class HfConfig(Refusals):
    def refuses(self, change, *names):
        model = self.model()
        edit_json(model / "config.json", change)
        self.refused("generate", "--hf-model-path", model, "--prompt", "a", "--max-new-tokens", 1, names=names)
        shutil.rmtree(model)

    def text(self, key, value, *names):
        with self.subTest(key=key, value=value):
            self.refuses(lambda config: config["text_config"].update({key: value}), "config.json", key, *names)

    def test_unknown_values(self):
        self.text("hidden_act", "mish", "mish", "silu")
        self.text("model_type", "llama", "llama", "ministral3")
        self.text("sliding_window", 4096, 4096)
        self.text("hidden_size", "wide", "wide")
        self.text("num_attention_heads", 0, 0)
        self.text("num_attention_heads", 1 << 60)
        self.text("rms_norm_eps", -1, -1)
        self.text("num_key_value_heads", 4, 4, 6)

    def test_unknown_rope(self):
        self.refuses(lambda config: config["text_config"]["rope_parameters"].update(rope_type="longrope", type="longrope"),
                     "config.json", "longrope", "yarn")

    def test_no_json(self):
        model = self.model()
        for text in ("", "{", "[]", '{"text_config": 3}', "[" * 100000):
            (model / "config.json").write_text(text)
            self.refused("import", "--hf-model", model, "--megatron-path", "run", names=["config.json"])

    def test_shape_that_differs(self):
        self.refuses(lambda config: config["text_config"].update(hidden_size=60), "48", "60", "weight")
        self.refuses(lambda config: config["text_config"].update(vocab_size=289), "288", "289", "weight")
        self.refuses(lambda config: config["vision_config"].update(intermediate_size=44), "40", "44", "weight")

    def test_layers_that_differ(self):
        self.refuses(lambda config: config["text_config"].update(num_hidden_layers=4), "layers.3.")
        self.refuses(lambda config: config["text_config"].update(num_hidden_layers=2), "layers.2.")


class Pictures(Refusals):
    def refuses(self, name, data, *names):
        file = self.folder / name
        file.write_bytes(data)
        self.refused("preprocess", "--image-path", file, "--output", "out.safetensors", names=[file, *names])

    def test_none(self):
        self.refused("preprocess", "--image-path", "absent.png", "--output", "out.safetensors", names=["absent.png"])
        self.refused("preprocess", "--image-path", self.folder, "--output", "out.safetensors", names=[self.folder])

    def test_not_a_picture(self):
        self.refuses("text.png", b"this is no picture\n" * 20)
        self.refuses("empty.jpg", b"")
        self.refuses("gif.gif", b"GIF89a" + bytes(100))

    def test_truncated(self):
        for suffix in ("png", "jpg", "webp"):
            for file in sorted((TESTS / "image" / "golden").glob(f"*.{suffix}"))[:2]:
                data = file.read_bytes()
                self.refuses(f"cut.{suffix}", data[:len(data) // 2])
                self.refuses(f"cut.{suffix}", data[:16])

    def test_100_megapixels(self):
        self.refuses("huge.png", huge_png(10000, 10001), 10000, 10001)
        self.refuses("huge.jpg", huge_jpeg(12000, 9001), 12000, 9001)
        self.refuses("widest.png", huge_png(0x7FFFFFFF, 0x7FFFFFFF), "IHDR")

    def test_in_a_prompt(self):
        (self.folder / "text.png").write_text("no picture")
        for image in ("text.png", "absent.png"):
            self.refused("generate", "--hf-model-path", DEMO, "--image-path", image, "--prompt", "a", names=[image])

    def test_unreachable_url(self):
        url = "http://127.0.0.1:9/receipt.png"
        self.refused("preprocess", "--image-path", url, "--output", "out.safetensors", names=[url])


class Flags(Refusals):
    def generate(self, *arguments, names):
        self.refused("generate", "--hf-model-path", HF, *arguments, names=names)

    def test_prompt_longer_than_the_context(self):
        model = self.model()
        edit_json(model / "config.json", lambda config: config["text_config"].update(max_position_embeddings=40))
        self.refused("generate", "--hf-model-path", model, "--prompt", "abcdefgh " * 40, "--max-new-tokens", 1,
                     names=[40])
        self.refused("generate", "--hf-model-path", model, "--prompt", "a", "--max-new-tokens", 41, names=[40, 41])

    def test_generate(self):
        self.generate("--prompt", "a", "--temperature", -1, names=["--temperature", -1])
        self.generate("--prompt", "a", "--top-p", 2, names=["--top-p", 2])
        self.generate("--prompt", "a", "--max-new-tokens", 0, names=["--max-new-tokens", 0])
        self.generate("--prompt", "a", "--max-new-tokens", "many", names=["--max-new-tokens", "many"])
        self.generate("--prompt", "a", "--dtype", "int8", names=["--dtype", "int8"])
        self.generate("--promt", "a", names=["--prom"])
        self.generate("--prompt", "caf\udce9", names=["--prompt", "byte 4", "UTF-8"])
        self.generate("--prompt", "a", "--system-prompt", "\udcff", names=["--system-prompt", "byte 1", "UTF-8"])
        self.refused("compare", HF, HF, "--prompt", "a\udc80", names=["--prompt", "byte 2", "UTF-8"])
        self.generate(names=["--prompt"])

    def test_command(self):
        self.refused("improt", names=["improt", "import"])
        self.refused(names=["needs a command"])

    def finetune(self, *overrides, names):
        self.refused("finetune", "--recipe", "demo_config", f"checkpoint.pretrained_checkpoint={HF}",
                     f"checkpoint.save={self.folder / 'run'}", *overrides, names=names)

    def test_overrides(self):
        self.finetune("optimizer.lrr=1", names=["optimizer.lrr", "optimizer.lr"])
        self.finetune("optimiser.lr=1", names=["optimiser.lr", "optimizer.lr"])
        self.finetune("train.train_iters=ten", names=["train.train_iters", "ten"])
        self.finetune("train.train_iters=-1", names=["train.train_iters", -1])
        self.finetune("train.train_iters", names=["train.train_iters", "="])
        self.finetune("optimizer.lr=nan", names=["optimizer.lr", "nan"])
        self.finetune("scheduler.lr_decay_style=stairs", names=["scheduler.lr_decay_style", "stairs", "cosine"])
        self.finetune("dataset.maker_name=make_cord_v3_dataset", f"dataset.path_or_dataset={HF}", names=["make_cord_v3_dataset", "make_cord_v2_dataset"])
        self.finetune("dataset.path_or_dataset=absent", names=["absent"])
        self.finetune("train.global_batch_size=3", "train.micro_batch_size=2", names=["global_batch_size", 3, 2])

    def test_recipe(self):
        self.refused("finetune", "--recipe", "demo_confg", names=["demo_confg", "demo_config"])
        self.refused("recipes", "demo_confg", names=["demo_confg", "demo_config"])

    def test_config_file(self):
        file = self.folder / "run.yaml"
        for text, names in (("optimizer:\n  lrr: 1\n", ["optimizer.lrr", "optimizer.lr"]), ("a: [1\n", [file]),
                            ("- 1\n", [file]), ("optimizer: 3\n", ["optimizer"])):
            with self.subTest(text=text):
                file.write_text(text)
                self.refused("finetune", "--recipe", "demo_config", "--config", file, names=names)

    def test_input_that_cannot_be_read(self):
        """A directory as standard input, and one whose reading fails, are not the end of the lines."""
        for path, reason in (("/", "Is a directory"), ("/proc/self/mem", "Input/output error")):
            descriptor = os.open(path, os.O_RDONLY)
            self.addCleanup(os.close, descriptor)
            done = subprocess.run([script.TRESTLE, "tokenize", "--tokenizer", DEMO], capture_output=True, text=True,
                                  stdin=descriptor, timeout=60)
            self.assertEqual((done.returncode, done.stdout, done.stderr),
                             (MACHINE, "", f"trestle: cannot read standard input: {reason}\n"), path)

    def test_tokenizer(self):
        self.refused("tokenize", "--tokenizer", "absent.json", names=["absent.json"])
        for text in ("", "{", "[]", '{"config": {}, "vocab": 3}'):
            (self.folder / "tekken.json").write_text(text)
            self.refused("tokenize", "--tokenizer", "tekken.json", names=["tekken.json"])


class Outputs(Refusals):
    def written(self, folder):
        """Commands that write a checkpoint or a file into a folder."""
        return (["import", "--hf-model", HF, "--megatron-path", folder / "run"],
                ["export", "--megatron-path", MEGATRON, "--hf-model", HF, "--hf-path", folder / "hf"],
                ["export", "--hf-model", DEMO, "--gguf-path", folder],
                ["preprocess", "--image-path", IMAGE, "--output", folder / "pixels.safetensors"])

    def test_full_disk(self):
        def limit(size):
            return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        # Without Python's restore the signal of the limit stays ignored, and a write fails as on a full disk.
        for size in (0, 4096):
            for arguments in self.written(self.folder):
                with self.subTest(command=arguments[0], size=size):
                    self.refused(*arguments, status=MACHINE, progress=True, names=[self.folder, "File too large"],
                                 preexec_fn=limit(size), restore_signals=False)

    def test_full_disk_while_training(self):
        (self.folder / "data.jsonl").write_text(json.dumps({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n")
        run = self.folder / "run"
        done = self.run_trestle(
            "finetune", "--recipe", "demo_config", f"checkpoint.pretrained_checkpoint={HF}", f"checkpoint.save={run}",
            "--dataset-type", "jsonl", "dataset.path_or_dataset=data.jsonl", "train.train_iters=2",
            "train.global_batch_size=1", "train.micro_batch_size=1", "scheduler.lr_warmup_iters=1",
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)), restore_signals=False)
        self.assertEqual(done.returncode, MACHINE, done.stderr)
        last = done.stderr.splitlines()[-1]
        self.assertIn(str(run), last)
        self.assertIn("File too large", last)
        self.assertEqual([path for path in contents(run) if "iter_" in path or "latest" in path], [])

    def test_read_only(self):
        target = self.folder / "read_only"
        target.mkdir()
        options = {}
        if os.geteuid() == 0:  # permissions do not bind root
            if not self.nobody_can_read():
                self.skipTest("nobody cannot read this checkout, and root ignores permissions")
            options = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self.folder.chmod(0o755)
        target.chmod(0o555)
        for arguments in self.written(target):
            with self.subTest(command=arguments[0]):
                self.refused(*arguments, status=MACHINE, names=[target, "Permission denied"], **options)

    def nobody_can_read(self):
        paths = [script.TRESTLE, HF / "model.safetensors", *script.TRESTLE.parents, *HF.parents]
        return all(path.stat().st_mode & (stat.S_IXOTH if path.is_dir() else stat.S_IROTH) for path in paths)

    def test_below_a_file(self):
        (self.folder / "file").write_text("")
        for arguments in self.written(self.folder / "file"):
            with self.subTest(command=arguments[0]):
                itself = arguments[-1] == self.folder / "file"  # another can be named
                self.refused(*arguments, status=USER if itself else MACHINE, names=[self.folder / "file"])

    def test_nothing_is_overwritten(self):
        """A second run into the same place changes nothing."""
        done = self.run_trestle("import", "--hf-model", HF, "--megatron-path", "run")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.refused("import", "--hf-model", HF, "--megatron-path", "run", names=["run"])
        (self.folder / "hf").mkdir()
        (self.folder / "hf" / "mine.txt").write_text("mine")
        self.refused("export", "--megatron-path", "run", "--hf-path", "hf", names=["hf"])


class Gguf(Refusals):
    """Small files made here; the readers' own tests have every lie of a header."""

    def test_inspect(self):
        file = self.folder / "bad.gguf"
        header = b"GGUF" + struct.pack("<I", 3)
        for data, names in ((header + struct.pack("<QQ", 1 << 60, 0), [1 << 60, "tensors"]),
                            (header + struct.pack("<QQ", 0, 1 << 60), [1 << 60, "keys"]),
                            (header + struct.pack("<QQQ", 0, 1, 1 << 60) + bytes(40), ["key", 1 << 60]),
                            (b"GGUF" + struct.pack("<IQQ", 9, 0, 0), ["version 9"]), (b"GGUF", ["truncated"])):
            with self.subTest(names=names):
                file.write_bytes(data)
                self.refused("inspect", file, names=[file, *names])

    def export(self, model, names, *more, **options):
        self.refused("export", "--hf-model", model, "--gguf-path", "out", *more, names=names, **options)

    def test_flags(self):
        self.refused("export", "--hf-model", HF, names=["--hf-path", "--gguf-path"])
        self.refused("export", "--gguf-path", "out", names=["--megatron-path", "--hf-model"])
        self.refused("export", "--hf-model", HF, "--hf-path", "out", "--gguf-type", "f16", names=["--gguf-path"])
        self.export(DEMO, ["--gguf-type", "q4_0"], "--gguf-type", "q4_0")
        self.export(DEMO, ["--dtype"], "--dtype", "bf16")
        self.refused("export", "--hf-model", DEMO, "--mistral-path", "out", "--dtype", "fp8", names=["fp8", "--hf-path"])
        self.refused("export", "--hf-model", HF, "--adapter-path", MEGATRON.parent / "lora", "--adapter-only",
                     "--hf-path", "out", "--dtype", "bf16", names=["--dtype bf16 has no effect"])
        self.export("absent", ["absent"])

    def test_what_llama_cpp_cannot_run(self):
        def edited(section, **changes):
            model = Path(shutil.copytree(DEMO, self.folder / "model", dirs_exist_ok=True))

            def change(config):
                for key in section:
                    config = config[key]
                config.update(changes)

            edit_json(model / "config.json", change)
            return model

        rope = ("text_config", "rope_parameters")
        self.export(edited(rope, truncate=False), ["truncate"])
        self.export(edited(("text_config",), rms_norm_eps=1e-6), ["rms_norm_eps", "1e-06", "1e-05"])
        self.export(edited((), projector_hidden_act="silu"), ["projector_hidden_act"])
        self.export(edited((), vision_feature_layer=0), ["vision_feature_layer=0"])
        self.export(edited(("vision_config", "rope_parameters"), rope_theta=500.0), ["rope_theta", 500, 10000])

    def test_no_row_break(self):
        model = Path(shutil.copytree(DEMO, self.folder / "model"))
        for file in ("tokenizer.json", "tekken.json"):
            (model / file).unlink()
        self.export(model, ["[IMG_BREAK]"], progress=True)

    def test_another_way_of_cutting_text(self):
        model = Path(shutil.copytree(DEMO, self.folder / "model"))
        edit_json(model / "tekken.json", lambda file: file["config"].update(pattern=r"\p{L}+|."))
        self.export(model, [model / "tekken.json", "pattern"])

    def huge(self):
        """The demo model with 65536 in a weight."""
        model = Path(shutil.copytree(DEMO, self.folder / "model"))
        file = model / "model.safetensors"
        data = bytearray(file.read_bytes())
        size = struct.unpack("<Q", data[:8])[0]
        entry = json.loads(data[8:8 + size])["language_model.model.layers.2.mlp.up_proj.weight"]
        self.assertEqual(entry["dtype"], "BF16")
        at = 8 + size + entry["data_offsets"][0]
        data[at:at + 2] = struct.pack("<H", 0x4780)
        file.write_bytes(data)
        return model

    def test_value_beyond_float16(self):
        (self.folder / "out").mkdir()
        model = self.huge()
        self.refused("export", "--hf-model", model, "--hf-path", "out", "--dtype", "f16", progress=True,
                     names=["model.layers.2.mlp.up_proj.weight", "65504", "bf16"])
        self.export(model, ["blk.2.ffn_up.weight", "F16", "bf16"], "--gguf-type", "f16", progress=True)


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Pickles(Refusals):
    """A Megatron directory whose pickles name a callable of their own: refused by name, and never run."""

    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "run"
        shutil.copytree(MEGATRON, self.run_folder)
        self.marker = self.folder / "was_run"
        self.calls = {"system": Call(os.system, f"touch {self.marker}"),
                      "eval": Call(eval, f"open({str(self.marker)!r}, 'w').close()"),
                      "exec": Call(exec, f"open({str(self.marker)!r}, 'w').close()"),
                      "Popen": Call(subprocess.Popen, ["touch", str(self.marker)])}

    def refuses(self, file, function, command="inspect"):
        arguments = {
            "inspect": [self.run_folder],
            "export": ["--megatron-path", self.run_folder, "--hf-model", HF, "--hf-path", "out"],
            "generate": ["--megatron-model-path", self.run_folder, "--hf-model-path", HF, "--prompt", "a"],
        }[command]
        self.refused(command, *arguments, names=[file.name, function])
        self.assertFalse(self.marker.exists(), f"{function} was run")

    def the(self, pattern):
        found = sorted(self.run_folder.rglob(pattern))
        self.assertTrue(found, f"the fixture has no {pattern}")
        return found[0]

    def test_python_runs_them(self):
        """Each of these pickles does its harm where a reader runs what it is told to."""
        for call in self.calls.values():
            done = pickle.loads(pickle.dumps(call, protocol=4))
            if isinstance(done, subprocess.Popen):
                done.wait()
            self.assertTrue(self.marker.exists())
            self.marker.unlink()

    def test_metadata(self):
        file = self.the(".metadata")
        for protocol in (2, 4, 5):
            for function, call in self.calls.items():
                with self.subTest(function=function, protocol=protocol):
                    file.write_bytes(pickle.dumps(call, protocol=protocol))
                    self.refuses(file, function)
        file.write_bytes(pickle.dumps({"state_dict_metadata": self.calls["system"]}, protocol=4))
        for command in ("inspect", "export", "generate"):
            self.refuses(file, "system", command)

    def test_train_state(self):
        file = self.the("latest_train_state.pt")
        with zipfile.ZipFile(file) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        for function, call in self.calls.items():
            with self.subTest(function=function):
                with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                    for name, data in entries.items():
                        poisoned = pickle.dumps({"args": call}, protocol=2)
                        archive.writestr(name, poisoned if name.endswith("/data.pkl") else data)
                self.refuses(file, function)

    def test_truncated(self):
        file = self.the(".metadata")
        data = file.read_bytes()
        for kept in (0, 1, len(data) // 2, len(data) - 1):
            with self.subTest(kept=kept):
                file.write_bytes(data[:kept])
                self.refused("inspect", self.run_folder, names=[file])

    def test_truncated_data(self):
        file = self.the("*.distcp")
        os.truncate(file, file.stat().st_size // 2)
        self.refused("export", "--megatron-path", self.run_folder, "--hf-model", HF, "--hf-path", "out", names=[file.name])


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
