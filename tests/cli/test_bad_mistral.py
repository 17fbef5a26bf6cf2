#!/usr/bin/env python3
"""What the built program says to bad directories in Mistral's own form.

  .venv/bin/python tests/cli/test_bad_mistral.py --trestle build/release/trestle [TestCase.test ...]

The rules are those of test_bad_input.py: one line that names file and values, exit status 2, nothing
left behind.
"""

import shutil
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import script  # noqa: E402
import test_bad_input as bad  # noqa: E402

NATIVE = bad.TESTS / "fixtures" / "mistral"
WEIGHTS, PARAMS = "consolidated.safetensors", "params.json"


class MistralFiles(bad.Refusals):
    def model(self, name="model"):
        return Path(shutil.copytree(NATIVE, self.folder / name))

    def every_command(self, model, names):
        """The commands that read a checkpoint all refuse it."""
        self.refused("import", "--hf-model", model, "--megatron-path", "run", names=names)
        self.refused("export", "--hf-model", model, "--mistral-path", "out", names=names)
        self.refused("generate", "--hf-model-path", model, "--prompt", "a", "--max-new-tokens", 1, names=names)

    def params(self, names, **changes):
        model = self.model()
        bad.edit_json(model / PARAMS, lambda params: params.update(changes))
        self.every_command(model, names)
        shutil.rmtree(model)

    def test_no_params(self):
        model = self.model()
        (model / PARAMS).unlink()
        self.every_command(model, [model / PARAMS])

    def test_no_weights(self):
        model = self.model()
        (model / WEIGHTS).unlink()
        self.every_command(model, [model, WEIGHTS])

    def test_params_are_no_json(self):
        model = self.model()
        for text in ("", "{", "[1]", '"dim"', "[" * 1000 + "]" * 1000):
            with self.subTest(text=text[:8]):
                (model / PARAMS).write_text(text)
                self.every_command(model, [PARAMS])

    def test_keys_that_change_the_meaning(self):
        self.params([PARAMS, "moe", "num_experts"], moe={"num_experts": 8})
        self.params([PARAMS, "kv_lora_rank=256"], kv_lora_rank=256)
        self.params([PARAMS, "sliding_window=4096"], sliding_window=4096)
        self.params([PARAMS, "lora"], lora={"rank": 8})
        self.params([PARAMS, "qformat_weight=nvfp4", "fp8_e4m3"], quantization={"qformat_weight": "nvfp4"})
        self.params([PARAMS, "quantization_config"], quantization_config={"quant_method": "fp8"})
        self.params([PARAMS, "yarn.mscale"], yarn={"mscale": 2})

    def test_values(self):
        self.params([PARAMS, "dim", '"48"'], dim="48")
        self.params([PARAMS, "n_layers", "-1"], n_layers=-1)
        self.params([PARAMS, "n_layers", str(10**12)], n_layers=10**12)
        self.params([PARAMS, "n_heads", "1000000000.0"], n_heads=1e9)
        self.params([PARAMS, "vision_encoder"], vision_encoder=[])

    def test_other_shapes(self):
        self.params(["[72, 48]", "[96, 48]"], n_heads=8)
        self.params(["[80, 48]", "[81, 48]"], hidden_dim=81)
        self.params(["layers.3."], n_layers=4)

    def test_tensors(self):
        model = self.model()
        whole = (model / WEIGHTS).read_bytes()

        def rename(old, new):
            def change(header):
                header[new] = header.pop(old)
            (model / WEIGHTS).write_bytes(whole)
            bad.edit_header(model / WEIGHTS, change)

        rename("layers.1.attention.wq.weight", "layers.1.attention.wz.weight")
        self.every_command(model, ["layers.1."])
        # Hugging Face's names have no place here: their rows would be taken for Mistral's.
        rename("layers.1.attention.wq.weight", "model.layers.1.self_attn.q_proj.weight")
        self.every_command(model, ["model.layers.1.self_attn.q_proj.weight"])

        def as_fp8(header):
            entry = header["layers.0.feed_forward.w1.weight"]
            entry["dtype"], entry["shape"] = "F8_E4M3", [entry["shape"][0], 2 * entry["shape"][1]]
        (model / WEIGHTS).write_bytes(whole)
        bad.edit_header(model / WEIGHTS, as_fp8)
        self.every_command(model, [WEIGHTS, "layers.0.feed_forward.w1.qscale_weight"])
        (model / WEIGHTS).write_bytes(whole[:-1])
        self.every_command(model, [WEIGHTS, "truncated"])

    def test_tie(self):
        self.params([PARAMS, "tied_embeddings=true", "output.weight"], tied_embeddings=True)

    def test_no_vocabulary(self):
        """Nothing is written in Mistral's form without tekken.json."""
        self.refused("export", "--hf-model", bad.HF, "--mistral-path", "out", names=["out", "tekken.json"],
                     progress=True)

    def test_what_params_cannot_state(self):
        model = Path(shutil.copytree(bad.HF, self.folder / "hf"))
        shutil.copy(NATIVE / "tekken.json", model)
        bad.edit_json(model / "config.json", lambda config: config.update(projector_hidden_act="relu"))
        self.refused("export", "--hf-model", model, "--mistral-path", "out", names=["projector_hidden_act", "gelu"])

    def test_format(self):
        for arguments in (["import", "--hf-model", bad.HF, "--megatron-path", "run"],
                          ["export", "--hf-model", bad.HF, "--hf-path", "out"],
                          ["inspect", bad.HF],
                          ["generate", "--hf-model-path", bad.HF, "--prompt", "a"],
                          ["logits", "--hf-model-path", bad.HF, "--inputs", "i", "--output", "o"]):
            with self.subTest(command=arguments[0]):
                self.refused(*arguments, "--format", "mistral", names=["--format mistral", bad.HF, "it holds: hf"])
                self.refused(*arguments, "--format", "gguf", names=["--format", "gguf"])
        self.refused("import", "--hf-model", bad.MEGATRON, "--megatron-path", "run", names=[bad.MEGATRON, "Megatron"])

    def test_export_flags(self):
        self.refused("export", "--hf-model", NATIVE, names=["--hf-path", "--mistral-path"])
        self.refused("export", "--hf-model", NATIVE, "--hf-path", "a", "--mistral-path", "b",
                     names=["--hf-path", "--mistral-path"])
        self.refused("export", "--hf-path", "a", names=["--megatron-path", "--hf-model"])
        for size in ("0", "-5GB", "many", "5XB", "1.5", "1.5B"):
            with self.subTest(size=size):
                self.refused("export", "--hf-model", NATIVE, "--hf-path", "a", f"--max-shard-size={size}",
                             names=["--max-shard-size"])


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
