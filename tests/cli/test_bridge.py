#!/usr/bin/env python3
"""Command lines of Megatron Bridge's users, as its pages and scripts have them: each trains two steps.

  .venv/bin/python tests/cli/test_bridge.py --trestle build/release/trestle [TestCase.test ...]

What is added ends the run after two steps, says where the data lie, and trains in fp32, as bf16 is slow on some CPUs; the words before
it are the Bridge's.
"""

import json
import os
import subprocess
import unittest

import script
from test_bad_input import DEMO, TESTS, Refusals

RECEIPTS = TESTS.parent / "assets" / "demo" / "data"
TWO_STEPS = ("train.exit_interval=2", f"dataset.path_or_dataset={RECEIPTS}", "model.params_dtype=float32")
# docs/models/vlm/ministral3.md of megatron-bridge 0.2 and 0.3, behind examples/recipes/ministral3/finetune_ministral3_vl.py.
PAGE = {
    "full": ("--dataset-type", "hf", "train.global_batch_size=32", "train.train_iters=1000"),
    "lora": ("--peft-scheme", "lora", "--dataset-type", "hf", "train.global_batch_size=64", "train.train_iters=1000"),
    "frozen": ("--peft-scheme", "lora", "--freeze-vision-model", "train.global_batch_size=64"),
}
# examples/models/mistral/ministral3/{sft,peft}_unpacked.sh of August 2026, behind run_recipe.py.
SCRIPT = (
    "checkpoint.pretrained_checkpoint={checkpoint}", "model.seq_length=4096", "train.train_iters=100", "train.global_batch_size=16",
    "train.micro_batch_size=1", "validation.eval_iters=20", "optimizer.lr={lr}", "optimizer.min_lr={min_lr}",
    "scheduler.lr_warmup_iters=10", "checkpoint.save=results", "logger.log_interval=1", "logger.wandb_project=megatron-bridge-cord_v2",
    "logger.wandb_exp_name=ministral3_3b_cord_v2", "dataset.source.dataset_name=cord_v2", "dataset.seq_length=4096",
    "dataset.enable_in_batch_packing=False", "model.tensor_model_parallel_size={tp}", "model.pipeline_model_parallel_size={pp}")


class Runs(Refusals):
    def finetune(self, *arguments, **environment):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"} | environment
        done = subprocess.run([script.TRESTLE, "finetune", *map(str, arguments)], capture_output=True, text=True, cwd=self.folder,
                              env=environment, stdin=subprocess.DEVNULL, timeout=300)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def metrics(self, run):
        return [json.loads(line) for line in (self.folder / run / "metrics.jsonl").read_text().splitlines()]


class Bridge(Runs):
    def test_its_page_of_2025(self):
        for name, words in PAGE.items():
            with self.subTest(name):
                self.finetune("--pretrained-checkpoint", DEMO, *words, *TWO_STEPS, SAVE_DIR=str(self.folder / name))
                lines = self.metrics(f"{name}/ministral3_3b_finetune_config")
                self.assertEqual([line["step"] for line in lines if "loss" in line], [1, 2])
                # Megatron's first step of a warm-up has rate 0, its second a tenth of the peak.
                self.assertAlmostEqual(lines[1]["lr"], 5e-7 if name == "full" else 1e-5)

    def test_its_scripts_of_2026(self):
        for mode, step, rates, parallel in (("sft", (), ("0.00001", "0.000001"), (2, 1)),
                                            ("peft", ("--mode", "lora"), ("0.00005", "0.000005"), (1, 2))):
            with self.subTest(mode):
                words = [word.format(checkpoint=DEMO, lr=rates[0], min_lr=rates[1], tp=parallel[0], pp=parallel[1]) for word in SCRIPT]
                done = self.finetune("--recipe", f"ministral3_3b_{mode}_config", "--step_func", "vlm_step", *step, *words, *TWO_STEPS,
                                     f"checkpoint.save=results_{mode}", "validation.split=test")
                self.assertIn("model_parallel_size=2 is for several ranks", done.stderr)
                lines = self.metrics(f"results_{mode}")
                self.assertEqual([line["step"] for line in lines if "loss" in line], [1, 2])
                self.assertAlmostEqual(lines[1]["lr"], float(rates[0]) / 10)

    def test_its_launchers_short_flags(self):
        done = self.finetune("--model", "ministral3_3b", "--mode", "dora", "--dataset", "cord-v2", "-ms20", "-gb", "4", "-mb2",
                             "-sl", "2048", "-tp", "2", "-pp=3", "-cp", "4", "-vp=1", "--lr", "3e-4", "--min_lr", "3e-5",
                             "--warmup_iters", "1", "--pretrained_checkpoint", DEMO, "--save_dir", "run", "--save_interval", "5",
                             "--dry-run", *TWO_STEPS[1:])
        for line in ("lr: 0.0003", "min_lr: 3e-05", "scheme: dora", "train_iters: 20", "global_batch_size: 4", "micro_batch_size: 2",
                     "seq_length: 2048", "lr_warmup_iters: 1", "save: run", "save_interval: 5", "maker_name: make_cord_v2_dataset",
                     "tensor_model_parallel_size: 2", "pipeline_model_parallel_size: 3", "context_parallel_size: 4"):
            self.assertIn(f"\n  {line}\n", done.stdout)
        self.assertFalse((self.folder / "run").exists())
        self.refused("finetune", "--recipe", "ministral3_3b_sft_config", "--mode", "lora", names=["--mode lora contradicts"])
        self.refused("finetune", "--model", "ministral3_3b", names=["needs --mode sft, lora or dora"])
        self.refused("finetune", "--model", "ministral3_3b", "--mode", "pretrain", names=["--mode", "sft"])

    def test_its_own_file_as_config(self):
        """A run_config.yaml that the real Bridge wrote: its keys, and what has no effect in one line."""
        run = TESTS / "fixtures" / "megatron" / "lora" / "iter_0000002" / "run_config.yaml"
        done = self.finetune("--config", run, "--pretrained-checkpoint", DEMO, "checkpoint.save=run", "train.train_iters=2",
                             "train.global_batch_size=2", "scheduler.lr_warmup_iters=0", *TWO_STEPS[1:])
        self.assertIn("keys of Megatron Bridge have no effect here", done.stderr)
        self.assertEqual([line["step"] for line in self.metrics("run") if "loss" in line], [1, 2])


class Lengths(Runs):
    """Runs in samples and epochs, gone on with, and their resolved configs given back."""

    def setUp(self):
        super().setUp()
        (self.folder / "five.jsonl").write_text(5 * (json.dumps({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n"))

    def train(self, save, *arguments):
        return self.finetune("--recipe", "ministral3_3b_peft_config", "--pretrained-checkpoint", DEMO, "dataset.maker_name=jsonl",
                             "dataset.path_or_dataset=five.jsonl", "model.params_dtype=float32", "train.global_batch_size=2",
                             "scheduler.lr_warmup_iters=0", "peft.dim=4", "validation.eval_interval=0", f"checkpoint.save={save}", *arguments)

    def losses(self, run):
        return [line["loss"] for line in self.metrics(run) if "loss" in line]

    def test_epochs(self):
        """Longer than the recipe's 50 steps, stopped and gone on with in another directory."""
        self.train("whole", "train.num_epochs=18")
        self.assertEqual(len(self.losses("whole")), 54)
        done = self.train("part", "train.num_epochs=18", "train.exit_interval=52")
        self.assertIn("from step 0 to 54", done.stderr)
        done = self.train("rest", "train.num_epochs=18", "checkpoint.load=part")
        self.assertIn("from step 52 to 54", done.stderr)
        self.assertEqual(self.losses("part") + self.losses("rest"), self.losses("whole"))
        done = self.train("none", "train.num_epochs=18", "checkpoint.load=rest")
        self.assertIn("nothing to train", done.stderr)
        self.assertFalse((self.folder / "none").exists())

    def test_a_printed_config_of_epochs_is_true(self):
        """Their steps follow from the rows, which are not read yet; given back it is the same run."""
        words = ["--recipe", "ministral3_3b_peft_config", "--pretrained-checkpoint", DEMO, "dataset.maker_name=jsonl",
                 "dataset.path_or_dataset=five.jsonl", "model.params_dtype=float32", "train.global_batch_size=2",
                 "scheduler.lr_warmup_iters=0", "peft.dim=4", "validation.eval_interval=0", "train.num_epochs=1"]
        printed = self.finetune(*words, "--print-config").stdout
        self.assertIn("\n  train_iters: ~  # of train.num_epochs and the number of rows\n", printed)
        (self.folder / "printed.yaml").write_text(printed)
        self.finetune("--config", "printed.yaml", "checkpoint.save=given_back")
        self.finetune(*words, "checkpoint.save=told")
        self.assertEqual(len(self.losses("told")), 3)
        self.assertEqual(self.losses("given_back"), self.losses("told"))

    def test_a_resolved_config_is_the_same_run(self):
        for name, arguments in {"samples": ["train.train_samples=7"], "epochs": ["train.num_epochs=1"],
                                "constant": ["train.train_iters=3", "scheduler.lr_decay_style=constant"]}.items():
            with self.subTest(name):
                self.train(name, *arguments)
                self.finetune("--config", f"{name}/resolved_config.yaml", f"checkpoint.save={name}_again")
                self.assertEqual(self.losses(f"{name}_again"), self.losses(name))
        printed = self.finetune("--recipe", "demo_config", "peft.scheme=none", "scheduler.lr_decay_style=constant", "--print-config").stdout
        (self.folder / "printed.yaml").write_text(printed)
        self.assertEqual(self.finetune("--config", "printed.yaml", "--print-config").stdout, printed)

    def test_the_command_line_goes_before_a_file(self):
        (self.folder / "samples.yaml").write_text("train: {train_samples: 640}\n")
        (self.folder / "share.yaml").write_text("scheduler: {lr_warmup_fraction: 0.5}\n")
        done = self.finetune("--config", "samples.yaml", "-ms", "100", "--print-config")
        self.assertIn("\n  train_iters: 100\n  train_samples: ~\n", done.stdout)
        done = self.finetune("--config", "samples.yaml", "train.num_epochs=2", "--print-config")
        self.assertIn("\n  train_samples: ~\n  num_epochs: 2\n", done.stdout)
        done = self.finetune("--config", "share.yaml", "--warmup_iters", "5", "--print-config")
        self.assertIn("\n  lr_warmup_iters: 5\n  lr_warmup_fraction: ~\n", done.stdout)
        self.refused("finetune", "train.train_samples=640", "train.train_iters=20", "--print-config",
                     names=["train.train_iters=20 has no effect", "train.train_samples says it"])

    def test_null_is_the_recipes_value_in_both_spellings(self):
        (self.folder / "a.yaml").write_text("train: {eval_iters: 3}\n")
        for key in ("train.eval_iters", "validation.eval_iters"):
            for null in ("null", "None"):
                done = self.finetune("--config", "a.yaml", f"{key}={null}", "--print-config")
                self.assertIn("\n  eval_iters: 10\n", done.stdout, key)

    def test_validation_may_be_off_twice(self):
        done = self.finetune("validation.eval_interval=0", "train.eval_iters=0", "--print-config")
        self.assertIn("\n  eval_interval: 0\n  eval_iters: 0\n", done.stdout)

    def test_errors_name_what_was_typed(self):
        self.refused("finetune", "dataset.seq_length=many", "--print-config",
                     names=["model.seq_length=many", "dataset.seq_length is model.seq_length here"])
        self.refused("finetune", "train.eval_iters=5", "validation.eval_interval=0", "--print-config",
                     names=["validation.eval_iters=5 has no effect", "train.eval_iters is validation.eval_iters here"])
        self.refused("finetune", "ddp.nonsense=1", "--print-config", names=["unknown option ddp.nonsense", "trestle recipes --keys lists"])
        self.refused("finetune", "-gb4x", "--print-config", names=["train.global_batch_size=4x"])

    def test_a_switch_is_on_or_off(self):
        for value in ("maybe", "5", "9" * 20):
            self.refused("finetune", f"--freeze-vision-model={value}", "--print-config", names=["--freeze-vision-model", value])


class Documents(unittest.TestCase):
    def test_bridge_keys(self):
        """docs/bridge-keys.md has the program's own table: trestle recipes --bridge-keys."""
        table = subprocess.run([script.TRESTLE, "recipes", "--bridge-keys"], capture_output=True, text=True, check=True).stdout
        self.assertGreater(len(table.splitlines()), 100)
        document = (TESTS.parent / "docs" / "bridge-keys.md").read_text()
        self.assertIn(table, document, "docs/bridge-keys.md: put what `trestle recipes --bridge-keys` prints there")


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
