#!/usr/bin/env python3
"""A run does not go on from a checkpoint that says its step, its samples or its optimizer's options in two ways; what is
followed where two trackers differ is told.

  .venv/bin/python tests/cli/test_agreement.py --trestle build/release/trestle [TestCase.test ...]
"""

import re
import shutil
import unittest

import torch

import script
from test_resume import Runs


class Agreement(Runs):
    def setUp(self):
        super().setUp()
        self.trains("train.exit_interval=2")

    def test_a_text_tracker_that_is_not_followed_is_told(self):
        text = self.folder / "run" / "latest_checkpointed_iteration.txt"
        for said in ("9", "four", ""):
            text.write_text(said)
            for load in ("run", "auto"):
                done = self.trains(f"checkpoint.load={load}", iterations=1)
                self.assertIn(f'run: latest_checkpointed_iteration.txt says "{said}", latest_train_state.pt names '
                              "iter_0000002, which is taken", done.stderr)
        text.write_text("2")
        self.assertNotIn("latest_checkpointed", self.trains("checkpoint.load=run", iterations=1).stderr)

    def rewritten(self, file, *keys, value):
        """The value at `keys` in a file of torch.save of the checkpoint."""
        path = self.folder / "run" / "iter_0000002" / file
        state = torch.load(path, weights_only=False)
        inner = state
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = value
        torch.save(state, path)

    def test_places_that_say_other_steps(self):
        step = self.folder / "run" / "iter_0000002"
        shutil.copytree(step, self.folder / "whole")

        def damaged(*names):
            for load in ("run", "auto"):
                self.refuses(f"checkpoint.load={load}", names=[f"checkpoint.load=run: {names[0]}", *names[1:]])
            shutil.rmtree(step)
            shutil.copytree(self.folder / "whole", step)

        name = "the directory's name iter_0000002 says 2"
        for value in (3, 1, -2, "2", float("nan"), 2.5):
            self.rewritten("common.pt", "iteration", value=value)
            damaged("iteration in common.pt says ", name)
        self.rewritten("train_state.pt", "step", value=torch.tensor(3))
        damaged("step in train_state.pt says 3", name)
        config = step / "run_config.yaml"
        changed = re.sub(r"(\ntrestle:(?:\n .*)*?\n  step: )2\n", r"\g<1>7\n", config.read_text())
        self.assertNotEqual(changed, config.read_text())
        config.write_text(changed)
        damaged("trestle.step in run_config.yaml says 7", name)
        self.rewritten("common.pt", "opt_param_scheduler", "num_steps", value=6)
        damaged("num_steps of opt_param_scheduler in common.pt says 6", "says 4")
        groups = ("optimizer", "optimizer", "param_groups", 0)
        for keys, value, names in ((("step",), 1, ("step of ", "says 1", "says 2")),
                                   (("eps",), 1e-3, ("eps of ", "says 0.001", "optimizer.adam_eps says 1e-08")),
                                   (("betas",), [0.9, float("nan")], ("betas[1] of ", "optimizer.adam_beta2"))):
            self.rewritten("common.pt", *groups, *keys, value=value)
            damaged(*names)
        for samples in (2, 6):
            self.rewritten("train_state.pt", "consumed_train_samples", value=torch.tensor(samples))
            damaged(f"consumed_train_samples is {samples}", "has 4 (0 at step 0, then 2 steps of train.global_batch_size=2)")
        self.trains("checkpoint.load=run")

    def test_another_batch_is_counted_from_where_it_began(self):
        more = ("checkpoint.load=run", "train.global_batch_size=4", "--allow-change train.global_batch_size")
        self.trains(*more, "checkpoint.save_interval=1", iterations=3)
        self.trains(*more, iterations=4)
        state = torch.load(self.folder / "run" / "iter_0000004" / "train_state.pt")
        self.assertEqual(int(state["consumed_train_samples"]), 12)


if __name__ == "__main__":
    script.read_line(__doc__)
    unittest.main()
