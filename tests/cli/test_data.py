#!/usr/bin/env python3
"""`trestle data check` and `data show`.

  .venv/bin/python tests/cli/test_data.py --trestle build/release/trestle
"""

import argparse
import json
import unittest
from pathlib import Path

import test_bad_input
from test_bad_input import DEMO, TESTS, Refusals

RECEIPTS = TESTS.parent / "assets" / "demo" / "data"
FOLDER = TESTS / "golden" / "datasets"


class Data(Refusals):
    def data(self, command, *arguments):
        return self.run_trestle("data", command, "--hf-model-path", DEMO, *arguments)

    def jsonl(self, *rows):
        file = self.folder / "rows.jsonl"
        file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
        return ["--maker", "jsonl", "--data", file]

    def test_receipts(self):
        done = self.data("check", "--data", RECEIPTS, "--split", "test", "--rows", 20, "--json", "--seq-length", 150)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((report["rows"], report["bad_rows"], report["images"], report["text_only_rows"]), (20, 0, 20, 0))
        self.assertEqual(report["turns_with_eos"], report["assistant_turns"])
        self.assertTrue(0 < report["target_share"] < 1)
        self.assertEqual(report["targets"] / report["tokens"], report["target_share"])
        self.assertLessEqual(report["length"]["min"], report["length"]["median"])
        self.assertTrue(0 < report["longer_than_seq_length"] <= 20)
        text = self.data("check", "--data", RECEIPTS, "--split", "test", "--rows", 20).stdout
        self.assertIn("</s> is learnt in 20 of 20 turns", text)

    # users' pain point 12: an end of turn that is not learnt.
    def test_mixed_rows(self):
        answer = {"role": "assistant", "content": "yes"}
        rows = self.jsonl([{"role": "user", "content": "a"}, answer], [{"role": "user", "content": "b"}, answer] * 2)
        done = self.data("check", *rows, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((report["assistant_turns"], report["turns_with_eos"], report["text_only_rows"]), (3, 3, 2))

    def fails(self, arguments, *words):
        done = self.data("check", *arguments)
        self.assertEqual(done.returncode, 2, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr.splitlines()[-1])
        return done.stdout

    # users' pain point 11: loss on the prompt.
    def test_nothing_is_learnt(self):
        silent = {"role": "assistant", "content": "no", "weight": 0}
        spoken = {"role": "assistant", "content": "no"}
        user = {"role": "user", "content": "a"}
        self.fails(self.jsonl([user, spoken], [user, silent]), "0 %", "row 1")

    def test_bad_rows_are_named(self):
        user = {"role": "user", "content": [{"type": "image", "path": "absent.png"}, {"type": "text", "text": "a"}]}
        out = self.fails(self.jsonl([user, {"role": "assistant", "content": "b"}]), "1 of 1 rows cannot be used")
        self.assertIn("absent.png", out)

    # users' pain point 11: loss on the prompt.
    def test_show(self):
        page = self.folder / "page.html"
        done = self.data("show", "--data", RECEIPTS, "--split", "test", "--rows", 2, "--output", page)
        self.assertEqual(done.returncode, 0, done.stderr)
        text = page.read_text()
        self.assertEqual(text.count("<figure"), 2)
        self.assertIn('class="learnt', text)
        self.assertIn("[INST]", text)
        self.assertNotIn("http", text.replace("http-equiv", ""))

    def test_raven_and_medpix_show(self):
        for maker, pictures in (("make_raven_dataset", 3), ("make_medpix_dataset", 3)):
            page = self.folder / "page.html"
            name = maker.split("_")[1]
            done = self.data("show", "--maker", maker, "--data", FOLDER / f"{name}-train-00000-of-00001.parquet",
                             "--output", page)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(page.read_text().count("<figure"), pictures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trestle", type=Path, required=True)
    known, others = parser.parse_known_args()
    test_bad_input.TRESTLE = known.trestle.resolve()
    unittest.main(argv=["test_data.py", *others])
