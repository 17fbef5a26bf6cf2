#!/usr/bin/env python3
"""What a run tells, read by TensorBoard's, Weights & Biases' and MLflow's own code.

  .venv/bin/python tests/interop/test_trackers.py --trestle build/release/trestle [TestCase.test ...]

Real runs of `trestle finetune` on the fixture of tests/fixtures/hf, whole and resumed. TensorBoard's
readers and wandb's messages give the values of metrics.jsonl; the real `wandb sync` uploads a run to
a stand-in of W&B's server on 127.0.0.1, and stand-ins of `wandb` show what happens when it fails. MLflow's client
finds experiment, run, parameters, tags, the whole history of each metric, and the checkpoints.
"""

import gzip
import html.parser
import http.server
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zlib
from pathlib import Path

os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"  # since 3.13 it opens a folder for whoever asks for it
import mlflow  # noqa: E402
import yaml  # noqa: E402
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "cli"))
import script  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
FIXTURE = ROOT / "tests" / "fixtures" / "hf"
SCALARS = {"lm loss": "loss", "learning-rate": "lr", "grad-norm": "grad_norm", "iteration-time": "seconds",
           "target-tokens": "target_tokens", "images": "images", "forwards": "forwards",
           "peak-memory-bytes": "peak_memory_bytes"}
API_KEY = "0123456789abcdef" * 2 + "01234567"


def lines_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def wandb_records(file):
    """The records of a .wandb file: LevelDB's log format, wandb's own messages."""
    data = file.read_bytes()
    assert struct.unpack("<4sHB", data[:7]) == (b":W&B", 0xBEE1, 0)
    at, whole = 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        checksum, size, kind = struct.unpack("<IHB", data[at:at + 7])
        body = data[at + 7:at + 7 + size]
        assert zlib.crc32(bytes([kind]) + body) == checksum and len(body) == size
        whole += body
        at += 7 + size
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def items_of(record):
    return {"/".join(item.nested_key): json.loads(item.value_json) for item in record.item}


class Page(html.parser.HTMLParser):
    """Every tag closed in order, nothing loaded, nothing run."""

    VOID = {"meta", "img", "br"}
    OPTIONAL = {"html", "p", "tr", "td", "th"}

    def __init__(self):
        super().__init__()
        self.open, self.faults, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag in ("script", "link", "iframe", "object") or {"src", "href", "onload"} & dict(attributes).keys():
            self.faults.append(f"{tag} {attributes}")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}>")


class Server(http.server.ThreadingHTTPServer):
    """As much of W&B's server as `wandb sync` asks for: runs with their history, and uploaded files."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.history, self.runs, self.files = {}, {}, {}  # by run id; files by name
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def bucket(self, run_id):
        lines = self.history.get(run_id, [])
        return {"id": "B", "name": run_id, "displayName": self.runs[run_id].get("displayName"), "description": None,
                "config": json.dumps({}), "sweepName": None, "tags": [], "wandbConfig": None, "summaryMetrics": "{}",
                "historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0, "eventsTail": "[]",
                "historyTail": json.dumps(lines[-1:]),
                "project": {"id": "P", "name": self.runs[run_id]["project"], "entity": {"id": "E", "name": "us"}}}

    def answer(self, operation, variables):
        if operation == "UpsertBucket":
            known = variables["name"] in self.runs
            self.runs.setdefault(variables["name"], {}).update({k: v for k, v in variables.items() if v is not None})
            return {"upsertBucket": {"bucket": self.bucket(variables["name"]), "inserted": not known}}
        if operation == "RunResumeStatus":
            bucket = self.bucket(variables["name"]) if variables["name"] in self.runs else None
            return {"model": {"id": "P", "name": variables["project"], "entity": {"id": "E", "name": "us"},
                              "bucket": bucket}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
            return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, run_id, content):
        part = content.get("files", {}).get("wandb-history.jsonl")
        if part:
            self.history.setdefault(run_id, [])[part["offset"]:] = part["content"]

    def handle_error(self, request, client_address):
        pass  # wandb closes its connections as it likes


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def serve(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        answer = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            answer = {"data": self.server.answer(asked.get("operationName"), asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(body))
        elif self.path.startswith("/upload/"):
            self.server.files[self.path.split("/")[-1]] = body.decode()
        text = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_PUT = serve


class Trackers(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="trestle-trackers-"))
        self.addCleanup(shutil.rmtree, self.folder)
        rows = [{"messages": [{"role": "user", "content": f"count {i}"}, {"role": "assistant", "content": "a" * (3 + i)}]}
                for i in range(7)]
        (self.folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def start(self, *overrides, name="run", iterations=6, **environment):
        """Nothing of W&B in the environment but what is given."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
        settings = [f"checkpoint.pretrained_checkpoint={FIXTURE}", f"checkpoint.save={name}",
                    f"train.train_iters={iterations}", "dataset.path_or_dataset=data.jsonl",
                    "train.global_batch_size=2", "train.micro_batch_size=1", f"scheduler.lr_warmup_iters={min(2, iterations - 1)}",
                    "checkpoint.save_interval=3", *overrides]
        command = [script.TRESTLE, "finetune", "--recipe", "demo_config", "--dataset-type", "jsonl", *settings]
        return subprocess.Popen(command, cwd=self.folder, stderr=subprocess.PIPE, text=True, env=clean | environment)

    def finetune(self, *overrides, status=0, **options):
        """The run's stderr."""
        started = self.start(*overrides, **options)
        said = started.communicate()[1]
        self.assertEqual(started.returncode, status, said)
        return said

    def wandb_directories(self, name="run"):
        return sorted((self.folder / name / "wandb").glob("offline-run-*"))


class TensorBoard(Trackers):
    def scalars(self, folder):
        accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        accumulator.Reload()
        return {tag: accumulator.Scalars(tag) for tag in accumulator.Tags()["scalars"]}

    def equal_to_metrics(self, folder, run):
        scalars, lines = self.scalars(folder), lines_of(run)
        for tag, key in SCALARS.items():
            self.assertEqual([event.step for event in scalars[tag]], [line["step"] for line in lines], tag)
            for event, line in zip(scalars[tag], lines):
                self.assertTrue(math.isclose(event.value, line[key], rel_tol=1e-6), (tag, event, line))
        for event, line in zip(scalars["throughput/tokens_per_sec"], lines):
            self.assertTrue(math.isclose(event.value, line["tokens"] / line["seconds"], rel_tol=1e-6))

    def test_whole_run(self):
        self.finetune("logger.log_interval=4")
        run = self.folder / "run"
        self.equal_to_metrics(run / "tensorboard", run)
        [file] = (run / "tensorboard").iterdir()
        events = list(event_file_loader.EventFileLoader(str(file)).Load())
        self.assertEqual(events[0].file_version, "brain.Event:2")
        self.assertEqual(len(events), 2 + 6)  # version, start of the session, steps
        self.assertFalse((run / "wandb").exists())

    def test_steps_made_again_take_the_place_of_the_old(self):
        run = self.folder / "run"
        self.finetune(iterations=3)
        shutil.copytree(run, self.folder / "saved")
        self.finetune("checkpoint.load=run", iterations=5)
        before = lines_of(run)
        # As if killed before the checkpoint of step 5: steps 4 and 5 are made again.
        shutil.rmtree(run / "iter_0000005")
        for file in (self.folder / "saved").glob("latest_*"):
            shutil.copy(file, run)
        self.finetune("checkpoint.load=run", "optimizer.lr=5e-2", iterations=6)
        lines = lines_of(run)
        self.assertEqual([line["step"] for line in lines], [1, 2, 3, 4, 5, 6])
        self.assertNotEqual(before[4]["loss"], lines[4]["loss"])
        self.assertEqual(len(list((run / "tensorboard").iterdir())), 3)
        self.equal_to_metrics(run / "tensorboard", run)

    def test_another_directory(self):
        self.finetune("logger.tensorboard_dir=boards/a", iterations=1)
        self.equal_to_metrics(self.folder / "boards" / "a", self.folder / "run")
        self.assertFalse((self.folder / "run" / "tensorboard").exists())


class Wandb(Trackers):
    PROJECT = "logger.wandb_project=receipts"

    def stand_in(self, script):
        """A `wandb` on PATH; returns the PATH and the file that it may write."""
        program = self.folder / "bin" / "wandb"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)
        return f"{program.parent}:{os.environ['PATH']}"

    def check_run(self, directory, lines, **run_fields):
        [file] = directory.glob("run-*.wandb")
        records = list(wandb_records(file))
        self.assertEqual([record.num for record in records], list(range(1, len(records) + 1)))
        kinds = [record.WhichOneof("record_type") for record in records]
        self.assertEqual((kinds[0], kinds[1], kinds[-1]), ("header", "run", "exit"))
        run = records[1].run
        for key, value in run_fields.items():
            self.assertEqual(getattr(run, key), value, key)
        self.assertEqual(file.name, f"run-{run.run_id}.wandb")
        self.assertRegex(directory.name, rf"^offline-run-\d{{8}}_\d{{6}}-{run.run_id}$")
        config = {item.key: json.loads(item.value_json) for item in run.config.update}
        self.assertEqual(config["train"]["global_batch_size"], 2)
        self.assertIs(config["dataset"]["shuffle"], True)
        self.assertEqual(config["logger"]["log_interval"], 1)
        history = [record.history for record in records if record.HasField("history")]
        self.assertEqual([row.step.num for row in history], [line["step"] for line in lines])
        for row, line in zip(history, lines):
            values = items_of(row)
            self.assertEqual(values["_step"], line["step"])
            for tag, key in SCALARS.items():
                self.assertEqual(values[tag], line[key], tag)
        summary = {}
        for record in records:
            if record.HasField("summary"):
                summary |= {"/".join(item.nested_key): json.loads(item.value_json) for item in record.summary.update}
        self.assertEqual(summary["lm loss"], lines[-1]["loss"])
        return records

    def test_offline_run(self):
        said = self.finetune(self.PROJECT, "logger.wandb_entity=us", "logger.wandb_exp_name=first", WANDB_MODE="offline",
                             WANDB_API_KEY=API_KEY)
        [directory] = self.wandb_directories()
        records = self.check_run(directory, lines_of(self.folder / "run"), project="receipts", entity="us",
                                 display_name="first", resume=False)
        self.assertEqual(records[-1].exit.exit_code, 0)
        self.assertIn(f"wandb sync run/wandb/{directory.name}", said)

    def test_environment(self):
        self.finetune(iterations=1, WANDB_PROJECT="p", WANDB_ENTITY="e", WANDB_RUN_ID="chosen-1", WANDB_DIR="elsewhere")
        [directory] = (self.folder / "elsewhere" / "wandb").iterdir()
        self.check_run(directory, lines_of(self.folder / "run"), project="p", entity="e", run_id="chosen-1",
                       display_name="run")
        self.finetune(iterations=1, name="off", WANDB_PROJECT="p", WANDB_MODE="disabled")
        self.assertFalse((self.folder / "off" / "wandb").exists())
        said = self.finetune(iterations=1, name="bad", status=2, WANDB_PROJECT="p", WANDB_MODE="sometimes")
        self.assertIn("WANDB_MODE=sometimes", said.splitlines()[-1])

    def test_resumed_run_has_one_id(self):
        self.finetune(self.PROJECT, "train.exit_interval=3")
        self.finetune(self.PROJECT, "checkpoint.load=run")
        first, second = self.wandb_directories()
        lines = lines_of(self.folder / "run")
        run_id = (self.folder / "run" / "wandb_run_id.txt").read_text().split()[0]
        self.check_run(first, lines[:3], run_id=run_id, resume=False)
        self.check_run(second, lines[3:], run_id=run_id, resume=True)

    def test_failed_run(self):
        # The last rows are too long, the first ones not.
        said = self.finetune(self.PROJECT, "dataset.shuffle=false", "model.seq_length=18", status=2)
        self.assertIn("model.seq_length=18", said.splitlines()[-1])
        [directory] = self.wandb_directories()
        *_, last = wandb_records(next(directory.glob("*.wandb")))
        self.assertEqual(last.exit.exit_code, 1)
        self.assertIn("failed", (self.folder / "run" / "report.html").read_text())

    def test_sync_is_started(self):
        path = self.stand_in('echo "$@" > called; echo fine')
        said = self.finetune(self.PROJECT, iterations=1, PATH=path, WANDB_API_KEY=API_KEY)
        [directory] = self.wandb_directories()
        self.assertEqual((self.folder / "called").read_text(), f"sync run/wandb/{directory.name}\n")
        self.assertEqual((directory / "logs" / "sync.log").read_text(), "fine\n")
        self.assertNotIn("W&B", said)

    def test_sync_needs_a_key(self):
        path = self.stand_in("touch called")
        said = self.finetune(self.PROJECT, iterations=1, PATH=path)
        self.assertFalse((self.folder / "called").exists())
        self.assertIn("upload it with: wandb sync run/wandb/", said.splitlines()[-1])

    def test_failing_sync_is_one_line(self):
        path = self.stand_in("echo no network >&2; exit 3")
        said = self.finetune(self.PROJECT, iterations=1, PATH=path, WANDB_API_KEY=API_KEY)
        [warning] = [line for line in said.splitlines() if "W&B" in line]
        [directory] = self.wandb_directories()
        self.assertTrue(warning.startswith("warning:") and "status 3" in warning)
        self.assertTrue(warning.endswith(f"wandb sync run/wandb/{directory.name}"))
        self.assertEqual((directory / "logs" / "sync.log").read_text(), "no network\n")

    def test_no_upload_after_sigterm(self):
        path = self.stand_in("touch called")
        started = self.start(self.PROJECT, iterations=100_000, PATH=path, WANDB_API_KEY=API_KEY)
        # Behind the table of adapters, once a step is made.
        self.assertTrue(any(line.startswith("step ") for line in started.stderr), "no step was made")
        started.terminate()
        said = started.communicate()[1]
        self.assertEqual(started.returncode, -signal.SIGTERM, said)
        self.assertFalse((self.folder / "called").exists())
        self.assertIn("upload it with: wandb sync run/wandb/", said)
        [directory] = self.wandb_directories()
        self.check_run(directory, lines_of(self.folder / "run"))
        self.assertIn("<b>stopped</b>", (self.folder / "run" / "report.html").read_text())

    def test_the_real_sync_uploads_a_run_and_its_resumption(self):
        server = Server()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        environment = {"PATH": self.stand_in(f'exec {sys.executable} -m wandb "$@"'), "WANDB_API_KEY": API_KEY,
                       "WANDB_BASE_URL": server.url, "HOME": str(self.folder), "WANDB_ENTITY": "us"}
        said = self.finetune(self.PROJECT, "train.exit_interval=3", **environment)
        self.assertNotIn("W&B", said)
        said = self.finetune(self.PROJECT, "checkpoint.load=run", **environment)
        self.assertNotIn("W&B", said)
        [run_id] = server.runs
        self.assertEqual(run_id, (self.folder / "run" / "wandb_run_id.txt").read_text().split()[0])
        self.assertEqual((server.runs[run_id]["project"], server.runs[run_id]["entity"]), ("receipts", "us"))
        lines, rows = lines_of(self.folder / "run"), [json.loads(row) for row in server.history[run_id]]
        self.assertEqual([row["_step"] for row in rows], [1, 2, 3, 4, 5, 6])
        for row, line in zip(rows, lines):
            for tag, key in SCALARS.items():
                self.assertTrue(math.isclose(row[tag], line[key], rel_tol=1e-12), (tag, row, line))
        summary = json.loads(server.files["wandb-summary.json"])
        self.assertEqual((summary["_step"], summary["lm loss"]), (6, lines[-1]["loss"]))
        self.assertIn("train_iters: 6", server.files["config.yaml"])
        self.assertIn('"trestle finetune"', server.files["wandb-metadata.json"])
        for directory in self.wandb_directories():
            self.assertTrue((directory / f"run-{run_id}.wandb.synced").exists())


class Mlflow(Trackers):
    EXPERIMENT = "logger.mlflow_experiment=receipts of May"

    def start(self, *overrides, **options):
        return super().start(*overrides, **{"MLFLOW_TRACKING_URI": ""} | options)

    def client(self, store="run/mlruns"):
        return mlflow.MlflowClient(str(self.folder / store))

    def runs(self, client, name="receipts of May"):
        return client.search_runs([client.get_experiment_by_name(name).experiment_id])

    def equal_to_metrics(self, client, run, lines):
        """Each step once and in order."""
        for tag, key in SCALARS.items():
            history = client.get_metric_history(run.info.run_id, tag)
            self.assertEqual([(each.step, each.value) for each in history], [(line["step"], line[key]) for line in lines], tag)
        self.assertEqual(run.data.metrics["lm loss"], lines[-1]["loss"])
        self.assertTrue(all(0 < each.timestamp <= time.time() * 1000 for each in history))

    def test_whole_run(self):
        said = self.finetune(self.EXPERIMENT, "logger.mlflow_run_name=first try", "+logger.mlflow_tags.team=vision",
                             "+logger.mlflow_tags.stage/of=dev", "logger.mlflow_description=two\nlines", "logger.log_params_norm=true",
                             "logger.log_throughput_to_tensorboard=true", "logger.log_memory_to_tensorboard=true", "model.params_dtype=float32")
        self.assertIn("MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri run/mlruns", said.splitlines()[-1])
        client, lines = self.client(), lines_of(self.folder / "run")
        self.assertEqual({each.name for each in client.search_experiments()}, {"Default", "receipts of May"})
        [run] = self.runs(client)
        info = run.info
        self.assertEqual((info.status, info.run_name, info.lifecycle_stage), ("FINISHED", "first try", "active"))
        self.assertLess(info.start_time, info.end_time)
        self.assertEqual((self.folder / "run" / "mlflow_run_id.txt").read_text().strip(), info.run_id)
        self.equal_to_metrics(client, run, lines)
        tags = run.data.tags
        self.assertEqual((tags["team"], tags["stage/of"], tags["mlflow.note.content"]), ("vision", "dev", "two\nlines"))
        self.assertEqual((tags["mlflow.runName"], tags["mlflow.source.name"]), ("first try", "trestle finetune"))
        config = yaml.safe_load((self.folder / "run" / "resolved_config.yaml").read_text())
        self.assertEqual(set(run.data.params), {f"{group}.{key}" for group, keys in config.items() for key in keys})
        for key, value in {"train.train_iters": "6", "dataset.shuffle": "true", "optimizer.lr": "0.005", "train.exit_interval": "null",
                           "peft.target_modules": "[linear_qkv, linear_proj, linear_fc1, linear_fc2]"}.items():
            self.assertEqual(run.data.params[key], value, key)
        for line, tflops, norm in zip(lines, client.get_metric_history(info.run_id, "throughput/tflops_per_device"),
                                      client.get_metric_history(info.run_id, "params-norm")):
            self.assertTrue(math.isclose(tflops.value, line["flops"] / line["seconds"] / 1e12))
            self.assertEqual(norm.value, line["params_norm"])
        self.assertGreater(run.data.metrics["memory/mem-reserved-gigabytes"], 0.01)
        names = [each.path for each in client.list_artifacts(info.run_id, "run/iter_0000003")]
        self.assertIn("run/iter_0000003/metadata.json", names)
        copied = Path(client.download_artifacts(info.run_id, "run/iter_0000006", str(self.folder)))
        for each in (self.folder / "run" / "iter_0000006").rglob("*"):
            if each.is_file():
                self.assertEqual((copied / each.relative_to(self.folder / "run" / "iter_0000006")).read_bytes(), each.read_bytes())

    def test_resumed_run_is_one_run_in_a_store_of_many(self):
        store = f"logger.mlflow_tracking_uri=file://{self.folder}/a%20store"
        mlflow.MlflowClient(str(self.folder / "a store")).create_experiment("receipts of May")
        self.finetune(self.EXPERIMENT, store, name="another", iterations=1)
        self.finetune(self.EXPERIMENT, store, "train.exit_interval=3")
        self.finetune(self.EXPERIMENT, store, "checkpoint.load=run", iterations=5)
        # As if killed before the checkpoint of step 5: steps 4 and 5 are made again.
        shutil.rmtree(self.folder / "run" / "iter_0000005")
        for file in (self.folder / "run").glob("latest_*"):
            file.unlink()
        self.finetune(self.EXPERIMENT, store, "checkpoint.load=auto", "optimizer.lr=5e-2", iterations=6)
        client = self.client("a store")
        runs = {run.info.run_name: run for run in self.runs(client)}
        self.assertEqual(set(runs), {"run", "another"})
        self.equal_to_metrics(client, runs["run"], lines_of(self.folder / "run"))
        self.assertEqual(runs["run"].info.status, "FINISHED")
        # To MLflow a parameter has one value for ever; the last config is resolved_config.yaml.
        self.assertEqual(runs["run"].data.params["optimizer.lr"], "0.005")
        self.assertFalse((self.folder / "run" / "mlruns").exists())

    def test_what_people_do_to_a_run_stays(self):
        store = "logger.mlflow_tracking_uri=store"
        named = (self.EXPERIMENT, store, "logger.mlflow_run_name=first", "model.params_dtype=float32")
        self.finetune(*named, iterations=3)
        client = self.client("store")
        [run] = self.runs(client)
        known = run.info.run_id
        for step, value in ((2, 0.5), (9, 0.7)):
            client.log_metric(known, "human score", value, step=step)
        client.update_run(known, name="best of May")
        self.finetune(*named, "checkpoint.load=run", iterations=5)
        # As if killed before the checkpoint of step 5: steps 4 and 5 are made again.
        shutil.rmtree(self.folder / "run" / "iter_0000005")
        for file in (self.folder / "run").glob("latest_*"):
            file.unlink()
        said = self.finetune(*named, "checkpoint.load=auto", iterations=6)
        self.assertIn("the run's name is 'best of May' there, and not 'first': it stays", said)
        [run] = self.runs(client)
        self.assertEqual((run.info.run_name, run.data.tags["mlflow.runName"]), ("best of May",) * 2)
        self.equal_to_metrics(client, run, lines_of(self.folder / "run"))
        self.assertEqual([(each.step, each.value) for each in client.get_metric_history(known, "human score")], [(2, 0.5), (9, 0.7)])
        # One that was deleted, and one that was copied, are others' from here on.
        client.delete_run(known)
        said = self.finetune(*named, "checkpoint.load=run", iterations=7)
        self.assertIn(f"MLflow: run {known} was deleted from the experiment receipts of May; another run begins", said)
        self.assertEqual(client.get_run(known).info.lifecycle_stage, "deleted")
        [second] = self.runs(client)
        self.assertEqual(len(client.get_metric_history(second.info.run_id, "lm loss")), 1)
        client.restore_run(known)
        shutil.copytree(self.folder / "run", self.folder / "copy")
        said = self.finetune(*named, "checkpoint.load=copy", name="copy", iterations=8)
        self.assertIn(f"MLflow: run {second.info.run_id} is that of {self.folder / 'run'}", said)
        self.finetune(*named, "checkpoint.load=run", iterations=8)
        self.assertEqual(len(self.runs(client)), 3)
        self.assertEqual(len(client.get_metric_history(second.info.run_id, "lm loss")), 2)

    def test_variable(self):
        self.finetune(self.EXPERIMENT, iterations=1, MLFLOW_TRACKING_URI=str(self.folder / "given"))
        self.assertEqual(len(self.runs(self.client("given"))), 1)
        said = self.finetune(self.EXPERIMENT, iterations=1, name="other", status=2, MLFLOW_TRACKING_URI="http://127.0.0.1:5000")
        self.assertIn("MLFLOW_TRACKING_URI=http://127.0.0.1:5000: nothing is sent", said.splitlines()[-1])
        self.finetune(iterations=1, name="off", MLFLOW_TRACKING_URI="http://127.0.0.1:5000")
        self.assertFalse((self.folder / "off" / "mlruns").exists())

    def test_ends_by_signals_and_errors(self):
        def status_of(name):
            client = self.client(f"{name}/mlruns")
            [run] = self.runs(client)
            return client, run, run.info.status

        self.finetune(self.EXPERIMENT, "dataset.shuffle=false", "model.seq_length=18", status=2)
        self.assertEqual(status_of("run")[2], "FAILED")
        for name, how, wanted in (("stopped", signal.SIGTERM, "KILLED"), ("killed", signal.SIGKILL, "RUNNING")):
            started = self.start(self.EXPERIMENT, name=name, iterations=100_000)
            self.assertTrue(any(line.startswith("step    9/") for line in started.stderr), "no step was made")
            started.send_signal(how)
            started.communicate()
            client, run, status = status_of(name)
            self.assertEqual(status, wanted)
            lines = lines_of(self.folder / name)
            history = client.get_metric_history(run.info.run_id, "lm loss")
            self.assertGreaterEqual(len(history), 9)
            self.assertLessEqual(abs(len(lines) - len(history)), 1)
            self.assertEqual([each.value for each in history][:8], [line["loss"] for line in lines][:8])


class Report(Trackers):
    def test_page(self):
        self.finetune()
        text = (self.folder / "run" / "report.html").read_text()
        page = Page()
        page.feed(text)
        page.close()
        self.assertEqual(page.faults, [])
        self.assertEqual(page.open, [])
        self.assertEqual(page.tags.count("svg"), 5)  # loss, rate, norm, throughput, memory
        self.assertNotRegex(text, r"https?:|url\(|@import")
        self.assertIn("prefers-color-scheme:dark", text)
        self.assertIn("finished", text)
        self.assertIn(f"{lines_of(self.folder / 'run')[-1]['loss']:.4f}", text)
        [points] = re.findall(r'class="curve c0" points="([^"]*)"', text)[:1]
        self.assertEqual(len(points.split()), 6)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
