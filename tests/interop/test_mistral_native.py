#!/usr/bin/env python3
"""Mistral's own form (consolidated.safetensors, params.json, tekken.json) against its real readers.

  .venv/bin/python tests/interop/test_mistral_native.py --trestle build/release/trestle

The readers: transformers, whose rules for Mistral's names (conversion_mapping) and for q's and k's
rows (PermuteForRope) must give the source's tensors back, and whose model must have the source's
logits; mistral-inference, Mistral's own program, which computes logits from the directory as it is;
and mistral-common for tekken.json. The releases of transformers on the package registry leave their
converter scripts out; `--converter FILE` runs one from a source tree
(src/transformers/models/ministral3/convert_ministral3_weights_to_hf.py) as well.
Ends with "N passed, M failed".
"""

import importlib.util
import inspect
import json
import shutil
import sys
import types
from pathlib import Path

import torch
import transformers
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from safetensors.torch import load_file, save_file
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.core_model_loading import PermuteForRope

import checks
import make_mistral_fixtures as fixtures
from checks import ROOT, close, inner_names, require, run, same_tensors, weights_of
from goldens import models

LOGITS = 1e-4
TEXT = "model.language_model."


class TransformersRules:
    """What the installed transformers does to Mistral's files: its mapping of the one model that it
    loads from them, whose names are those of the whole family, and its move of rows."""

    def __init__(self):
        self.root = get_checkpoint_conversion_mapping("mistral_large4")
        self.text = get_checkpoint_conversion_mapping("mistral_large4_text")

    def name(self, name, has_vision):
        for rule in self.root:
            name = rule.rename_source_key(name)[0]
        if name.startswith(TEXT):
            for rule in self.text:
                name = rule.rename_source_key(name)[0]
            if not has_vision:
                name = "model." + name[len(TEXT):]
        return name

    def convert(self, tensors, config):
        vision = config.get("vision_config")
        text = config.get("text_config", config)
        result = {}
        for native, weight in tensors.items():
            name = self.name(native, vision is not None)
            if name.endswith((".q_proj.weight", ".k_proj.weight")):
                key = "num_attention_heads" if ".q_proj." in name else "num_key_value_heads"
                heads = vision["num_attention_heads"] if "vision_tower" in name else text[key]
                weight = PermuteForRope().convert(
                    {native: weight}, [native], [name],
                    types.SimpleNamespace(num_attention_heads=heads))[name]
            result[name] = weight
        return result


def load_mistral_inference():
    """mistral-inference with torch's attention in the place of xformers', which has none for CPUs.

    It is asked for one sequence from its start, and for one picture, so a mask is causal or none.
    """
    class Causal:
        @classmethod
        def from_seqlens(cls, lengths):
            assert len(lengths) == 1, lengths
            return cls()

        def make_local_attention(self, window):
            return self

    def attention(query, key, value, mask=None):
        heads_first = [tensor.transpose(1, 2) for tensor in (query, key, value)]
        result = torch.nn.functional.scaled_dot_product_attention(
            *heads_first, is_causal=isinstance(mask, Causal))
        return result.transpose(1, 2)

    bias = types.ModuleType("xformers.ops.fmha.attn_bias")
    bias.BlockDiagonalCausalMask = Causal
    for name in ("AttentionBias", "BlockDiagonalCausalWithOffsetPaddedKeysMask"):
        setattr(bias, name, type(name, (), {}))
    bias.BlockDiagonalMask = type(
        "BlockDiagonalMask", (), {"from_seqlens": staticmethod(lambda lengths: None)})
    fmha = types.ModuleType("xformers.ops.fmha")
    fmha.memory_efficient_attention = attention
    sys.modules |= {"xformers": types.ModuleType("xformers"),
                    "xformers.ops": types.ModuleType("xformers.ops"),
                    "xformers.ops.fmha": fmha, "xformers.ops.fmha.attn_bias": bias}
    from mistral_inference import cache, transformer
    return transformer.Transformer, cache.BufferCache


def load_converter(path):
    spec = importlib.util.spec_from_file_location("converter", path)
    module = importlib.util.module_from_spec(spec)
    # Names of classes that later releases renamed; only the writing of processors uses them.
    for name in ("PixtralImageProcessorFast", "PixtralProcessor"):
        if not hasattr(transformers, name):
            setattr(transformers, name, None)
    spec.loader.exec_module(module)
    return module


def all_models():
    """Models that params.json can state, the odd terms away from where they vanish."""
    def yarn(**changes):
        return models.yarn(mscale=1.0, mscale_all_dim=1.0, **changes)

    tied = models.mistral3(
        models.text_config("ministral3", True, rope_parameters=yarn()), models.vision_config(14))
    scaled = models.mistral3(
        models.text_config("ministral3", False, rope_parameters=yarn() | {"mscale_all_dim": 0.0},
                           rms_norm_eps=0.02),
        models.vision_config(4, layers=3), multimodal_projector_bias=True)
    # Without YaRN, so that mistral-inference knows it.
    plain = models.mistral3(
        models.text_config("mistral", False, rope_parameters={
            "rope_type": "default", "rope_theta": 1000.0}),
        models.vision_config(4), multimodal_projector_bias=True)
    text = {"architectures": ["Ministral3ForCausalLM"], "dtype": "float32",
            **models.text_config(
                "ministral3", False, rope_parameters=yarn() | {"mscale_all_dim": 0.0})}
    return [
        models.Model("tied", tied, models.NESTED, 31, [[(56, 84)], []], embed_std=0.15),
        models.Model("scaled", scaled, models.FLAT, 32, [[(24, 32), (40, 16)], [(16, 16)]]),
        models.Model("plain", plain, models.NESTED, 33, [[(32, 24)]]),
        models.Model("text", text, models.FLAT, 34, [[], []], length=64),
    ]


def check_generate(trestle, scratch):
    """The demo's model, a picture above its largest: sizes and vocabulary come from Mistral's files."""
    demo, image = ROOT / "assets" / "demo" / "model", ROOT / "tests/image/golden/1x1700.png"
    native, megatron = scratch / "native", scratch / "run"
    run(trestle, "export", "--hf-model", demo, "--mistral-path", native)
    run(trestle, "import", "--hf-model", native, "--megatron-path", megatron)
    answers = []
    for option, folder in (("--hf-model-path", demo), ("--hf-model-path", native),
                           ("--megatron-model-path", megatron)):
        done = run(trestle, "generate", option, folder, "--image-path", image, "--prompt", "Read the receipt as text",
                   "--max-new-tokens", "8", "--json")
        answers.append(json.loads(done.stdout))
    require(answers[0] == answers[1] == answers[2], f"answers differ: {answers}")


class Checks:
    """Everything that is checked of one model, each method one line of the result."""

    def __init__(self, trestle, model, scratch, converter):
        self.trestle, self.model, self.scratch, self.converter = trestle, model, scratch, converter
        self.rules = TransformersRules()
        self.hf, self.native = self.scratch / "hf", self.scratch / "native"
        models.write_model(model, self.hf)
        fixtures.write_tekken(self.hf / "tekken.json")
        self.source = inner_names(load_file(self.hf / "model.safetensors"), model.spelling)
        self.batch, _ = models.make_batch(model)
        self.reference = self.forward(self.hf)
        run(trestle, "export", "--hf-model", self.hf, "--mistral-path", self.native)

    @torch.no_grad()
    def forward(self, folder):
        return models.load_model(self.model, folder)(**self.batch, use_cache=False).logits

    def logits(self, folder, *more, **options):
        return checks.logits(self.trestle, folder, self.batch, *more, **options)[0]["logits"]

    def check_files(self):
        names = sorted(path.name for path in self.native.iterdir())
        require(names == ["consolidated.safetensors", "params.json", "tekken.json"], f"the export holds {names}")
        made = fixtures.write_native(self.hf, self.scratch / "made")
        same_tensors("the tool's inverse", load_file(self.native / "consolidated.safetensors"),
                     load_file(made / "consolidated.safetensors"))
        ours = json.loads((self.native / "params.json").read_text())
        tools = json.loads((made / "params.json").read_text())
        require(ours == {key: value for key, value in tools.items() if value is not None},
                f"params.json is {ours}, the tool has {tools}")

    def check_transformers_rules(self):
        converted = self.rules.convert(weights_of(self.native, "consolidated"), self.model.config)
        same_tensors("transformers' names and rows", converted, self.source)

    def check_to_hugging_face(self):
        run(self.trestle, "export", "--hf-model", self.native, "--hf-path", self.scratch / "back")
        back = weights_of(self.scratch / "back", "model")
        spelling = models.FLAT if self.model.is_text else models.NESTED
        same_tensors("the export's tensors", inner_names(back, spelling), self.source)
        require(torch.equal(self.forward(self.scratch / "back"), self.reference),
                "transformers has other logits from the export than the source")

    def check_logits(self):
        ours = self.logits(self.native)
        close("logits", ours, self.reference, LOGITS)
        require(torch.equal(ours, self.logits(self.hf)), "the two forms give different logits")

    def check_shards_and_megatron(self):
        shards, megatron = self.scratch / "shards", self.scratch / "run"
        checks.through_megatron(self.trestle, self.native, megatron, "--mistral-path", shards,
                                "--max-shard-size", "100KB")
        names = sorted(path.name for path in shards.glob("consolidated-*.safetensors"))
        require(len(names) >= 2 and not (shards / "consolidated.safetensors").exists(), f"shards of 100 KB: {names}")
        index = json.loads((shards / "consolidated.safetensors.index.json").read_text())
        for name, file in index["weight_map"].items():
            require(name in load_file(shards / file), f"the index places {name} in {file}, where it is not")
        same_tensors("through Megatron", weights_of(shards, "consolidated"), weights_of(self.native, "consolidated"))
        for name in ("params.json", "tekken.json"):
            require((shards / name).read_text() == (self.native / name).read_text(),
                    f"{name} changed on its way through Megatron")
        for option, folder in (("--hf-model-path", shards), ("--megatron-model-path", megatron)):
            require(torch.equal(self.logits(folder, option=option), self.logits(self.native)),
                    f"{folder.name}: other logits")

    def check_both_forms(self):
        both = Path(shutil.copytree(self.hf, self.scratch / "both"))
        shutil.copytree(self.native, both, dirs_exist_ok=True)
        tensors = load_file(both / "consolidated.safetensors")
        tensors["norm.weight"] = tensors["norm.weight"] * 2
        save_file(tensors, both / "consolidated.safetensors")
        plain, doubled = self.logits(both), self.logits(both, "--format", "mistral")
        close("doubled logits", doubled, 2 * plain, LOGITS)
        require(torch.equal(plain, self.logits(both, "--format", "hf")), "Hugging Face's form does not come first")
        said = run(self.trestle, "inspect", both).stderr.splitlines()
        require(len(said) == 1 and "--format mistral" in said[0] and "MB" in said[0], f"stderr says {said}")

    def check_fp8(self):
        if self.model.is_text:
            return checks.SKIPPED
        tensors = load_file(self.native / "consolidated.safetensors")
        expected = {}
        for name in list(tensors):
            if not name.startswith("layers.") or "norm" in name:
                continue
            weight = tensors[name]
            scale = weight.abs().max() / 448
            tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
            tensors[name.replace(".weight", ".qscale_weight")] = scale
            tensors[name.replace(".weight", ".qscale_act")] = torch.tensor(0.25)
            expected[name] = (tensors[name].float() * scale).to(torch.bfloat16)
        folder = Path(shutil.copytree(self.native, self.scratch / "fp8"))
        save_file(tensors, folder / "consolidated.safetensors")
        params = json.loads((folder / "params.json").read_text())
        params["quantization"] = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
        (folder / "params.json").write_text(json.dumps(params))
        run(self.trestle, "export", "--hf-model", folder, "--hf-path", self.scratch / "fp8_hf")
        ours = inner_names(weights_of(self.scratch / "fp8_hf", "model"), models.NESTED)
        theirs = self.rules.convert(expected, self.model.config)
        same_tensors("scaled FP8", {name: ours[name] for name in theirs}, theirs)

    def check_tekken(self):
        require((self.native / "tekken.json").read_bytes() == (self.hf / "tekken.json").read_bytes(),
                "tekken.json is not the source's")
        tokenizer = Tekkenizer.from_file(self.native / "tekken.json")
        ids = tokenizer.encode("Grüße", bos=True, eos=True)
        require(tokenizer.decode(ids) == "Grüße" and ids[0] == models.BOS, f"mistral-common reads {ids}")

    @torch.no_grad()
    def check_mistral_inference(self):
        if self.model.name != "plain":
            return checks.SKIPPED
        model_class, cache_class = load_mistral_inference()
        model = model_class.from_folder(self.native, device="cpu", dtype=torch.float32)
        text = self.model.config["text_config"]
        ids = self.batch["input_ids"][0]
        cache = cache_class(text["num_hidden_layers"], 1, len(ids), text["num_key_value_heads"],
                            text["head_dim"])
        cache.reset()
        theirs = model.forward(ids, [len(ids)], cache, images=[self.batch["pixel_values"][0]])
        close("logits of mistral-inference", theirs, self.reference[0], LOGITS)
        close("our logits against mistral-inference", self.logits(self.native)[0], theirs, LOGITS)

    @torch.no_grad()
    def check_converter(self):
        """transformers' script, which knows YaRN only and takes its scale for granted: off with
        vision, on without."""
        if self.converter is None or self.model.name not in ("tied", "text"):
            return checks.SKIPPED
        module = load_converter(self.converter)
        params = json.loads((self.native / "params.json").read_text())
        arguments = [params, 262144]
        if len(inspect.signature(module.convert_config).parameters) > 2:
            arguments.append(not self.model.is_text)
        config = module.convert_config(*arguments)
        converted = module.convert_state_dict(weights_of(self.native, "consolidated"), config)
        same_tensors("transformers' converter", converted, self.source)
        model = models.model_class(self.model)._from_config(
            config, dtype=torch.float32, attn_implementation="eager")
        text = config if self.model.is_text else config.text_config
        if text.tie_word_embeddings:
            converted["lm_head.weight"] = converted[TEXT + "embed_tokens.weight"]
        model.load_state_dict(converted, strict=True)
        logits = model.eval()(**self.batch, use_cache=False).logits
        close("logits of the converter's model", logits, self.reference, 0)


def main():
    parser = checks.parser(__doc__)
    parser.add_argument("--converter", type=Path, help="transformers' converter script")
    args = parser.parse_args()
    checks.quiet_transformers()
    counted = checks.Counted(args.only)
    counted.run_in_scratch("check_generate", lambda scratch: check_generate(args.trestle, scratch))
    for model in all_models():
        counted.run_methods(lambda scratch: Checks(args.trestle, model, scratch, args.converter), model.name)
    return counted.status()


if __name__ == "__main__":
    sys.exit(main())
