#!/usr/bin/env python3
"""Every flag that takes a number takes it decimal and in the range that its help states: what lies just inside goes
through, what lies just outside or is written in another way is one line with what was given and what is allowed. A flag
of the program that is not in the tables below fails, and an entry of the tables that the program does not know.

  .venv/bin/python tests/cli/test_numbers.py --trestle build/release/trestle [Numbers.test ...]
"""

import re
import unittest

import script
from test_bad_input import HF, Refusals
from test_flags import GROUPS, commands

MILLIARD, TOKENS = 10**9, 2**24


def whole(low, high):
    return [low, high], [low - 1, high + 1], f"must be at least {low} and at most {high}"


def share(low_text="at least 0", low=-1e-9):
    return [1e-9, 1, "0.5", "5e-1"], [low, 1.000001, "nan", "inf"], f"must be {low_text} and at most 1"


EDGE = whole(0, 2**20)
PICTURE_TOKENS = [0, 2, TOKENS], [-1, 1, TOKENS + 1], f"must be at least 2 and at most {TOKENS}, or 0 for none"
FROM_0 = [0, 1e-9, 1e300], [-1e-9, "nan", "inf"], "must be at least 0"
IMAGES = {"--image-max-edge": EDGE, "--image-max-tokens": PICTURE_TOKENS}
ROWS = whole(0, MILLIARD)
DECODING = {"--prefill-chunk-size": whole(1, TOKENS), "--prompt-lookup-num-tokens": whole(0, 1024)}
# What is accepted, what is refused, and what the refusal says.
NUMBERS = {
    "import": {"--tensor-model-parallel-size": whole(1, 2**20), "--pipeline-model-parallel-size": whole(1, 2**20)},
    "generate": IMAGES | DECODING | {"--max-new-tokens": whole(1, TOKENS), "--temperature": FROM_0, "--top-k": whole(0, TOKENS),
                          "--top-p": share("above 0", 0), "--min-p": share(), "--seed": whole(0, 2**53),
                          "--logprobs": whole(1, 20)},
    "evaluate": IMAGES | DECODING | {"--rows": ROWS, "--batch-size": whole(1, 10**6), "--max-new-tokens": whole(1, TOKENS)},
    "data check": IMAGES | {"--rows": ROWS, "--seq-length": whole(1, TOKENS)},
    "data show": IMAGES | {"--rows": ROWS, "--seq-length": whole(1, TOKENS)},
    "compare": {"--max-new-tokens": whole(0, TOKENS), "--max-error": FROM_0},
    "rehearse": {"--ranks": whole(1, 64), "--steps": whole(1, 100)},
    "plan": {"--gpus": whole(1, 2**20), "--processes": whole(1, 1024), "--gpus-per-node": whole(1, 2**20), "--tokens": whole(1, TOKENS),
             "--targets": whole(1, TOKENS), "--pictures": whole(0, 4096), "--rows": whole(0, 10**6),
             "--mtbf": ([1e-9, 10**9], [0, 10**9 + 1, "nan", "inf"], "must be above 0 and at most 1000000000"),
             "--restart": ([0, "0.5", 10**6], [-1e-9, 10**6 + 1, "nan"], "must be at least 0 and at most 1000000")},
    "preprocess": {"--longest-edge": whole(1, 2**16)},
    "demo": {"--steps": ROWS, "--min-field": share(), "--min-whole": share(), "--max-before": share()},
    "finetune": IMAGES | {
        "--train-iters": whole(1, MILLIARD), "--global-batch-size": whole(1, 10**6), "--seq-length": whole(1, TOKENS),
        "--micro-batch-size": ([1, 16], [0, 10**6 + 1], f"must be at least 1 and at most {10**6}"),
        "--lr": ([1e-3, 10], [0, 10.1, "nan", "inf"], "must be above 0 and at most 10"),
        "--min-lr": ([0, 1e-3], [-1e-9, 10.1, "nan"], "must be at least 0 and at most 10"),
        "--warmup-iters": ([0, 119], [-1, MILLIARD + 1], f"must be at least 0 and at most {MILLIARD}"),
        "--save-interval": whole(1, MILLIARD)} | {
        f"--{kind}-parallel-size": whole(1, 2**20) for kind in ("tensor-model", "pipeline-model", "virtual-pipeline-model", "context")},
    "launch": {"--nproc-per-node": whole(1, 1024), "--nnodes": whole(1, 2**16), "--node-rank": whole(0, 2**16 - 1),
               "--rdzv-timeout": whole(1, 86400), "--master-port": whole(1, 2**16 - 1), "--max-restarts": whole(0, 10**6)},
}
# A line that goes as far as "nowhere", which is not there.
LINES = {
    "import": ["--hf-model", "nowhere", "--megatron-path", "out"],
    "generate": ["--hf-model-path", "nowhere", "--prompt", "a", "--image-path", "nowhere"],
    "evaluate": ["--hf-model-path", "nowhere", "--data", "nowhere"],
    "data check": ["--hf-model-path", "nowhere", "--data", "nowhere"],
    "data show": ["--hf-model-path", "nowhere", "--data", "nowhere", "--output", "page.html"],
    "compare": ["nowhere", "nowhere"],
    "plan": ["--hf-model-path", "nowhere"],
    "rehearse": ["--hf-model-path", "nowhere"],
    "preprocess": ["--image-path", "nowhere", "--output", "out.safetensors"],
    "demo": ["--assets", "nowhere"],
    "finetune": ["--recipe", "demo_config", "--pretrained-checkpoint", "nowhere", "dataset.path_or_dataset=nowhere",
                 "checkpoint.save=run", "scheduler.lr_warmup_iters=0", "train.micro_batch_size=1"],
    "launch": ["--nproc-per-node=1", "--master-addr", "nowhere/"],
}
# What a line says of the same key goes before the flag.
INSTEAD = {"--nproc-per-node": "--nproc-per-node=1", "--micro-batch-size": "train.micro_batch_size=1", "--warmup-iters": "scheduler.lr_warmup_iters=0"}
NEEDS = {flag: ["--temperature", "1"] for flag in ("--top-k", "--top-p", "--min-p", "--seed")} | {
    "--gpus-per-node": ["--gpus", "8"], "--mtbf": ["--simulate"], "--restart": ["--simulate"]}
# Ways to write 8 and larger numbers that some programs read as another one, or not at all.
ODD = ["010", "0x10", "-010", "0b1", "+8", " 8", "8 ", "1_0", "1'0", "1,0", "8k", "", "eight"]
ODD_WHOLE = ["8.0", "8.5", "8e0", "9" * 30]
ODD_FRACTION = ["00.5", "1e999", "0x1p-1"]
# Sizes are numbers with a unit.
SIZES = {("import", "--max-memory"): LINES["import"], ("export", "--max-memory"): ["--hf-model", "nowhere", "--hf-path", "out"],
         ("quantize", "--max-memory"): ["--hf-model", "nowhere", "--output-path", "out", "--weights", "int8"],
         ("plan", "--memory"): LINES["plan"], ("export", "--max-shard-size"): ["--hf-model", "nowhere", "--hf-path", "out"]}


class Numbers(Refusals):
    def line(self, command, flag, value, line=()):
        given = [each for each in line or LINES[command] if each != INSTEAD.get(flag)]
        return [*command.split(), *given, *NEEDS.get(flag, ()), flag, value]

    def accepted(self, *line):
        """The next thing that is wrong is told."""
        said = self.refused(*line, names=["nowhere"])
        self.assertNotRegex(said, "must be|not a", said)

    def leaves(self):
        for name in commands(self.run_trestle("--help").stdout):
            inner = commands(self.run_trestle(name, "--help").stdout) if name in GROUPS else [""]
            yield from (f"{name} {each}".strip() for each in inner)

    def test_the_table_is_complete_and_is_what_help_says(self):
        found = {}
        for command in self.leaves():
            text = self.run_trestle(*command.split(), "--help").stdout
            for name, body in re.findall(r"^  (--\S+?)(?:,\S+)? (?:INT|FLOAT)\b((?:.*\n)(?:\s{20,}\S.*\n)*)", text, re.MULTILINE):
                found.setdefault(command, {})[name] = " ".join(body.split())
            self.assertNotRegex(text, r" UINT\b|:NONNEGATIVE|:POSITIVE", "a number that number_flag does not know")
        self.assertEqual({command: set(flags) for command, flags in found.items()},
                         {command: set(flags) for command, flags in NUMBERS.items()})
        for command, flags in NUMBERS.items():
            for flag, (_, _, says) in flags.items():
                self.assertIn(f"({says.removeprefix('must be ')})", found[command][flag], f"{command} {flag}")

    def test_bounds(self):
        for command, flags in NUMBERS.items():
            for flag, (good, bad, says) in flags.items():
                for value in good:
                    with self.subTest(command=command, flag=flag, good=value):
                        self.accepted(*self.line(command, flag, value))
                for value in bad:
                    with self.subTest(command=command, flag=flag, bad=value):
                        self.refused(*self.line(command, flag, value), names=[self.called(command, flag), value, says])

    @staticmethod
    def called(command, flag):
        """A flag that stands for a key is told by its key."""
        return flag[2:].replace("-", "_") if command == "finetune" else flag

    def test_other_ways_to_write_a_number(self):
        """All of them where a number is read, and two of every flag."""
        everywhere = {("generate", "--seed"): ODD_WHOLE, ("generate", "--min-p"): ODD_FRACTION, ("finetune", "--train-iters"): ODD_WHOLE}
        for command, flags in NUMBERS.items():
            for flag, (_, _, says) in flags.items():
                odd = [*ODD, *everywhere[command, flag]] if (command, flag) in everywhere else ODD[:2]
                if command == "finetune":  # a key may have blanks around it, as in a file
                    odd = [each for each in odd if each == each.strip()]
                for value in odd:
                    with self.subTest(command=command, flag=flag, value=value):
                        self.refused(*self.line(command, flag, value), names=[self.called(command, flag), f"'{value}'", says])

    def test_sizes(self):
        for (command, flag), line in SIZES.items():
            for value in ("0", "-1MB", "010MB", "0x10", "1 GB", "inf", "nanMB", "0.1", "0.0001KB", "1e30", "5MBs", "GB", ""):
                with self.subTest(command=command, flag=flag, value=value):
                    self.refused(*self.line(command, flag, value, line), names=[flag, value, "500MB"])
            for value in ("1", "1B", "0.5MB", "1e9", "2GiB"):
                with self.subTest(command=command, flag=flag, value=value):
                    self.accepted(*self.line(command, flag, value, line))

    def test_the_advised_memory_is_enough(self):
        """With its unit, as it can be given."""
        def line(memory):
            return ["import", "--hf-model", HF, "--megatron-path", "out", "--max-memory", memory]
        said = self.refused(*line("1"), names=["--max-memory 1B is too little", "MB; give "])
        advised = re.search(r"give (\d+MB) or more$", said)[1]
        done = self.run_trestle(*line(advised))
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
