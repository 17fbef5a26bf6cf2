#!/usr/bin/env python3
"""Weights under a config that is not theirs: every command that opens them refuses, as export does.

  .venv/bin/python tests/cli/test_weights.py --trestle build/release/trestle [TestCase.test ...]
"""

import json
import shutil
import struct
import unittest
from pathlib import Path

import script
from test_bad_input import HF, MEGATRON, Refusals, edit_json


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
        shutil.copytree(MEGATRON, self.folder / "run")
        data = self.folder / "run" / "iter_0000000" / "__0_0.distcp"
        bytes_there = bytearray(data.read_bytes())
        bytes_there[len(bytes_there) // 2] ^= 1
        data.write_bytes(bytes_there)
        for command in self.commands("run"):
            with self.subTest(command=command[0]):
                self.refused(*command, names=[data.name, "has the sum", "damaged"], progress=command[0] == "export")


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
