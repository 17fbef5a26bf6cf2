#!/usr/bin/env python3
"""Every key of a training run has its effect or is refused: each is tried in runs of a step or two, and what must
differ in what is computed or written is named. A key of `trestle recipes demo_config` that is not in the table below
fails, and an entry of the table that the program does not know.

  .venv/bin/python tests/cli/test_keys.py --trestle build/release/trestle [Keys.test_model ...]
"""

import functools
import http.server
import json
import re
import shutil
import threading
import time
import unittest
from pathlib import Path

import pyarrow.parquet
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import script
from walk import Changed, Fails, Gains, Less, Loses, More, Needed, Refused, Trial, Walk, err, file, files, losses, metric, trained

TESTS = Path(__file__).resolve().parent.parent
DEMO, RECEIPTS = (TESTS.parent / "assets" / "demo" / name for name in ("model", "data"))
NOTHING = "has no effect"
ON_HUB = "org/set"  # in the cache, with the subsets default and other


class At(str):
    """A path below the scratch folder of the test."""


class In(str):
    """A text in which GIVEN is that folder."""


TRAIN, TEST, BOTH, LINES, PAGES, LINKS, LARGE, NAN, NOISY, BEFORE, BARE, DROPPED, ADAPTER = map(At, (
    "data/train.parquet", "data/test.parquet", "data", "lines.jsonl", "pages.jsonl", "links.jsonl", "large.jsonl", "nan", "noisy", "before",
    "bare", "dropped", "adapter"))

USUAL = {
    "checkpoint.pretrained_checkpoint": DEMO, "checkpoint.save": "run", "dataset.path_or_dataset": TRAIN, "train.train_iters": 2,
    "train.global_batch_size": 2, "train.micro_batch_size": 2, "scheduler.lr_warmup_iters": 0}
FULL = {"peft.scheme": "none", "optimizer.lr": 1e-3}
VALID = {"validation.eval_interval": 1, "validation.eval_iters": 1, "validation.path_or_dataset": TEST}
ONE = {"train.train_iters": 1}
LONG = {"dataset.maker_name": "jsonl", "dataset.path_or_dataset": PAGES, "train.global_batch_size": 4,
        "train.micro_batch_size": 4} | ONE
FULL_RECOMPUTE = LONG | {"model.recompute_granularity": "full"}
# The recipe's length, of which two steps are made.
UNTIL_2 = {"train.train_iters": "null", "train.exit_interval": 2}
WSD = {"scheduler.lr_decay_style": "WSD", "scheduler.lr_wsd_decay_iters": 2}
CONSTANT = {"scheduler.lr_decay_style": "constant"}
WANDB = {"logger.wandb_project": "walk"}
MLFLOW = {"logger.mlflow_experiment": "walk"}
TRACE = {"profiling.use_pytorch_profiler": "true", "profiling.profile_step_start": 1, "profiling.profile_step_end": 2}

LOSS = metric("loss")
RATE = metric("lr")
TOKENS = metric("tokens")
VALID_LOSS = metric("valid_loss")


def weights(done):
    return [file(path.relative_to(done.folder))(done) for path in sorted(done.folder.glob("run/iter_*/*.distcp"))]


def memory(done):
    return losses(done, "peak_memory_bytes")[-1][0][1]


def processor(done):
    return done.cpu


def written(words):
    """Whether one of the tracker's files has the words."""
    return lambda done: any(words.encode() in path.read_bytes() for path in done.folder.rglob("*.wandb"))


def told(name):
    """The file of MLflow's that has this name: a tag, a parameter or a metric."""
    return lambda done: [path.read_text() for path in sorted(done.folder.rglob(name)) if path.is_file()]


def trace(done):
    """The step marks of a trace, and whether it has shapes."""
    path = done.folder / "run" / "torch_profile" / "rank-0.json"
    text = path.read_text() if path.is_file() else ""
    return sorted(re.findall(r"ProfilerStep#\d+", text)), "Input Dims" in text


def scalars(done):
    """How often TensorBoard's file has each name."""
    data = b"".join(path.read_bytes() for path in sorted(done.folder.rglob("events.out.tfevents.*")))
    return {name: data.count(name.encode()) for name in ("lm loss", "throughput/tflops/device", "memory/mem-reserved-gigabytes", "world-size")}


def requests(done):
    """How many pictures the run asked the server for."""
    return sum(done.began <= at <= done.ended for at in Keys.asked)


FROZEN = Gains(err, "adapters freeze the whole base")
# Without adapters there is nothing that peft.* could say.
NO_ADAPTERS = Refused(NOTHING)
# One process computes the same as many, and says so.
MANY = "this one process holds the whole model"


def of_peft(*trials, value):
    return [*trials, Trial(value, NO_ADAPTERS, FULL)]


TABLE = {
    "model.tensor_model_parallel_size": [Trial(2, Gains(err, MANY))],
    "model.pipeline_model_parallel_size": [Trial(2, Gains(err, MANY))],
    "model.virtual_pipeline_model_parallel_size": [Trial(2, Gains(err, MANY))],
    "model.num_layers_in_first_pipeline_stage": [Trial(1, Gains(err, MANY))],
    "model.num_layers_in_last_pipeline_stage": [Trial(1, Gains(err, MANY))],
    "model.account_for_embedding_in_pipeline_split": [Trial("true", Gains(err, MANY))],
    "model.account_for_loss_in_pipeline_split": [Trial("true", Gains(err, MANY))],
    "model.pipeline_split": [Trial("cost", Gains(err, MANY))],
    "model.context_parallel_size": [Trial(2, Gains(err, MANY))],
    "model.sequence_parallel": [Trial("true", Gains(err, MANY))],
    "model.seq_length": [Trial(150, Changed(TOKENS), {"dataset.overlong": "cut-text"})],
    "model.freeze_language_model": [Trial("true", Changed(trained), FULL), Trial("true", FROZEN)],
    "model.freeze_vision_model": [Trial("true", Changed(trained), FULL), Trial("true", FROZEN)],
    "model.freeze_vision_projection": [Trial("true", Changed(trained), FULL), Trial("true", FROZEN)],
    "model.params_dtype": [Trial("bf16", Changed(LOSS))],
    "model.recompute_granularity": [Trial("selective", Less(memory, 0.98), LONG), Trial("full", Less(memory, 0.9), LONG)],
    "model.recompute_method": [Trial("block", More(memory, 1.02), FULL_RECOMPUTE), Trial("block", Refused(NOTHING))],
    "model.recompute_num_layers": [Trial(4, More(memory, 1.2), FULL_RECOMPUTE), Trial(4, Refused(NOTHING))],
    "train.train_iters": [Trial(1, Changed(LOSS))],
    "train.train_samples": [Trial(6, Changed(RATE), UNTIL_2), Trial(6, Refused(NOTHING))],
    "train.num_epochs": [Trial(0.5, Changed(RATE), UNTIL_2), Trial(0.5, Refused(NOTHING))],
    "train.global_batch_size": [Trial(4, Changed(LOSS))],
    "train.micro_batch_size": [Trial(1, Changed(metric("forwards")))],
    "train.exit_interval": [Trial(1, Changed(LOSS)), Trial(3, Gains(err, "it stops nothing"))],
    "train.exit_duration_in_mins": [Trial(1e-6, Changed(LOSS))],
    "train.on_nan": [Trial("skip", Needed("step 1: the loss is", lines=False),
                           {"checkpoint.pretrained_checkpoint": NAN})],
    "train.max_steps_on_nan": [
        Trial(1, Fails("train.max_steps_on_nan=1"), {"checkpoint.pretrained_checkpoint": NAN, "train.on_nan": "skip"}),
        Trial(1, Refused(NOTHING))],
    "train.device": [Trial("cuda", Refused("this build has no CUDA")), Trial("gpu", Refused("must be auto, cpu, cuda or cuda:N"))],
    "train.deterministic": [Trial("true", Gains(err, "train.deterministic=true: on the CPU every sum has one order anyway"))],
    "train.loss_spike_factor": [Trial(1.001, Fails("train.loss_spike_factor=1.001"), {
        "dataset.maker_name": "jsonl", "dataset.path_or_dataset": LINES, "dataset.shuffle": "false", "train.train_iters": 22,
        "train.global_batch_size": 1, "train.micro_batch_size": 1, "optimizer.lr": 1e-9, "optimizer.min_lr": 0})],
    "validation.eval_interval": [Trial(2, Changed(VALID_LOSS), VALID)],
    "validation.eval_iters": [Trial(2, Changed(VALID_LOSS), VALID), Trial(2, Refused(NOTHING))],
    "validation.start_eval_at_iter": [Trial(2, Changed(VALID_LOSS), VALID), Trial(2, Refused(NOTHING)),
                                      Trial(3, Refused(NOTHING), VALID), Trial(1, Refused(NOTHING), VALID)],
    "validation.path_or_dataset": [Trial(TRAIN, Changed(VALID_LOSS), VALID), Trial(TRAIN, Refused(NOTHING))],
    "validation.sets": [
        Trial(In("[{name: seen, path: GIVEN/data/train.parquet}, {name: new, path: GIVEN/data/test.parquet}]"),
              Gains(err, "validation-new loss"),
              {"validation.eval_interval": 1, "validation.eval_iters": 1, "dataset.path_or_dataset": BOTH}),
        Trial("[{name: a, path: b}]", Refused("both name data"), VALID),
        Trial("[{name: a, path: b}]", Refused(NOTHING), {"validation.eval_interval": 0})],
    "validation.split": [
        Trial("test", Changed(VALID_LOSS), VALID | {"validation.path_or_dataset": BOTH}), Trial("test", Refused(NOTHING)),
        Trial("test", Refused(NOTHING), VALID)],
    "validation.subset": [
        Trial("other", Changed(VALID_LOSS), VALID | {"validation.path_or_dataset": ON_HUB, "validation.split": "train"}),
        Trial("other", Refused(NOTHING), VALID), Trial("other", Refused(NOTHING))],
    "validation.answers": [Trial(1, Gains(err, "tree_edit_accuracy"), VALID), Trial(1, Refused(NOTHING))],
    "validation.max_new_tokens": [Trial(3, Changed(metric("valid_tree_edit_accuracy", "valid_anls")), VALID | {"validation.answers": 2}),
                                  Trial(3, Refused(NOTHING), VALID), Trial(3, Refused(NOTHING))],
    "validation.best_metric": [Trial("valid_loss", Gains(files, "run/best.json"), VALID), Trial("valid_loss", Refused(NOTHING))],
    "optimizer.lr": [Trial(1e-3, Changed(LOSS))],
    "optimizer.min_lr": [Trial(1e-3, Changed(RATE)), Trial(1e-3, Refused(NOTHING), CONSTANT)],
    "optimizer.weight_decay": [Trial(0.5, Changed(weights))],
    "optimizer.adam_beta1": [Trial(0.5, Changed(weights))],
    "optimizer.adam_beta2": [Trial(0.5, Changed(weights))],
    "optimizer.adam_eps": [Trial(0.1, Changed(LOSS))],
    "optimizer.clip_grad": [Trial(0.1, Changed(weights))],
    "optimizer.use_distributed_optimizer": [Trial(False, Gains(err, "this one process shares nothing"))],
    "scheduler.lr_decay_style": [Trial("linear", Changed(RATE), {"scheduler.lr_decay_iters": 3})],
    "scheduler.lr_wsd_decay_style": [Trial("linear", Changed(RATE), WSD), Trial("linear", Refused(NOTHING))],
    "scheduler.lr_wsd_decay_iters": [Trial(1, Changed(RATE), WSD), Trial(1, Refused(NOTHING))],
    "scheduler.lr_warmup_iters": [Trial(1, Changed(RATE))],
    "scheduler.lr_warmup_fraction": [Trial(0.5, Changed(RATE)), Trial(0.5, Refused(NOTHING), {"scheduler.lr_warmup_iters": 1})],
    "scheduler.start_weight_decay": [
        Trial(0.4, Changed(weights), {"scheduler.weight_decay_incr_style": "linear", "scheduler.end_weight_decay": 0.5})],
    "scheduler.end_weight_decay": [
        Trial(0.5, Needed("weight decay starts and ends at one value"), {"scheduler.weight_decay_incr_style": "linear"})],
    "scheduler.weight_decay_incr_style": [
        Trial("cosine", Needed("scheduler.weight_decay_incr_style=constant"), {"scheduler.end_weight_decay": 0.5}),
        Trial("cosine", Refused(NOTHING))],
    "scheduler.lr_warmup_init": [Trial(1e-3, Changed(RATE), {"scheduler.lr_warmup_iters": 1}), Trial(1e-3, Refused(NOTHING))],
    "scheduler.lr_decay_iters": [Trial(3, Changed(RATE)), Trial(3, Refused(NOTHING), CONSTANT)],
    "dataset.maker_name": [Trial("jsonl", Needed("lines.jsonl"), {"dataset.path_or_dataset": LINES})],
    "dataset.path_or_dataset": [Trial(TEST, Changed(LOSS)), Trial(TRAIN, Needed("dataset.path_or_dataset"))],
    "dataset.blend": [
        Trial(In("[{path: GIVEN/data/train.parquet, weight: 0.5}, {path: GIVEN/lines.jsonl, weight: 0.5, maker_name: jsonl}]"),
              Needed("dataset.path_or_dataset"), {"dataset.path_or_dataset": "null"}),
        Trial("[a, b]", Refused("both name data"))],
    "dataset.split": [Trial("test", Changed(LOSS), {"dataset.path_or_dataset": BOTH}), Trial("test", Refused(NOTHING))],
    "dataset.subset": [Trial("other", Changed(LOSS), {"dataset.path_or_dataset": ON_HUB}), Trial("other", Refused(NOTHING))],
    "dataset.shuffle": [Trial("false", Changed(LOSS))],
    "dataset.num_workers": [Trial(2, More(requests, 1.5), ONE | {
        "dataset.maker_name": "jsonl", "dataset.path_or_dataset": LINKS, "train.global_batch_size": 1, "train.micro_batch_size": 1})],
    "dataset.pack_sequences_in_batch": [Trial("true", Changed(metric("forwards")), {"train.micro_batch_size": 1})],
    "dataset.overlong": [Trial("cut-text", Needed("dataset.overlong", lines=False), {"model.seq_length": 150})],
    "dataset.image_max_edge": [Trial(56, Changed(TOKENS))],
    "dataset.image_max_tokens": [Trial(6, Changed(TOKENS))],
    "dataset.feature_cache": [Trial("cache", Gains(files, "cache/")), Trial("cache", Refused(NOTHING), FULL)],
    "dataset.feature_cache_mb": [
        Trial(0, More(processor, 1.15), {"dataset.maker_name": "jsonl", "dataset.path_or_dataset": LARGE, "train.train_iters": 6}),
        Trial(0, Refused(NOTHING), FULL)],
    "peft.scheme": [Trial("dora", Changed(LOSS)), Trial("none", Changed(trained))],
    "peft.dim": of_peft(Trial(8, Changed(trained)), Trial(8, Fails("but 8 was asked for"), {"peft.adapter_path": ADAPTER}), value=8),
    "peft.alpha": of_peft(Trial(1, Changed(LOSS)), Trial(1, Fails("but 1 was asked for"), {"peft.adapter_path": ADAPTER}), value=1),
    "peft.dropout": of_peft(Trial(0.5, Changed(LOSS)), value=0.5),
    "peft.target_modules": of_peft(Trial("[linear_qkv]", Changed(trained)),
                                   Trial("[linear_qkv]", Fails("but [linear_qkv] was asked for"), {"peft.adapter_path": ADAPTER}),
                                   value="[linear_qkv]"),
    "peft.lora_A_init_method": of_peft(Trial("kaiming", Changed(LOSS)), Trial("kaiming", Refused(NOTHING), {"peft.adapter_path": ADAPTER}),
                                       value="kaiming"),
    "peft.lora_B_init_method": of_peft(
        Trial("normal", Changed(LOSS)), Trial("normal", Refused(NOTHING), {"peft.lora_A_init_method": "pissa"}),
        Trial("normal", Refused(NOTHING), {"peft.adapter_path": ADAPTER}), value="normal"),
    "peft.use_rslora": of_peft(Trial("true", Changed(LOSS)), value="true"),
    "peft.lora_plus_ratio": of_peft(Trial(16, Changed(LOSS)), value=16),
    "peft.base_bits": [Trial(4, Changed(LOSS)), Trial("fp8", Fails("no projection of the base is in FP8")),
                       Trial(4, Refused("holds the weights in a form that cannot train"), FULL)],
    "peft.shard_base": of_peft(Trial("true", Gains(err, "peft.shard_base=true is for several ranks")), value="true"),
    "peft.adapter_path": of_peft(Trial(ADAPTER, Changed(LOSS)), value=ADAPTER),
    "checkpoint.pretrained_checkpoint": [Trial(NOISY, Changed(LOSS)), Trial(DEMO, Needed("checkpoint.pretrained_checkpoint"))],
    "checkpoint.save": [Trial("other", Gains(files, "other/metrics.jsonl")), Trial("run", Needed("checkpoint.save"))],
    "checkpoint.load": [Trial(BEFORE, Changed(metric("step")), {"train.train_iters": 3})],
    "checkpoint.ckpt_step": [
        Trial(1, Changed(metric("step")), {"checkpoint.load": BEFORE, "train.train_iters": 3}), Trial(1, Refused(NOTHING))],
    "checkpoint.finetune": [Trial("true", Changed(metric("step")), {"checkpoint.load": BEFORE, "train.train_iters": 3})],
    "checkpoint.load_optim": [Trial("false", Changed(LOSS), {"checkpoint.load": BEFORE, "train.train_iters": 4}), Trial("false", Refused(NOTHING)),
                              Trial("false", Refused(NOTHING), {"checkpoint.load": BEFORE, "checkpoint.finetune": "true"})],
    "checkpoint.load_rng": [
        Trial("false", Changed(LOSS), {"checkpoint.load": DROPPED, "peft.dropout": 0.5, "train.train_iters": 3}),
        Trial("false", Refused(NOTHING)), Trial("false", Refused(NOTHING), {"checkpoint.load": BEFORE, "checkpoint.finetune": "true"})],
    "checkpoint.verify_integrity": [
        Trial("true", Refused("has no integrity.json"), {"checkpoint.load": BARE, "train.train_iters": 3}),
        Trial("true", Refused("has no effect"))],
    "checkpoint.most_recent_k": [Trial(1, Loses(files, "run/iter_0000001/metadata.json"), {"checkpoint.save_interval": 1}),
                                 Trial(-1, Refused(NOTHING), {"checkpoint.save_retain_interval": 2})],
    "checkpoint.save_retain_interval": [
        Trial(2, Loses(files, "run/iter_0000001/metadata.json"), {"checkpoint.save_interval": 1}), Trial(1, Refused(NOTHING)),
        Trial(3, Gains(err, "it keeps nothing beside"), {"checkpoint.most_recent_k": 1})],
    "checkpoint.save_optim": [Trial("false", Changed(file("run/iter_0000002/.metadata")))],
    "checkpoint.save_rng": [Trial("false", Changed(file("run/iter_0000002/.metadata")))],
    "checkpoint.async_save": [Trial("true", Gains(err, "MB more memory, for a copy of what is saved"))],
    "checkpoint.also_save_hf_checkpoint": [Trial("true", Gains(files, "run/iter_0000002/hf/adapter_config.json"))],
    "checkpoint.hf_source_path": [
        Trial("org/model", Changed(file("run/iter_0000002/hf/adapter_config.json")), {"checkpoint.also_save_hf_checkpoint": "true"}),
        Trial("org/model", Refused(NOTHING))],
    "checkpoint.save_interval": [Trial(1, Gains(files, "run/iter_0000001/metadata.json"))],
    "logger.log_throughput": [Trial("true", Gains(err, " TFLOP/s"))],
    "logger.log_params_norm": [Trial("true", Changed(metric("params_norm")))],
    "logger.log_progress": [Trial("true", Gains(files, "run/progress.txt"))],
    "logger.tensorboard_log_interval": [Trial(2, Changed(scalars)), Trial(3, Gains(err, "are told of no step"))],
    "logger.log_throughput_to_tensorboard": [Trial("true", Changed(scalars))],
    "logger.log_memory_to_tensorboard": [Trial("true", Changed(scalars))],
    "logger.log_world_size_to_tensorboard": [Trial("true", Changed(scalars))],
    "logger.mlflow_experiment": [Trial("walk", Gains(err, "MLflow: run run of walk is in run/mlruns"))],
    "logger.mlflow_run_name": [Trial("named", Changed(told("mlflow.runName")), MLFLOW), Trial("named", Refused(NOTHING))],
    "logger.mlflow_tracking_uri": [Trial("file:store", Gains(err, "is in store;"), MLFLOW), Trial("store", Refused(NOTHING))],
    "logger.mlflow_tags": [Trial("[team=walk]", Changed(told("team")), MLFLOW), Trial("[team=walk]", Refused(NOTHING))],
    "logger.mlflow_description": [Trial("told", Changed(told("mlflow.note.content")), MLFLOW), Trial("told", Refused(NOTHING))],
    "logger.mlflow_log_artifacts": [Trial("false", Changed(told("metadata.json")), MLFLOW), Trial("false", Refused(NOTHING))],
    "profiling.use_pytorch_profiler": [
        Trial("true", Changed(trace), {"train.train_iters": 11}), Trial("true", Refused(NOTHING)),
        Trial("true", Gains(err, "nothing is traced"), {"train.train_iters": 11, "train.exit_interval": 1})],
    "profiling.profile_step_start": [Trial(2, Changed(trace), TRACE | {"profiling.profile_step_end": 3}), Trial(2, Refused(NOTHING))],
    "profiling.profile_step_end": [Trial(3, Changed(trace), TRACE), Trial(3, Refused(NOTHING))],
    "profiling.pytorch_profiler_collect_shapes": [Trial("true", Changed(trace), TRACE), Trial("true", Refused(NOTHING))],
    "logger.log_interval": [Trial(2, Loses(err, "step    1/2")), Trial(3, Gains(err, "no step has a progress line"))],
    "logger.tensorboard_dir": [Trial("watch", Gains(files, "watch/events"))],
    "logger.wandb_project": [Trial("walk", Gains(files, "run/wandb/offline-run-"))],
    "logger.wandb_entity": [Trial("team-of-the-walk", Changed(written("team-of-the-walk")), WANDB), Trial("team", Refused(NOTHING))],
    "logger.wandb_exp_name": [Trial("name-of-the-walk", Changed(written("name-of-the-walk")), WANDB), Trial("name", Refused(NOTHING))],
    "logger.wandb_save_dir": [Trial("board", Gains(files, "board/wandb/offline-run-"), WANDB), Trial("board", Refused(NOTHING))],
    "dist.distributed_timeout_minutes": [Trial(5, Gains(err, "dist.distributed_timeout_minutes=5 is for several ranks"))],
    "rng.seed": [Trial(7, Changed(LOSS)), Trial(7, Refused(NOTHING), FULL | {"dataset.shuffle": "false"})],
}


class Pictures(http.server.SimpleHTTPRequestHandler):
    """Notes when it was asked."""

    def do_GET(self):
        Keys.asked.append(time.monotonic())
        super().do_GET()

    def log_message(self, *arguments):
        pass


def talk(content, answer="b"):
    return json.dumps({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}) + "\n"


class Keys(Walk):
    asked = []

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.folder = cls.scratch / "given"
        (folder / "data").mkdir(parents=True)
        for split, rows in (("train", 16), ("test", 4), ("validation", 4)):
            table = pyarrow.parquet.read_table(RECEIPTS / f"{'test' if split == 'test' else 'train'}.parquet")
            pyarrow.parquet.write_table(table.slice(20 if split == "validation" else 0, rows), folder / "data" / f"{split}.parquet")
        cls.cache_data_set(ON_HUB, {
            "README.md": b"---\nconfigs:\n- config_name: default\n  data_dir: data\n- config_name: other\n  data_dir: other\n---\n",
            "data/train.parquet": (folder / TRAIN).read_bytes(), "other/train.parquet": (folder / TEST).read_bytes()})
        (folder / LINES).write_text(talk("a") * 20 + talk("a", "Q~|{}`^"))
        (folder / PAGES).write_text(talk("a b c d " * 120) * 4)
        cls.serve(folder)
        Image.new("RGB", (560, 560), "red").save(folder / "large.png")
        (folder / LARGE).write_text(talk([{"type": "image", "path": "large.png"}]) * 2)
        for name, change in ((NOISY, 0.05), (NAN, float("nan"))):
            shutil.copytree(DEMO, folder / name)
            tensors = load_file(DEMO / "model.safetensors")
            changed = "language_model.model.layers.0.mlp.up_proj.weight"
            tensors[changed] = tensors[changed] + change
            save_file(tensors, folder / name / "model.safetensors")
        cls.made({"checkpoint.save": folder / BEFORE, "checkpoint.save_interval": 1})
        cls.made({"checkpoint.save": folder / DROPPED, "peft.dropout": 0.5})
        shutil.copytree(folder / BEFORE, folder / BARE)
        (folder / BARE / "iter_0000002" / "integrity.json").unlink()
        cls.made({"checkpoint.save": folder / ADAPTER, "optimizer.lr": 0.05})

    @classmethod
    def serve(cls, folder):
        for number in range(8):
            Image.new("RGB", (56, 56), (number, 0, 0)).save(folder / f"{number}.png")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pictures, directory=folder))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        url = f"http://127.0.0.1:{server.server_port}"
        (folder / LINKS).write_text("".join(talk([{"type": "image", "url": f"{url}/{number}.png"}]) for number in range(8)))

    @classmethod
    def line(cls, keys):
        return ["finetune", "--recipe", "demo_config", *(
            f"{key}={cls.text_of(value)}" for key, value in keys.items())]

    @classmethod
    def text_of(cls, value):
        if isinstance(value, In):
            return value.replace("GIVEN", str(cls.folder))
        return cls.folder / value if isinstance(value, At) else value

    @classmethod
    def made(cls, keys):
        done = cls.run_trestle(cls.line(USUAL | keys))
        assert done.status == 0, done.words()

    def test_every_key_is_tried(self):
        done = self.run_trestle(["recipes", "demo_config"])
        self.works(done)
        known, group = [], ""
        for line in done.out.splitlines():
            name = line.strip().split(":")[0]
            if line.startswith(" "):
                known.append(f"{group}.{name}")
            else:
                group = name
        self.walk(known, TABLE)

    def tried(self, key, trial):
        usual = USUAL | trial.given
        before = {name: value for name, value in usual.items() if name != key or not isinstance(trial.effect, Needed)}
        done = self.without(self.line(before), "", trial.effect.view)
        trial.effect.check(self, done, self.run_trestle(self.line(usual | {key: trial.value})))

    def walk_group(self, group):
        for key, trials in TABLE.items():
            if not key.startswith(group + "."):
                continue
            for number, trial in enumerate(trials):
                with self.subTest(key=key, trial=number):
                    self.tried(key, trial)


for each in dict.fromkeys(key.split(".")[0] for key in TABLE):
    setattr(Keys, f"test_{each}", lambda self, group=each: self.walk_group(group))


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
