#!/usr/bin/env python3
"""The other models of the family (tools/goldens/kin.py), in small, through whole commands of the program.

  .venv/bin/python tests/interop/test_kin.py --trestle build/release/trestle

Each has the demo's tokenizer and random weights. Two steps of `finetune`, full and LoRA, have transformers' and peft's
losses of the same AdamW; what they leave loads in transformers to the logits that the program computes. Text-only models
go through every command. Logits and files of all forms: test_transformers.py, and tests/bridge/test_kin.cpp against
goldens. Ends with "N passed, M failed".
"""

import json
import math
import shutil
import sys
from pathlib import Path

import peft
import torch
from safetensors.torch import load_file

import checks
from checks import ROOT, at_most, close, require, run
from goldens import kin, models, record

DEMO = ROOT / "assets" / "demo" / "model"
PICTURE = ROOT / "tests" / "image" / "golden" / "29x29.png"
VOCAB, RATE = 608, 1e-3
LOSS, LOGITS = 1e-4, 1e-4
TOKENIZER = ("tekken.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# As Megatron Bridge's LoRA and not as peft's: one A for what is fused.
LORA = ["peft.scheme=lora", "peft.dim=4", "peft.alpha=8", "peft.target_modules=[linear_proj, linear_fc2]"]


def conversation(*parts, answer):
    return {"messages": [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}]}


class Checks:
    def __init__(self, trestle, model, scratch):
        self.trestle, self.model, self.scratch = trestle, model, scratch
        self.source = scratch / "model"
        text = model.config if model.is_text else model.config["text_config"]
        text["vocab_size"] = VOCAB
        text["max_position_embeddings"] = 1024  # less to allocate
        model.config["dtype"] = "float32"  # what is merged is rounded to the base's type
        models.write_model(model, self.source)
        for file in TOKENIZER + (() if model.is_text else ("processor_config.json",)):
            shutil.copy(DEMO / file, self.source)
        words = {"type": "text", "text": "Total 12.50 EUR?"}
        image = () if model.is_text else ({"type": "image", "path": str(PICTURE)},)
        self.rows = [conversation(*image, words, answer="yes, it is"), conversation(words, answer="no")]
        self.data = scratch / "rows.jsonl"
        self.data.write_text("".join(json.dumps(row) + "\n" for row in self.rows))

    def run(self, *arguments, **options):
        return run(self.trestle, *arguments, **options).stdout

    def batches(self):
        """What transformers takes for each row: ids and labels by `tokenize`, pixels by `preprocess`."""
        lines = run(self.trestle, "tokenize", "--tokenizer", self.source, "--chat", stdin=self.data.read_text()).stdout
        pixels = self.scratch / "pixels.safetensors"
        if not pixels.exists() and not self.model.is_text:
            self.run("preprocess", "--image-path", PICTURE, "--output", pixels)
        for row, line in zip(self.rows, map(json.loads, lines.splitlines())):
            ids, mask = torch.tensor([line["ids"]]), torch.tensor([line["mask"]], dtype=torch.bool)
            batch = {"input_ids": ids, "labels": torch.where(mask, ids, -100)}
            if len(row["messages"][0]["content"]) > 1:
                pixel = load_file(pixels)["pixel_values"][None]
                batch |= {"pixel_values": pixel, "image_sizes": torch.tensor([pixel.shape[2:]])}
            yield batch

    def finetune(self, name, recipe, *more):
        save = self.scratch / name
        self.run("finetune", "--recipe", recipe, f"checkpoint.pretrained_checkpoint={self.source}",
                 f"checkpoint.save={save}", f"dataset.path_or_dataset={self.data}", "dataset.maker_name=jsonl",
                 "dataset.shuffle=false", "train.train_iters=2", "train.global_batch_size=1", "train.micro_batch_size=1",
                 f"optimizer.lr={RATE}", "scheduler.lr_warmup_iters=0",
                 "scheduler.lr_decay_style=constant", "model.params_dtype=float32", *more)
        return save, [json.loads(line)["loss"] for line in (save / "metrics.jsonl").read_text().splitlines()
                      if "loss" in json.loads(line)]

    def same_losses(self, ours, model, parameters):
        """Two steps of torch's AdamW on the rows, one each; the model is trained in place."""
        optimizer = record.adamw(parameters, RATE, 0.1)
        theirs = []
        for batch in self.batches():
            optimizer.zero_grad()
            loss = record.forward(model, batch).loss
            loss.backward()
            theirs.append(loss.item())
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        require(len(ours) == len(theirs) == 2, f"losses {ours}, {theirs}")
        for mine, wanted in zip(ours, theirs):
            at_most(f"loss {mine} is not {wanted}: the difference", abs(mine - wanted), LOSS)

    def same_logits(self, folder, reference):
        """Of the first row: `trestle logits`, and transformers on the export."""
        batch = next(self.batches())
        with torch.no_grad():
            wanted = record.forward(reference.eval(), batch).logits
            loaded = record.forward(models.load_model(self.model, folder), batch).logits
        ours = checks.logits(self.trestle, folder, batch)[0]["logits"]
        close("the program's logits and transformers' of the export", ours, loaded, LOGITS)
        close("the logits of the run and of transformers' after two steps", ours, wanted, 10 * LOGITS)

    def check_full(self):
        save, losses = self.finetune("full", "ministral3_3b_sft_config")
        reference = models.load_model(self.model, self.source).train()
        self.same_losses(losses, reference, list(reference.parameters()))
        self.run("export", "--megatron-path", save, "--hf-path", self.scratch / "full_hf")
        self.same_logits(self.scratch / "full_hf", reference)

    def check_lora(self):
        """From the A that the run drew, which peft cannot draw: after one step of no rate it has left it."""
        fresh, _ = self.finetune("fresh", "ministral3_3b_peft_config", *LORA, "optimizer.lr=1e-30", "optimizer.min_lr=0",
                                 "scheduler.lr_decay_style=cosine")
        self.run("export", "--megatron-path", fresh, "--hf-path", self.scratch / "adapter", "--adapter-only")
        save, losses = self.finetune("lora", "ministral3_3b_peft_config", *LORA)
        adapted = peft.PeftModel.from_pretrained(models.load_model(self.model, self.source), self.scratch / "adapter",
                                                 is_trainable=True)
        parameters = [p for p in adapted.parameters() if p.requires_grad]
        require(len(parameters) == 8, f"{len(parameters)} matrices of adapters")
        self.same_losses(losses, adapted, parameters)
        self.run("export", "--megatron-path", save, "--hf-path", self.scratch / "lora_hf")
        self.same_logits(self.scratch / "lora_hf", adapted)

    def check_saved_folder(self):
        """checkpoint.also_save_hf_checkpoint: of hf/ transformers and peft make what the program makes of its checkpoint."""
        batch, keep = next(self.batches()), "checkpoint.also_save_hf_checkpoint=true"
        save, _ = self.finetune("saved", "ministral3_3b_sft_config", keep)
        adapters, _ = self.finetune("saved_adapters", "ministral3_3b_peft_config", *LORA, keep)
        whole, adapter = save / "iter_0000002", adapters / "iter_0000002"
        adapted = peft.PeftModel.from_pretrained(models.load_model(self.model, self.source), adapter / "hf").eval()
        for what, reference, more in (("model", models.load_model(self.model, whole / "hf"), ("--megatron-model-path", whole)),
                                      ("adapters", adapted, ("--adapter-path", adapter))):
            with torch.no_grad():
                theirs = record.forward(reference, batch).logits
            ours = checks.logits(self.trestle, self.source, batch, *more)[0]["logits"]
            close(f"the logits of the checkpoint and of the {what} in its hf/", ours, theirs, LOGITS)
            untrained = checks.logits(self.trestle, self.source, batch)[0]["logits"]
            require((theirs - untrained).abs().max() > 10 * LOGITS, f"the {what} in hf/ changed nothing")

    def check_generate(self):
        """Greedy text and log-probabilities are those of transformers, of each token and of the likeliest."""
        parts = self.rows[0]["messages"][0]["content"]
        image = () if self.model.is_text else ("--image-path", PICTURE)
        said = json.loads(self.run("generate", "--hf-model-path", self.source, *image, "--prompt", parts[-1]["text"],
                                   "--max-new-tokens", 6, "--logprobs", 20, "--json", "--dtype", "float32"))
        batch = next(self.batches())
        prompt = said["prompt_tokens"]
        asked = {key: value for key, value in batch.items() if key != "labels"}
        asked["input_ids"] = torch.cat([batch["input_ids"][:, :prompt], torch.tensor([said["ids"]])], 1)
        with torch.no_grad():
            logprobs = record.forward(models.load_model(self.model, self.source), asked).logits[0, prompt - 1:-1].log_softmax(-1)
        content = said["logprobs"]["content"]
        require(len(content) == len(said["ids"]), f"{len(content)} entries for {len(said['ids'])} tokens")
        for row, id, entry in zip(logprobs, said["ids"], content):
            at_most("the token's logprob", abs(entry["logprob"] - row[id].item()), LOGITS)
            require(len(entry["top_logprobs"]) == 20, "not 20 of the likeliest")
            for other, wanted in zip(entry["top_logprobs"], row.topk(20).values.tolist()):
                at_most("a likeliest token's logprob", abs(other["logprob"] - wanted), LOGITS)
        whole = b"".join(bytes(entry["bytes"]) for entry in content if not entry["token"].startswith(("[", "<")))
        require(math.isclose(sum(map(math.exp, logprobs[0].tolist())), 1, rel_tol=1e-5), "no distribution")
        require(said["text"].startswith(whole.decode(errors="replace")[:1]), f"{said['text']!r} is not {whole!r}")

    def check_text_only(self):
        """Every command, on the model in each form that it is turned into."""
        if not self.model.is_text:
            return checks.SKIPPED
        source, scratch = self.source, self.scratch
        megatron, out = scratch / "run", scratch / "out"
        self.run("import", "--hf-model", source, "--megatron-path", megatron)
        for form in ("hf", "mistral", "gguf"):
            self.run("export", "--megatron-path", megatron, f"--{form}-path", out / form)
        language = next((out / "gguf").glob("*.gguf"))
        require(len(list((out / "gguf").iterdir())) == 1, "a text-only model has one file in GGUF")
        for path in (source, megatron, out / "hf", out / "mistral", language):
            said = run(self.trestle, "inspect", path).stdout
            require("tensors" in said, said)
            require("ok" in run(self.trestle, "inspect", path, "--check").stdout, f"{path}: --check is not ok")
        for other in (megatron, out / "hf", out / "mistral"):
            said = run(self.trestle, "compare", source, other, "--max-error", 0).stdout
            require("are equal" in said, said)
        require("same likeliest token" in run(self.trestle, "compare", source, language).stdout, "no logits of the GGUF file")
        answers = {self.run("generate", option, path, "--prompt", "a", "--max-new-tokens", 4, "--json")
                   for option, path in (("--hf-model-path", source), ("--hf-model-path", out / "mistral"),
                                        ("--megatron-model-path", megatron))}
        require(len(answers) == 1, f"answers differ: {answers}")
        self.run("evaluate", "--hf-model-path", source, "--maker", "jsonl", "--data", self.data, "--max-new-tokens", 4)
        self.run("data", "check", "--hf-model-path", source, "--maker", "jsonl", "--data", self.data)


def main():
    args = checks.parser(__doc__).parse_args()
    checks.quiet_transformers()
    counted = checks.Counted(args.only)
    for model in kin.all_models():
        counted.run_methods(lambda scratch: Checks(args.trestle, model, Path(scratch)), model.name)
    return counted.status()


if __name__ == "__main__":
    sys.exit(main())
