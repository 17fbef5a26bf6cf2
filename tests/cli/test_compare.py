#!/usr/bin/env python3
"""`trestle compare` and `export --verify`: their numbers against torch's and hashlib's, and what they say.

  .venv/bin/python tests/cli/test_compare.py --trestle build/release/trestle --faults build/release/tests/faults.so
"""

import hashlib
import json
import os
import shutil
import subprocess
import unittest
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import script
from test_bad_input import DEMO, HF, MACHINE, MEGATRON, TESTS, Refusals

FAULTS = None
LORA = TESTS / "fixtures" / "megatron" / "lora"


def canonical(name):
    return name.replace("language_model.model.", "model.").replace("language_model.lm_head", "lm_head")


class Compare(Refusals):
    def compare(self, *arguments):
        done = self.run_trestle("compare", *arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def edited(self, **changes):
        """The demo model with tensors replaced."""
        model = Path(shutil.copytree(DEMO, self.folder / "edited", dirs_exist_ok=True))
        tensors = load_file(model / "model.safetensors") | changes
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None},
                  model / "model.safetensors", {"format": "pt"})
        return model

    def test_equal_in_every_form(self):
        tensors = load_file(DEMO / "model.safetensors")
        run = self.folder / "run"
        self.run_trestle("import", "--hf-model", DEMO, "--megatron-path", run)
        self.run_trestle("export", "--hf-model", DEMO, "--mistral-path", self.folder / "mistral")
        for other in (DEMO, run, self.folder / "mistral"):
            report = self.compare(DEMO, other)
            self.assertEqual((report["equal"], report["unmatched"], report["max_error"]), (len(tensors), 0, 0))
            self.assertEqual(report["logits"]["max_kl"], 0)
            self.assertEqual(report["logits"]["same_top"], report["logits"]["positions"])
            self.assertEqual(report["a"]["text"], report["b"]["text"])
            hashes = {each["name"]: each["a"]["sha256"] for each in report["tensors"]}
            for name, tensor in tensors.items():
                data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
                self.assertEqual(hashes[canonical(name)], hashlib.sha256(data).hexdigest(), name)

    def test_errors_are_torchs(self):
        name = "language_model.model.layers.1.mlp.up_proj.weight"
        before = load_file(DEMO / "model.safetensors")[name]
        after = before + torch.randn(before.shape, generator=torch.Generator().manual_seed(1)).to(before.dtype) * 0.1
        report = self.compare(DEMO, self.edited(**{name: after}))
        differing = [each for each in report["tensors"] if not each["equal"]]
        self.assertEqual([each["name"] for each in differing], [canonical(name)])
        self.assertEqual(differing[0]["max_error"], (after.double() - before.double()).abs().max().item())
        self.assertEqual(differing[0]["max_value"], before.double().abs().max().item())
        self.assertGreater(report["logits"]["mean_kl"], 0)
        self.assertGreaterEqual(report["logits"]["max_kl"], report["logits"]["mean_kl"])

    def test_table_page_and_status(self):
        name = "vision_tower.ln_pre.weight"
        other = self.edited(**{name: torch.ones(128, dtype=torch.bfloat16) * 3})
        page = self.folder / "page.html"
        done = self.run_trestle("compare", DEMO, other, "--html", page, "--prompt", "a < b?")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(name, done.stdout)
        self.assertIn("KL(A || B)", done.stdout)
        self.assertNotIn("model.norm.weight", done.stdout)
        self.assertIn("model.norm.weight", self.run_trestle("compare", DEMO, other, "--all").stdout)
        text = page.read_text()
        self.assertIn("a &lt; b?", text)
        self.assertNotIn("http", text)
        self.assertIn(name, text)
        self.assertEqual(self.run_trestle("compare", DEMO, DEMO, "--max-error", 0, "--no-forward").returncode, 0)
        self.refused_after_output("compare", DEMO, other, "--max-error", "0.01", names=["1 differ", "0.01"])
        self.refused_after_output("compare", DEMO, HF, "--max-error", "1e9", names=["counterpart"])

    def test_values_that_are_equal_or_no_numbers(self):
        """-0 for 0 is no other dtype, and a NaN no infinite difference."""
        name = "vision_tower.ln_pre.weight"
        zeros = torch.zeros(128, dtype=torch.bfloat16)
        nan = zeros.clone()
        nan[3] = float("nan")
        shutil.move(self.edited(**{name: zeros}), self.folder / "zeros")
        for changed, row, total in ((-zeros, "equal values, other bits", "1 have equal values in other bits (-0 for 0, or NaNs)"),
                                    (zeros.float(), "equal values, other dtype\n", "1 have equal values in another dtype"),
                                    (torch.cat([-zeros[:3], zeros[3:]]).float(), "equal values, other dtype, -0 for 0 at 3 of 128 elements",
                                     "1 have equal values in another dtype"),
                                    (nan, "NaN against a number at 1, 1 of 128 elements", "1 differ: NaN against a number at 1\n")):
            done = self.run_trestle("compare", self.folder / "zeros", self.edited(**{name: changed}), "--no-forward")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn(row, done.stdout)
            self.assertIn(total, done.stdout)
            shutil.rmtree(self.folder / "edited")

    def test_weights_that_are_no_numbers(self):
        """The tensors are compared, and the side whose logits are none is named."""
        name = "language_model.model.norm.weight"
        for value in (float("nan"), float("inf")):
            broken = self.edited(**{name: torch.full_like(load_file(DEMO / "model.safetensors")[name], value)})
            for arguments, side in (((DEMO, broken), "the logits of B are not finite"),
                                    ((broken, DEMO), "the logits of A are not finite"),
                                    ((broken, broken), "the logits of A and of B are not finite")):
                done = self.run_trestle("compare", *arguments, "--all")
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn("model.norm.weight", done.stdout)
                self.assertIn(f"logits: not compared: {side}", done.stdout)
                self.assertIn(side, done.stderr)

    def test_a_side_that_lacks_a_tensor_is_named(self):
        broken = self.edited(**{"language_model.model.norm.weight": None})
        for arguments, side in (((DEMO, broken), "B"), ((broken, DEMO), "A")):
            self.refused("compare", *arguments, names=[f"{side} ({broken}): tensor model.norm.weight is missing"])
        # A path that is a word of the message.
        shutil.move(broken, self.folder / "model")
        done = subprocess.run([script.TRESTLE, "compare", DEMO, "model"], capture_output=True, text=True, cwd=self.folder)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn("B (model): tensor model.norm.weight is missing", done.stderr)

    def refused_after_output(self, *arguments, names):
        done = self.run_trestle(*arguments)
        self.assertEqual(done.returncode, 2, done.stderr)
        for name in names:
            self.assertIn(name, done.stderr)

    def test_other_vocabulary(self):
        report = self.compare(DEMO, HF)
        self.assertIn("vocab_size is 608 and 288", report["no_logits"])

    def test_adapter_is_its_merged_model(self):
        """A run of adapters, its PEFT folder and the merged export are one model, and not the base."""
        merged, folder = self.folder / "merged", self.folder / "peft"
        self.run_trestle("export", "--megatron-path", LORA, "--hf-path", merged)
        self.run_trestle("export", "--megatron-path", LORA, "--adapter-only", "--hf-path", folder)
        for adapter, base in ((LORA, []), (folder, ["--hf-model", HF])):
            report = self.compare(adapter, merged, *base)
            self.assertEqual(report["equal"], len(report["tensors"]))
            self.assertEqual(report["logits"]["max_kl"], 0)
        self.assertGreater(self.compare(LORA, MEGATRON)["logits"]["mean_kl"], 0)
        self.refused("compare", folder, merged, names=["--hf-model"])

    def test_gguf(self):
        self.run_trestle("export", "--hf-model", DEMO, "--gguf-path", self.folder / "gguf", "--gguf-type", "bf16")
        report = self.compare(DEMO, self.folder / "gguf")
        self.assertEqual((report["unmatched"], report["max_error"]), (0, 0))
        self.assertEqual(report["b"]["form"], "GGUF, tied")
        self.assertLess(report["logits"]["max_kl"], 1e-4)
        self.refused("compare", DEMO, self.folder / "empty.gguf", names=["empty.gguf"])


class Verify(Refusals):
    def flipped(self, *arguments, at):
        environment = os.environ | {"LD_PRELOAD": str(FAULTS), "FAULT": "flip", "FAULT_AT": str(at), "OMP_NUM_THREADS": "1"}
        return subprocess.run([script.TRESTLE, *map(str, arguments)], cwd=self.folder, env=environment,
                              capture_output=True, text=True)

    def test_default_and_off(self):
        for flags, word in (([], True), (["--verify"], True), (["--no-verify"], False)):
            done = self.run_trestle("export", "--hf-model", DEMO, "--hf-path", "out", *flags)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual("verified: 80 tensors" in done.stderr, word)
            shutil.rmtree(self.folder / "out")

    def test_a_bit_that_flips_on_its_way(self):
        for output in (["--hf-path", "out"], ["--mistral-path", "out"], ["--gguf-path", "out", "--gguf-type", "q8_0"]):
            with self.subTest(output=output[0]):
                done = self.flipped("export", "--hf-model", DEMO, *output, at=30)
                self.assertEqual(done.returncode, MACHINE, done.stderr)
                self.assertIn("verify: ", done.stderr)
                self.assertIn("reads back", done.stderr)
                self.assertEqual(list(self.folder.iterdir()), [])
                kept = self.flipped("export", "--hf-model", DEMO, *output, "--no-verify", at=30)
                self.assertEqual(kept.returncode, 0, kept.stderr)
                shutil.rmtree(self.folder / "out")

    def test_peft_folder(self):
        done = self.run_trestle("export", "--megatron-path", LORA, "--adapter-only", "--hf-path", "out")
        self.assertEqual(done.returncode, 0, done.stderr)
        shutil.rmtree(self.folder / "out")
        done = self.flipped("export", "--megatron-path", LORA, "--adapter-only", "--hf-path", "out", at=5)
        self.assertEqual(done.returncode, MACHINE, done.stderr)
        self.assertIn("reads back differently", done.stderr)
        self.assertEqual(list(self.folder.iterdir()), [])


if __name__ == "__main__":
    FAULTS = script.read_line(__doc__, faults=script.FAULTS).faults
    unittest.main()
