#!/usr/bin/env python3
"""What every command says to a line that it does not understand: one line of ours, which flag it is, the one that was
meant, and the help of that very command.

  .venv/bin/python tests/cli/test_command_line.py --trestle build/release/trestle
"""

import re
import unittest

import script
from test_flags import DEMO, GROUPS, RECEIPTS, commands
from walk import USER, Walk


def kinds(help_text):
    """Of each flag of a help page its names, whether it takes a value, and whether several, and its words."""
    for names, rest in re.findall(r"^  (--\S+) ?(.*)$", help_text, re.MULTILINE):
        names = [re.sub(r"\{.*?\}$", "", name) for name in names.split(",")]
        value = re.match(r"(TEXT|INT|FLOAT)(:\{(\S+)\})?( \.\.\.)?", rest)
        yield names, bool(value), bool(value and value[4]), value[3].split(",") if value and value[3] else []


class Lines(Walk):
    def leaves(self):
        for name in commands(self.run_trestle(["--help"]).out):
            inner = commands(self.run_trestle([name, "--help"]).out) if name in GROUPS else []
            yield from ([f"{name} {part}" for part in inner] or [name])

    def says(self, line, *texts):
        done = self.run_trestle(line)
        self.assertEqual((done.status, done.out, len(done.err.splitlines())), (USER, "", 1), done.words())
        for text in texts:
            self.assertIn(text, done.err, done.words())

    def test_flags_of_every_command(self):
        """A flag whose neighbouring letters changed places is named, and no value behind it; of each command one flag
        of each kind is tried in the other ways too."""
        tried = 0
        for command in self.leaves():
            words, help_line = command.split(), f"see trestle {command} --help"
            self.says([*words, "--zzzzzz", "value"], f"{command} has no flag --zzzzzz; {help_line}")
            seen = set()
            for names, takes_value, several, known in kinds(self.run_trestle([*words, "--help"]).out):
                tried += 1
                flag, kind = names[0], (takes_value, several, bool(known))
                with self.subTest(command=command, flag=flag):
                    at = next(i for i in range(2, len(flag) - 1) if flag[i] != flag[i + 1])
                    wrong = flag[:at] + flag[at + 1] + flag[at] + flag[at + 2:]
                    self.says([*words, wrong, "value"],
                              f"{command} has no flag {wrong}; did you mean {flag}? {help_line}")
                    if kind not in seen:
                        self.try_other_ways(words, names, takes_value, several, known, help_line)
                    seen.add(kind)
        self.assertGreater(tried, 120)

    def try_other_ways(self, words, names, takes_value, several, known, help_line):
        flag = names[0]
        if not takes_value:
            self.says([*words, f"{flag}=maybe"], f"{flag}: 'maybe' is not true or false")
            return
        self.says([*words, flag], f"{flag} needs a value; {help_line}")
        self.says([*words, flag, flag], f"{flag} needs a value, and what follows is the flag {flag}")
        if not several:
            self.says([*words, flag, "1", f"{flag}=2", flag, "3"], f"{flag} is given 3 times, as '1', '2', '3'; keep one")
            if len(names) > 1:
                self.says([*words, flag, "1", f"{names[-1]}=2"],
                          f"one flag is given twice, as {flag} 1 and {names[-1]} 2; keep one")
        if known:
            wrong = known[-1] + "q"
            self.says([*words, flag, wrong], f"'{wrong}' is none of ", f"did you mean {known[-1]}? {help_line}")

    def test_words_without_a_place(self):
        self.says([], "trestle needs a command; there are ", "see trestle --help")
        self.says(["fintune"], "unknown command fintune; did you mean finetune?")
        self.says(["data"], "data needs a command; there are check, show; see trestle data --help")
        self.says(["data", "chekc"], "unknown command data chekc; did you mean check?")
        self.says(["--vers"], "trestle has no flag --vers; see trestle --help")
        self.says(["compare", "a", "b", "c"], "compare has no place for 'c'; see trestle compare --help")
        self.says(["compare", "a"], "b is required; see trestle compare --help")
        self.says(["generate", "promt", "--prompt", "a"], "generate has no place for 'promt'; did you mean --prompt?")
        # argparse takes the beginning of a name.
        self.says(["generate", "--max-new", "3"], "generate has no flag --max-new; did you mean --max-new-tokens?")

    def test_words_behind_two_dashes(self):
        """Of every command: they are positional arguments, and one without a place is named."""
        places = {"inspect": ["a"], "recipes": ["demo_config"], "compare": ["a", "b"]}
        for command in self.leaves():
            with self.subTest(command):
                full = places.get(command, [])
                if command in ("finetune", "plan", "rehearse"):  # which have a place for all
                    self.says([command, "train.train_iters=1", "--", "b=1"], "unknown option b;")
                    continue
                if command == "launch":  # behind them stands a command
                    self.says(["launch", "--nproc-per-node", "1", "--", "-x"], "'-x'")
                    continue
                no_place = f"{command} has no place for '-x'; "
                for line in (["--", *full, "-x"], [*full, "--", "-x"], [*full[:1], "--", *full[1:], "-x", "--"]):
                    self.says([*command.split(), *line], no_place)
                self.says([*command.split(), *full, "--", "--"], f"{command} has no place for '--'; ")
                helped = self.run_trestle([*command.split(), *full, "--help", "--", "x"])
                self.works(helped)
                self.assertIn(f"Usage: trestle {command}", helped.out)
        self.says(["compare", "--", "a", "b", "--no-forward"], "'--no-forward'; flags stand before '--'; see ")
        self.says(["inspect", "--", "-x"], "-x does not exist")
        self.says(["--", "inspect"], "unknown command --; there are ")
        self.says(["data", "--", "check"], "unknown command data --; there are check, show")
        # Only the first of them counts.
        self.says(["finetune", "--", "train.train_iters=1", "--", "b=2"], "override '--' has no '='")
        self.says(["finetune", "--", "-gb4"], "override '-gb4' has no '='")
        for line in (["--", "train.train_iters=71"], ["rng.seed=3", "--", "train.train_iters=71"]):
            done = self.run_trestle(["finetune", "--recipe", "demo_config", "--print-config", *line])
            self.works(done)
            self.assertIn("\n  train_iters: 71\n", done.out)

    def test_words_of_keys(self):
        """A key or flag that is one of a few words, or one of them or a path, says which word was meant."""
        run = ["finetune", "--recipe", "demo_config", "--pretrained-checkpoint", DEMO, f"dataset.path_or_dataset={RECEIPTS}",
               "checkpoint.save=run"]
        for key, word, meant in (("checkpoint.load", "atuo", "auto"), ("train.device", "cud", "cuda"), ("train.on_nan", "skpi", "skip"),
                                 ("model.params_dtype", "float23", "float32"), ("scheduler.lr_decay_style", "cosin", "cosine"),
                                 ("dataset.overlong", "cut_text", "cut-text"), ("peft.lora_A_init_method", "pisa", "pissa"),
                                 ("peft.lora_B_init_method", "zeor", "zero"), ("dataset.maker_name", "jsnol", "jsonl")):
            with self.subTest(key):
                self.says([*run, f"{key}={word}"], f"{key}={word}", f"did you mean {meant}?")
        for line, word, meant in ((["finetune", "--load-dir", "atuo", *run[1:]], "atuo", "auto"),
                                  (["generate", "--hf-model-path", DEMO, "--prompt", "a", "--device", "cdua"], "--device cdua", "cuda"),
                                  (["finetune", "--model", "ministral3_3bb", "--mode", "lora"], "ministral3_3bb", "ministral3_3b_peft_config")):
            with self.subTest(line[1]):
                self.says(line, word, f"did you mean {meant}?")

    def test_an_empty_value_is_not_the_word_behind_it(self):
        self.says(["export", "--hf-model", "a", "--hf-path=", "--json"], "export has no flag --json")
        self.says(["inspect", "--format=", "path"], "--format: '' is none of hf, mistral, megatron")
        self.says(["data", "check", "--hf-model-path=", "a"], "--hf-model-path: is empty")
        for line, named in ((["finetune", "--allow-change="], "a key"), (["finetune", "--recipe="], "a recipe"),
                            (["finetune", "--recipe", ""], "a recipe"), (["generate", "--device="], "a device")):
            with self.subTest(line):
                flag = line[1].removesuffix("=")
                self.says(line, f"{flag}: is empty; name {named} or leave it out; see trestle {line[0]} --help")

    def test_names_that_are_longer_or_shorter_by_a_part(self):
        self.says(["import", "--hf-model-path", "a"], "import has no flag --hf-model-path; did you mean --hf-model?")
        self.says(["finetune", "--recipe", "ministral3_3b_sft"], "unknown recipe ministral3_3b_sft; did you mean ministral3_3b_sft_config?")
        self.says(["finetune", "--recipe", "nothing"], "unknown recipe nothing; trestle recipes lists")

    def test_help_goes_before_what_is_missing(self):
        done = self.run_trestle(["generate", "--prompt", "a", "--help"])
        self.works(done)
        self.assertIn("Usage: trestle generate", done.out)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
