#!/usr/bin/env python3
"""`trestle finetune` at the command line: what its flags set, what it says before and while it trains, and that what
it leaves is taken by `evaluate` and `generate`.

  .venv/bin/python tests/cli/test_finetune.py --trestle build/release/trestle [TestCase.test ...]
"""

import json
import shutil
import unittest

import script
from test_bad_input import DEMO, TESTS, Refusals

RECEIPTS = TESTS.parent / "assets" / "demo" / "data"


class Finetune(Refusals):
    def trains(self, *arguments, recipe="ministral3_3b_peft_config"):
        done = self.run_trestle("finetune", "--recipe", recipe, "--pretrained-checkpoint", DEMO,
                                f"dataset.path_or_dataset={RECEIPTS}", "checkpoint.save=run", "checkpoint.load=auto",
                                *(["peft.dim=4"] if "peft" in recipe else []), "scheduler.lr_warmup_iters=0", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def config(self, *arguments, recipe="ministral3_3b_peft_config"):
        text = self.trains("--print-config", *arguments, recipe=recipe).stdout
        group, values = "", {}
        for line in text.splitlines():
            if not line.startswith(" "):
                group = line.rstrip(":")
            else:
                key, value = line.strip().split(":", 1)
                values[f"{group}.{key}"] = value.strip()
        return values

    def test_flags_in_both_spellings(self):
        names = {"train-iters": ("train.train_iters", "3"), "global-batch-size": ("train.global_batch_size", "6"),
                 "overlong": ("dataset.overlong", "shrink-image"), "image-max-edge": ("dataset.image_max_edge", "448"),
                 "image-max-tokens": ("dataset.image_max_tokens", "99"), "on-nan": ("train.on_nan", "skip")}
        for spelled in (lambda flag: flag, lambda flag: flag.replace("-", "_")):
            values = self.config(*(word for flag, (_, value) in names.items() for word in ("--" + spelled(flag), value)))
            for key, value in names.values():
                self.assertEqual(values[key], value)
        # The command line over the file, an override over both.
        (self.folder / "file.yaml").write_text("train:\n  train_iters: 7\n  global_batch_size: 8\n")
        values = self.config("--config", "file.yaml", "--train-iters", "5", "train.global_batch_size=9")
        self.assertEqual((values["train.train_iters"], values["train.global_batch_size"]), ("5", "9"))

    def test_one_process_says_that_it_is(self):
        small = ("--train-iters", "1", "--global-batch-size", "1")
        done = self.trains(*small, recipe="ministral3_14b_peft_config")
        self.assertIn("model.tensor_model_parallel_size=2 is for several ranks", done.stderr)
        self.assertIn("no validation: ", done.stderr)
        self.assertNotIn("for several ranks", self.trains(*small).stderr)

    def test_the_tokenizer_of_hf_source_path_is_opened(self):
        """Also of what an adapter names as its base: a fault names the key, another one than the base's is told."""
        source = self.folder / "source"
        shutil.copytree(DEMO, source)
        texts = {file: (source / file).read_text() for file in ("tekken.json", "tokenizer.json")}
        for recipe in ("ministral3_3b_peft_config", "ministral3_3b_sft_config"):
            def starts(file=None, text=None, recipe=recipe):
                if file:
                    (source / file).write_text(text)
                shutil.rmtree(self.folder / "run", ignore_errors=True)
                return self.run_trestle(
                    "finetune", "--recipe", recipe, "--pretrained-checkpoint", DEMO, "--train-iters", 1,
                    "--global-batch-size", 1, f"dataset.path_or_dataset={RECEIPTS}", "checkpoint.save=run",
                    "scheduler.lr_warmup_iters=0", "model.params_dtype=float32", *(["peft.dim=4"] if "peft" in recipe else []),
                    "checkpoint.also_save_hf_checkpoint=true", "checkpoint.hf_source_path=source")
            done = starts()
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotIn("SHA-256", done.stderr)
            for file, text in texts.items():
                done = starts(file, text + " ")
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertRegex(done.stderr,
                                 rf"checkpoint.hf_source_path=source: its {file} \(SHA-256 [0-9a-f]{{12}}\) is another than")
                done = starts(file, "{}")
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertRegex(done.stderr.splitlines()[-1], rf"checkpoint.hf_source_path=source: .*{file}")
                (source / file).write_text(text)
        for file in texts:
            (source / file).unlink()
        self.assertIn("checkpoint.hf_source_path=source has no tokenizer.json or tekken.json",
                      starts(recipe="ministral3_3b_peft_config").stderr)

    def test_a_validated_run_and_its_best_checkpoint(self):
        done = self.trains("--train-iters", "4", "--global-batch-size", "2", "train.eval_interval=2", "train.eval_iters=1",
                           "validation.split=test", "validation.answers=2", "validation.max_new_tokens=8",
                           "validation.best_metric=valid_loss", "dataset.pack_sequences_in_batch=true")
        self.assertEqual(sum("validation loss" in line for line in done.stderr.splitlines()), 2)
        run = self.folder / "run"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        losses = {line["step"]: line["valid_loss"] for line in lines if "valid_loss" in line}
        best = json.loads((run / "best.json").read_text())
        self.assertEqual(best["step"], min(losses, key=losses.get))
        checkpoint = run / best["checkpoint"]
        done = self.run_trestle("evaluate", "--hf-model-path", DEMO, "--adapter-path", checkpoint, "--data", RECEIPTS,
                                "--rows", 2, "--max-new-tokens", 8, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(set(json.loads(done.stdout)["scores"]),
                         {"exact_match", "anls", "field_f1", "tree_edit_accuracy"})
        done = self.run_trestle("generate", "--hf-model-path", DEMO, "--adapter-path", checkpoint, "--prompt", "a",
                                "--max-new-tokens", 2)
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
