#!/usr/bin/env python3
"""What `trestle finetune` goes on from at the command line: the same run to the bit, never another one, and never over
a run, the base or an adapter.

  .venv/bin/python tests/cli/test_resume.py --trestle build/release/trestle [TestCase.test ...]
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import unittest
import unittest.mock

import script
from test_bad_input import DEMO, TESTS, Refusals, contents

RECEIPTS = TESTS.parent / "assets" / "demo" / "data" / "train.parquet"
STEPS = 4


@contextlib.contextmanager
def open_directory(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Runs(Refusals):
    def arguments(self, *overrides, save="run", iterations=STEPS, data=RECEIPTS, base=DEMO):
        keys = {"dataset.path_or_dataset": data, "checkpoint.save": save, "train.train_iters": iterations,
                "train.micro_batch_size": 2, "scheduler.lr_warmup_iters": 0, "scheduler.lr_decay_iters": STEPS,
                "checkpoint.save_interval": 2, "peft.dim": 4}
        keys.update(each.split("=", 1) for each in overrides if not each.startswith("--"))
        flags = [word for each in overrides if each.startswith("--") for word in each.split(" ")]
        return ["finetune", "--recipe", "demo_config", "--pretrained-checkpoint", base, "--global-batch-size", 2, *flags,
                *(f"{key}={value}" for key, value in keys.items() if value is not None)]

    def trains(self, *overrides, **options):
        done = self.run_trestle(*self.arguments(*overrides, **options))
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def refuses(self, *overrides, names, **options):
        """One line, and nothing in the folder is another than before."""
        before = contents(self.folder)
        done = self.run_trestle(*self.arguments(*overrides, **options))
        last = done.stderr.splitlines()[-1] if done.stderr else ""
        self.assertEqual(done.returncode, 2, done.stderr)
        for name in names:
            self.assertIn(str(name), last)
        self.assertEqual(contents(self.folder), before)

    def lines(self, save="run"):
        return [json.loads(line) for line in (self.folder / save / "metrics.jsonl").read_text().splitlines()]

    def losses(self, save="run"):
        return {line["step"]: line["loss"] for line in self.lines(save)}


class Resume(Runs):
    def setUp(self):
        super().setUp()
        self.trains("train.exit_interval=2")

    def test_the_same_run_goes_on_to_the_bit(self):
        self.trains(save="whole")
        self.trains("checkpoint.load=run")
        self.assertEqual(self.losses(), self.losses("whole"))
        self.assertEqual(list(self.losses()), [1, 2, 3, 4])

    def test_another_run_is_refused_by_key_with_both_values(self):
        for given, there in (("peft.alpha=1", 32), ("peft.use_rslora=true", "false"), ("peft.dim=8", 4),
                             ("peft.target_modules=[linear_qkv]", "[linear_qkv, linear_proj, linear_fc1, linear_fc2]"),
                             ("peft.scheme=dora", "lora"),
                             ("peft.lora_A_init_method=kaiming", "xavier"), ("peft.dropout=0.1", 0), ("rng.seed=7", 1234),
                             ("dataset.shuffle=false", "true"), ("model.seq_length=999", 1024),
                             ("train.micro_batch_size=1", 2), ("dataset.pack_sequences_in_batch=true", "false"),
                             ("model.params_dtype=bf16", "float32"), ("dataset.overlong=drop", "error")):
            with self.subTest(given=given):
                key = given.split("=")[0]
                self.refuses("checkpoint.load=run", given, names=[f" {given} (there: {there});", f"--allow-change {key}"])

    def test_what_may_change_does(self):
        done = self.trains("checkpoint.load=run", "optimizer.lr=1e-4", "train.train_iters=3", "logger.log_interval=1",
                           "dataset.num_workers=1", "checkpoint.save_interval=1")
        self.assertIn("from step 2 to 3", done.stderr)
        self.assertEqual(list(self.losses()), [1, 2, 3])

    def test_a_difference_that_is_let_be(self):
        self.refuses("checkpoint.load=run", "rng.seed=7", "peft.alpha=1", "--allow-change peft.alpha", names=["rng.seed=7"])
        self.trains("checkpoint.load=run", "rng.seed=7", "--allow-change rng.seed")
        # It is the run's own from then on.
        self.trains("checkpoint.load=run", "rng.seed=7", "train.train_iters=5", "scheduler.lr_decay_iters=5")
        self.refuses("checkpoint.load=run", "train.train_iters=6", names=["rng.seed=1234 (there: 7)"])

    def test_permissions_have_an_effect_or_are_refused(self):
        self.refuses("checkpoint.load=run", "--allow-change optimizer.lr", names=["optimizer.lr", "no effect"])
        self.refuses("checkpoint.load=run", "--allow-change peft.alhpa", names=["peft.alhpa", "peft.alpha"])
        self.refuses("--allow-change peft.alpha", save="new", names=["--allow-change", "checkpoint.load"])

    def test_a_permission_that_nothing_needs_is_told(self):
        """Told and not refused: a job that is started again with the same line has no difference the second time."""
        needless = "--allow-change rng.seed was not needed: checkpoint.load=run has the same"
        more = ["checkpoint.load=run", "rng.seed=7", "--allow-change rng.seed", "--allow-change peft.alpha"]
        first = self.trains(*more, iterations=3).stderr
        self.assertNotIn("--allow-change rng.seed", first)
        self.assertIn("--allow-change peft.alpha was not needed", first)
        self.assertIn(needless, self.trains(*more).stderr)
        self.assertEqual(self.lines()[-1]["step"], STEPS)

    def test_no_tensor_is_dropped(self):
        self.refuses("checkpoint.load=run", "peft.target_modules=[linear_qkv]", "--allow-change peft.target_modules",
                     names=["no place for", "linear_"])

    def test_another_base_or_data_set_is_refused(self):
        shutil.copytree(DEMO, self.folder / "base")
        shutil.copy(RECEIPTS, self.folder / "data.parquet")
        # Elsewhere, the same.
        self.trains("checkpoint.load=run", "train.train_iters=3", base="base", data=RECEIPTS)
        shutil.copy(RECEIPTS.parent / "test.parquet", self.folder / "other.parquet")
        self.refuses("checkpoint.load=run", data="other.parquet", names=["dataset.path_or_dataset=other.parquet", "SHA-256"])
        weights = self.folder / "base" / "model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-2] ^= 1
        weights.write_bytes(data)
        self.refuses("checkpoint.load=run", base="base", names=["checkpoint.pretrained_checkpoint=base", "SHA-256"])

    def test_a_run_is_not_written_over(self):
        self.refuses(names=["checkpoint.save=run", "2 steps", "checkpoint.load=run"])
        self.trains("checkpoint.load=run")
        self.refuses(names=["checkpoint.save=run", "4 steps"])
        self.refuses("checkpoint.load=run/iter_0000002", names=["run/iter_0000002", "steps up to 4"])
        self.trains(save="second")
        self.refuses("checkpoint.load=second", names=["checkpoint.save=run", "checkpoint.load=second"])
        # From an older step, elsewhere.
        self.trains("checkpoint.load=run/iter_0000002", save="third")
        self.assertEqual(self.losses("third"), {step: loss for step, loss in self.losses().items() if step > 2})

    def test_auto_goes_on_where_there_is_something(self):
        self.trains("checkpoint.load=auto")
        self.assertEqual(list(self.losses()), [1, 2, 3, 4])
        done = self.trains("checkpoint.load=auto", save="begun")
        self.assertIn("from step 0 to 4", done.stderr)
        self.assertEqual(self.losses("begun"), self.losses())
        self.refuses("checkpoint.load=auto", "peft.alpha=1", names=["peft.alpha=1"])


    def test_a_config_tokenizer_or_processor_is_of_the_base_too(self):
        for file, change in (("config.json", lambda text: text.replace('"rms_norm_eps": 1e-05', '"rms_norm_eps": 0.1')),
                             ("processor_config.json", lambda text: text.replace('"longest_edge": ', '"longest_edge": 1')),
                             ("tekken.json", lambda text: text + " ")):
            with self.subTest(file=file):
                base = self.folder / file.split(".")[0]
                shutil.copytree(DEMO, base)
                changed = change((base / file).read_text())
                self.assertNotEqual(changed, (base / file).read_text())
                (base / file).write_text(changed)
                self.refuses("checkpoint.load=run", base=base.name, names=[f"checkpoint.pretrained_checkpoint={base.name}", "SHA-256"])

    def test_the_megatron_form_is_the_same_base(self):
        done = self.run_trestle("import", "--hf-model", DEMO, "--megatron-path", "megatron")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.trains("checkpoint.load=run", base="megatron")

    def test_a_position_that_is_missing(self):
        (self.folder / "run" / "iter_0000002" / "train_state.pt").unlink()
        self.refuses("checkpoint.load=run/iter_0000002", save="new", names=["run/iter_0000002", "train_state.pt"])

    def test_nothing_to_train(self):
        before = contents(self.folder)
        done = self.trains("checkpoint.load=run", iterations=1, save="new")
        self.assertIn("nothing to train: checkpoint.load=run has made 2 of train.train_iters=1", done.stderr)
        self.assertEqual(contents(self.folder), before)

    def test_a_run_has_a_place_of_its_own(self):
        for save in ("run/iter_0000002", "run/iter_0000002/x", "run/sub"):
            self.refuses(save=save, names=[f"checkpoint.save={save}", "lies in"])

    def test_one_process_at_a_time(self):
        with open_directory(self.folder / "run") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            self.refuses("checkpoint.load=run", names=["checkpoint.save=run", "another process"])
        self.trains("checkpoint.load=run")


    def test_what_lies_behind_the_step(self):
        """A kill leaves one checkpoint more than the tracker knows; whatever else is there is not the run's to replace."""
        ahead = self.folder / "run" / "iter_0000004"
        for make, name in ((lambda: ahead.write_text("x"), "no directory"), (lambda: ahead.symlink_to("iter_0000002"), "no directory"),
                           (lambda: (ahead.mkdir(), (ahead / "mine.txt").write_text("x")), "mine.txt"),
                           (lambda: (shutil.copytree(self.folder / "run" / "iter_0000002", ahead), (ahead / "mine.txt").write_text("x")), "mine.txt")):
            make()
            for load in ("run", "auto"):
                with self.subTest(name=name, load=load):
                    self.refuses(f"checkpoint.load={load}", names=["iter_0000004", name])
            shutil.rmtree(ahead) if ahead.is_dir() and not ahead.is_symlink() else ahead.unlink()
        shutil.copytree(self.folder / "run" / "iter_0000002", ahead)
        shutil.copytree(self.folder / "run" / "iter_0000002", self.folder / "run" / "iter_0000003")
        self.refuses("checkpoint.load=run", names=["step 2", "2 checkpoints up to step 4"])
        shutil.rmtree(self.folder / "run" / "iter_0000003")
        self.trains("checkpoint.load=run")

    def test_trackers_that_disagree(self):
        """Megatron's users set the text back; a kill between the two leaves the text ahead."""
        self.trains("checkpoint.load=run")
        text = self.folder / "run" / "latest_checkpointed_iteration.txt"
        text.write_text("2")
        for load in ("run", "auto"):
            self.refuses(f"checkpoint.load={load}", names=["latest_checkpointed_iteration.txt says iteration 2", "latest_train_state.pt says 4"])
        self.refused("inspect", "run", names=["says iteration 2", "says 4"])
        text.write_text("5")
        self.assertIn("nothing to train", self.trains("checkpoint.load=run").stderr)

    def test_a_load_that_is_not_there(self):
        for load in ("typo", "AUTO"):
            self.refuses(f"checkpoint.load={load}", names=[f"checkpoint.load={load} does not exist"])


class Starts(Runs):
    def test_files_of_others_are_not_written_over(self):
        for name in ("best.json", "report.html", "metrics.jsonl", "wandb_run_id.txt"):
            with self.subTest(name=name):
                place = self.folder / name.split(".")[0]
                place.mkdir()
                (place / name).write_text("mine")
                for load in ("", "auto"):
                    self.refuses(f"checkpoint.load={load}", save=place.name, names=[place.name, name])
        (self.folder / "data").mkdir()
        shutil.copy(RECEIPTS, self.folder / "data" / "report.html")
        (self.folder / "data" / "resolved_config.yaml").write_text("")
        self.refuses(save="data", data="data/report.html", names=["dataset.path_or_dataset=data/report.html", "checkpoint.save=data"])
        # What a run does not write may lie there.
        shutil.copy(RECEIPTS, self.folder / "train.parquet")
        (self.folder / "job").mkdir()
        (self.folder / "job" / "slurm-1.out").write_text("mine")
        self.trains(save="job", iterations=1)
        self.assertEqual((self.folder / "job" / "slurm-1.out").read_text(), "mine")

    def test_a_name_that_a_run_writes_is_free(self):
        """Before the weights are read: else the first checkpoint would find it, behind its steps."""
        files = ("resolved_config.yaml", "best.json", "report.html", "metrics.jsonl", "wandb_run_id.txt",
                 "latest_checkpointed_iteration.txt", "latest_train_state.pt")
        for name in (*files, "tensorboard", "wandb"):
            for kind in ("link", "directory" if name in files else "file"):
                place = self.folder / f"{name}-{kind}"
                place.mkdir()
                if kind == "link" and name in files:
                    (self.folder / "precious.txt").write_text("mine")
                    (place / name).symlink_to("../precious.txt")
                elif kind == "link":
                    (place / name).symlink_to("nowhere")
                elif kind == "file":
                    (place / name).write_text("mine")
                else:
                    (place / name).mkdir()
                for load in ("", "auto"):
                    with self.subTest(name=name, kind=kind, load=load):
                        self.refuses(f"checkpoint.load={load}", save=place.name, names=[f"{place.name}/{name}"])

    def test_a_variable_that_is_set_to_nothing_is_not_set(self):
        with unittest.mock.patch.dict(os.environ, {"SAVE_DIR": ""}):
            self.refuses(save=None, names=["checkpoint.save", "SAVE_DIR"])
        with unittest.mock.patch.dict(os.environ, {"WANDB_PROJECT": "theirs", "WANDB_MODE": "offline", "WANDB_DIR": str(RECEIPTS)}):
            self.refuses(names=["WANDB_DIR", RECEIPTS, "name a directory"])

    def test_a_config_of_ones_own_is_kept(self):
        """Under the name of the run's own, the run would write over it."""
        (self.folder / "job").mkdir()
        mine = self.folder / "job" / "resolved_config.yaml"
        mine.write_text("# tuned by hand\ntrain: {train_iters: 1}\n")
        self.refuses("--config job/resolved_config.yaml", save="job", iterations=None, names=["job", "resolved_config.yaml", "no run made"])
        (self.folder / "job.yaml").write_text(mine.read_text())
        self.trains("--config job.yaml", iterations=None)
        # Its own it writes anew.
        self.trains("--config run/resolved_config.yaml", "checkpoint.load=run", iterations=2)

    def test_a_refused_start_leaves_nothing(self):
        for variable, value in (("WANDB_RUN_ID", "a/b"), ("WANDB_RUN_ID", "\udcff"), ("WANDB_MODE", "onlin")):
            with self.subTest(variable), unittest.mock.patch.dict(os.environ, {"WANDB_PROJECT": "p", "WANDB_MODE": "offline", variable: value}):
                self.refuses(names=[variable])

    def test_an_output_under_a_name_that_the_run_writes(self):
        for key, more in (("dataset.feature_cache", ()), ("logger.tensorboard_dir", ()), ("logger.wandb_save_dir", ("logger.wandb_project=p",))):
            for place in ("run/iter_0000003", "run/iter_0000003/x", "run/report.html"):
                with self.subTest(key=key, place=place):
                    self.refuses(f"{key}={place}", *more, names=[f"{key}={place}", "checkpoint.save=run"])

    def test_a_run_that_reached_no_checkpoint(self):
        self.trains(iterations=1)
        for iteration in (self.folder / "run").glob("iter_*"):
            shutil.rmtree(iteration)
        for tracker in (self.folder / "run").glob("latest_*"):
            tracker.unlink()
        self.refuses(names=["checkpoint.save=run", "no checkpoint", "checkpoint.load=auto"])
        self.trains("checkpoint.load=auto", iterations=1)

    def test_a_freeze_flag_says_off_too(self):
        (self.folder / "frozen.yaml").write_text("model: {freeze_vision_model: true}\n")
        shown = ["--config frozen.yaml", "--peft-scheme none", "--print-config"]
        for flag, value in (("", "true"), ("--freeze-vision-model=false", "false"), ("--freeze-vision-model", "true")):
            with self.subTest(flag):
                done = self.trains(*filter(None, (*shown, flag)), "peft.dim=null")
                self.assertIn(f"\n  freeze_vision_model: {value}\n", done.stdout)

    def test_a_tag_of_yaml_is_no_value(self):
        (self.folder / "tag.yaml").write_text("train: {train_iters: !steps 7}\n")
        self.refuses("--config tag.yaml", names=["tag.yaml", "tag !steps"])

    def test_a_file_has_one_document(self):
        (self.folder / "two.yaml").write_text("train: {train_iters: 3}\n---\noptimizer: {lr: 0.1}\n")
        self.refuses("--config two.yaml", names=["two.yaml", "2 documents"])

    def test_the_base_is_not_written_over(self):
        shutil.copytree(DEMO, self.folder / "base")
        (self.folder / "link").symlink_to("base")
        for save in ("base", "base/", "./base", "link", "."):
            for load in ("", "auto"):
                with self.subTest(save=save, load=load):
                    self.refuses(f"checkpoint.load={load}", save=save, base="base",
                                 names=["checkpoint.save=", "checkpoint.pretrained_checkpoint=base"])
        done = self.run_trestle("import", "--hf-model", "base", "--megatron-path", "megatron")
        self.assertEqual(done.returncode, 0, done.stderr)
        for save in ("megatron", "megatron/iter_0000000", "megatron/run"):
            self.refuses(save=save, base="megatron", names=[f"checkpoint.save={save}", "pretrained_checkpoint=megatron"])

    def test_the_adapter_is_not_written_over(self):
        self.trains(iterations=2)
        self.refuses("peft.adapter_path=run", "peft.dim=null", save="run", names=["checkpoint.save=run", "peft.adapter_path=run"])
        self.trains("peft.adapter_path=run", "peft.dim=null", save="second", iterations=2)

    def test_an_adapter_says_what_it_is(self):
        self.trains(iterations=2)
        start = ("peft.adapter_path=run", "checkpoint.load=auto")
        self.refuses(*start, "peft.dim=8", save="second", names=["peft.dim=4", 8])
        self.refuses(*start, "peft.dim=null", "peft.alpha=1", save="second", names=["peft.alpha=32", 1])
        self.refuses(*start, "peft.dim=null", "peft.lora_A_init_method=kaiming", save="second", names=["has no effect"])
        self.refuses(*start, "peft.dim=null", "peft.target_modules=[linear_qkv]", save="second", names=["peft.target_modules="])
        self.trains(*start, "peft.dim=null", save="second", iterations=2)
        resolved = (self.folder / "second" / "resolved_config.yaml").read_text()
        self.assertIn("\n  dim: 4\n", resolved)
        self.assertIn("\n  adapter_path: run\n", resolved)

    def test_values_out_of_range(self):
        for given, allowed in (("optimizer.adam_beta1=2", "at least 0 and below 1"), ("optimizer.adam_eps=-1", "above 0"),
                               ("optimizer.clip_grad=nan", "at least 0"), ("optimizer.weight_decay=-5", "at least 0"),
                               ("scheduler.lr_decay_iters=-3", "at least 1"), ("scheduler.lr_warmup_init=-1", "at least 0"),
                               ("scheduler.lr_warmup_iters=9", "not below scheduler.lr_decay_iters=4"),
                               ("optimizer.lr=inf", "above 0")):
            with self.subTest(given=given):
                key, value = given.split("=")
                self.refuses(given, names=[key, value, allowed])
                # Where nothing would train, too.
                self.refuses(given, "--print-config", names=[key, value, allowed])
                group, leaf = key.split(".")
                (self.folder / "file.yaml").write_text(f"{group}: {{{leaf}: {value}}}\n")
                end = [] if key == "scheduler.lr_decay_iters" else ["scheduler.lr_decay_iters=4"]
                done = self.run_trestle("finetune", "--recipe", "demo_config", "--config", "file.yaml", *end, "--print-config")
                self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
                self.assertRegex(done.stderr, rf"^trestle: {re.escape(given)}\b.* {allowed}\b")

    def test_null_is_the_default(self):
        for null in ("null", "Null", "NULL", "~"):
            done = self.run_trestle(*self.arguments(f"logger.wandb_project={null}", f"peft.alpha={null}", "--print-config"))
            self.assertIn("\n  wandb_project: ~\n", done.stdout)
            self.assertIn("\n  alpha: 32\n", done.stdout)
        (self.folder / "null.yaml").write_text(
            "logger: {wandb_project: null, tensorboard_dir: null}\ncheckpoint: {load: null}\ndataset: {feature_cache: null}\n"
            "peft: {alpha: null}\n")
        self.trains("--config null.yaml", "peft.adapter_path=null", iterations=1)
        self.assertEqual({path.name for path in self.folder.iterdir()}, {"null.yaml", "run"})
        self.assertNotIn("wandb", {path.name for path in (self.folder / "run").iterdir()})

    def test_an_empty_group_of_a_file_is_a_group(self):
        file = self.folder / "file.yaml"
        for text, names in (("pefft: {}\n", ["pefft", "did you mean peft?"]), ("pefft:\n", ["pefft", "did you mean peft?"]),
                            ("peft: {dimm: {}}\n", ["peft.dimm", "peft.dim"]), ("peft: {dim: {}, dim.a: 3}\n", ["peft.dim", "both"]),
                            ("peft.dim: 3\npeft: {}\n", ["peft.dim", "both"])):
            file.write_text(text)
            with self.subTest(text):
                self.refuses("--config file.yaml", names=names)
        plain = self.run_trestle(*self.arguments("--print-config"))
        for text in ("peft: {}\n", "peft:\n", "{}", ""):
            file.write_text(text)
            with self.subTest(text):
                done = self.run_trestle(*self.arguments("--config file.yaml", "--print-config"))
                self.assertEqual((done.returncode, done.stdout), (0, plain.stdout), done.stderr)
        self.refuses("peft=null", names=["unknown option peft"])

    def test_a_key_that_is_set_to_nothing_keeps_the_environment_out(self):
        on = {"WANDB_PROJECT": "theirs", "WANDB_MODE": "offline"}
        board = self.folder / "run" / "wandb"

        def trains(*more, **environment):
            shutil.rmtree(self.folder / "run", ignore_errors=True)
            with unittest.mock.patch.dict(os.environ, on | environment):
                self.trains(*more, iterations=1)

        trains()
        self.assertTrue(board.is_dir())
        (self.folder / "off.yaml").write_text('logger: {wandb_project: ""}\n')
        for off in ("logger.wandb_project=", 'logger.wandb_project=""', "--config off.yaml"):
            with self.subTest(off):
                trains(off)
                self.assertFalse(board.exists())
        trains("logger.wandb_save_dir=", "logger.wandb_entity=", WANDB_DIR=str(self.folder / "theirs"), WANDB_ENTITY="their-team")
        self.assertFalse((self.folder / "theirs").exists())
        self.assertNotIn(b"their-team", b"".join(path.read_bytes() for path in board.rglob("*.wandb")))
        with unittest.mock.patch.dict(os.environ, on):
            self.refuses("logger.wandb_project=", "logger.wandb_entity=me", save="new", names=["no effect", "set to nothing"])

    def test_one_meaning_however_it_is_spelt(self):
        def printed(*overrides):
            done = self.run_trestle("finetune", "--recipe", "ministral3_3b_sft_config", "--print-config", *overrides)
            self.assertEqual(done.returncode, 0, done.stderr)
            return done.stdout

        (self.folder / "lora.yaml").write_text("peft: {scheme: lora}\n")
        expected = printed("--peft-scheme", "lora")
        self.assertIn("\n  lr: 0.0001\n", expected)
        self.assertEqual(printed("peft.scheme=lora"), expected)
        self.assertEqual(printed("--config", "lora.yaml"), expected)
        self.assertEqual(printed("--config", "lora.yaml", "peft.scheme=none"), printed())

    def test_keys_without_effect(self):
        for overrides, why in ((("peft.scheme=none", "peft.alpha=3", "peft.dim=null"), "peft.scheme is empty"),
                               (("train.max_steps_on_nan=3",), "train.on_nan=stop"),
                               (("dataset.split=test",), "read whole"), (("validation.split=test",), "turns validation off"),
                               (("logger.wandb_entity=me",), "Weights & Biases is off"),
                               (("model.recompute_num_layers=2",), "recompute_granularity")):
            with self.subTest(overrides=overrides):
                self.refuses(*overrides, names=["has no effect", why])
        self.refuses("validation.eval_interval=2", names=["validation.eval_interval", "no effect", "validation.path_or_dataset"])

    def test_the_last_value_counts_and_is_told(self):
        done = self.trains("--train-iters 3", iterations=1)
        self.assertIn("train.train_iters=3 gives way to train.train_iters=1", done.stderr)
        self.assertEqual(list(self.losses()), [1])


class Documents(unittest.TestCase):
    def test_keys(self):
        """docs/keys.md has the program's own table: trestle recipes --keys."""
        done = subprocess.run([script.TRESTLE, "recipes", "--keys"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(len(done.stdout.splitlines()), 60)
        document = (TESTS.parent / "docs" / "keys.md").read_text()
        self.assertIn(done.stdout, document, "docs/keys.md: put what `trestle recipes --keys` prints there")


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
