#!/usr/bin/env python3
"""`trestle export` of adapters at the command line: which base it takes, and what it says to wrong ones.

  .venv/bin/python tests/cli/test_adapters.py --trestle build/release/trestle [TestCase.test ...]
"""

import json
import shutil
import unittest
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import script
from test_bad_input import HF, TESTS, Refusals

MEGATRON = TESTS / "fixtures" / "megatron"
NOTHING = "this adapter changes nothing"
ADAPTER = "adapter_model.safetensors"


class Exports(Refusals):
    def exports(self, *arguments):
        done = self.run_trestle("export", *arguments, "--hf-path", "out")
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def run_folder(self, name, base=None):
        """A copy of a run of the real bridge; `base` takes the place of its pretrained_checkpoint."""
        folder = Path(shutil.copytree(MEGATRON / name, self.folder / name))
        if base is not None:
            file = next(folder.glob("iter_*/run_config.yaml"))
            text = file.read_text()
            self.assertIn("pretrained_checkpoint: import", text)
            file.write_text(text.replace("pretrained_checkpoint: import", f"pretrained_checkpoint: {base}"))
        return folder

    def test_the_base_beside_the_run(self):
        """The run says `import`, which from here leads nowhere; it lies beside the run."""
        self.exports("--megatron-path", MEGATRON / "lora")
        merged, base = load_file(self.folder / "out" / "model.safetensors"), load_file(HF / "model.safetensors")
        self.assertEqual(merged.keys(), base.keys())
        changed = {name for name in base if not torch.equal(merged[name], base[name])}
        self.assertTrue(changed)
        self.assertTrue(all(".layers." in name and "_proj.weight" in name and "language_model" in name
                            for name in changed), changed)

    def test_every_way_to_name_the_two(self):
        outputs = []
        for arguments in (["--megatron-path", MEGATRON / "dora"],
                          ["--megatron-path", MEGATRON / "dora", "--hf-model", HF],
                          ["--megatron-path", MEGATRON / "import", "--adapter-path", MEGATRON / "dora"],
                          ["--megatron-path", MEGATRON / "import", "--hf-model", HF, "--adapter-path", MEGATRON / "dora"],
                          ["--hf-model", HF, "--adapter-path", MEGATRON / "dora"],
                          ["--adapter-path", MEGATRON / "dora"]):
            self.exports(*arguments)
            outputs.append((self.folder / "out" / "model.safetensors").read_bytes())
            shutil.rmtree(self.folder / "out")
        self.assertEqual(len(set(outputs)), 1)

    def test_a_folder_needs_no_base(self):
        run = self.run_folder("dora", "/nowhere")
        self.exports("--megatron-path", run, "--adapter-only")
        config = json.loads((self.folder / "out" / "adapter_config.json").read_text())
        self.assertTrue(config["use_dora"])
        self.assertEqual(len(config["target_modules"]), 21)
        self.assertFalse([name for name in config["target_modules"] if "language_model.layers" not in name])
        stored = load_file(self.folder / "out" / ADAPTER)
        self.assertEqual({value.dtype for value in stored.values()}, {torch.bfloat16})

    def test_a_folder_keeps_its_precision(self):
        """An fp32 adapter of a bf16 base."""
        source = Path(shutil.copytree(MEGATRON / "adapter_lora", self.folder / "fp32"))
        generator = torch.Generator().manual_seed(3)
        tensors = {name: torch.randn(value.shape, generator=generator)
                   for name, value in load_file(source / ADAPTER).items()}
        save_file(tensors, source / ADAPTER)
        self.exports("--hf-model", HF, "--adapter-path", source, "--adapter-only")
        out = load_file(self.folder / "out" / ADAPTER)
        for name, value in tensors.items():
            name = name.replace("language_model.model.", "model.language_model.")
            self.assertTrue(torch.equal(out[name], value), name)

    def test_a_folder_names_a_base_that_is_found_from_anywhere(self):
        shutil.copytree(HF, self.folder / "base")
        self.exports("--hf-model", "base/", "--adapter-path", MEGATRON / "adapter_lora", "--adapter-only")
        named = json.loads((self.folder / "out" / "adapter_config.json").read_text())["base_model_name_or_path"]
        self.assertEqual(Path(named), (self.folder / "base").resolve())

    def untrained(self, source):
        folder = Path(shutil.copytree(source, self.folder / "untrained"))
        tensors = load_file(folder / ADAPTER)
        save_file({name: torch.zeros_like(value) if "lora_B" in name else value for name, value in tensors.items()},
                  folder / ADAPTER)
        return folder

    # users' pain point 5: an adapter that does nothing.
    def test_an_adapter_that_changes_nothing(self):
        folder = self.untrained(MEGATRON / "adapter_lora")
        self.assertIn(NOTHING, self.exports("--hf-model", HF, "--adapter-path", folder))
        shutil.rmtree(self.folder / "out")
        self.assertIn(NOTHING, self.exports("--hf-model", HF, "--adapter-path", folder, "--adapter-only"))
        done = self.run_trestle("generate", "--hf-model-path", HF, "--adapter-path", folder, "--prompt", "a",
                                "--max-new-tokens", 1)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn(NOTHING, done.stderr)
        self.assertIn(str(folder), done.stderr)

    def test_an_adapter_that_changes_something(self):
        for folder in (MEGATRON / "adapter_lora", MEGATRON / "lora", MEGATRON / "dora"):
            with self.subTest(folder.name):
                self.assertNotIn(NOTHING, self.exports("--hf-model", HF, "--adapter-path", folder))
                shutil.rmtree(self.folder / "out")

    def test_a_dora_whose_magnitudes_alone_are_trained(self):
        self.exports("--megatron-path", MEGATRON / "dora", "--adapter-only")
        (self.folder / "out").rename(self.folder / "dora")
        folder = self.untrained(self.folder / "dora")
        tensors = load_file(folder / ADAPTER)
        save_file({name: value * (1.5 if "magnitude" in name else 1) for name, value in tensors.items()}, folder / ADAPTER)
        self.assertNotIn(NOTHING, self.exports("--hf-model", HF, "--adapter-path", folder))

    def test_refusals(self):
        lora, base = MEGATRON / "lora", MEGATRON / "import"
        lost = self.run_folder("lora", "/nowhere/base")
        nameless = self.run_folder("dora", "null")
        for arguments, names in (
                ([], ["--megatron-path", "--adapter-path"]),
                (["--adapter-only"], ["--megatron-path", "--adapter-path"]),
                (["--hf-model", HF, "--adapter-only"], ["no adapter", "name it with --adapter-path", "--megatron-path"]),
                (["--megatron-path", lora, "--adapter-path", MEGATRON / "adapter_lora"], [lora, "adapter_lora", "both"]),
                (["--megatron-path", base, "--adapter-only"], [base, "no adapter"]),
                (["--adapter-path", MEGATRON / "adapter_lora"], ["adapter_lora", "--hf-model"]),
                (["--hf-model", HF, "--adapter-path", base], [base, "not an adapter"]),
                (["--hf-model", HF, "--adapter-path", "absent"], ["absent", "does not exist"]),
                (["--megatron-path", lost], [lost, "/nowhere/base", "--hf-model"]),
                (["--megatron-path", nameless], [nameless, "--hf-model"])):
            with self.subTest(arguments=arguments):
                self.refused("export", *arguments, "--hf-path", "out", names=names)

    def test_a_full_target_stays(self):
        (self.folder / "out").mkdir()
        (self.folder / "out" / "mine.txt").write_text("mine")
        for more in ([], ["--adapter-only"]):
            self.refused("export", "--megatron-path", MEGATRON / "lora", *more, "--hf-path", "out", names=["out", "empty"])


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
