#!/usr/bin/env python3
"""Every path that a command takes, against everything that may stand there and is not what is wanted.

  .venv/bin/python tests/cli/test_paths.py --trestle build/release/trestle [TestCase.test ...]

Whatever it is, the program ends by itself with one line that names it, status 2 (1 for the machine's faults), and all
that was there before is there after. The tables below name every option of every command that takes a text, from its
own --help, and every config key, from a recipe: a new one fails the test until it is in a table.
"""

import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

import script

TESTS = Path(__file__).resolve().parent.parent
HF, MEGATRON = TESTS / "fixtures" / "hf", TESTS / "fixtures" / "megatron" / "import"
LORA = TESTS / "fixtures" / "megatron" / "lora"
DEMO, DATA = TESTS.parent / "assets" / "demo" / "model", TESTS.parent / "assets" / "demo" / "data"
IMAGE = TESTS / "image" / "golden" / "exact_28x56.png"
# What `generate` does not open of a model's directory.
UNREAD = {DEMO: set(), MEGATRON: {"train_state.pt"}}
NOBODY = 65534
USER, MACHINE = 2, 1

# What a path is for: a file or a directory to read, or what is written there: a file that replaces its own kind, a directory
# that is new, or one that may hold other things.
FILE, DIRECTORY, EITHER, OUT_FILE, NEW, FOLDER = "file", "directory", "either", "out_file", "new", "folder"


def finetune(*more):
    return ["finetune", "--recipe", "demo_config", "checkpoint.save=out", "dataset.path_or_dataset=rows.jsonl",
            "dataset.maker_name=jsonl", "train.train_iters=1", "train.global_batch_size=1", "train.micro_batch_size=1",
            "scheduler.lr_warmup_iters=0", *more]


GENERATE = ["generate", "--prompt", "a", "--max-new-tokens", "1"]
MODEL = ["--hf-model-path", HF]
BASE = [f"checkpoint.pretrained_checkpoint={HF}"]
PARQUET = "dataset.maker_name=make_cord_v2_dataset"
EVALUATE = ["evaluate", "--rows", "1", "--max-new-tokens", "1"]
SHOW = ["data", "show", "--hf-model-path", DEMO, "--data", DATA]
COMPARE = ["compare", "--no-forward"]

# (command, option): what it wants, and a command that it completes.
PATHS = {
    ("demo", "--assets"): (DIRECTORY, ["demo", "--output", "out", "--report", "page.html"]),
    ("demo", "--output"): (FOLDER, ["demo", "--report", "page.html"]),
    ("demo", "--report"): (OUT_FILE, ["demo", "--output", "out"]),
    ("import", "--hf-model"): (DIRECTORY, ["import", "--megatron-path", "out"]),
    ("import", "--megatron-path"): (NEW, ["import", "--hf-model", "SOURCE"]),
    ("export", "--hf-model"): (DIRECTORY, ["export", "--hf-path", "out"]),
    ("export", "--megatron-path"): (DIRECTORY, ["export", "--hf-path", "out"]),
    ("export", "--adapter-path"): (DIRECTORY, ["export", "--hf-model", HF, "--hf-path", "out"]),
    ("export", "--hf-path"): (NEW, ["export", "--hf-model", "SOURCE"]),
    ("export", "--mistral-path"): (NEW, ["export", "--hf-model", "SOURCE"]),
    ("export", "--gguf-path"): (FOLDER, ["export", "--hf-model", "SOURCE"]),
    ("quantize", "--hf-model"): (DIRECTORY, ["quantize", "--weights", "int8", "--output-path", "out"]),
    ("quantize", "--megatron-path"): (DIRECTORY, ["quantize", "--weights", "int8", "--output-path", "out"]),
    ("quantize", "--adapter-path"): (DIRECTORY, ["quantize", "--weights", "int8", "--hf-model", HF, "--output-path", "out"]),
    ("quantize", "--output-path"): (NEW, ["quantize", "--weights", "int8", "--hf-model", "SOURCE"]),
    ("generate", "--hf-model-path"): (DIRECTORY, GENERATE),
    ("generate", "--megatron-model-path"): (DIRECTORY, GENERATE),
    ("generate", "--adapter-path"): (DIRECTORY, [*GENERATE, *MODEL]),
    ("generate", "--image-path"): (FILE, [*GENERATE, "--hf-model-path", DEMO]),
    ("finetune", "--config"): (FILE, finetune(*BASE)),
    ("finetune", "--pretrained-checkpoint"): (DIRECTORY, finetune()),
    ("finetune", "--save-dir"): (FOLDER, finetune(*BASE)),
    ("finetune", "--load-dir"): (DIRECTORY, finetune(*BASE)),
    ("evaluate", "--hf-model-path"): (DIRECTORY, [*EVALUATE, "--data", DATA]),
    ("evaluate", "--megatron-model-path"): (DIRECTORY, [*EVALUATE, "--data", DATA]),
    ("evaluate", "--adapter-path"): (DIRECTORY, [*EVALUATE, "--data", DATA, *MODEL]),
    ("evaluate", "--data"): (EITHER, [*EVALUATE, *MODEL]),
    ("data check", "--hf-model-path"): (DIRECTORY, ["data", "check", "--rows", "1", "--data", DATA]),
    ("data check", "--data"): (EITHER, ["data", "check", "--rows", "1", *MODEL]),
    ("data show", "--hf-model-path"): (DIRECTORY, ["data", "show", "--output", "page.html", "--data", DATA]),
    ("data show", "--data"): (EITHER, ["data", "show", "--output", "page.html", *MODEL]),
    ("data show", "--output"): (OUT_FILE, [*SHOW, "--rows", "1"]),
    ("inspect", "path"): (EITHER, ["inspect"]),
    ("compare", "a"): (EITHER, [*COMPARE, "HERE", HF]),
    ("compare", "b"): (EITHER, [*COMPARE, HF]),
    ("compare", "--hf-model"): (DIRECTORY, [*COMPARE, LORA, HF]),
    ("compare", "--html"): (OUT_FILE, [*COMPARE, HF, HF]),
    ("logits", "--hf-model-path"): (DIRECTORY, ["logits", "--inputs", "INPUTS", "--output", "new.safetensors"]),
    ("logits", "--megatron-model-path"): (DIRECTORY, ["logits", "--inputs", "INPUTS", "--output", "new.safetensors"]),
    ("logits", "--adapter-path"): (DIRECTORY, ["logits", "--inputs", "INPUTS", "--output", "new.safetensors", *MODEL]),
    ("logits", "--inputs"): (FILE, ["logits", "--output", "new.safetensors", *MODEL]),
    ("logits", "--output"): (OUT_FILE, ["logits", "--inputs", "INPUTS", "--hf-model-path", "SOURCE"]),
    ("tokenize", "--tokenizer"): (EITHER, ["tokenize"]),
    ("rehearse", "--config"): (FILE, ["rehearse", *MODEL]),
    ("rehearse", "--hf-model-path"): (EITHER, ["rehearse"]),
    ("rehearse", "--assets"): (DIRECTORY, ["rehearse", *MODEL]),
    ("plan", "--config"): (FILE, ["plan", "--gpus", "8", *MODEL]),
    ("plan", "--hf-model-path"): (EITHER, ["plan", "--gpus", "8"]),
    ("preprocess", "--image-path"): (FILE, ["preprocess", "--output", "new.safetensors"]),
    ("preprocess", "--output"): (OUT_FILE, ["preprocess", "--image-path", "PICTURE"]),
}
# Config keys, given as key=value.
KEYS = {
    "validation.path_or_dataset": (EITHER, finetune(*BASE, "validation.eval_interval=1", PARQUET,
                                                     f"dataset.path_or_dataset={DATA}")),
    "dataset.path_or_dataset": (EITHER, finetune(*BASE, PARQUET)),
    "dataset.feature_cache": (FOLDER, finetune(*BASE, "--peft-scheme", "none", "--freeze-vision-model",
                                               "--freeze-vision-projection")),
    "peft.adapter_path": (DIRECTORY, finetune(*BASE)),
    "checkpoint.pretrained_checkpoint": (DIRECTORY, finetune()),
    "checkpoint.save": (FOLDER, finetune(*BASE)),
    "checkpoint.load": (DIRECTORY, finetune(*BASE)),
    "checkpoint.hf_source_path": (DIRECTORY, finetune(*BASE, "--peft-scheme", "none", "checkpoint.also_save_hf_checkpoint=true")),
    "logger.tensorboard_dir": (FOLDER, finetune(*BASE)),
    "logger.wandb_save_dir": (FOLDER, finetune(*BASE, "logger.wandb_project=project")),
    "logger.mlflow_tracking_uri": (FOLDER, finetune(*BASE, "logger.mlflow_experiment=experiment")),
}
# Texts that are no paths.
WORDS = {
    ("finetune", "--allow-change"),
    ("generate", "--device"), ("evaluate", "--device"), ("logits", "--device"), ("compare", "--device"), ("demo", "--device"),
    ("finetune", "--device"),
    ("import", "--max-memory"), ("export", "--max-memory"), ("export", "--max-shard-size"), ("quantize", "--max-memory"), ("generate", "--prompt"),
    ("generate", "--system-prompt"), ("generate", "--reasoning-effort"), ("finetune", "overrides"), ("finetune", "--recipe"), ("finetune", "--overlong"),
    ("finetune", "--model"),
    ("evaluate", "--maker"), ("evaluate", "--split"), ("evaluate", "--subset"), ("evaluate", "--reasoning-effort"), ("data check", "--maker"),
    ("data check", "--split"), ("data check", "--subset"), ("data show", "--maker"), ("data show", "--split"), ("data show", "--subset"),
    ("launch", "--rdzv-endpoint"), ("launch", "--rdzv-id"), ("launch", "--master-addr"),
    *(("rehearse", flag) for flag in ("--recipe", "--model", "overrides")),
    *(("plan", flag) for flag in ("--recipe", "--model", "--memory", "--flops", "--bandwidth", "--link", "--network", "--disk",
                                  "--picture-size", "overrides")),
    ("recipes", "name"), ("compare", "--prompt"), ("tokenize", "--system-prompt"), ("tokenize", "--reasoning-effort"),
}
KEY_WORDS = {
    "model.params_dtype", "model.pipeline_split", "model.recompute_granularity", "model.recompute_method", "train.on_nan", "train.device", "validation.split",
    "validation.subset", "dataset.subset", "dataset.blend", "validation.sets", "validation.best_metric", "scheduler.lr_decay_style", "scheduler.lr_wsd_decay_style", "scheduler.weight_decay_incr_style", "dataset.maker_name", "dataset.split", "dataset.overlong",
    "peft.scheme", "peft.base_bits", "peft.target_modules", "peft.lora_A_init_method", "peft.lora_B_init_method", "logger.wandb_project",
    "logger.wandb_entity", "logger.wandb_exp_name", "logger.mlflow_experiment", "logger.mlflow_run_name", "logger.mlflow_tags",
    "logger.mlflow_description",
}
READ = {**{name: each for name, each in PATHS.items() if each[0] in (FILE, DIRECTORY, EITHER)},
        **{("", key): each for key, each in KEYS.items() if each[0] in (FILE, DIRECTORY, EITHER)}}
WRITTEN = {**{name: each for name, each in PATHS.items() if each[0] in (OUT_FILE, NEW, FOLDER)},
           **{("", key): each for key, each in KEYS.items() if each[0] in (OUT_FILE, NEW, FOLDER)}}


def contents(folder):
    """What stands below a folder: of each name its kind, and of a file its bytes."""
    found = {}
    for path in Path(folder).rglob("*"):
        mode = path.lstat().st_mode
        name = path.relative_to(folder).as_posix()
        found[name] = path.read_bytes() if stat.S_ISREG(mode) and mode & 0o400 else stat.S_IFMT(mode)
    return found


class Walk(unittest.TestCase):
    """A scratch folder with one of everything in it, and the one way to run the program there."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(prefix="trestle-")
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name).resolve()
        self.home = self.folder / "home"
        self.home.mkdir()
        os.mkfifo(self.home / "pipe")
        bound = socket.socket(socket.AF_UNIX)
        self.addCleanup(bound.close)
        here = os.getcwd()
        os.chdir(self.home)  # the name of a socket is short
        bound.bind("socket")
        os.chdir(here)
        # Links, so that nothing that goes wrong here takes a device away.
        (self.home / "device").symlink_to("/dev/zero")
        (self.home / "text").write_text("neither a checkpoint nor a picture\n")
        (self.home / "empty").mkdir()
        (self.home / "foreign").mkdir()
        (self.home / "foreign" / "mine.txt").write_text("mine\n")
        shutil.copytree(HF, self.home / "SOURCE")
        shutil.copy(TESTS / "fixtures" / "mistral" / "tekken.json", self.home / "SOURCE")
        header = b'{"input_ids":{"dtype":"I64","shape":[1,2],"data_offsets":[0,16]}}'
        (self.home / "INPUTS").write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<qq", 65, 66))
        (self.home / "rows.jsonl").write_text(json.dumps({"messages": [
            {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}) + "\n")
        shutil.copy(IMAGE, self.home / "PICTURE")

    def run_trestle(self, arguments, **options):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1"}
        return subprocess.run([script.TRESTLE, *map(str, arguments)], capture_output=True, text=True, cwd=self.home,
                              env=environment, stdin=subprocess.DEVNULL, timeout=60, **options)

    def arguments(self, name, command, path):
        command_name, option = name
        if not command_name:
            return [*[each for each in command if not str(each).startswith(option + "=")], f"{option}={path}"]
        if option == "--save-dir":  # a key goes before its flag
            command = [each for each in command if not str(each).startswith("checkpoint.save=")]
        if "HERE" in command:
            return [path if each == "HERE" else each for each in command]
        return [*command, path] if not option.startswith("-") else [*command, option, path]

    def refused(self, name, command, path, says=(), statuses=(USER,), **options):
        """Runs it; one line names the path, and everything is as before."""
        arguments = self.arguments(name, command, path)
        before = contents(self.home)
        done = self.run_trestle(arguments, **options)
        lines = done.stderr.splitlines()
        what = f"trestle {' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stderr}"
        self.assertIn(done.returncode, statuses, what)
        told = [line for line in lines if line.startswith("trestle: ")]
        self.assertEqual(told, lines[-1:], what)
        for each in (path, *says):
            self.assertIn(str(each), lines[-1], what)
        after = contents(self.home)
        if name[0] in ("", "finetune"):  # a run that had begun says so in its own directory, without a checkpoint
            after = {key: value for key, value in after.items() if not key.startswith("out")}
            self.assertEqual([path for path in self.home.rglob("*")
                              if ".tmp-" in path.name or path.name.startswith(("iter_", "latest"))], [], what)
            shutil.rmtree(self.home / "out", ignore_errors=True)
        self.assertEqual(after, before, f"files differ after {what}")

    def without_rights(self):
        """What makes modes count: root is bound by none."""
        if os.geteuid() != 0:
            return {}
        paths = [script.TRESTLE, HF / "model.safetensors", *script.TRESTLE.parents, *HF.parents]
        if not all(each.stat().st_mode & (stat.S_IXOTH if each.is_dir() else stat.S_IROTH) for each in paths):
            self.skipTest("nobody cannot read this checkout, and root ignores permissions")
        self.folder.chmod(0o755)
        for each in (self.home, *self.home.rglob("*")):
            if not each.is_symlink():
                os.chown(each, NOBODY, NOBODY)
        return {"user": NOBODY, "group": NOBODY, "extra_groups": []}


class Tables(Walk):
    """They are complete: what --help lists and recipes print."""

    def help(self, *command):
        done = self.run_trestle([*command, "--help"])
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def commands(self, *outer):
        listed = re.search(r"^Subcommands:\n((?:  .*\n?)+)", self.help(*outer), re.MULTILINE)
        if not listed:
            return [outer]
        names = re.findall(r"^  (\w+)", listed.group(1), re.MULTILINE)
        return [each for name in names for each in self.commands(*outer, name)]

    def test_options(self):
        commands = self.commands()
        self.assertIn(("data", "show"), commands)
        found = set()
        for command in commands:
            for option in re.findall(r"^  (\S+) TEXT(?!:\{)", self.help(*command), re.MULTILINE):
                found.add((" ".join(command), option.split(",")[0]))
        self.assertEqual(found, set(PATHS) | WORDS)

    def test_keys(self):
        done = self.run_trestle(["recipes", "--keys"])
        rows = re.findall(r"^\| `(\S+)` \| (.*?) \| (.*?) \|", done.stdout, re.MULTILINE)
        found = {key for key, default, allowed in rows
                 if default not in ("`true`", "`false`") and not re.match(r"at least|above|one of \d", allowed)}
        self.assertEqual(found, set(KEYS) | KEY_WORDS)


class Reading(Walk):
    def each(self, kind, wanted=(FILE, DIRECTORY, EITHER), says=(), **options):
        for name, (want, command) in READ.items():
            if want in wanted:
                with self.subTest(path=" ".join(name), kind=kind):
                    self.refused(name, command, kind, says=says, **options)

    def test_empty(self):
        for name, (_, command) in READ.items():
            if name[0]:
                with self.subTest(path=" ".join(name)):
                    self.refused(name, command, "", says=[name[1].lstrip("-")])

    def test_pipe(self):
        self.each("pipe", says=["a pipe"])

    def test_socket(self):
        self.each("socket", says=["a socket"])

    def test_device(self):
        self.each("device", says=["a device"])

    def test_directory_for_a_file(self):
        self.each("foreign", wanted=(FILE,), says=["a directory"])

    def test_file_for_a_directory(self):
        self.each("text", wanted=(DIRECTORY,), says=["a regular file"])

    def test_nothing_of_use(self):
        self.each("foreign", wanted=(EITHER,))
        self.each("text", wanted=(EITHER,))

    def test_unreadable(self):
        options = self.without_rights()
        for each in ("text", "foreign"):
            (self.home / each).chmod(0)
        self.each("text", wanted=(FILE, EITHER), says=["Permission denied"], **options)
        self.each("foreign", wanted=(DIRECTORY, EITHER), says=["Permission denied"], **options)
        # Below a directory that may not be looked into: not "absent", and nothing to ask the Hub for.
        self.each("foreign/mine.txt", wanted=(FILE, EITHER), says=["Permission denied"], **options)
        model = ("import", "--hf-model")
        self.refused(model, READ[model][1], "foreign/mine.txt", says=["--hf-model", "Permission denied"], **options)
        (self.home / "foreign").chmod(0o700)

    def test_a_pipe_in_a_checkpoint(self):
        """In the place of each file of a model's directory: where it is read it is refused, and no one waits for it;
        where it is not, the answer is the same."""
        for source, flag in ((DEMO, "--hf-model-path"), (MEGATRON, "--megatron-model-path")):
            files = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
            usual = self.run_trestle([*GENERATE, flag, source])
            self.assertEqual(usual.returncode, 0, usual.stderr)
            self.assertLess(UNREAD[source], {file.name for file in files})
            for file in files:
                with self.subTest(file=str(file)):
                    model = Path(shutil.copytree(source, self.folder / f"{source.name}-{file.name}"))
                    (model / file).unlink()
                    os.mkfifo(model / file)
                    done = self.run_trestle([*GENERATE, flag, model])
                    lines = done.stderr.splitlines()
                    if file.name in UNREAD[source]:
                        self.assertEqual((done.returncode, done.stdout), (0, usual.stdout), done.stderr)
                    else:
                        self.assertEqual(done.returncode, USER, done.stderr)
                        self.assertTrue(lines[-1].startswith("trestle: "), done.stderr)
                        self.assertIn(file.name, lines[-1])


class Writing(Walk):
    def each(self, path, wanted=(OUT_FILE, NEW, FOLDER), says=(), statuses=(USER,), keys=True, **options):
        for name, (want, command) in WRITTEN.items():
            if want in wanted and (keys or name[0]):
                with self.subTest(path=" ".join(name), kind=path):
                    self.refused(name, command, path, says=says, statuses=statuses, **options)

    def test_pipe_socket_device(self):
        for path in ("pipe", "socket", "device"):
            self.each(path, says=[f"a {path}"], keys=False)
            for name, (_, command) in WRITTEN.items():
                if not name[0]:
                    with self.subTest(path=name[1], kind=path):
                        self.refused(name, command, path, statuses=(USER, MACHINE))

    def test_dangling_link(self):
        (self.home / "dangling").symlink_to("nowhere")
        for path in ("dangling", "dangling/below"):
            for name, (_, command) in WRITTEN.items():
                if (name, path) != (("", "dataset.feature_cache"), "dangling/below"):  # training goes on without it
                    with self.subTest(path=" ".join(name), kind=path):
                        self.refused(name, command, path, says=["dangling is a link to nowhere, which is not there"])

    def test_directory_for_a_file(self):
        self.each("foreign", wanted=(OUT_FILE,), says=["a directory"])
        self.each("empty", wanted=(OUT_FILE,), says=["a directory"])
        for path in (".", "..", "/", "new/"):
            self.each(path, wanted=(OUT_FILE,), says=["directory"])

    def test_file_for_a_directory(self):
        self.each("text", wanted=(NEW, FOLDER), statuses=(USER, MACHINE))

    def test_empty(self):
        self.each("", keys=False)

    def test_new_directories_replace_nothing(self):
        self.each("foreign", wanted=(NEW,), says=["not empty"])
        for path in (".", "./", "..", "/", self.home):
            self.each(path, wanted=(NEW,))

    def test_current_directory(self):
        """Empty, it could be written beside and never be replaced."""
        kept, self.home = self.home, self.home / "empty"
        for name, (want, command) in WRITTEN.items():
            if want == NEW:
                for path in (".", self.home):
                    command = [kept / each if each == "SOURCE" else each for each in command]
                    with self.subTest(path=" ".join(name), kind=path):
                        self.refused(name, command, path, says=["the current directory"])

    def test_mount_point(self):
        mounted = ["unshare", "--mount", "--map-root-user", "sh", "-c", 'mount -t tmpfs none empty && exec "$@"', "sh"]
        if subprocess.run([*mounted, "true"], cwd=self.home, capture_output=True).returncode != 0:
            self.skipTest("nothing can be mounted here")
        for name, (want, command) in WRITTEN.items():
            if want == NEW:
                with self.subTest(path=" ".join(name)):
                    done = subprocess.run([*mounted, script.TRESTLE, *map(str, self.arguments(name, command, "empty"))],
                                          cwd=self.home, capture_output=True, text=True, timeout=60)
                    self.assertEqual(done.returncode, USER, done.stderr)
                    self.assertIn("empty is a mount point", done.stderr)

    def test_in_and_around_what_is_read(self):
        for path in ("SOURCE", "SOURCE/out", "SOURCE/a/b", "empty/../SOURCE/out"):
            self.each(path, wanted=(NEW,), says=["SOURCE", "read"])
        self.refused(("export", "--gguf-path"), PATHS["export", "--gguf-path"][1], "SOURCE/out", says=["read"])
        self.refused(("demo", "--output"), PATHS["demo", "--output"][1], DEMO.parent / "out", says=["read"])

    def test_an_input(self):
        logits, command = ("logits", "--output"), PATHS["logits", "--output"][1]
        (self.home / "link").symlink_to("INPUTS")
        os.link(self.home / "INPUTS", self.home / "same")
        for path in ("INPUTS", "./INPUTS", "link", "same", "SOURCE/model.safetensors", "SOURCE/config.json"):
            with self.subTest(path=path):
                self.refused(logits, command, path, says=["read"])
        self.refused(("preprocess", "--output"), PATHS["preprocess", "--output"][1], "PICTURE", says=["read"])
        shutil.copytree(DATA, self.home / "data")
        for data in ("data", "data/test.parquet"):
            self.refused(("data show", "--output"), ["data", "show", "--hf-model-path", DEMO, "--rows", "1", "--data", data],
                         "data/test.parquet", says=["read"])
        self.refused(("compare", "--html"), [*COMPARE, "SOURCE", "SOURCE"], "SOURCE/model.safetensors", says=["read"])
        self.refused(("compare", "--html"), [*COMPARE, "SOURCE/model.safetensors", HF], "SOURCE/model.safetensors",
                     says=["read"])

    def test_a_file_of_others_is_not_replaced(self):
        for path in ("text", "foreign/mine.txt", "SOURCE/model.safetensors", "INPUTS"):
            for name, (want, command) in PATHS.items():
                if want == OUT_FILE:
                    with self.subTest(path=path, command=name[0]):
                        self.refused(name, command, path, says=[name[1]])
        weights = PATHS["preprocess", "--output"][1]
        self.refused(("preprocess", "--output"), weights, "SOURCE/model.safetensors", says=["no tensor file that trestle wrote"])
        for page in ("data show", "--output"), ("compare", "--html"), ("demo", "--report"):
            self.refused(page, PATHS[page][1], "text", says=["has 35 bytes and is no page that trestle wrote"])
        # Nor one of another command's.
        pixels, logits = ("preprocess", "--output"), ("logits", "--output")
        done = self.run_trestle(self.arguments(pixels, PATHS[pixels][1], "pixels.safetensors"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.refused(logits, PATHS[logits][1], "pixels.safetensors", says=["no tensor file that trestle wrote"])

    def test_its_own_file_is_replaced(self):
        for name, (want, command) in PATHS.items():
            if want == OUT_FILE and name[0] != "demo":
                with self.subTest(command=name[0]):
                    (self.home / "made").write_text("")  # as by mktemp
                    for _ in range(2):
                        done = self.run_trestle(self.arguments(name, command, "made"))
                        self.assertEqual(done.returncode, 0, done.stderr)
                        self.assertGreater((self.home / "made").stat().st_size, 100)
        done = self.run_trestle([*COMPARE, "SOURCE", "SOURCE", "--html", "SOURCE/page.html"])
        self.assertEqual(done.returncode, 0, done.stderr)
        done = self.run_trestle([*COMPARE, "SOURCE", "SOURCE", "--html", "SOURCE/page.html"])
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_unwritable(self):
        options = self.without_rights()
        (self.home / "foreign").chmod(0o555)
        for name, (_, command) in WRITTEN.items():
            if name != ("", "dataset.feature_cache"):  # training goes on without it
                with self.subTest(path=" ".join(name)):
                    self.refused(name, command, "foreign/out", says=["Permission denied"], statuses=(MACHINE,), **options)

    def test_quota(self):
        """A limit of a file's size sends a signal; it is told as a full disk is."""
        def limit():
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

        for name, (want, command) in WRITTEN.items():
            if name == ("", "dataset.feature_cache"):
                continue  # training goes on without it
            path = {OUT_FILE: "new/page", NEW: "new/run", FOLDER: "new/folder"}[want]
            with self.subTest(path=" ".join(name)):
                arguments = self.arguments(name, command, path)
                before = contents(self.home)
                done = self.run_trestle(arguments, preexec_fn=limit, restore_signals=False)
                self.assertEqual(done.returncode, MACHINE, done.stderr)
                last = done.stderr.splitlines()[-1]
                self.assertTrue(last.startswith("trestle: ") and "File too large" in last, done.stderr)
                if name[0] not in ("", "finetune"):  # a run leaves its directory
                    self.assertEqual(contents(self.home), before, done.stderr)
                shutil.rmtree(self.home / "new", ignore_errors=True)
                shutil.rmtree(self.home / "out", ignore_errors=True)

    def test_output_that_is_full(self):
        for command in (["inspect", HF], ["recipes"], ["inspect", "--check", HF], ["compare", HF, HF, "--no-forward"],
                        [*GENERATE, *MODEL]):
            with open("/dev/full", "w") as full, self.subTest(command=command[0]):
                done = subprocess.run([script.TRESTLE, *map(str, command)], stdout=full, stderr=subprocess.PIPE, text=True,
                                      stdin=subprocess.DEVNULL, timeout=60)
                self.assertEqual(done.returncode, MACHINE, done.stderr)
                self.assertIn("No space left", done.stderr.splitlines()[-1])


class Deleting(Walk):
    """Nothing is removed that was not made."""

    def demo(self, output):
        # Ends in its first stage, behind the only place where anything is removed.
        broken = self.home / "assets"
        shutil.copytree(DEMO.parent, broken)
        (broken / "model" / "model.safetensors").write_bytes(b"")
        done = self.run_trestle(["demo", "--assets", broken, "--output", output, "--report", "page.html"])
        shutil.rmtree(broken)
        self.assertEqual(done.returncode, USER, done.stderr)
        return done.stderr

    def test_demo_takes_no_foreign_directory(self):
        before = contents(self.home)
        self.assertIn("foreign is not empty", self.demo("foreign"))
        self.assertIn("is not empty", self.demo("."))
        self.assertEqual(contents(self.home), before)
        # What it would make does not mark it either.
        (self.home / "foreign" / "run").mkdir()
        self.assertIn("foreign is not empty", self.demo("foreign"))

    def test_demo_replaces_its_own(self):
        for output in ("empty", "new/folder"):
            self.assertIn("model.safetensors", self.demo(output))
            made = self.home / output
            self.assertEqual([path.name for path in made.iterdir()], [".trestle-demo"])
            for name in ("megatron", "hf", "run"):
                (made / name).mkdir()
                (made / name / "file").write_text("old")
            (made / "receipt.png").write_text("old")
            (made / "mine.txt").write_text("mine")
            self.demo(output)
            self.assertEqual(sorted(path.name for path in made.iterdir()), [".trestle-demo", "mine.txt"])

    def test_gguf_replaces_nothing(self):
        (self.home / "model-BF16.gguf").write_text("mine")
        done = self.run_trestle(["export", "--hf-model", DEMO, "--gguf-path", "."])
        self.assertEqual(done.returncode, USER, done.stderr)
        self.assertIn("model-BF16.gguf exists", done.stderr)
        self.assertEqual((self.home / "model-BF16.gguf").read_text(), "mine")
        self.assertFalse((self.home / "mmproj-model-BF16.gguf").exists())

    def test_an_iteration_is_replaced_and_nothing_else(self):
        (self.home / "out" / "iter_0000001").mkdir(parents=True)
        (self.home / "out" / "iter_0000001" / "mine.txt").write_text("mine")
        for load in ((), ("checkpoint.load=auto",), ("checkpoint.load=out",)):
            done = self.run_trestle(finetune(*BASE, *load))
            self.assertEqual(done.returncode, USER, done.stderr)
            self.assertRegex(done.stderr.splitlines()[-1], r"\bout\b")
        self.assertEqual((self.home / "out" / "iter_0000001" / "mine.txt").read_text(), "mine")


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
