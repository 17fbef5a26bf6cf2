#!/usr/bin/env python3
"""Parts of a model that are not its own, or are not there: every command that opens it refuses, as export does.

  .venv/bin/python tests/cli/test_weights.py --trestle build/release/trestle [TestCase.test ...]
"""

import json
import os
import shutil
import struct
import unittest
from pathlib import Path

import script
from test_bad_input import DEMO, HF, MEGATRON, Refusals, edit_json


class Opened(Refusals):
    """Every command that opens a Megatron checkpoint."""

    def setUp(self):
        super().setUp()
        header = b'{"input_ids":{"dtype":"I64","shape":[1,2],"data_offsets":[0,16]}}'
        (self.folder / "ids").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<qq", 65, 66))
        (self.folder / "rows.jsonl").write_text(json.dumps({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n")

    def commands(self, run, config=None):
        """Those that open a run, with a config from elsewhere or its own."""
        path, model = ([f"--hf-model{end}", config] if config else [] for end in ("-path", ""))
        given = ["--megatron-model-path", run, *path]
        yield "generate", *given, "--prompt", "a", "--max-new-tokens", 1
        yield "logits", *given, "--inputs", "ids", "--output", "logits.safetensors"
        yield "evaluate", *given, "--maker", "jsonl", "--data", "rows.jsonl"
        yield "export", "--megatron-path", run, *model, "--hf-path", "out"
        yield "export", "--megatron-path", run, *model, "--gguf-path", "out"
        yield "compare", run, HF, *model
        yield "compare", HF, run, *model
        if not config:
            yield ("finetune", "--recipe", "demo_config", f"checkpoint.pretrained_checkpoint={run}", "checkpoint.save=run",
                   "dataset.path_or_dataset=rows.jsonl", "dataset.maker_name=jsonl", "train.train_iters=1",
                   "train.global_batch_size=1", "train.micro_batch_size=1", "scheduler.lr_warmup_iters=0")


class OtherModels(Opened):
    """A checkpoint under a config that is not its own: refused wherever it is opened, as export does."""

    def test_a_config_from_elsewhere(self):
        for key, value, own in (("num_key_value_heads", 1, 2), ("num_hidden_layers", 2, 3), ("rms_norm_eps", 1e-6, "1e-05"),
                                ("vocab_size", 280, 288)):
            config = self.folder / key
            shutil.copytree(HF, config)
            edit_json(config / "config.json", lambda file: file["text_config"].update({key: value}))
            for command in self.commands(MEGATRON, config):
                with self.subTest(key=key, command=command[0]):
                    self.refused(*command, names=[config / "config.json", f"text_config.{key}=", "run_config.yaml", own])

    def test_the_same_shapes(self):
        """Twice the heads of half the size: nothing but the run's own config can tell."""
        config = self.model()
        edit_json(config / "config.json", lambda file: file["text_config"].update(
            num_attention_heads=12, num_key_value_heads=4, head_dim=6))
        for command in self.commands(MEGATRON, config):
            self.refused(*command, names=["num_attention_heads=12", "says 6"])

    def test_tensors_against_the_config(self):
        """A run whose own config is another model's, and one that has none."""
        for layers, words in ((2, ["layers.2.", "no place"]), (4, ["layers.3.", "missing"])):
            run = Path(shutil.copytree(MEGATRON, self.folder / f"run{layers}"))
            file = next(run.rglob("run_config.yaml"))
            text = file.read_text()
            self.assertIn("num_hidden_layers: 3", text)
            file.write_text(text.replace("num_hidden_layers: 3", f"num_hidden_layers: {layers}"))
            for command in self.commands(run):
                self.refused(*command, names=[run, *words])
        next((self.folder / "run2").rglob("run_config.yaml")).unlink()
        config = self.model()
        edit_json(config / "config.json", lambda file: file["text_config"].update(num_key_value_heads=1))
        for command in self.commands(self.folder / "run2", config):
            self.refused(*command, names=["linear_qkv.weight", "[120, 48]", "[96, 48]"])

    def test_what_only_describes(self):
        config = self.model()
        edit_json(config / "config.json", lambda file: file.update(transformers_version="4.57.3"))
        edit_json(config / "config.json", lambda file: file["text_config"].update(max_position_embeddings=1024))
        for command in self.commands(MEGATRON, config):
            if "--gguf-path" not in command:  # which wants an [IMG_BREAK]
                done = self.run_trestle(*command)
                self.assertEqual(done.returncode, 0, done.stderr)


class Damaged(Opened):
    """One bit that the disk has changed: nothing is made of it, and nothing calls it verified."""

    def test_a_bit_of_a_record(self):
        shutil.copytree(MEGATRON, self.folder / "import")
        data = self.folder / "import" / "iter_0000000" / "__0_0.distcp"
        bytes_there = bytearray(data.read_bytes())
        bytes_there[len(bytes_there) // 2] ^= 1
        data.write_bytes(bytes_there)
        for command in self.commands("import"):
            with self.subTest(command=command[:2]):
                self.refused(*command, names=[data.name, "has the sum", "damaged"], progress=command[0] in ("export", "evaluate"))


class Packed(Opened):
    """Weights in panels answer as those that are packed as they are read, and are no checkpoint for others."""

    FORMS = ("bf16", "int8", "int4")
    ASK = ("--prompt", "one one two one one two", "--max-new-tokens", 12, "--logprobs", 2)

    def said(self, *command):
        done = self.run_trestle(*command)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def packed(self, form, *source):
        self.said("quantize", *(source or ("--hf-model", DEMO)), "--output-path", form, "--weights", form)
        return self.folder / form

    def test_answers_are_those_of_the_checkpoint(self):
        for form in self.FORMS:
            model, source = ("--hf-model-path", self.packed(form)), ("--hf-model-path", DEMO, "--weights", form)
            for command in (("generate", *self.ASK), ("evaluate", "--maker", "jsonl", "--data", "rows.jsonl", "--json")):
                wanted = self.said(*command, *source)
                with self.subTest(form=form, command=command[0]):
                    self.assertEqual(self.said(*command, *model), wanted)
                    self.assertEqual(self.said(*command, *model, "--weights", form), wanted)
            for name, line in (("a", source), ("b", model)):
                self.said("logits", *line, "--inputs", "ids", "--output", f"{name}.safetensors")
            self.assertEqual((self.folder / "a.safetensors").read_bytes(), (self.folder / "b.safetensors").read_bytes())

    def test_an_adapter_is_merged_or_beside(self):
        self.said("finetune", "--recipe", "demo_config", f"checkpoint.pretrained_checkpoint={DEMO}", "checkpoint.save=run",
                  "dataset.path_or_dataset=rows.jsonl", "dataset.maker_name=jsonl", "train.train_iters=2", "optimizer.lr=0.02",
                  "train.global_batch_size=1", "train.micro_batch_size=1", "scheduler.lr_warmup_iters=0")
        self.said("export", "--megatron-path", "run", "--hf-path", "merged")
        merged = self.packed("int8", "--megatron-path", "run")
        wanted = self.said("generate", "--hf-model-path", "merged", "--weights", "int8", *self.ASK)
        self.assertEqual(self.said("generate", "--hf-model-path", merged, *self.ASK), wanted)
        plain = self.packed("bf16")
        self.assertEqual(self.said("generate", "--hf-model-path", plain, "--adapter-path", "run", *self.ASK),
                         self.said("generate", "--hf-model-path", DEMO, "--adapter-path", "run", *self.ASK))

    def test_others_take_none(self):
        packed = self.packed("int4")
        words = [packed, "weights in panels", "name the checkpoint"]
        for command in (("export", "--hf-model", packed, "--hf-path", "out"), ("import", "--hf-model", packed, "--megatron-path", "out"),
                        ("quantize", "--hf-model", packed, "--weights", "int8", "--output-path", "out"), ("compare", packed, DEMO),
                        ("compare", DEMO, packed),
                        ("finetune", "--recipe", "demo_config", f"checkpoint.pretrained_checkpoint={packed}", "checkpoint.save=run",
                         "dataset.path_or_dataset=rows.jsonl", "dataset.maker_name=jsonl", "train.train_iters=1",
                         "train.global_batch_size=1", "train.micro_batch_size=1", "scheduler.lr_warmup_iters=0")):
            with self.subTest(command=command[0]):
                self.refused(*command, names=words)
        self.assertFalse((self.folder / "out").exists())

    def test_what_does_not_fit(self):
        bf16, int4 = self.packed("bf16"), self.packed("int4")
        for model, flags, words in ((int4, ("--weights", "16"), ["--weights 16", "packed in int4"]),
                                    (int4, ("--weights", "fp8"), ["--weights fp8", "packed in int4"]),
                                    (bf16, ("--dtype", "float32"), ["--dtype float32", "packed in bf16"])):
            self.refused("generate", "--hf-model-path", model, *self.ASK, *flags, names=words)
        data = int4 / "packed.safetensors"
        data.write_bytes(data.read_bytes()[:-1])
        self.refused("generate", "--hf-model-path", int4, *self.ASK, names=[data])
        done = self.run_trestle("inspect", "--check", int4)
        self.assertEqual(done.returncode, 2, done.stderr)

    def test_is_inspected(self):
        packed = self.packed("int4")
        self.assertIn("ok: ", self.said("inspect", "--check", packed))
        listed = json.loads(self.said("inspect", packed, "--json"))
        self.assertEqual(listed["kind"], "weights in panels, int4")
        forms = {name: tensor.get("stored_as") for name, tensor in listed["tensors"].items()}
        self.assertEqual(forms["language_model.decoder.layers.0.mlp.linear_fc1.weight"], "int4")
        self.assertEqual({form for name, form in forms.items() if form and not name.startswith("language_model.")}, {"bf16"})
        self.assertIsNone(forms["language_model.decoder.final_layernorm.weight"])


class SideFiles(Refusals):
    """A name that a tokenizer's, template's or processor's file has, taken by what is no file: the file would be lost."""

    NAMES = ("tokenizer.json", "tokenizer_config.json", "tekken.json", "special_tokens_map.json", "added_tokens.json",
             "tokenizer.model", "vocab.json", "merges.txt", "processor_config.json", "preprocessor_config.json",
             "chat_template.jinja", "chat_template.json", "generation_config.json", "SYSTEM_PROMPT.txt",
             "CHAT_SYSTEM_PROMPT.txt", "params.json")
    KINDS = {"dangling": (lambda path: path.symlink_to("../blobs/absent"), "../blobs/absent, which leads nowhere"),
             "directory": (Path.mkdir, "is a directory"), "pipe": (os.mkfifo, "is a pipe")}

    def setUp(self):
        super().setUp()
        (self.folder / "rows.jsonl").write_text(json.dumps({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n")

    def all_refuse(self, model, form, place, word):
        commands = [("export", "--hf-model" if form == "hf" else "--megatron-path", model, "--hf-path", "out"),
                    ("generate", f"--{form}-model-path", model, "--prompt", "a", "--max-new-tokens", 1),
                    ("finetune", "--recipe", "demo_config", f"checkpoint.pretrained_checkpoint={model}", "checkpoint.save=run",
                     "dataset.path_or_dataset=rows.jsonl", "dataset.maker_name=jsonl", "train.train_iters=1",
                     "train.global_batch_size=1", "train.micro_batch_size=1", "scheduler.lr_warmup_iters=0")]
        if form == "hf":
            commands.append(("import", "--hf-model", model, "--megatron-path", "out"))
        for command in commands:
            with self.subTest(file=place.name, kind=word, command=command[0]):
                self.refused(*command, names=[place, word])
        with self.subTest(file=place.name, kind=word, command="inspect"):
            done = self.run_trestle("inspect", "--check", model)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertRegex(done.stdout, f"(?m)^.*{place}.*{word}")

    def taken(self, model, form, place, kind):
        make, word = self.KINDS[kind]
        make(place)
        self.all_refuse(model, form, place, word)
        place.rmdir() if kind == "directory" else place.unlink()

    def test_of_a_directory(self):
        model = self.model()
        for name in self.NAMES:
            place = model / name
            mine = place.read_bytes() if place.exists() else None
            place.unlink(missing_ok=True)
            for kind in self.KINDS if name == "tokenizer_config.json" else ("dangling", "directory"):
                self.taken(model, "hf", place, kind)
            if mine:
                place.write_bytes(mine)

    def test_of_a_run(self):
        run = Path(shutil.copytree(MEGATRON, self.folder / "model"))
        folder = run / "iter_0000000" / "tokenizer"
        for kind in self.KINDS:
            self.taken(run, "megatron", folder / "chat_template.jinja", kind)
        folder.rename(self.folder / "away")
        folder.symlink_to("absent")
        self.all_refuse(run, "megatron", folder, "does not exist")

    def test_links_are_followed(self):
        """As the Hub's cache has them."""
        model = self.model()
        for name in ("tokenizer.json", "generation_config.json"):
            (model / name).rename(self.folder / name)
            (model / name).symlink_to(f"../{name}")
        done = self.run_trestle("export", "--hf-model", model, "--hf-path", "out")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((self.folder / "out" / "tokenizer.json").read_bytes(), (HF / "tokenizer.json").read_bytes())
        self.assertTrue((self.folder / "out" / "generation_config.json").is_file())


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
