#!/usr/bin/env python3
"""ORG/NAME[@REVISION] where a checkpoint or a data set is taken: the built program against a Hub that misbehaves.

  .venv/bin/python tests/cli/test_hub.py --trestle build/release/trestle [TestCase.test ...]

The Hub is fake_hub.py on 127.0.0.1; nothing else is asked. The cache is huggingface_hub's: the real library reads what the
program downloaded, and the program what the library downloaded.
"""

import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import pyarrow.parquet

import script
from fake_hub import FakeHub

TESTS = Path(__file__).resolve().parent.parent
HF, MEGATRON = TESTS / "fixtures" / "hf_tied", TESTS / "fixtures" / "megatron" / "import_tied"
ADAPTER = TESTS / "fixtures" / "megatron" / "adapter_lora"
DEMO, RECEIPTS = (TESTS.parent / "assets" / "demo" / name for name in ("model", "data"))
USER, MACHINE = 2, 1
CONVERSION = "refs/convert/parquet"
OFFLINE = {"HF_HUB_OFFLINE": "1"}
SHARDS = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
WEIGHTS = "model.safetensors"


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def safetensors(name, size):
    """One tensor of `size` bytes that no compression or sparse file could fake: random ones, the same for the same name
    and size."""
    header = json.dumps({name: {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return struct.pack("<Q", len(header)) + header + random.Random(f"{name} {size}").randbytes(size)


def sharded(size):
    """A checkpoint of three shards of `size` bytes, beside files that nobody needs."""
    files = files_of(HF)
    del files[WEIGHTS]
    files |= {shard: safetensors(f"model.layers.{i}.x", size) for i, shard in enumerate(SHARDS)}
    files["model.safetensors.index.json"] = json.dumps(
        {"weight_map": {f"model.layers.{i}.x": shard for i, shard in enumerate(SHARDS)}}).encode()
    unwanted = ("README.md", ".gitattributes", "pytorch_model.bin", "model.gguf", "consolidated.safetensors",
                "optimizer.pt", "original/model.safetensors", "onnx/model.onnx")
    return files | {name: b"nobody needs this" for name in unwanted}


class Hub(unittest.TestCase):
    """A Hub, an empty cache and a folder to run in for each test."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-hub-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.home = self.folder / "home"
        self.cwd = self.folder / "cwd"
        self.cwd.mkdir()
        self.hub = self.enterContext(FakeHub())

    def environment(self, **extra):
        kept = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HUGGING"))}
        return kept | {"OMP_NUM_THREADS": "1", "HF_HOME": str(self.home), "HF_ENDPOINT": self.hub.url,
                       "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "*", "no_proxy": "*"} | extra

    def start(self, *arguments, environment=None, **options):
        return subprocess.Popen([script.TRESTLE, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                cwd=self.cwd, env=self.environment(**(environment or {})), stdin=subprocess.DEVNULL,
                                **options)

    def run_trestle(self, *arguments, **options):
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def works(self, *arguments, **options):
        done = self.run_trestle(*arguments, **options)
        self.assertEqual(done.returncode, 0, f"{arguments}\n{done.stderr}")
        return done

    def refused(self, *arguments, names, status=USER, **options):
        """One line that names the flag's value and more; no snapshot, no whole blob, no ref came of it."""
        done = self.run_trestle(*arguments, **options)
        lines = done.stderr.splitlines()
        self.assertEqual(done.returncode, status, f"{arguments}\n{done.stderr}")
        self.assertTrue(lines and lines[-1].startswith("trestle: "), done.stderr)
        for name in names:
            self.assertIn(str(name), lines[-1])
        self.assertEqual([str(path) for path in self.cached("snapshots/*/*")], [])
        self.assertEqual([str(path) for path in self.cached("refs/*")], [])
        return lines

    def cached(self, pattern, repository="org/tiny"):
        return sorted((self.home / "hub" / f"models--{repository.replace('/', '--')}").glob(pattern))

    def library(self, code, **environment):
        """What huggingface_hub makes of the cache or of the Hub: the JSON that `code` prints."""
        done = subprocess.run([sys.executable, "-c", "import json, huggingface_hub as hub\n" + code], capture_output=True,
                              text=True, env=self.environment(**environment), timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def hook(self, method, name, function):
        self.hub.hooks[method, name] = function


class Downloads(Hub):
    def test_what_is_taken_and_where_it_lies(self):
        files = sharded(300_000)
        repository = self.hub.add("org/tiny", files)
        shown = self.works("inspect", "org/tiny").stdout
        for index in range(3):
            self.assertIn(f"model.layers.{index}.x", shown)
        wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                  "model.safetensors.index.json", *SHARDS}
        self.assertEqual({each.name for each in self.hub.seen() if each.name}, wanted)
        snapshot = self.cached(f"snapshots/{repository.commit}")[0]
        self.assertEqual({path.name for path in snapshot.iterdir()}, wanted)
        for path in snapshot.iterdir():
            self.assertEqual(os.readlink(path), f"../../blobs/{repository.etag(path.name)}")
            self.assertEqual(path.read_bytes(), files[path.name])
        self.assertEqual(self.cached("refs/main")[0].read_bytes(), repository.commit.encode())
        self.assertEqual(len(self.cached("blobs/*")), len(wanted))

        found = self.library(f"""
print(json.dumps({{
    "snapshot": hub.snapshot_download("org/tiny", local_files_only=True),
    "files": [hub.try_to_load_from_cache("org/tiny", name) for name in {sorted(wanted)}],
    "warnings": [str(each) for each in hub.scan_cache_dir().warnings],
    "refs": [sorted(each.refs) for repo in hub.scan_cache_dir().repos for each in repo.revisions],
}}))""", HF_HUB_OFFLINE="1")
        self.assertEqual(found["snapshot"], str(snapshot))
        self.assertEqual(found["files"], [str(snapshot / name) for name in sorted(wanted)])
        self.assertEqual((found["warnings"], found["refs"]), ([], [["main"]]))

    def test_the_second_time_asks_once(self):
        repository = self.hub.add("org/tiny", sharded(1000))
        first = self.works("inspect", "org/tiny").stdout
        self.hub.forget()
        self.assertEqual(self.works("inspect", "org/tiny").stdout, first)
        self.assertEqual([each.path for each in self.hub.seen()], ["/api/models/org/tiny/revision/main"])
        self.hub.forget()
        self.assertEqual(self.works("inspect", f"org/tiny@{repository.commit}").stdout, first)
        self.assertEqual(self.works("inspect", "org/tiny", environment={"HF_HUB_OFFLINE": "1"}).stdout, first)
        self.assertEqual(self.hub.seen(), [])

    def test_a_new_commit_brings_what_changed(self):
        old = self.hub.add("org/tiny", sharded(1000))
        self.works("inspect", "org/tiny")
        files = old.files | {SHARDS[1]: safetensors("model.layers.1.x", 2000)}
        new = self.hub.add("org/tiny", files)
        self.hub.forget()
        self.works("inspect", "org/tiny")
        self.assertEqual([each.name for each in self.hub.seen(server="cdn")], [SHARDS[1]])
        self.assertEqual(len(self.cached("snapshots/*")), 2)
        self.assertEqual(self.cached("refs/main")[0].read_text(), new.commit)
        self.assertIn("U8 [1000]", self.works("inspect", f"org/tiny@{old.commit}").stdout)

    def test_revisions(self):
        repository = self.hub.add("org/tiny", sharded(1000))
        repository.revisions |= {"v1.0", "refs/pr/4"}
        for revision in ("v1.0", "refs/pr/4"):
            self.works("inspect", f"org/tiny@{revision}")
            self.assertEqual(self.cached(f"refs/{revision}")[0].read_text(), repository.commit)
            self.assertEqual(self.library(f'print(json.dumps(hub.snapshot_download("org/tiny", revision="{revision}")))',
                                          HF_HUB_OFFLINE="1"), str(self.cached("snapshots/*")[0]))

    def test_a_cache_that_huggingface_hub_made(self):
        repository = self.hub.add("org/tiny", sharded(1000))
        where = self.library('print(json.dumps(hub.snapshot_download("org/tiny", ignore_patterns=["README.md"])))')
        self.hub.forget()
        self.works("inspect", "org/tiny", environment={"HF_HUB_OFFLINE": "1"})
        self.works("inspect", f"org/tiny@{repository.commit}")
        self.assertEqual(self.hub.seen(), [])
        # It lists what a commit holds; so a part of it is not taken for all.
        (Path(where) / "tokenizer.json").unlink()
        self.works("inspect", f"org/tiny@{repository.commit}")
        self.assertEqual([each.name for each in self.hub.seen() if each.name], ["tokenizer.json"])
        self.assertEqual(os.readlink(Path(where) / "tokenizer.json"), f"../../blobs/{repository.etag('tokenizer.json')}")

    def test_files_come_at_the_same_time(self):
        repository = self.hub.add("org/tiny", sharded(1000))
        together = threading.Barrier(3, timeout=20)

        def wait_for_the_others(handler):
            together.wait()  # breaks, and the download with it, unless three are under way at once
            handler.send_file(repository.files[handler.request_seen.name])

        for shard in SHARDS:
            self.hook("GET", shard, wait_for_the_others)
        self.works("inspect", "org/tiny")
        self.assertFalse(together.broken)

    def test_progress_on_a_terminal_is_one_line_drawn_anew(self):
        files = self.hub.add("org/tiny", files_of(HF)).files
        self.hook("GET", WEIGHTS, lambda handler: handler.send_file(files[WEIGHTS], pause=0.2))
        ours, theirs = os.openpty()
        process = subprocess.Popen([script.TRESTLE, "inspect", "org/tiny"], stdout=subprocess.DEVNULL, stderr=theirs,
                                   cwd=self.cwd, env=self.environment())
        os.close(theirs)
        self.assertEqual(process.wait(60), 0)
        drawn = os.read(ours, 1 << 16).decode()
        os.close(ours)
        self.assertIn("\r\033[Kdownloading org/tiny: ", drawn)
        self.assertIn("of 204.0 kB", drawn)
        self.assertEqual(drawn.count("\n"), 2, drawn)

    def test_progress_is_plain_lines_without_a_terminal(self):
        self.hub.add("org/tiny", sharded(1000))
        lines = self.works("inspect", "org/tiny").stderr.splitlines()
        self.assertTrue(all(line.startswith("downloaded ") for line in lines), lines)
        self.assertNotIn("\r", "".join(lines))


class Names(Hub):
    def test_a_local_path_wins(self):
        self.hub.add("org/tiny", files_of(HF))
        shutil.copytree(HF, self.cwd / "org" / "tiny")
        self.works("inspect", "org/tiny")
        self.assertEqual(self.hub.seen(), [])

    def test_what_can_only_be_a_path_asks_nobody(self):
        for path in ("tiny", "./org/tiny", "../org/tiny"):
            done = self.run_trestle("inspect", path)
            self.assertEqual(done.returncode, USER, path)
            self.assertIn("does not exist", done.stderr)
        self.assertEqual(self.hub.seen(), [])

    def test_revisions_that_git_would_not_take(self):
        for revision in ("", "../../etc", "main?x"):
            self.refused("inspect", f"org/tiny@{revision}", names=["org/tiny", "branch"])
        self.assertEqual(self.hub.seen(), [])


class Commands(Hub):
    """Every flag that takes a checkpoint takes its name too, and loads no weights it does not need."""

    def setUp(self):
        super().setUp()
        self.hub.add("org/tiny", files_of(HF))
        self.hub.add("org/adapter", files_of(ADAPTER))

    def weights_seen(self):
        return [each.name for each in self.hub.seen("GET", server="cdn")]

    def test_import_and_export(self):
        self.works("import", "--hf-model", "org/tiny", "--megatron-path", "run")
        self.works("import", "--hf-model", HF, "--megatron-path", "local")
        self.assertEqual(*(self.works("inspect", name).stdout for name in ("run", "local")))
        shutil.rmtree(self.home)
        self.hub.forget()
        self.works("export", "--megatron-path", MEGATRON, "--hf-model", "org/tiny", "--hf-path", "hf")
        self.assertEqual((self.cwd / "hf" / "tokenizer.json").read_bytes(), (HF / "tokenizer.json").read_bytes())
        self.assertEqual(self.weights_seen(), [])

    def test_generate(self):
        prompt = ("--prompt", "a", "--max-new-tokens", 4)
        local = self.works("generate", "--hf-model-path", HF, *prompt).stdout
        self.assertEqual(self.works("generate", "--hf-model-path", "org/tiny", *prompt).stdout, local)
        shutil.rmtree(self.home)
        self.hub.forget()
        self.works("generate", "--megatron-model-path", MEGATRON, "--hf-model-path", "org/tiny", *prompt)
        self.assertEqual(self.weights_seen(), [])

    def test_tokenize(self):
        self.works("tokenize", "--tokenizer", "org/tiny")
        self.assertEqual(self.weights_seen(), [])

    def test_adapter(self):
        self.assertEqual(self.works("inspect", "org/adapter").stdout, self.works("inspect", ADAPTER).stdout)
        self.assertEqual({path.name for path in self.cached("snapshots/*/*", "org/adapter")}, set(files_of(ADAPTER)))
        self.refused("generate", "--hf-model-path", HF, "--adapter-path", "org/none", "--prompt", "a",
                     names=["--adapter-path", "org/none"])

    def test_finetune(self):
        (self.cwd / "data.jsonl").write_text(json.dumps({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n")
        self.works("finetune", "--recipe", "demo_config", "checkpoint.pretrained_checkpoint=org/tiny",
                   "checkpoint.save=run", "--dataset-type", "jsonl", "dataset.path_or_dataset=data.jsonl",
                   "train.train_iters=1", "train.global_batch_size=1", "train.micro_batch_size=1",
                   "scheduler.lr_warmup_iters=0", "scheduler.lr_decay_iters=1")


class Interruptions(Hub):
    def setUp(self):
        super().setUp()
        self.files = files_of(HF) | {WEIGHTS: safetensors("model.layers.0.x", 2_000_000)}
        self.repository = self.hub.add("org/tiny", self.files)
        self.size = len(self.files[WEIGHTS])
        self.blob = self.home / "hub" / "models--org--tiny" / "blobs" / self.repository.etag(WEIGHTS)

    def gets(self):
        return self.hub.seen("GET", WEIGHTS, "cdn")

    def weights(self):
        return self.cached(f"snapshots/*/{WEIGHTS}")[0].read_bytes()

    def test_a_connection_that_drops_goes_on_where_it_was(self):
        stops = iter((700_000, 1_500_000, None))
        self.hook("GET", WEIGHTS, lambda handler: handler.send_file(self.files[WEIGHTS], until=next(stops)))
        self.works("inspect", "org/tiny")
        self.assertEqual([each.first_byte for each in self.gets()], [0, 700_000, 1_500_000])
        self.assertEqual(sum(each.sent for each in self.gets()), self.size)
        self.assertEqual(self.weights(), self.files[WEIGHTS])

    def test_a_server_that_falls_silent(self):
        def half_then_silence(handler):
            if handler.request_seen.first_byte == 0:
                handler.send_file(self.files[WEIGHTS][:1_000_000], length=self.size)
                self.hub.stopping.wait(10)
            else:
                handler.send_file(self.files[WEIGHTS])

        self.hook("GET", WEIGHTS, half_then_silence)
        start = time.monotonic()
        self.works("inspect", "org/tiny", environment={"HF_HUB_DOWNLOAD_TIMEOUT": "1"})
        self.assertLess(time.monotonic() - start, 8)
        self.assertEqual([each.first_byte for each in self.gets()], [0, 1_000_000])

    def test_a_server_that_knows_no_ranges(self):
        def whole(handler):
            first = handler.request_seen.first_byte
            handler.request_seen.first_byte = 0
            handler.send_file(self.files[WEIGHTS], until=None if first else 900_000)

        self.hook("GET", WEIGHTS, whole)
        self.works("inspect", "org/tiny")
        self.assertEqual(self.weights(), self.files[WEIGHTS])

    def test_busy_servers_are_asked_again(self):
        for method, name in (("GET", "list"), ("HEAD", "config.json"), ("GET", WEIGHTS)):
            turns = iter((503, 429))

            def sometimes(handler, turns=turns):
                status = next(turns, None)
                handler.send(status) if status else handler.answer(handler.path)

            self.hook(method, name, sometimes)
        self.works("inspect", "org/tiny")

    def test_gives_up_on_a_server_that_always_drops(self):
        self.hook("GET", WEIGHTS, lambda handler: handler.send_file(
            self.files[WEIGHTS], until=handler.request_seen.first_byte + 100))
        self.refused("inspect", "org/tiny", status=MACHINE, names=["org/tiny", WEIGHTS, self.size, "again"])
        self.assertLessEqual(len(self.gets()), 8)

    def test_killed(self):
        self.hook("GET", WEIGHTS, lambda handler: handler.send_file(self.files[WEIGHTS], pause=0.1))
        part = Path(f"{self.blob}.incomplete")
        process = self.start("inspect", "org/tiny")
        while not part.exists() or part.stat().st_size < 300_000:
            self.assertIsNone(process.poll(), "it ended before it could be killed")
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = part.stat().st_size
        self.assertGreater(kept, 0)
        self.assertLess(kept, self.size)
        self.assertEqual(self.cached("snapshots/*"), [])
        offline = {"HF_HUB_OFFLINE": "1"}
        self.refused("inspect", "org/tiny", names=["org/tiny", "HF_HUB_OFFLINE"], environment=offline)

        self.hub.hooks.clear()
        self.hub.forget()
        self.works("inspect", "org/tiny")
        self.assertEqual([each.first_byte for each in self.gets()], [kept])
        self.assertEqual(sum(each.sent for each in self.gets()), self.size - kept)
        # What came whole before the kill does not come again.
        self.assertEqual([each.name for each in self.hub.seen("GET", server="hub") if each.name], [WEIGHTS])
        self.assertEqual(self.weights(), self.files[WEIGHTS])
        self.works("inspect", "org/tiny", environment=offline)

    def test_a_damaged_part_is_dropped_and_comes_whole(self):
        for left in (b"x" * 500_000, b"x" * self.size, b"x" * (self.size + 5)):
            with self.subTest(left=len(left)):
                shutil.rmtree(self.home, ignore_errors=True)
                self.blob.parent.mkdir(parents=True)
                Path(f"{self.blob}.incomplete").write_bytes(left)
                self.works("inspect", "org/tiny")
                self.assertEqual(self.weights(), self.files[WEIGHTS])

    def test_two_at_once_share_one_download(self):
        self.hook("GET", WEIGHTS, lambda handler: handler.send_file(self.files[WEIGHTS], pause=0.02))
        both = [self.start("inspect", "org/tiny") for _ in range(2)]
        for process in both:
            _, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 0, err)
        self.assertEqual(sum(each.sent for each in self.gets()), self.size)


class Tokens(Hub):
    def setUp(self):
        super().setUp()
        self.hub.add("org/tiny", files_of(HF))
        self.hub.token = "hf_secret"

    def test_the_token_and_where_it_goes(self):
        self.refused("inspect", "org/tiny", names=["org/tiny", "HF_TOKEN", "401"])
        self.refused("inspect", "org/tiny", names=["refuses the token", "HF_TOKEN"], environment={"HF_TOKEN": "hf_wrong"})
        self.refused("inspect", "org/tiny", names=["HF_TOKEN"], environment={"HF_TOKEN": "hf_a\r\nX-Evil: 1"})
        self.hub.forget()
        self.works("inspect", "org/tiny", environment={"HF_TOKEN": "hf_secret"})
        self.assertEqual({each.token for each in self.hub.seen(server="hub")}, {"hf_secret"})
        self.assertEqual({each.token for each in self.hub.seen(server="cdn")}, {None})
        self.assertEqual(len(self.hub.seen(server="cdn")), 1)

    def test_the_token_file(self):
        self.home.mkdir()
        (self.home / "token").write_text(" hf_secret\n")
        self.works("inspect", "org/tiny")

    def test_a_redirect_on_the_same_host_keeps_it(self):
        """As the Hub does it with a repository that was renamed."""
        self.hub.repositories["org/new"] = self.hub.repositories.pop("org/tiny")
        self.hub.moved["org/tiny"] = "org/new"
        self.works("inspect", "org/tiny", environment={"HF_TOKEN": "hf_secret"})
        self.assertEqual({each.token for each in self.hub.seen(server="hub")}, {"hf_secret"})
        self.assertEqual({each.token for each in self.hub.seen(server="cdn")}, {None})

    def test_a_mirror_that_sends_on_to_another_hub(self):
        other = self.enterContext(FakeHub())
        other.add("org/tiny", files_of(HF))
        for name in files_of(HF):
            self.hook("HEAD", name, lambda handler: handler.send(308, headers={"Location": other.url + handler.path}))
        self.works("inspect", "org/tiny", environment={"HF_TOKEN": "hf_secret"})
        self.assertEqual({each.name for each in other.seen("HEAD")}, set(files_of(HF)))
        self.assertEqual({each.token for each in other.seen()}, {None})

    def test_gated(self):
        for status in (401, 403):
            self.hook("GET", "list", lambda handler, status=status: handler.send(
                status, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to model org/tiny is restricted."}))
            self.refused("inspect", "org/tiny", names=["org/tiny", "gated", f"{self.hub.url}/org/tiny", "HF_TOKEN"])
        self.hook("GET", "list", lambda handler: handler.send(403, headers={"X-Error-Message": "Blocked\x1b[31m by policy"}))
        self.refused("inspect", "org/tiny", names=["403", "Blocked?[31m by policy"])


class Refusals(Hub):
    """A Hub that refuses, fails or lies."""

    def setUp(self):
        super().setUp()
        self.files = files_of(HF)
        self.repository = self.hub.add("org/tiny", self.files)

    def test_not_there(self):
        self.refused("import", "--hf-model", "org/none", "--megatron-path", "run",
                     names=["--hf-model org/none", "no such directory here", "HF_TOKEN", self.hub.url])
        self.refused("inspect", "org/tiny@v9", names=["org/tiny@v9", "no revision v9"])
        self.hook("HEAD", "config.json", lambda handler: handler.send(404, headers={"X-Error-Code": "EntryNotFound"}))
        self.refused("inspect", "org/tiny", names=["no file config.json"])

    def test_nothing_of_use(self):
        for files in ({}, {"config.json": self.files["config.json"], "pytorch_model.bin": b"x", "model.gguf": b"x"},
                      {"README.md": b"x"}):
            self.hub.add("org/tiny", files)
            self.refused("inspect", "org/tiny", names=["org/tiny", "safetensors"])

    def test_names_that_lead_elsewhere(self):
        outside = ["../../../../escape.json", "/tmp/escape.json", "sub/config.json", "consolidated/../../x.safetensors",
                   "consolidated\n.safetensors", "config.json/../../x"]
        self.hook("GET", "list", lambda handler: handler.send_json(
            {"sha": self.repository.commit, "siblings": [{"rfilename": name} for name in [*self.files, *outside]]}))
        self.works("inspect", "org/tiny")
        self.assertEqual({path.name for path in self.cached("snapshots/*/*")}, set(self.files))
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["cwd", "home"])
        self.assertEqual({each.name for each in self.hub.seen("HEAD")}, set(self.files))

    def test_an_index_that_leads_elsewhere(self):
        for shard in ("../config.json", "/etc/passwd", "absent.safetensors"):
            files = sharded(100) | {"model.safetensors.index.json": json.dumps({"weight_map": {"a": shard}}).encode()}
            self.hub.add("org/tiny", files)
            self.refused("inspect", "org/tiny", names=["org/tiny", shard])

    def test_listings(self):
        good = {"sha": self.repository.commit, "siblings": []}
        for value in ([], good | {"sha": "../../../x"}, good | {"siblings": 3}, good | {"siblings": [{"rfilename": 3}]}):
            self.hook("GET", "list", lambda handler, value=value: handler.send_json(value))
            self.refused("inspect", "org/tiny", status=MACHINE, names=["HF_ENDPOINT"])
        for body in (b"<html>", b"[" * 100_000):
            self.hook("GET", "list", lambda handler, body=body: handler.send(200, body))
            self.refused("inspect", "org/tiny", status=MACHINE, names=["HF_ENDPOINT"])
        self.hook("GET", "list", lambda handler: handler.send(200, headers={"Content-Length": 1 << 40}))
        self.refused("inspect", "org/tiny", status=MACHINE, names=["longer"])

    def test_descriptions(self):
        for changed, names in (({"X_Repo_Commit": None}, ["commit"]), ({"X_Repo_Commit": "0" * 40}, ["0" * 40]),
                               ({"X_Linked_ETag": '"../../x"'}, ["etag"]), ({"X_Linked_Size": None}, ["how long"]),
                               ({"X_Linked_Size": 1 << 63}, ["how long"])):
            with self.subTest(changed=changed):
                self.hook("HEAD", WEIGHTS, lambda handler, changed=changed: handler.describe(
                    self.repository, WEIGHTS, **changed))
                self.refused("inspect", "org/tiny", status=MACHINE, names=[WEIGHTS, *names])

    def test_wrong_bytes(self):
        for name in (WEIGHTS, "config.json"):
            shutil.rmtree(self.home, ignore_errors=True)
            wrong = bytes([self.files[name][0] ^ 1]) + self.files[name][1:]
            self.hub.hooks.clear()
            asked = []
            self.hook("GET", name, lambda handler, wrong=wrong: asked.append(name) or handler.send_file(wrong))
            self.refused("inspect", "org/tiny", status=MACHINE, names=[name, self.repository.etag(name)])
            self.assertEqual(asked, [name])  # what was sent whole is not asked for again
            self.assertEqual([path for path in self.cached("blobs/*") if self.repository.etag(name) in path.name], [])

    def test_lengths_that_lie(self):
        data = self.files[WEIGHTS]
        size = len(data)

        def endless(handler):
            handler.send(200, headers={"Content-Length": None, "Transfer-Encoding": "chunked"})
            while not self.hub.stopping.is_set():
                handler.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")

        for name, hook, names in (("announces more", lambda handler: handler.send_file(data, length=size + 9), [size + 9]),
                                  ("announces less", lambda handler: handler.send_file(data[:-9]), [size - 9]),
                                  ("far more", lambda handler: handler.send_file(data, length=1 << 50), ["longer"]),
                                  ("endless", endless, ["longer"])):
            with self.subTest(name):
                self.hook("GET", WEIGHTS, hook)
                self.refused("inspect", "org/tiny", status=MACHINE, names=[WEIGHTS, *names])
                shutil.rmtree(self.home)

    def test_another_range_than_asked(self):
        def shifted(handler):
            first = handler.request_seen.first_byte
            if first == 0:
                handler.send_file(self.files[WEIGHTS], until=100_000)
            else:
                handler.send(206, self.files[WEIGHTS][first + 1:] + b"x", {
                    "Content-Range": f"bytes {first + 1}-{len(self.files[WEIGHTS])}/{len(self.files[WEIGHTS]) + 1}"})

        self.hook("GET", WEIGHTS, shifted)
        self.refused("inspect", "org/tiny", status=MACHINE, names=[WEIGHTS, "bytes 100000-", "bytes 100001-"])

    def test_redirects_without_end(self):
        around = lambda handler: handler.send(302, headers={"Location": handler.path})
        for method, name in (("GET", "list"), ("HEAD", WEIGHTS), ("GET", WEIGHTS)):
            self.hub.hooks.clear()
            self.hook(method, name, around)
            self.refused("inspect", "org/tiny", status=MACHINE, names=["redirects"])
        self.hub.hooks.clear()
        shutil.rmtree(self.home)
        self.hook("GET", "config.json", lambda handler: handler.send(302, headers={"Location": "file:///etc/hostname"}))
        self.refused("inspect", "org/tiny", status=MACHINE, names=["config.json", "not supported"])

    def test_disks(self):
        if os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize < 900 * 10**9:
            self.hook("HEAD", WEIGHTS, lambda handler: handler.describe(
                self.repository, WEIGHTS, X_Linked_Size=900 * 10**9))
            self.refused("inspect", "org/tiny", status=MACHINE, names=["900.00 GB", "free", self.home / "hub", "HF_HUB_CACHE"])
            self.assertEqual(self.hub.seen("GET", server="cdn"), [])
        self.hub.hooks.clear()
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        self.refused("inspect", "org/tiny", status=MACHINE, names=["File too large", "blobs"], preexec_fn=limit,
                     restore_signals=False)
        (self.folder / "file").write_text("")
        self.refused("inspect", "org/tiny", status=MACHINE, names=[self.folder / "file"],
                     environment={"HF_HUB_CACHE": str(self.folder / "file")})

    def test_settings(self):
        self.refused("inspect", "org/tiny", names=["HF_ENDPOINT"], environment={"HF_ENDPOINT": "ftp://127.0.0.1"})
        self.refused("inspect", "org/tiny", names=["HF_HUB_DOWNLOAD_TIMEOUT"],
                     environment={"HF_HUB_DOWNLOAD_TIMEOUT": "soon"})
        self.works("inspect", "org/tiny", environment={"HF_HUB_CACHE": str(self.cwd / "elsewhere"),
                                                       "HF_ENDPOINT": self.hub.url + "/"})
        self.assertTrue((self.cwd / "elsewhere" / "models--org--tiny" / "refs" / "main").exists())


class Away(Hub):
    """Without a Hub the cache does, or one line says why not."""

    def test_no_hub(self):
        self.hub.add("org/tiny", files_of(HF))
        shown = self.works("inspect", "org/tiny").stdout

        def from_the_cache(reason):
            done = self.works("inspect", "org/tiny")
            self.assertEqual(done.stdout, shown)
            self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
            self.assertIn("warning: ", done.stderr)
            self.assertIn(reason, done.stderr)

        self.hook("GET", "list", lambda handler: handler.send(500))
        from_the_cache("500")
        self.hub.token = "hf_secret"
        self.hub.hooks.clear()
        from_the_cache("HF_TOKEN")
        # The repository answers and has no such revision: an old copy would be a mistake.
        self.hub.token = None
        self.hub.repositories["org/tiny"].revisions.clear()
        done = self.run_trestle("inspect", "org/tiny")
        self.assertEqual(done.returncode, USER, done.stderr)
        self.hub.stop()
        from_the_cache("cannot be reached")
        done = self.run_trestle("inspect", "org/other")
        self.assertEqual(done.returncode, MACHINE, done.stderr)
        self.assertIn("org/other: no such directory here, and http://127.0.0.1", done.stderr)
        self.assertEqual(len(done.stderr.splitlines()), 1)

    def test_offline(self):
        repository = self.hub.add("org/tiny", sharded(1000))
        offline = {"HF_HUB_OFFLINE": "1"}
        self.refused("inspect", "org/tiny", environment=offline,
                     names=["HF_HUB_OFFLINE", self.home / "hub", "nothing", "`hf download org/tiny`"])
        self.assertEqual(self.hub.seen(), [])
        self.works("inspect", "org/tiny")
        # A snapshot that lacks a shard is not loaded by half.
        self.cached(f"snapshots/{repository.commit}/{SHARDS[2]}")[0].unlink()
        self.hub.forget()
        done = self.run_trestle("inspect", "org/tiny", environment=offline)
        self.assertEqual(done.returncode, USER, done.stderr)
        self.assertIn("only a part", done.stderr)
        self.assertEqual(self.hub.seen(), [])
        # The blob is still there: a link is all that is missing.
        self.works("inspect", "org/tiny")
        self.assertEqual(self.hub.seen(server="cdn"), [])


def receipts(split, first, rows):
    """A Parquet file in cord-v2's columns."""
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(RECEIPTS / f"{split}.parquet").slice(first, rows), out)
    return out.getvalue()


def readme(configs):
    return b"---\nlicense: cc-by-4.0\nconfigs:\n" + configs.encode() + b"---\n# A data set\n"


class DataSets(Hub):
    """ORG/NAME where a data set's path is."""

    # As naver-clova-ix/cord-v2 has them: a README without configs, a hash of its own in each name.
    FILES = {"README.md": b"---\nlicense: cc-by-4.0\n---\n", ".gitattributes": b"", "dataset_infos.json": b"{}",
             "data/train-00000-of-00002-b4aaeceff1d90ecb.parquet": receipts("train", 0, 2),
             "data/train-00001-of-00002-7dbbe248962764c5.parquet": receipts("train", 2, 1),
             "data/validation-00000-of-00001-cc3c5779fe22e8ca.parquet": receipts("train", 20, 2),
             "data/test-00000-of-00001-9c204eb3f4e11791.parquet": receipts("test", 0, 1)}
    TRAIN = sorted(name for name in FILES if "train" in name)
    # As HuggingFaceM4/the_cauldron has them.
    SUBSETS = {"README.md": readme("- config_name: few\n  data_files:\n  - split: train\n    path: few/train-*\n"
                                   "- config_name: more\n  data_files:\n  - split: train\n    path: more/train-*\n"),
               "few/train-00000-of-00001.parquet": receipts("train", 0, 1),
               "more/train-00000-of-00001.parquet": receipts("train", 1, 3)}

    def setUp(self):
        super().setUp()
        self.repository = self.hub.add("datasets/org/set", self.FILES)

    def data_cached(self, pattern, repository="org/set"):
        folder = self.home / "hub" / f"datasets--{repository.replace('/', '--')}"
        return sorted(path for path in folder.glob(pattern) if not path.is_dir())

    def held(self, repository="org/set"):
        """The files of all snapshots."""
        return {"/".join(path.parts[path.parts.index("snapshots") + 2:])
                for path in self.data_cached("snapshots/**/*", repository)}

    def check(self, *arguments, **options):
        return self.works("data", "check", "--hf-model-path", DEMO, "--json", *arguments, **options)

    def rows(self, *arguments, **options):
        return json.loads(self.check(*arguments, **options).stdout)["rows"]

    def refused(self, *arguments, names, **options):
        """One line with the flag, the name and more."""
        done = self.run_trestle("data", "check", "--hf-model-path", DEMO, *arguments, **options)
        lines = done.stderr.splitlines()
        self.assertEqual(done.returncode, USER, done.stderr)
        self.assertTrue(lines[-1].startswith("trestle: --data org/set"), done.stderr)
        for name in names:
            self.assertIn(str(name), lines[-1])
        return lines

    def test_the_files_of_a_split_and_no_other(self):
        done = self.check("--data", "org/set")
        self.assertEqual(json.loads(done.stdout)["rows"], 3)
        self.assertIn(f"data org/set, commit {self.repository.commit}: 2 files, {self.TRAIN[0]}, {self.TRAIN[1]}",
                      done.stderr)
        self.assertEqual(self.held(), {"README.md", *self.TRAIN})
        self.assertEqual(sorted({each.name for each in self.hub.seen() if each.name}), ["README.md", *self.TRAIN])
        for path in self.data_cached("snapshots/**/*.parquet"):
            self.assertEqual(os.readlink(path), f"../../../blobs/{self.repository.etag('data/' + path.name)}")
        self.assertEqual(self.data_cached("refs/main")[0].read_text(), self.repository.commit)
        self.assertEqual(self.rows("--data", "org/set", "--split", "test"), 1)
        self.assertEqual(self.rows("--data", "org/set", "--split", ""), 6)
        # What is read is what is read of a directory with the same files.
        for name in self.TRAIN:
            path = self.cwd / "here" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.FILES[name])
        self.assertEqual(self.check("--data", "here").stdout, done.stdout)

    def test_the_cache_is_huggingface_hubs(self):
        self.rows("--data", "org/set", "--split", "")
        found = self.library(f"""
print(json.dumps({{
    "snapshot": hub.snapshot_download("org/set", repo_type="dataset", local_files_only=True),
    "files": [hub.try_to_load_from_cache("org/set", name, repo_type="dataset") for name in {self.TRAIN}],
    "warnings": [str(each) for each in hub.scan_cache_dir().warnings],
    "repositories": [[each.repo_type, each.repo_id] for each in hub.scan_cache_dir().repos]}}))""", **OFFLINE)
        snapshot = self.home / "hub" / "datasets--org--set" / "snapshots" / self.repository.commit
        self.assertEqual(found["snapshot"], str(snapshot))
        self.assertEqual(found["files"], [str(snapshot / name) for name in self.TRAIN])
        self.assertEqual((found["warnings"], found["repositories"]), ([], [["dataset", "org/set"]]))

    def test_a_cache_that_huggingface_hub_made(self):
        where = self.library('print(json.dumps(hub.snapshot_download("org/set", repo_type="dataset")))')
        self.hub.forget()
        self.assertEqual(self.rows("--data", "org/set", environment=OFFLINE), 3)
        self.assertEqual(self.rows("--data", f"org/set@{self.repository.commit}"), 3)
        self.assertEqual(self.hub.seen(), [])
        # It lists what the commit holds; a part of a split is not taken for all.
        (Path(where) / self.TRAIN[0]).unlink()
        self.refused("--data", "org/set", environment=OFFLINE, names=["only a part"])
        self.assertEqual(self.rows("--data", "org/set"), 3)

    def test_a_part_of_a_split_is_not_taken_for_all(self):
        """Where a single file was fetched by itself there is no listing; the names' numbers tell."""
        self.library(f'print(json.dumps(hub.hf_hub_download("org/set", "{self.TRAIN[0]}", repo_type="dataset")))')
        self.refused("--data", "org/set", environment=OFFLINE, names=["only a part", "hf download org/set --repo-type dataset"])
        self.assertEqual(self.rows("--data", f"org/set@{self.repository.commit}"), 3)

    def test_the_second_time_asks_once(self):
        self.rows("--data", "org/set")
        self.hub.forget()
        self.assertEqual(self.rows("--data", "org/set"), 3)
        self.assertEqual([each.path for each in self.hub.seen()], ["/api/datasets/org/set/revision/main"])
        self.hub.forget()
        for name, environment in (("org/set", OFFLINE), ("org/set", {"HF_DATASETS_OFFLINE": "1"}),
                                  (f"org/set@{self.repository.commit}", {})):
            self.assertEqual(self.rows("--data", name, environment=environment), 3)
        self.assertEqual(self.hub.seen(), [])

    def test_subsets(self):
        self.hub.add("datasets/org/set", self.SUBSETS)
        self.refused("--data", "org/set", names=["subsets few, more", "--subset"])
        self.refused("--data", "org/set", "--subset", "fewer", names=["no subset fewer", "few, more"])
        self.assertEqual(self.rows("--data", "org/set", "--subset", "more"), 3)
        self.assertEqual(self.held(), {"README.md", "more/train-00000-of-00001.parquet"})
        self.assertEqual(self.rows("--data", "org/set", "--subset", "more", environment=OFFLINE), 3)
        self.refused("--data", "org/set", "--subset", "few", names=["HF_HUB_OFFLINE", "no Parquet file of org/set, subset few"], environment=OFFLINE)

    def test_no_such_split(self):
        self.refused("--data", "org/set", "--split", "dev", names=["'dev'", "it has those of train, validation, test"])
        self.hub.add("datasets/org/set", self.SUBSETS)
        self.refused("--data", "org/set", "--subset", "few", "--split", "test", names=["'test'", "those of train"])

    def test_the_conversion_where_a_repository_has_no_parquet(self):
        self.hub.add("datasets/org/set", {"README.md": b"# JSON", "train.jsonl": b"{}"})
        self.refused("--data", "org/set", names=["no Parquet", CONVERSION])
        self.hub.add("datasets/org/set", {"default/train/0000.parquet": receipts("train", 0, 2),
                                          "default/partial-test/0000.parquet": receipts("test", 0, 1)}, branch=CONVERSION)
        done = self.check("--data", "org/set")
        self.assertEqual(json.loads(done.stdout)["rows"], 2)
        self.assertIn("default/train/0000.parquet", done.stderr)
        self.assertEqual(self.rows("--data", "org/set", "--subset", "default", environment=OFFLINE), 2)
        self.assertEqual(self.library(f"""
print(json.dumps(hub.try_to_load_from_cache("org/set", "default/train/0000.parquet", revision="{CONVERSION}",
                                            repo_type="dataset")))"""), str(self.data_cached("snapshots/*/default/train/*")[0]))
        # A part that the Hub converts of what is large is not the split.
        self.refused("--data", "org/set", "--split", "test", names=["'test'", "train", "partial-test"])
        self.assertEqual(self.rows("--data", f"org/set@{CONVERSION}"), 2)
        self.hub.repositories["datasets/org/set"].revisions.add("v1")
        self.refused("--data", "org/set@v1", names=["no Parquet", "v1", "main"])

    def test_refusals(self):
        self.refused("--data", "org/set", "--maker", "jsonl", names=["parquet"])
        self.refused("--data", "org/set@v9", names=["no such file or directory here", "no revision v9"])
        self.hub.repositories.clear()
        self.refused("--data", "org/set", names=[self.hub.url, "no data set org/set", "HF_TOKEN"])
        self.hook("GET", "list", lambda handler: handler.send(403, headers={"X-Error-Code": "GatedRepo"}))
        self.refused("--data", "org/set", names=["gated", f"{self.hub.url}/datasets/org/set", "HF_TOKEN"])
        self.assertEqual(self.data_cached("**/*"), [])

    def test_offline_and_not_there(self):
        self.refused("--data", "org/set", environment=OFFLINE,
                     names=["HF_HUB_OFFLINE", self.home / "hub", "nothing", "hf download org/set --repo-type dataset"])
        self.assertEqual(self.hub.seen(), [])

    def test_names_that_lead_elsewhere(self):
        outside = ["../../../../train.parquet", "/tmp/train.parquet", "data//train.parquet", "data/../../train.parquet",
                   "data/./train.parquet", "train\n.parquet", "data/" + "x" * 300 + "/train.parquet"]
        self.hook("GET", "list", lambda handler: handler.send_json({"sha": self.repository.commit, "siblings": [
            {"rfilename": name} for name in [*self.FILES, *outside]]}))
        self.assertEqual(self.rows("--data", "org/set"), 3)
        self.assertEqual(self.held(), {"README.md", *self.TRAIN})
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["cwd", "home"])

    def test_wrong_bytes(self):
        name = self.TRAIN[0]
        wrong = bytes([self.FILES[name][0] ^ 1]) + self.FILES[name][1:]
        self.hook("GET", name, lambda handler: handler.send_file(wrong))
        done = self.run_trestle("data", "check", "--hf-model-path", DEMO, "--data", "org/set")
        self.assertEqual(done.returncode, MACHINE, done.stderr)
        self.assertIn(self.repository.etag(name), done.stderr.splitlines()[-1])
        self.assertEqual(self.held(), set())

    def test_a_local_path_wins_and_a_file_is_no_name(self):
        shutil.copytree(RECEIPTS, self.cwd / "org" / "set")
        self.assertGreater(self.rows("--data", "org/set"), 3)
        done = self.run_trestle("data", "check", "--hf-model-path", DEMO, "--data", "org/train.parquet")
        self.assertIn("does not exist", done.stderr)
        self.assertEqual(self.hub.seen(), [])

    def finetune(self, *more, recipe="demo_config", **options):
        return self.run_trestle("finetune", "--recipe", recipe, f"checkpoint.pretrained_checkpoint={DEMO}",
                                *([] if any("checkpoint.save" in each for each in more) else ["checkpoint.save=run"]), "train.global_batch_size=1", "train.micro_batch_size=1",
                                "scheduler.lr_warmup_iters=0", *more, **options)

    # Validates where there is something to validate on.
    VALIDATING = {"recipe": "ministral3_3b_peft_config"}

    def test_the_data_of_the_maker(self):
        """The seed page's own command: a maker and no path."""
        self.hub.add("datasets/naver-clova-ix/cord-v2", self.FILES)
        done = self.finetune("--dataset-type", "hf", "dataset.maker_name=make_cord_v2_dataset", "train.train_iters=1",
                             "validation.eval_interval=1", "validation.eval_iters=1")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.held("naver-clova-ix/cord-v2"),
                         {name for name in self.FILES if name.endswith((".md", ".parquet")) and "test" not in name})
        self.assertIn("validation data naver-clova-ix/cord-v2, commit", done.stderr)
        self.assertIn("path_or_dataset: naver-clova-ix/cord-v2", (self.cwd / "run" / "resolved_config.yaml").read_text())
        # Training and validation are of one commit, which is asked for once.
        self.assertEqual(len([each for each in self.hub.seen() if "/revision/" in each.path]), 1)
        done = self.finetune("dataset.maker_name=make_medpix_dataset", "train.train_iters=1", "checkpoint.save=other")
        self.assertIn("mmoukouba/MedPix-VQA", done.stderr.splitlines()[-1])

    def test_the_subset_of_the_maker(self):
        golden = (TESTS / "data" / "golden" / "raven-train-00000-of-00001.parquet").read_bytes()
        files = {"README.md": self.SUBSETS["README.md"].replace(b"more", b"raven"),
                 "few/train-00000-of-00001.parquet": golden, "raven/train-00000-of-00001.parquet": golden}
        self.hub.add("datasets/HuggingFaceM4/the_cauldron", files)
        for more in ((), ("dataset.subset=few",)):
            shutil.rmtree(self.cwd / "run", ignore_errors=True)
            done = self.finetune("dataset.maker_name=make_raven_dataset", "train.train_iters=1", *more, **self.VALIDATING)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("few/train" if more else "raven/train", done.stderr)
            self.assertIn("no validation: HuggingFaceM4/the_cauldron has no file of split 'validation', it has those of train",
                          done.stderr)

    def test_a_resumed_run_has_the_same_data(self):
        done = self.finetune("dataset.path_or_dataset=org/set", "train.train_iters=1")
        self.assertEqual(done.returncode, 0, done.stderr)
        done = self.finetune("dataset.path_or_dataset=org/set", "train.train_iters=2", "checkpoint.load=auto",
                             environment=OFFLINE)
        self.assertEqual(done.returncode, 0, done.stderr)
        old = self.repository.commit
        self.hub.add("datasets/org/set", self.FILES | {self.TRAIN[0]: receipts("train", 5, 2)})
        again = ("train.train_iters=3", "checkpoint.load=auto")
        done = self.finetune("dataset.path_or_dataset=org/set", *again)
        self.assertEqual(done.returncode, USER, done.stderr)
        self.assertIn("dataset.path_or_dataset=org/set", done.stderr.splitlines()[-1])
        done = self.finetune(f"dataset.path_or_dataset=org/set@{old}", *again)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_without_a_hub_the_cache_does(self):
        self.hub.add("datasets/org/set", {name: data for name, data in self.FILES.items() if "validation" not in name})
        self.rows("--data", "org/set")
        self.hub.stop()
        done = self.finetune("dataset.path_or_dataset=org/set", "train.train_iters=1", **self.VALIDATING)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr.count("warning: "), 1, done.stderr)
        self.assertIn("no validation: org/set", done.stderr)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
