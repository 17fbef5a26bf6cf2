#!/usr/bin/env python3
"""The family beside Ministral 3: pictures for text-only models, and mixtures of experts, refused by every command.

  .venv/bin/python tests/cli/test_kin.py --trestle build/release/trestle [TestCase.test ...]

The rules are those of test_bad_input.py: one line that names file and values, exit status 2, nothing left behind.
"""

import hashlib
import json
import shutil
import struct
import unittest
from pathlib import Path

import gguf
import numpy
import script
import torch
from safetensors.torch import load_file, save_file
from test_bad_input import HF, IMAGE, MEGATRON, TESTS, Refusals, edit_json

NATIVE = TESTS / "fixtures" / "mistral"
STEPS = ("dataset.maker_name=jsonl", "train.train_iters=1", "train.global_batch_size=1", "train.micro_batch_size=1",
         "scheduler.lr_warmup_iters=0")


def row(*parts):
    return json.dumps({"messages": [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": "b"}]}) + "\n"


class Commands(Refusals):
    def setUp(self):
        super().setUp()
        text = {"type": "text", "text": "a"}
        (self.folder / "rows.jsonl").write_text(row(text))
        (self.folder / "pictures.jsonl").write_text(row({"type": "image", "path": str(IMAGE)}, text))
        self.inputs("ids", input_ids=("I64", [1, 2], struct.pack("<qq", 65, 66)))

    def inputs(self, name, **tensors):
        header, data = {}, b""
        for key, (dtype, shape, content) in tensors.items():
            header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
        text = json.dumps(header).encode()
        (self.folder / name).write_bytes(struct.pack("<Q", len(text)) + text + data)

    def finetune(self, model, data):
        return ("finetune", "--recipe", "demo_config", f"checkpoint.pretrained_checkpoint={model}", "checkpoint.save=run",
                f"dataset.path_or_dataset={data}", *STEPS)

    def opening(self, model):
        """Every command that opens a model of Hugging Face's or Mistral's form."""
        yield "import", "--hf-model", model, "--megatron-path", "out"
        for form in ("hf", "mistral", "gguf"):
            yield "export", "--hf-model", model, f"--{form}-path", "out"
        yield "generate", "--hf-model-path", model, "--prompt", "a", "--max-new-tokens", 1
        yield "logits", "--hf-model-path", model, "--inputs", "ids", "--output", "logits.safetensors"
        yield "evaluate", "--hf-model-path", model, "--maker", "jsonl", "--data", "rows.jsonl"
        yield "compare", model, HF
        yield "compare", HF, model
        yield "inspect", model
        yield self.finetune(model, "rows.jsonl")

    def all_refuse(self, model, names, once=False, but=()):
        """Every command but those named, or with `once` the first of them."""
        for command in (each for each in self.opening(model) if each[0] not in but):
            with self.subTest(model=model, command=command[:2]):
                self.refused(*command, names=names)
            if once:
                return


class TextOnly(Commands):
    """The language model of a fixture alone; what works with such models: tests/interop/test_kin.py."""

    def text_model(self):
        model = self.model("text")
        edit_json(model / "config.json", lambda config: config.update(
            config.pop("text_config") | {"architectures": ["Ministral3ForCausalLM"]}) or config.pop("vision_config"))
        tensors = load_file(model / "model.safetensors")
        save_file({name.removeprefix("language_model."): value for name, value in tensors.items()
                   if name.startswith("language_model.")}, model / "model.safetensors")
        return model

    def test_a_tokenizer_of_another_model(self):
        model, vocabulary = self.text_model(), 64
        edit_json(model / "config.json", lambda config: config.update(vocab_size=vocabulary))
        tensors = load_file(model / "model.safetensors")
        save_file({name: value[:vocabulary].clone() if "embed_tokens" in name or "lm_head" in name else value
                   for name, value in tensors.items()}, model / "model.safetensors")
        done = self.run_trestle(*self.finetune(model, "rows.jsonl"), "model.params_dtype=float32")
        self.assertEqual(done.returncode, 2, done.stderr)
        for part in ("row 0", "token id", "ids 0 to 63", str(model), "another model's tokenizer"):
            self.assertIn(part, done.stderr.splitlines()[-1])

    def test_nothing_to_train(self):
        self.refused(*self.finetune(self.text_model(), "rows.jsonl"), "peft.scheme=", "model.freeze_language_model=true",
                     names=["nothing is trained", "model.freeze_language_model"])

    def test_pictures(self):
        model = self.text_model()
        native = self.folder / "native"
        done = self.run_trestle("generate", "--hf-model-path", model, "--prompt", "a", "--max-new-tokens", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        shutil.copy(NATIVE / "tekken.json", model)
        done = self.run_trestle("export", "--hf-model", model, "--mistral-path", native)
        self.assertEqual(done.returncode, 0, done.stderr)
        for path, file, tower in ((model, "config.json", "vision_config"), (native, "params.json", "vision_encoder")):
            names = [path / file, "text-only model", tower, "takes no pictures"]
            self.refused("generate", "--hf-model-path", path, "--prompt", "a", "--image-path", IMAGE, names=names)
            self.refused("evaluate", "--hf-model-path", path, "--maker", "jsonl", "--data", "pictures.jsonl", names=names,
                         progress=True)
            data = ("--hf-model-path", path, "--maker", "jsonl", "--data", "pictures.jsonl")
            done = self.run_trestle("data", "check", *data)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("takes no pictures", done.stdout)
            self.run_trestle("data", "show", *data, "--output", "page.html")
            self.assertIn("takes no pictures", (self.folder / "page.html").read_text())
            (self.folder / "page.html").unlink()
            done = self.run_trestle(*self.finetune(path, "pictures.jsonl"))  # a run begins before its first row is read
            self.assertEqual(done.returncode, 2, done.stderr)
            for name in names:
                self.assertIn(str(name), done.stderr.splitlines()[-1])
            shutil.rmtree(self.folder / "run")
            pixels = ("F32", [1, 3, 8, 8], bytes(4 * 192))
            self.inputs("seen", input_ids=("I64", [1, 2], struct.pack("<qq", 65, 66)), pixel_values=pixels)
            self.refused("logits", "--hf-model-path", path, "--inputs", "seen", "--output", "logits.safetensors",
                         names=["pixel_values", "no vision tower"])

    def test_keys_of_pictures(self):
        model = self.text_model()
        for key, value in (("model.freeze_vision_model", "true"), ("model.freeze_vision_projection", "true"),
                           ("dataset.image_max_edge", 56), ("dataset.image_max_tokens", 50)):
            line = ("finetune", "--recipe", "ministral3_3b_sft_config", *self.finetune(model, "rows.jsonl")[3:], f"{key}={value}")
            self.refused(*line, names=[f"{key}={value}", "text only"], progress=True)

    def test_a_run(self):
        """A Megatron run has the tokenizer's files and no config.json."""
        run = self.folder / "megatron"
        self.assertEqual(self.run_trestle("import", "--hf-model", self.text_model(), "--megatron-path", run).returncode, 0)
        self.refused("generate", "--megatron-model-path", run, "--prompt", "a", "--image-path", IMAGE,
                     names=["no vision tower"])


class Mixtures(Commands):
    """Mistral's mixtures of experts, by the names that their files have."""

    MODELS = {"mistral4": "Mistral Small 4", "mistral_large4": "Mistral Large 4", "mixtral": "Mixtral"}

    def test_of_text_config(self):
        for kind, name in (*self.MODELS.items(), ("mistral_large4_text", "Mistral Large 4")):
            model = self.model()
            edit_json(model / "config.json", lambda config: config["text_config"].update(
                model_type=kind, n_routed_experts=128, kv_lora_rank=256, sliding_window=None))
            self.all_refuse(model, [model / "config.json", f"text_config.model_type={kind}", name, "experts"],
                            once=kind != "mistral4")
            shutil.rmtree(model)

    def test_of_the_top(self):
        """With weights in FP4 and a method of quantisation that is not ours either: the name comes first."""
        for kind, name in self.MODELS.items():
            model = self.model()
            edit_json(model / "config.json", lambda config: config.update(
                model_type=kind, quantization_config={"quant_method": "compressed-tensors"}))
            self.inputs("model/model.safetensors", a=("F4", [4], b"ab"))
            self.all_refuse(model, [model / "config.json", f"model_type={kind}", name, "experts"],
                            once=kind != "mistral_large4")
            shutil.rmtree(model)

    def test_of_params(self):
        model = Path(shutil.copytree(NATIVE, self.folder / "native"))
        edit_json(model / "params.json", lambda params: params.update(
            {"q_lora_rank": 1024, "kv_lora_rank": 256, "moe": {"num_experts": 128, "num_experts_per_tok": 4}} | params))
        self.all_refuse(model, [model / "params.json", "moe=", "num_experts", "mixture of experts"])

    def test_null_means_dense(self):
        """Mistral Medium 3.5's params.json names what it has not."""
        model = Path(shutil.copytree(NATIVE, self.folder / "native"))
        edit_json(model / "params.json", lambda params: params.update(
            {key: None for key in ("moe", "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")}))
        done = self.run_trestle("import", "--hf-model", model, "--megatron-path", "out")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_of_a_run(self):
        run = Path(shutil.copytree(MEGATRON, self.folder / "run"))
        file = next(run.rglob("run_config.yaml"))
        text = file.read_text()
        file.write_text(text.replace("Ministral3Config", "Mistral4Config").replace("model_type: ministral3", "model_type: mistral4"))
        self.assertNotEqual(file.read_text(), text)
        for command in (("export", "--megatron-path", run, "--hf-path", "out"),
                        ("generate", "--megatron-model-path", run, "--prompt", "a", "--max-new-tokens", 1)):
            self.refused(*command, names=["model_type=mistral4", "Mistral Small 4", "experts"])

    def gguf_model(self, architecture, experts):
        path = self.folder / f"{architecture}{experts}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        writer.add_block_count(1)
        if experts is not None:
            writer.add_expert_count(experts)
        writer.add_tensor("token_embd.weight", numpy.ones((4, 32), numpy.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    def test_of_gguf(self):
        """`compare` is the command that opens a model in GGUF; `inspect` lists any file's keys."""
        for architecture, experts, names in (
                ("mistral4", 128, ["general.architecture=mistral4", "Mistral Small 4", "experts"]),
                ("llama", 8, ["llama.expert_count=8", "mixture of experts"]),
                ("mistral3", 16, ["mistral3.expert_count=16", "mixture of experts"]),
                ("deepseek2", 128, ["deepseek2.expert_count=128", "mixture of experts"]),
                ("llama", 0, ["general.architecture is llama", "mistral3 only"]),
                ("llama", None, ["general.architecture is llama", "mistral3 only"])):
            path = self.gguf_model(architecture, experts)
            for command in (("compare", path, HF), ("compare", HF, path)):
                self.refused(*command, names=[path, *names])
            self.assertEqual(self.run_trestle("inspect", path).returncode, 0)


class PackedWeights(Commands):
    """A quantised checkpoint in 4 or 6 bits: inspected, checked, hashed and compared as it lies there, and no model."""

    def test_every_command(self):
        model = self.model()
        shapes = {"F4": ([64, 48], 1536), "F6_E2M3": ([4, 6], 18), "F6_E3M2": ([8], 6), "F8_E8M0": ([4], 4)}
        for dtype, (shape, size) in shapes.items():
            self.inputs("model/model.safetensors", **{"language_model.model.norm.weight": (dtype, shape, bytes(size))})
            self.all_refuse(model, ["model.safetensors", "language_model.model.norm.weight", f"{dtype} [{shape[0]}", "F8_E4M3"],
                            once=dtype != "F4", but=["inspect", "compare"])
            done = self.run_trestle("inspect", model, "--json", "--sha256")
            self.assertEqual(done.returncode, 0, done.stderr)
            entry = json.loads(done.stdout)["tensors"]["model.norm.weight"]
            self.assertEqual((entry["dtype"], entry["shape"], entry["sha256"]), (dtype, shape, hashlib.sha256(bytes(size)).hexdigest()))
            file = model / "model.safetensors"
            listed = json.loads(self.run_trestle("inspect", file, "--json", "--sha256").stdout)["tensors"]
            entry = listed["language_model.model.norm.weight"]
            self.assertEqual((entry["dtype"], entry["shape"]), (dtype, shape))
            self.assertEqual(entry["sha256"], hashlib.sha256(bytes(size)).hexdigest())
            self.assertIn(f"ok: 1 tensors, {size} bytes", self.run_trestle("inspect", file, "--check").stdout)

    def with_types(self, folder, changes):
        """The fixture with some of its tensors in another type: {canonical name: (dtype, shape, bytes)}."""
        model = Path(shutil.copytree(HF, self.folder / folder))
        tensors = {}
        for name, tensor in load_file(model / "model.safetensors").items():
            tensors[name] = ("BF16", list(tensor.shape), tensor.contiguous().view(torch.uint8).numpy().tobytes())
        for name, entry in changes.items():
            tensors[f"language_model.{name}"] = entry
        self.inputs(f"{folder}/model.safetensors", **tensors)
        return model

    GATE, UP, DOWN = (f"model.layers.1.mlp.{each}_proj.weight" for each in ("gate", "up", "down"))

    def packed(self, folder, f4=bytes(1920), f6=bytes(2880), e8=bytes(48)):
        return self.with_types(folder, {self.GATE: ("F4", [80, 48], f4), self.UP: ("F4", [80, 48], bytes(1920)),
                                        self.DOWN: ("F6_E2M3", [48, 80], f6), "model.norm.weight": ("F8_E8M0", [48], e8)})

    def test_check(self):
        """What is to be checked of them is right or wrong; that nothing converts them is no fault of theirs."""
        model = self.packed("whole")
        done = self.run_trestle("inspect", model, "--check")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        note, ok = done.stdout.splitlines()
        self.assertRegex(ok, r"^ok: \d+ tensors, \d+ bytes$")
        for word in ("note: ", str(model), "4 tensors of F4, F6_E2M3, F8_E8M0", self.DOWN, "nothing converts"):
            self.assertIn(word, note)
        report = json.loads(self.run_trestle("inspect", model, "--check", "--json").stdout)
        self.assertEqual((report["ok"], report["problems"], len(report["notes"])), (True, [], 1))
        for name, entry, words in (
                (self.DOWN, ("F6_E2M3", [80, 48], bytes(2880)), ["[80, 48]", "[48, 80]"]),
                (self.UP, ("F6_E3M2", [80, 48], bytes(2880)), ["F4 [80, 48]", "F6_E3M2 [80, 48]", "must agree"]),
                (self.GATE, ("F4", [80, 48], bytes(1919)), ["1920 bytes", "span 1919"]),
                ("model.layers.1.mlp.gate_proj.weight_scale", ("F8_E8M0", [80, 2], bytes(160)), ["has no place"])):
            with self.subTest(name=name, words=words):
                changed = self.with_types(f"changed{words[0]}", {
                    self.GATE: ("F4", [80, 48], bytes(1920)), self.UP: ("F4", [80, 48], bytes(1920)),
                    self.DOWN: ("F6_E2M3", [48, 80], bytes(2880)), name: entry})
                done = self.run_trestle("inspect", changed, "--check")
                self.assertEqual(done.returncode, 2)
                problem, = (line for line in done.stdout.splitlines() if not line.startswith("note: "))
                for word in (name, *words):
                    self.assertIn(word, problem)

    def test_a_scale_is_listed(self):
        """Of what is no weight here a scale is a tensor as others are."""
        scale = self.GATE + "_scale_inv"
        for kind in ("F32", "F8_E8M0", "F4"):
            model = self.with_types(kind, {self.GATE: ("F4", [80, 48], bytes(1920)),
                                           scale: (kind, [2], bytes({"F32": 8, "F8_E8M0": 2, "F4": 1}[kind]))})
            listed = json.loads(self.run_trestle("inspect", model, "--json", "--sha256").stdout)["tensors"]
            self.assertEqual(listed[scale]["dtype"], kind)
        model = self.with_types("fp8", {self.GATE: ("F8_E4M3", [80, 48], bytes(3840)), scale: ("F4", [80, 1], bytes(40))})
        listed = json.loads(self.run_trestle("inspect", model, "--json", "--sha256").stdout)["tensors"]
        self.assertEqual((listed[self.GATE]["dtype"], listed[scale]["dtype"]), ("F8_E4M3", "F4"))
        self.refused("import", "--hf-model", model, "--megatron-path", "out", names=[scale, "F4 [80, 1]"])

    def compared(self, a, b, *flags):
        done = self.run_trestle("compare", a, b, "--json", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        return report, {each["name"]: each for each in report["tensors"]}

    def test_compare(self):
        a = self.packed("a")
        report, _ = self.compared(a, a)
        self.assertEqual((report["equal"], report["max_error"]), (len(report["tensors"]), 0))
        self.assertEqual(report["a"]["form"], "Hugging Face, as stored")
        # The codes of 0x1f are -6 and 0.5, of 0x80 0 and -0; 0x81 is the exponent of 4.
        f4 = bytes([0x1F, 0x80]) + bytes(1918)
        b = self.packed("b", f4=f4, f6=b"\1" + bytes(2879), e8=b"\x81" + bytes(47))
        report, tensors = self.compared(a, b)
        self.assertEqual((report["unmatched"], report["max_error"]), (0, None))
        self.assertIn(f"{self.DOWN} is F6_E2M3 [48, 80]", report["no_logits"])
        self.assertNotIn("logits", report)
        gate, up, down, norm = (tensors[name] for name in (self.GATE, self.UP, self.DOWN, "model.norm.weight"))
        self.assertEqual((gate["differing"], gate["max_error"], gate["a"]["dtype"]), (2, 6, "F4"))
        self.assertEqual(gate["b"]["sha256"], hashlib.sha256(f4).hexdigest())
        self.assertTrue(up["equal"])
        self.assertEqual((down["equal"], down["differing"], down["max_error"]), (False, None, None))
        self.assertEqual((norm["differing"], norm["max_error"], norm["a"]["dtype"]), (1, 4 - 2**-127, "float8_e8m0fnu"))
        page = self.folder / "page.html"
        text = self.run_trestle("compare", a, b, "--html", page).stdout
        for line in (text, page.read_text()):
            self.assertIn("6, 2 of 3840 elements", line)
            self.assertIn("other bytes", line)
            self.assertIn("1 differ in bytes", line)
            self.assertIn("2 differ by up to 6", line)
        done = self.run_trestle("compare", a, self.packed("c", f6=b"\1" + bytes(2879)), "--max-error", "1e300")
        self.assertEqual(done.returncode, 2, done.stdout)
        self.assertIn("1 differ in bytes", done.stderr)

    def test_compare_with_a_model(self):
        a = self.packed("a")
        for pair in ((a, HF), (HF, a)):
            report, tensors = self.compared(*pair)
            self.assertEqual(report["unmatched"], 3)
            self.assertIn("F6_E2M3", report["no_logits"])
            self.assertEqual(tensors["model.norm.weight"]["differing"], 48)
            self.assertTrue(tensors["model.embed_tokens.weight"]["equal"])
            self.assertIn("other type", self.run_trestle("compare", *pair).stdout)
        self.refused("compare", a, HF, "--prompt", "a", names=["--prompt", "not compared", self.DOWN])
        self.refused("compare", a, a, "--hf-model", HF, names=["--hf-model"])
        adapter = TESTS / "fixtures" / "megatron" / "adapter_lora"
        self.refused("compare", adapter, HF, "--hf-model", a, names=[self.DOWN, "F6_E2M3"])

    def test_an_adapter(self):
        adapter = self.folder / "adapter"
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4, "target_modules": ["q_proj"]}))
        layers, tensors = "base_model.model.model.language_model.layers", {}
        for layer in range(3):
            for matrix, shape in (("A", [4, 48]), ("B", [96, 4])):
                name = f"{layers}.{layer}.self_attn.q_proj.lora_{matrix}.weight"
                tensors[name] = ("F4", shape, bytes(shape[0] * shape[1] // 2))
        self.inputs("adapter/adapter_model.safetensors", **tensors)
        self.refused("generate", "--hf-model-path", HF, "--adapter-path", adapter, "--prompt", "a", "--max-new-tokens", 1,
                     names=["adapter_model.safetensors", f"{layers}.0.self_attn.q_proj.lora_", "F4 ["])


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
