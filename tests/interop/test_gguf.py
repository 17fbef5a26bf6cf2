#!/usr/bin/env python3
"""The GGUF files that trestle exports, against gguf-py and, where it is installed, llama.cpp itself.

  .venv/bin/python tests/interop/test_gguf.py --trestle build/release/trestle [--only WORD]

gguf-py always: its reader opens both files; names are those of its own tables for `mistral3` and mmproj, and every
tensor equals the source's, converted by gguf-py's quantisers, bit for bit. llama.cpp (`pip install
llama-cpp-python==0.3.36`, a build of ten minutes, so not among the tests' requirements): logits of random models against
`trestle logits`, image features against transformers, and tokens against `trestle tokenize`. Ends with "N passed, M
failed".
"""

import ctypes
import json
import shutil
import sys

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file

try:
    import llama_cpp
    from llama_cpp import mtmd_cpp
except ImportError:
    llama_cpp = None

import checks
from checks import at_most, require, run
from goldens import models

DEMO = checks.ROOT / "assets" / "demo" / "model"
ASSETS = ("tekken.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json", "chat_template.jinja")
TYPES = {name: getattr(gguf.GGMLQuantizationType, name.upper()) for name in ("f16", "bf16", "q8_0")}
VOCAB, LENGTH = 608, 96
# Of the largest logit. llama.cpp multiplies bf16 and f16 weights with activations rounded to the same type, keeps its
# cache in what it is told (fp32 here) and rounds elsewhere to fp32; measured: see docs/gguf.md.
CLOSE = {"f16": 0.004, "bf16": 0.03, "q8_0": 0.06}
TEXTS = ["Hello world, it's 3.14!", "  two  spaces\n\n\tand tabs \n", "Total 1234567 EUR", "naïve Übung, façade", "emoji 🚀 ok",
         "camelCaseWords HTTPServer", "x", "a/b//c\r\nd", "", "</s> [INST] are text here"]


def config(text=None, vision=None, **changes):
    text = models.text_config("ministral3", True, vocab_size=VOCAB, hidden_size=96, intermediate_size=160, head_dim=32,
                              max_position_embeddings=1024) | (text or {})
    text.setdefault("rope_parameters", models.yarn())
    return models.mistral3(text, models.vision_config(14, hidden_size=64, intermediate_size=96, head_dim=32) | (vision or {}),
                           **changes)


def all_models():
    """Every way in which the keys can differ, one each; names as models.all_models has them."""
    plain = models.yarn(rope_theta=10000.0)
    for key in ("mscale", "mscale_all_dim", "beta_fast", "beta_slow"):
        del plain[key]
    untied = config({"tie_word_embeddings": False, "rope_parameters": plain}, {"num_hidden_layers": 3},
                    vision_feature_layer=-2, multimodal_projector_bias=True)
    mistral = config({"model_type": "mistral", "tie_word_embeddings": False, "rope_theta": 1000.0,
                      "rope_parameters": None}, {"hidden_act": "gelu"})
    text = {"architectures": ["Ministral3ForCausalLM"], "dtype": "float32", **config(
        {"rope_parameters": models.yarn(factor=4.0, mscale=0.6, mscale_all_dim=1.4, beta_fast=2.0)})["text_config"]}
    narrow = config({"hidden_size": 48, "head_dim": 16, "intermediate_size": 80})
    return [models.Model("tied", config(), models.NESTED, 41, [], embed_std=0.15),
            models.Model("untied", untied, models.FLAT, 42, []),
            models.Model("mistral", mistral, models.NESTED, 43, []),
            models.Model("text", text, models.FLAT, 44, [], embed_std=0.15),
            models.Model("narrow", narrow, models.NESTED, 45, [], embed_std=0.15)]  # no whole Q8_0 blocks


def interleave_halves(weight, heads):
    """Hugging Face's rotary halves of each head -> neighbouring pairs: row 2i is half 0's i, row 2i+1 half 1's."""
    rows = torch.arange(weight.shape[0]).view(heads, 2, -1)
    return weight[rows.permute(0, 2, 1).reshape(-1)]


def value_of(reader, key):
    field = reader.fields[key]
    return field.contents()


class Checks:
    def __init__(self, trestle, model, scratch):
        self.trestle, self.model = trestle, model
        self.source, self.out = scratch / model.name, scratch / "gguf"
        self.out.mkdir()
        models.write_model(model, self.source)
        for asset in ASSETS:
            shutil.copy(DEMO / asset, self.source)
        self.text = model.config if model.is_text else model.config["text_config"]
        self.vision = None if model.is_text else model.config["vision_config"]
        self.exported = {}

    def export(self, kind):
        if kind not in self.exported:
            run(self.trestle, "export", "--hf-model", self.source, "--gguf-path", self.out, "--gguf-type", kind)
            name = f"{self.model.name}-{kind.upper()}.gguf"
            self.exported[kind] = self.out / name, self.out / f"mmproj-{name}"
        return self.exported[kind]

    def wanted_tensors(self):
        """(is of the vision part, gguf-py's name, tensor as llama.cpp has it) for each tensor of the source."""
        language = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MISTRAL3, self.text["num_hidden_layers"])
        vision = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 8)
        layers = None
        if self.vision:
            feature = self.model.config["vision_feature_layer"]
            layers = self.vision["num_hidden_layers"] + 1 + feature
        for name, tensor in load_file(self.source / "model.safetensors").items():
            is_vision = "vision_tower" in name or "projector" in name
            if is_vision:
                name = name.removeprefix("model.")
                if ".layers." in name and int(name.split(".layers.")[1].split(".")[0]) >= layers:
                    continue
                heads = {"q_proj": self.vision["num_attention_heads"], "k_proj": self.vision["num_attention_heads"]}
            else:
                name = name.replace("language_model.", "")
                name = name if name.startswith(("model.", "lm_head")) else "model." + name
                heads = {"q_proj": self.text["num_attention_heads"], "k_proj": self.text["num_key_value_heads"]}
            projection = name.split(".")[-2]
            if projection in heads:
                tensor = interleave_halves(tensor, heads[projection])
            theirs = (vision if is_vision else language).get_name(name, try_suffixes=(".weight", ".bias"))
            require(theirs, f"gguf-py has no name for {name}")
            if name == "model.embed_tokens.weight" and self.vision:
                yield True, "v.token_embd.img_break", tensor[models.IMG_BREAK]
            yield is_vision, theirs, tensor

    def check_tensors(self):
        for kind, wanted in TYPES.items():
            files = self.export(kind)
            readers = [gguf.GGUFReader(file) for file in files if file.exists()]
            require(len(readers) == (2 if self.vision else 1), f"{len(readers)} files")
            found = [{tensor.name: tensor for tensor in reader.tensors} for reader in readers]
            for is_vision, name, source in self.wanted_tensors():
                tensor = found[is_vision].pop(name, None)
                require(tensor is not None, f"{files[is_vision].name} has no {name}")
                stored = gguf.GGMLQuantizationType.F32 if source.dim() < 2 else wanted
                if name in ("v.patch_embd.weight", "mm.patch_merger.weight") and kind != "f16":
                    stored = gguf.GGMLQuantizationType.F32
                if stored == gguf.GGMLQuantizationType.Q8_0 and source.shape[-1] % 32:
                    stored = gguf.GGMLQuantizationType.F16
                require(tensor.tensor_type == stored, f"{kind} {name} is {tensor.tensor_type.name}, not {stored.name}")
                require(tensor.shape.tolist() == list(reversed(source.shape)), f"{name} has shape {tensor.shape}")
                expected = gguf.quants.quantize(source.numpy(), stored)
                require(tensor.data.tobytes() == expected.tobytes(), f"{kind} {name}: other bytes than gguf-py's")
            require(not any(found), f"left over: {[sorted(left) for left in found]}")

    def check_pair(self):
        """Files of one model share an id whatever their types; another model's do not."""
        if not self.vision:
            return
        ids = {value_of(gguf.GGUFReader(file), "general.uuid") for kind in TYPES for file in self.export(kind)}
        require(len(ids) == 1, f"one model, ids {ids}")
        language, mmproj = map(gguf.GGUFReader, self.export("f16"))
        require(value_of(language, "mistral3.embedding_length") == value_of(mmproj, "clip.vision.projection_dim"),
                "the sizes differ")
        weights = load_file(self.source / "model.safetensors")
        name = next(name for name in weights if name.endswith("ln_pre.weight"))
        weights[name][3] += 0.25
        other = self.source.parent / "other"
        shutil.copytree(self.source, other)
        save_file(weights, other / "model.safetensors", {"format": "pt"})
        run(self.trestle, "export", "--hf-model", other, "--gguf-path", self.out, "--gguf-type", "f16")
        changed = value_of(gguf.GGUFReader(self.out / "other-F16.gguf"), "general.uuid")
        require(changed not in ids, "another model has the same id")

    def check_tokenizer_keys(self):
        reader = gguf.GGUFReader(self.export("f16")[0])
        written = json.loads((DEMO / "tokenizer.json").read_text())
        vocabulary = {id: token for token, id in written["model"]["vocab"].items()}
        vocabulary |= {token["id"]: token["content"] for token in written["added_tokens"]}
        tokens = value_of(reader, "tokenizer.ggml.tokens")
        require(tokens == [vocabulary[id] for id in range(VOCAB)], "the tokens differ from tokenizer.json's")
        # tekken.json comes first; its ranks must give the merges that tokenizer.json states, in their order.
        merges = value_of(reader, "tokenizer.ggml.merges")
        stated = [" ".join(pair) for pair in written["model"]["merges"]]
        require(merges == stated, f"{len(merges)} merges, tokenizer.json has {len(stated)}")
        types = value_of(reader, "tokenizer.ggml.token_type")
        special = {token["id"] for token in written["added_tokens"]}
        require([kind == gguf.TokenType.CONTROL for kind in types] == [id in special for id in range(VOCAB)], "types")
        require(value_of(reader, "tokenizer.ggml.pre") == "tekken", "another pre-tokenizer")
        require(value_of(reader, "tokenizer.chat_template") == (DEMO / "chat_template.jinja").read_text(), "template")

    def check_megatron(self):
        """Through a Megatron checkpoint the files are the same to the byte."""
        megatron, again = self.out / "megatron" / self.model.name, self.out / "again"
        checks.through_megatron(self.trestle, self.source, megatron, "--hf-model", self.source, "--gguf-path", again,
                                "--gguf-type", "q8_0")
        for file in self.export("q8_0"):
            if file.exists():
                require(file.read_bytes() == (again / file.name).read_bytes(), f"{file.name} differs")

    def check_inspect(self):
        language, _ = self.export("q8_0")
        listed = run(self.trestle, "inspect", language).stdout
        for word in ("GGUF file", "mistral3.block_count", "token_embd.weight", "608 strings"):
            require(word in listed, f"inspect does not say {word}")

    def llama(self, kind):
        # Negative leaves these to the file; by default the Python binding sets 32 and 1 over it.
        return llama_cpp.Llama(str(self.export(kind)[0]), n_ctx=128, n_batch=128, n_threads=1, logits_all=True,
                               yarn_beta_fast=-1.0, yarn_beta_slow=-1.0, flash_attn=False,
                               type_k=llama_cpp.GGML_TYPE_F32, type_v=llama_cpp.GGML_TYPE_F32, verbose=False)

    def llama_check_logits(self):
        ids = np.random.default_rng(7).integers(14, VOCAB, LENGTH).tolist()
        written, _ = checks.logits(self.trestle, self.source, {"input_ids": torch.tensor([ids])})
        ours = written["logits"][0].numpy()
        for kind, allowed in CLOSE.items():
            llama = self.llama(kind)
            llama.eval(ids)
            theirs = np.array(llama.scores[:LENGTH])
            error = np.abs(ours - theirs).max() / np.abs(ours).max()
            print(f"        {self.model.name} {kind}: logits off by {error:.2e} of the largest")
            at_most(f"{kind}: the logits' difference, of the largest,", error, allowed)

    def llama_check_tokens(self):
        llama = self.llama("f16")
        lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
        ours = [json.loads(line)["ids"] for line in
                run(self.trestle, "tokenize", "--tokenizer", self.source, stdin=lines).stdout.splitlines()]
        for text, ids in zip(TEXTS, ours, strict=True):
            theirs = llama.tokenize(text.encode(), add_bos=True, special=False)
            require(theirs == [models.BOS, *ids], f"{text!r}: {theirs}, ours {ids}")
        require(llama.tokenize(b"[INST]a</s>", add_bos=False, special=True)[::2] == [models.INST, models.EOS],
                "llama.cpp does not know the special tokens")

    @torch.no_grad()
    def llama_check_image(self):
        if not self.vision:
            return
        height, width = 8 * 28, 6 * 28
        picture = np.random.default_rng(8).integers(0, 256, (height, width, 3), dtype=np.uint8)
        settings = json.loads((DEMO / "processor_config.json").read_text())["image_processor"]
        mean, std = torch.tensor(settings["image_mean"]), torch.tensor(settings["image_std"])
        pixels = ((torch.from_numpy(picture) / 255 - mean) / std).permute(2, 0, 1)[None]
        model = models.load_model(self.model, self.source)
        features = model.get_image_features(pixel_values=pixels, image_sizes=torch.tensor([[height, width]]))
        features = (features.pooler_output if hasattr(features, "pooler_output") else features)[0]
        row_break = model.get_input_embeddings().weight[models.IMG_BREAK]
        rows = features.view(height // 28, width // 28, -1)
        wanted = torch.cat([rows, row_break.expand(rows.shape[0], 1, -1)], 1).flatten(0, 1)[:-1].numpy()
        for kind, allowed in CLOSE.items():
            theirs = self.llama_features(kind, picture)
            require(theirs.shape == wanted.shape, f"{kind}: {theirs.shape} features, transformers {wanted.shape}")
            error = np.abs(theirs - wanted).max() / np.abs(wanted).max()
            print(f"        {self.model.name} {kind}: image features off by {error:.2e} of the largest")
            at_most(f"{kind}: the features' difference, of the largest,", error, allowed)

    def llama_features(self, kind, picture):
        llama = self.llama(kind)
        height, width, _ = picture.shape
        parameters = mtmd_cpp.mtmd_context_params_default()
        parameters.use_gpu, parameters.n_threads, parameters.warmup = False, 1, False
        context = mtmd_cpp.mtmd_init_from_file(str(self.export(kind)[1]).encode(), llama.model, parameters)
        require(context, f"llama.cpp does not open mmproj {kind}")
        data = (ctypes.c_ubyte * picture.size).from_buffer_copy(picture.tobytes())
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, data)
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        marker = mtmd_cpp.mtmd_get_marker(context)
        text = mtmd_cpp.mtmd_input_text(text=marker, text_len=len(marker), add_special=False, parse_special=True)
        bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
        require(mtmd_cpp.mtmd_tokenize(context, chunks, ctypes.byref(text), bitmaps, 1) == 0, "mtmd_tokenize fails")
        for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
            chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, index)
            if mtmd_cpp.mtmd_input_chunk_get_type(chunk) != mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                continue
            require(mtmd_cpp.mtmd_encode_chunk(context, chunk) == 0, "mtmd_encode_chunk fails")
            count = mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk) * self.text["hidden_size"]
            features = np.ctypeslib.as_array(mtmd_cpp.mtmd_get_output_embd(context), (count,)).copy()
            for free, what in ((mtmd_cpp.mtmd_input_chunks_free, chunks), (mtmd_cpp.mtmd_bitmap_free, bitmap),
                               (mtmd_cpp.mtmd_free, context)):
                free(what)
            return features.reshape(-1, self.text["hidden_size"])
        raise AssertionError("llama.cpp sees no image")


def main():
    args = checks.parser(__doc__).parse_args()
    checks.quiet_transformers()
    counted = checks.Counted(args.only)
    for model in all_models():
        counted.run_methods(lambda scratch: Checks(args.trestle, model, scratch), model.name,
                            ("check_", "llama_check_") if llama_cpp else ("check_",))
    if not llama_cpp:
        print("llama_cpp is not installed: only gguf-py was asked")
    return counted.status()


if __name__ == "__main__":
    sys.exit(main())
