#!/usr/bin/env python3
"""`trestle data check` and `data show`.

  .venv/bin/python tests/cli/test_data.py --trestle build/release/trestle
"""

import base64
import functools
import gzip
import http.server
import io
import json
import shutil
import subprocess
import tarfile
import threading
import unittest
from pathlib import Path

import pyarrow
import pyarrow.parquet
import script
from PIL import Image
from test_bad_input import DEMO, EFFORT, IMAGE, TESTS, Refusals, edit_json, make_v15

RECEIPTS = TESTS.parent / "assets" / "demo" / "data"
FOLDER = TESTS / "data" / "golden"
POLARS = TESTS / "data" / "polars"


TALK = [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "This one."}]


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


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

    def test_text_that_is_no_utf8(self):
        (self.folder / "rows.jsonl").write_bytes(b'{"messages": [{"role": "user", "content": "caf\xe9"}, {"role": "assistant", "content": "a"}]}\n')
        for more in ((), ("--json",)):
            with self.subTest(more):
                done = self.data("check", "--maker", "jsonl", "--data", self.folder / "rows.jsonl", *more)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertIn("1 of 1 rows cannot be used", done.stderr)

    def test_members_of_a_sample_that_it_would_lose(self):
        Image.new("RGB", (56, 56)).save(self.folder / "p.png")
        for name, data, word in (("1.mp4", b"x", ".mp4"), ("1.seg.wav", b"x", ".seg.wav"), ("1.txt", b"caf\xe9", "byte 4")):
            with self.subTest(name):
                members = {"1.png": (self.folder / "p.png").read_bytes(), "1.txt": b"a"} | {name: data}
                source = self.archive("a.tar", list(members.items()))
                self.assertIn(word, self.fails(source, "1 of 1 rows cannot be used"))

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

    def test_what_a_row_would_lose(self):
        """Of each kind of data set: columns that nobody reads and that say something, and two values of one key."""
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        pair = {"question": "q", "answer": "r"}
        cases = [({"messages": talk, "image_path": "a.png"}, '"image_path"'), ({"messages": talk, "weight": 0}, '"weight"'),
                 (pair | {"img": "a.png"}, '"img"'), ({"messages": talk} | pair, '"question" and "answer" beside the messages'),
                 (pair | {"prompt": "p", "completion": "c"}, '"prompt" and "completion" beside the messages')]
        for row, word in cases:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), self.folder / "rows.parquet")
            self.archive("a.tar", [("1.json", json.dumps(row).encode())])
            for maker, file in (("parquet", "rows.parquet"), ("webdataset", "a.tar")):
                with self.subTest(maker=maker, row=row):
                    out = self.fails(["--maker", maker, "--data", self.folder / file], "1 of 1 rows cannot be used")
                    self.assertIn(word, out)
        twice = json.dumps({"messages": talk}).replace('"content": "b"', '"content": "b", "content": "c"').encode()
        (self.folder / "rows.jsonl").write_bytes(twice)
        self.archive("a.tar", [("1.json", twice)])
        text = pyarrow.table({"messages": [json.dumps(talk).replace('"content": "b"', '"content": "b", "content": "c"')]})
        pyarrow.parquet.write_table(text, self.folder / "rows.parquet")
        for maker, file in (("jsonl", "rows.jsonl"), ("parquet", "rows.parquet"), ("webdataset", "a.tar")):
            out = self.fails(["--maker", maker, "--data", self.folder / file], "1 of 1 rows cannot be used")
            self.assertIn('"content" stands twice', out)
        # What says nothing, and what a pair is beside.
        Image.new("RGB", (56, 56)).save(self.folder / "a.png")
        seen = [{"role": "user", "content": [{"type": "image", "path": "a.png"}]}, talk[1]]
        for row in ({"messages": talk, "image_path": None, "question": "a", "answer": None}, pair | {"answers": ["r", "s"]},
                    {"messages": talk, "perplexity": 0.7}, {"messages": talk, "images": ["a.png"], "image_path": "data/a.png"},
                    {"messages": json.dumps(seen), "image_url": "https://example.org/a.png"}):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), self.folder / "rows.parquet")
            self.assertEqual(self.report("--maker", "parquet", "--data", self.folder / "rows.parquet")["bad_rows"], 0)

    def report(self, *arguments):
        done = self.data("check", *arguments, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_what_each_overlong_policy_loses(self):
        Image.new("RGB", (280, 280)).save(self.folder / "large.png")
        picture = {"role": "user", "content": [{"type": "image", "path": "large.png"}, {"type": "text", "text": "a"}]}
        user, answer = {"role": "user", "content": "a b c d"}, {"role": "assistant", "content": "yes"}
        spoken = {"role": "assistant", "content": "a long answer of many words " * 4}
        asked = {"role": "user", "content": "a long question of many words " * 20}
        short = [[user, answer], [user, answer, user, answer]]
        long = {"answer": [user, answer, user, spoken], "question": [asked, answer], "picture": [picture, answer]}
        lengths = {name: self.report(*self.jsonl(row))["length"]["max"] for name, row in long.items()}
        limit = self.report(*self.jsonl(*short))["length"]["max"]
        self.assertTrue(all(length > limit for length in lengths.values()), (lengths, limit))
        whole = self.report(*self.jsonl(*short), "--seq-length", limit)
        self.assertEqual({each["refused"] + each["dropped"] + each["targets_lost"] + each["eos_lost"]
                          for each in whole["overlong"].values()}, {0})
        self.assertEqual({each["turns_with_eos"] for each in whole["overlong"].values()}, {3})

        rows = self.jsonl(*short, *long.values())
        report = self.report(*rows, "--seq-length", limit)
        self.assertEqual((report["longer_than_seq_length"], report["assistant_turns"]), (3, 7))
        policies = report["overlong"]
        counts = {name: [each[key] for key in ("refused", "dropped", "shrunk", "cut", "turns_with_eos", "assistant_turns")]
                  for name, each in policies.items()}
        # The picture can become smaller; the question alone fills the limit; the first answer of the other stays.
        self.assertEqual(counts, {"error": [3, 0, 0, 0, 3, 3], "drop": [0, 3, 0, 0, 3, 3], "shrink-image": [2, 0, 1, 0, 4, 4],
                                  "cut-text": [2, 0, 0, 1, 4, 5]})
        for name, each in policies.items():
            self.assertEqual(each["targets"] + each["targets_lost"], report["targets"], name)
            self.assertEqual(each["turns_with_eos"] + each["eos_lost"], report["turns_with_eos"], name)
        self.assertEqual(policies["drop"]["targets"], whole["targets"])
        self.assertEqual(policies["error"]["targets"], whole["targets"])
        with_picture = self.report(*self.jsonl(*short, long["picture"]))["targets"]
        self.assertEqual(policies["shrink-image"]["targets"], with_picture)

        text = self.data("check", *self.jsonl(*short, *long.values()), "--seq-length", limit).stdout.splitlines()
        table = {line.split()[0]: line.split()[1:] for line in text[-4:]}
        for name, each in policies.items():
            self.assertEqual(table[name], [str(each[key]) for key in ("refused", "dropped", "shrunk", "cut", "targets_lost",
                "eos_lost", "turns_with_eos")] + ["of", str(each["assistant_turns"])])

    def test_pictures_by_url_path_and_base64(self):
        shutil.copy(IMAGE, self.folder / "p.png")
        handler = functools.partial(QuietHandler, directory=self.folder)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        url = f"http://127.0.0.1:{server.server_port}/p.png"
        data = base64.b64encode(IMAGE.read_bytes()).decode()
        answer = {"role": "assistant", "content": "b"}

        def rows(*parts):
            return self.jsonl(*([{"role": "user", "content": [part, {"type": "text", "text": "a"}]}, answer] for part in parts),
                              [{"role": "user", "content": "only words"}, answer])
        report = self.report(*rows({"type": "image", "url": url}, {"type": "image_url", "image_url": {"url": url}},
                                   {"type": "image", "image": url}, {"type": "image", "path": "p.png"},
                                   {"type": "image_url", "image_url": {"url": "data:image/png;base64," + data}},
                                   {"type": "image", "base64": data}, {"type": "image", "image": data}))
        self.assertEqual((report["images"], report["text_only_rows"], report["largest_image"]), (7, 1, [56, 28]))
        out = self.fails(rows({"type": "image", "url": url + ".gone"}), "1 of 2 rows cannot be used")
        self.assertIn("HTTP status 404", out)

    def archive(self, name, members, form=tarfile.PAX_FORMAT):
        with tarfile.open(self.folder / name, "w", format=form) as archive:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return ["--maker", "webdataset", "--data", self.folder / name]

    def test_webdataset_of_every_format(self):
        picture, talk = IMAGE.read_bytes(), json.dumps(TALK).encode()
        members = [("f" * 60 + "/" + "g" * 60 + "/0.png", picture), ("f" * 60 + "/" + "g" * 60 + "/0.json", talk),
                   ("1.png", picture), ("1.txt", b"A caption."), ("2.JSON", json.dumps({"messages": TALK[1:]}).encode())]
        for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
            report = self.report(*self.archive("shard-3.tar", members[:4], form))
            self.assertEqual((report["rows"], report["images"], report["bad_rows"]), (2, 2, 0))
        self.archive("shard-4.tar", members[2:4])
        for where in ([self.folder / "shard-{3..4}.tar"], [self.folder, "--split", "shard"]):
            report = self.report("--maker", "webdataset", "--data", *where)
            self.assertEqual((report["rows"], report["images"]), (3, 3))

    def test_webdataset_refusals(self):
        picture, talk = IMAGE.read_bytes(), json.dumps(TALK).encode()
        a, b = [("a.png", picture), ("a.json", talk)], [("b.png", picture), ("b.txt", b"c")]
        self.fails(self.archive("x.tar", [a[0], *b, a[1]]), "a.json", "sample a", "--sort=name")
        self.fails(self.archive("x.tar", [*a, ("a.PNG", picture)]), "two members", "png")
        self.fails(self.archive("x.tar", [("README", b"")]), "no sample")
        outside = [{"role": "user", "content": [{"type": "image", "path": str(IMAGE)}]}, TALK[1]]
        out = self.fails(self.archive("x.tar", [("a.json", json.dumps(outside).encode())]), "1 of 1 rows")
        self.assertIn("not among its members", out)
        plain = (self.folder / "x.tar").read_bytes()
        (self.folder / "x.tar").write_bytes(gzip.compress(plain))
        self.fails(["--maker", "webdataset", "--data", self.folder / "x.tar"], "gunzip it first")
        (self.folder / "x.tar").write_bytes(plain[:512 + 7])
        self.fails(["--maker", "webdataset", "--data", self.folder / "x.tar"], "7 are left in the file")

    def test_own_parquet(self):
        report = self.report("--maker", "parquet", "--data", FOLDER, "--split", "own-turns")
        self.assertEqual((report["rows"], report["images"], report["text_only_rows"]), (3, 2, 1))
        self.fails(["--maker", "parquet", "--data", POLARS / "cord.pyarrow.parquet"], "neither messages", "image, ground_truth")
        self.fails(["--maker", "parquett", "--data", FOLDER], "did you mean parquet?", "webdataset")

    def test_settings_of_a_row(self):
        """With a tokenizer of layout v15 they stand in the prompt, from every kind of data set; before it they are refused."""
        model = Path(shutil.copytree(DEMO, self.folder / "model"))
        make_v15(model, reasoning_effort=EFFORT, json_schema={})
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "required": ["a", "b"]}}}
        plain = {"messages": talk}
        for row in (plain | {"reasoning_effort": "high"}, plain | {"response_format": schema}, plain | {"response_format": json.dumps(schema)},
                    plain | {"response_format": schema, "reasoning_effort": "none"}):
            done = subprocess.run([script.TRESTLE, "tokenize", "--tokenizer", model, "--chat"], capture_output=True, text=True,
                                  input=f"{json.dumps(row)}\n{json.dumps(plain)}\n", timeout=60)
            ids, silent = (json.loads(line)["ids"] for line in done.stdout.splitlines())
            self.assertNotEqual(ids, silent)
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), self.folder / "rows.parquet")
            self.archive("a.tar", [("1.json", json.dumps(row).encode())])
            (self.folder / "rows.jsonl").write_text(json.dumps(row))
            for maker, file in (("jsonl", "rows.jsonl"), ("parquet", "rows.parquet"), ("webdataset", "a.tar")):
                with self.subTest(maker=maker, row=row):
                    data = ["--maker", maker, "--data", self.folder / file]
                    report = json.loads(self.run_trestle("data", "check", "--hf-model-path", model, *data, "--json").stdout)
                    self.assertEqual((report["tokens"], report["targets"]), (len(ids), 2))
                    self.assertIn("is of layout v13, which has no settings", self.fails(data, "1 of 1 rows cannot be used"))

    def test_the_split_is_a_word_and_its_files_are_told(self):
        shutil.copy(RECEIPTS / "train.parquet", self.folder / "train-00000-of-00001.parquet")
        shutil.copy(RECEIPTS / "test.parquet", self.folder / "test-constrained.parquet")
        for split, file, rows in (("train", "train-00000-of-00001.parquet", 480), ("test", "test-constrained.parquet", 120)):
            for command in (("data", "check"), ("data", "show", "--output", "page.html"), ("evaluate", "--max-new-tokens", 1)):
                done = self.run_trestle(*command, "--hf-model-path", DEMO, "--data", self.folder, "--split", split, "--rows", 1)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertEqual(done.stderr.splitlines()[0], f"data {self.folder}: 1 file, {file}")
        line = self.data("check", "--data", self.folder, "--split", "", "--rows", 1).stderr.splitlines()[0]
        self.assertEqual(line, f"data {self.folder}: 2 files, test-constrained.parquet, train-00000-of-00001.parquet")
        # "strain" is in a name, and no word of it.
        self.fails(["--data", self.folder, "--split", "strain"], "no .parquet file of split 'strain'", "those of train, test")

    def test_a_split_without_effect(self):
        file = RECEIPTS / "train.parquet"
        for split in ("test", "train"):
            for command in (["data", "check"], ["data", "show", "--output", "page.html"], ["evaluate"]):
                self.refused(*command, "--hf-model-path", DEMO, "--data", file, "--split", split,
                             names=[f"--split {split} has no effect", file, "name the directory"])
        self.fails([*self.jsonl(TALK), "--split", "test"], "--split test has no effect", "--maker jsonl")
        pattern = FOLDER / "web-train-{000000..000001}.tar"
        self.fails(["--maker", "webdataset", "--data", pattern, "--split", "test"], "--split test has no effect")
        done = self.data("check", "--data", file, "--rows", 1)
        self.assertEqual((done.returncode, done.stderr.splitlines()[0]), (0, f"data {file}"))

    def test_finetune_takes_each(self):
        own = {"jsonl": self.jsonl(*[[{"role": "user", "content": "a"}, TALK[1]]] * 2)[-1],
               "parquet": FOLDER / "own-turns.parquet", "webdataset": FOLDER / "web-train-{000000..000001}.tar"}
        for kind, path in own.items():
            told = self.report("--maker", kind, "--data", path)
            done = self.run_trestle(
                "finetune", "--recipe", "ministral3_3b_finetune_config", "--pretrained-checkpoint", DEMO, "--dataset-type", kind,
                "--peft-scheme", "lora", f"dataset.path_or_dataset={path}", "train.train_iters=1", f"train.global_batch_size={told['rows']}",
                "train.micro_batch_size=1", "model.seq_length=512", "scheduler.lr_warmup_iters=0",
                f"checkpoint.save={self.folder / kind}")
            self.assertEqual(done.returncode, 0, done.stderr)
            line = json.loads((self.folder / kind / "metrics.jsonl").read_text().splitlines()[0])
            # A step of all rows learns what `data check` counts.
            self.assertEqual([line[key] for key in ("target_tokens", "tokens", "images")],
                             [told[key] for key in ("targets", "tokens", "images")], kind)

    def test_patches_of_another_model(self):
        model = self.folder / "model"
        shutil.copytree(DEMO, model)
        edit_json(model / "processor_config.json", lambda config: config.update(patch_size=16))
        text = self.jsonl([{"role": "user", "content": "a"}, TALK[1]])
        arguments = ["data", "check", "--hf-model-path", model]
        self.assertEqual(self.run_trestle(*arguments, *text).returncode, 0)
        rows = self.jsonl([{"role": "user", "content": [{"type": "image", "path": str(IMAGE)}]}, TALK[1]])
        ours = f"{model}/config.json has patch_size 14, but the image processor has 16 from {model}/processor_config.json"
        done = self.run_trestle(*arguments, *rows)
        self.assertEqual(done.returncode, 2)
        self.assertIn(ours, done.stdout)
        done = self.run_trestle("generate", "--hf-model-path", model, "--image-path", IMAGE, "--prompt", "a")
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (2, 1), done.stderr)
        self.assertIn(ours, done.stderr)
        # No file of the processor: its defaults are those of no other model.
        (model / "processor_config.json").unlink()
        self.assertEqual(self.run_trestle(*arguments, *rows).returncode, 0)
        edit_json(model / "config.json", lambda config: config.update(spatial_merge_size=1))
        done = self.run_trestle(*arguments, *rows)
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"{model}/config.json has spatial_merge_size 1, but the image processor has 2 from the default", done.stdout)

    def table(self, columns, name="rows.parquet"):
        pyarrow.parquet.write_table(pyarrow.table(columns), self.folder / name)
        return self.folder / name

    def page(self, maker, file):
        """What every row becomes, token by token, without the file's name."""
        page = self.folder / "page.html"
        done = self.data("show", "--maker", maker, "--data", file, "--output", page)
        self.assertEqual(done.returncode, 0, done.stderr)
        return page.read_text().replace(str(file), "FILE")

    # users' pain point 30: a key that means something elsewhere is left out in silence.
    def test_notes_of_keys_that_nobody_knows(self):
        talk = [{"role": "user", "content": "a", "mood": "b"}, {"role": "assistant", "content": "<audio>"}]
        rows = [{"messages": talk, "hue": "red", "id": 1}, {"messages": talk, "hue": None, "id": 2}]
        (self.folder / "rows.json").write_text(json.dumps(rows))
        file = self.table({"messages": [json.dumps(talk)] * 2, "image": pyarrow.nulls(2), "hue": ["red", None], "id": [1, 2]})
        for maker, data in (("jsonl", self.folder / "rows.json"), ("parquet", file)):
            done = self.data("check", "--maker", maker, "--data", data, "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            notes = {'nobody reads "hue"': 1, 'nobody reads "messages: mood"': 2, 'the text says "<audio>", which is read as words': 2}
            self.assertEqual(json.loads(done.stdout)["notes"], notes)
            self.assertEqual(done.stderr.splitlines()[1:], [f"note: {rows} of 2 rows: {note}" for note, rows in notes.items()])

    def test_answers_beside_the_one_that_is_learnt(self):
        """Of annotators, or a solution: a note in how many rows they say something else, from every kind of data set."""
        shutil.copy(IMAGE, self.folder / "a.png")
        pair = {"question": "q", "answer": "r", "images": ["a.png"]}
        rows = [pair | {"answers": ["r", "s"], "ground_truth": "t", "label": "r"}, pair | {"answers": ["r", "r"], "ground_truth": "r", "label": "u"}]
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        file = self.table({key: [row[key] for row in rows] for key in rows[0]})
        for maker, data in (("jsonl", self.folder / "rows.jsonl"), ("parquet", file)):
            report = self.report("--maker", maker, "--data", data)
            self.assertEqual((report["bad_rows"], report["notes"]),
                             (0, {f'nobody reads "{key}"': 1 for key in ("answers", "ground_truth", "label")}), maker)

    # users' pain point 31: a place for a picture, and no picture.
    def test_a_place_without_a_picture(self):
        pair = [{"role": "user", "content": "<image>Which?"}, {"role": "assistant", "content": "a"}]
        self.assertIn('the text says "<image>"', self.fails(self.jsonl(pair), "1 of 1 rows cannot be used"))

    # users' pain point 30: a key that means something elsewhere is left out in silence.
    def test_columns_that_a_named_data_set_would_lose(self):
        for name, maker in (("cord", "make_cord_v2_dataset"), ("medpix", "make_medpix_dataset"), ("raven", "make_raven_dataset")):
            table = pyarrow.parquet.read_table(POLARS / f"{name}.pyarrow.parquet")
            rows = table.num_rows
            for column, value in (("system", "s"), ("videos", ["v.mp4"]), ("history", "h")):
                self.fails(["--maker", maker, "--data", self.table(dict(zip(table.column_names, table.columns)) | {column: [value] * rows})],
                           f'nobody reads the column "{column}"')
            file = self.table(dict(zip(table.column_names, table.columns)) | {"system": pyarrow.nulls(rows), "hue": ["red"] * rows})
            report = self.report("--maker", maker, "--data", file)
            self.assertEqual(report["notes"], {'nobody reads "hue"': report["rows"]})

    def test_pictures_in_a_column_of_another_name(self):
        """MedPix as own data: its pictures are in image_id."""
        out = self.fails(["--maker", "parquet", "--data", POLARS / "medpix.pyarrow.parquet"], "rows cannot be used")
        self.assertIn('nobody reads "image_id": it is a picture', out)

    # users' pain point 34: Parquet in another layout than pyarrow's.
    def test_every_layout_of_parquet(self):
        part = {"type": "text", "text": "How many?"}
        talk = [{"role": "user", "content": [part, part]}, {"role": "assistant", "content": [part | {"text": "A few; those."}]}]
        picture = {"bytes": IMAGE.read_bytes(), "path": None}

        def table(text, binary, lists):
            parts = lists(pyarrow.struct([("type", text), ("text", text)]))
            message = pyarrow.struct([("role", text), ("content", parts)])
            pictures = lists(pyarrow.struct([("bytes", binary), ("path", text)]))
            return self.table({"messages": pyarrow.array([talk, talk], lists(message)),
                               "images": pyarrow.array([[picture, picture], []], pictures)})
        plain = self.page("parquet", table(pyarrow.string(), pyarrow.binary(), pyarrow.list_))
        # pyarrow writes no views in lists; tests/data/polars has files of a writer that does.
        for text, binary in ((pyarrow.large_string(), pyarrow.large_binary()),
                             (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.binary())):
            for lists in (pyarrow.list_, pyarrow.large_list, pyarrow.list_view, pyarrow.large_list_view):
                with self.subTest(text=text, lists=lists.__name__):
                    self.assertEqual(self.page("parquet", table(text, binary, lists)), plain)

    # users' pain point 34: Parquet in another layout than pyarrow's.
    def test_json_columns_of_the_datasets_library(self):
        """Contents that are a text here and a list there; arguments of several shapes."""
        call = {"type": "function", "function": {"name": "f", "arguments": {"item": "tea"}}}
        rows = [[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "null"}],
                [{"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": "", "tool_calls": [call]}]]
        (self.folder / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))

        def wrapped(values):
            return pyarrow.ExtensionArray.from_storage(pyarrow.json_(), pyarrow.array(values, pyarrow.string()))
        flat = [message for row in rows for message in row]
        contents = wrapped([json.dumps(message["content"]) for message in flat])
        calls = wrapped([json.dumps(message.get("tool_calls")) for message in flat])
        messages = pyarrow.StructArray.from_arrays([pyarrow.array([each["role"] for each in flat]), contents, calls],
                                                   ["role", "content", "tool_calls"])
        offsets = pyarrow.array([0, 2, 4], pyarrow.int32())
        wanted = self.page("jsonl", self.folder / "rows.jsonl")
        for column in (pyarrow.ListArray.from_arrays(offsets, messages),
                       pyarrow.ListArray.from_arrays(offsets, wrapped([json.dumps(message) for message in flat])),
                       wrapped([json.dumps(row) for row in rows])):
            with self.subTest(column.type):
                self.assertEqual(self.page("parquet", self.table({"messages": column})), wanted)

    def test_fields_that_no_conversation_has(self):
        message = [("role", pyarrow.string()), ("content", pyarrow.string())]
        talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        plain = self.page("parquet", self.table({"messages": pyarrow.array([talk], pyarrow.list_(pyarrow.struct(message)))}))
        for kind in (pyarrow.timestamp("us", "UTC"), pyarrow.date32(), pyarrow.duration("ns"), pyarrow.time64("us"), pyarrow.uint32(),
                     pyarrow.float16(), pyarrow.decimal128(30, 2), pyarrow.decimal256(60, 2), pyarrow.uuid(), pyarrow.bool8(),
                     pyarrow.binary(4), pyarrow.map_(pyarrow.string(), pyarrow.int8()), pyarrow.map_(pyarrow.int32(), pyarrow.string()),
                     pyarrow.list_(pyarrow.map_(pyarrow.int64(), pyarrow.int64()))):
            with self.subTest(kind):
                storage = getattr(kind, "storage_type", kind)
                value = {"fixed_size_binary[16]": b"0" * 16, "fixed_size_binary[4]": b"abcd"}.get(str(storage), 1)
                value = {"map<string, int8>": [("a", 1)], "map<int32, string>": [(1, "a"), (2, "b")],
                         "list<item: map<int64, int64>>": [[(1, 2)]]}.get(str(storage), value)
                said = pyarrow.array([each | {"sent": value} for each in talk], pyarrow.struct([*message, ("sent", storage)]))
                if storage is not kind:
                    sent = pyarrow.ExtensionArray.from_storage(kind, said.field("sent"))
                    said = pyarrow.StructArray.from_arrays([said.field("role"), said.field("content"), sent], ["role", "content", "sent"])
                file = self.table({"messages": pyarrow.ListArray.from_arrays(pyarrow.array([0, 2], pyarrow.int32()), said)})
                self.assertEqual(self.page("parquet", file), plain)
                self.assertEqual(self.report("--maker", "parquet", "--data", file)["notes"], {'nobody reads "messages: sent"': 1})

    def test_an_archive_opens_no_file_beside_it(self):
        for source in (f"file://{IMAGE}", str(IMAGE), f"file://localhost{IMAGE}"):
            talk = [{"role": "user", "content": [{"type": "image", "image": source}]}, TALK[1]]
            out = self.fails(self.archive("x.tar", [("a.json", json.dumps(talk).encode())]), "1 of 1 rows")
            self.assertIn("not among its members", out)

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
    script.read_line(__doc__)
    unittest.main()
