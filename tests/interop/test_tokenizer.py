"""`trestle tokenize` against mistral-common, live: random texts, every scalar value, random conversations.

Run from anywhere:  .venv/bin/python tests/interop/test_tokenizer.py [--trestle build/release/trestle]
"""

import argparse
import copy
import json
import pathlib
import random
import sys
import tempfile
import warnings

import checks
import make_settings_goldens as settings  # before mistral_common: it keeps that off the net
import make_tokenizer_goldens as goldens
from mistral_common.integrations.chat_templates.chat_templates import (
    convert_tokenizer_to_chat_template,
    generate_chat_template,
)
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy, TokenizerVersion
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

parser = argparse.ArgumentParser()
parser.add_argument("--trestle", default=checks.ROOT / "build/release/trestle")
TRESTLE = parser.parse_args().trestle
SEED = 20
counts = {"passed": 0, "failed": 0}


def tokenize(path, rows, *flags):
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    done = checks.run(TRESTLE, "tokenize", "--tokenizer", path, *flags, stdin=lines)
    answers = [json.loads(line) for line in done.stdout.split("\n")[:-1]]
    assert len(answers) == len(rows), (len(answers), len(rows))
    return answers


def compare(what, rows, answers, expected):
    assert len(rows) == len(answers) == len(expected) > 0
    failed = 0
    for row, answer, wanted in zip(rows, answers, expected):
        # Both may refuse; the words differ.
        if answer == wanted or ("error" in answer and "error" in wanted):
            continue
        failed += 1
        if failed <= 3:
            print(f"{what}: {json.dumps(row)[:600]}\n  ours {str(answer)[:400]}\n  mistral-common {str(wanted)[:400]}")
    refused = sum("error" in wanted for wanted in expected)
    print(f"{what}: {len(rows) - failed} equal, {failed} different" + (f" ({refused} refused by both)" if refused else ""))
    counts["passed"] += len(rows) - failed
    counts["failed"] += failed


def check_texts(rng):
    reference = Tekkenizer.from_file(goldens.REAL)
    texts = goldens.TEXTS + [goldens.random_text(rng) for _ in range(3000)]
    texts += ["a\ud800b", "\udfff", "x" * 100_000]
    for what, group in [("texts", texts), ("every scalar value in 8 contexts", list(goldens.scalar_blocks(goldens.SCALARS)))]:
        rows = [{"text": text} for text in group]
        expected = [{"ids": goldens.tekken_ids(reference, text)} for text in group]
        compare(what, rows, tokenize(goldens.REAL, rows), expected)

    rows = [{"ids": [rng.choice([rng.randrange(1256), rng.randrange(131072)]) for _ in range(20)]} for _ in range(1000)]
    for flags, policy in [((), SpecialTokenPolicy.IGNORE), (("--keep-special",), SpecialTokenPolicy.KEEP)]:
        expected = [{"text": reference.decode(row["ids"], special_token_policy=policy)} for row in rows]
        compare(f"decoding, specials: {policy.name}", rows, tokenize(goldens.REAL, rows, "--decode", *flags), expected)


def with_ids(row):
    """Layouts from v13 on write no ids of tool calls: where mistral-common asks for them all the same, what has none gets some."""
    row, made, called = copy.deepcopy(row), 0, []
    for message in row["messages"]:
        for call in message.get("tool_calls") or []:
            if call.get("id") in (None, "", "null"):
                made += 1
                call["id"] = f"made{made:05}"
        if message["role"] == "assistant":
            called = [call["id"] for call in message.get("tool_calls") or []]
        if message["role"] == "tool" and message.get("tool_call_id") in (None, "", "null") and called:
            message["tool_call_id"] = called.pop(0)
    return row


def check_chats(rng, path, what, count):
    reference = goldens.Reference(path)
    rows = [{"messages": m, "tools": [goldens.CLOCK, goldens.BARE]} for m in goldens.CONVERSATIONS]
    rows = [row for row in rows if "weight" not in json.dumps(row)]
    rows += [goldens.random_conversation(rng) for _ in range(count)]
    asked = [with_ids(row) if "v13" in what else row for row in rows]
    compare(what, rows, tokenize(path, rows, "--chat"), [reference.encode(row) for row in asked])


def check_settings(rng, path, what, vocabulary, count):
    """Layout v15, with each kind of model_settings_builder."""
    for number, builder in enumerate(settings.BUILDERS):
        path.write_text(json.dumps(settings.with_settings(vocabulary, builder)))
        reference = settings.SettingsReference(path)
        rows = [{"messages": m, "tools": [goldens.CLOCK]} | rng.choice(settings.SETTINGS)
                for m in settings.CONVERSATIONS_15 + goldens.CONVERSATIONS if "weight" not in json.dumps(m)]  # fmt: skip
        rows += [{"messages": [goldens.user("a")]} | more for more in settings.SETTINGS]
        rows += [settings.random_chat(rng) for _ in range(count if number < 3 else 20)]
        compare(f"{what}, builder {number}", rows, tokenize(path, rows, "--chat"),
                [reference.encode(with_ids(row)) for row in rows])


def check_schemas(rng, path, vocabulary):
    """A schema that is none, or whose pattern is none, is refused."""
    path.write_text(json.dumps(settings.with_settings(vocabulary, settings.BUILDERS[0])))
    reference = settings.SettingsReference(path)
    schemas = [settings.random_schema(rng) for _ in range(500)] + [{"pattern": settings.random_pattern(rng)} for _ in range(2500)]
    rows = [{"messages": [goldens.user("a")], "response_format": settings.json_schema(schema)} for schema in schemas]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [reference.encode(row) for row in rows]
    compare("JSON schemas and patterns", rows, tokenize(path, rows, "--chat"), expected)


def ministral(vocabulary):
    """The real vocabulary with Ministral 3's special tokens and image section."""
    data = goldens.with_version(vocabulary, 13)
    data["special_tokens"] = goldens.special_rows(1000)
    data["image"] = {"image_patch_size": 14, "max_image_size": 1540, "spatial_merge_size": 2}
    return data


def check_hugging_face(rng, folder, vocabulary, version):
    """tokenizer.json and a template by mistral-common's generator: layout and default prompt come from the template."""
    prompt = "It's \"you\" \\ ü.\nToday is {today}.\n"
    generate = generate_chat_template(
        spm=False, tokenizer_version=TokenizerVersion(f"v{version}"), image_support=True, audio_support=False,
        thinking_support=version == 13, default_system_prompt=prompt, plain_thinking_support=False,
        use_special_token_variables=True, model_settings_fields=None, reasoning_effort_values=None,
        reasoning_effort_default=None,
    )  # fmt: skip
    (folder / "chat_template.jinja").write_text(generate)
    reference_file = folder / "reference-tekken.json"
    reference_file.write_text(json.dumps(goldens.with_version(vocabulary, version)))
    reference = goldens.Reference(reference_file)
    compare_default_prompt(folder, f"tokenizer.json with a v{version} template", reference, prompt,
                           [goldens.random_conversation(rng) for _ in range(100)])  # fmt: skip


def check_hugging_face_settings(rng, folder, vocabulary):
    """Likewise of v15: what may be set comes from the template too."""
    prompt = "Be brief."
    for number, builder in enumerate(settings.BUILDERS[:3]):
        reference_file = folder / "reference-tekken.json"
        reference_file.write_text(json.dumps(settings.with_settings(vocabulary, builder)))
        template = convert_tokenizer_to_chat_template(reference_file, prompt)
        (folder / "chat_template.jinja").write_text(template)
        reference = settings.SettingsReference(reference_file)
        compare_default_prompt(folder, f"tokenizer.json with a v15 template, builder {number}", reference, prompt,
                               [settings.random_chat(rng) for _ in range(100)])  # fmt: skip


def compare_default_prompt(folder, what, reference, prompt, rows):
    expected = []
    for row in rows:
        has_prompt = row["messages"][0]["role"] == "system"
        messages = row["messages"] if has_prompt else [goldens.system(prompt), *row["messages"]]
        expected.append(reference.encode(row | {"messages": messages}))
    answers = tokenize(folder, rows, "--chat", "--system-prompt", "default")
    compare(f"{what} and its default prompt", rows, answers, expected)


def main():
    rng = random.Random(SEED)
    check_texts(rng)
    small = goldens.small_vocabulary()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        path = folder / "tekken.json"
        for version in goldens.VERSIONS:
            path.write_text(json.dumps(goldens.with_version(small, version)))
            check_chats(rng, path, f"conversations v{version}", 300)
        check_settings(rng, path, "conversations v15", small, 300)
        check_schemas(rng, path, small)
        path.write_text(json.dumps(ministral(json.loads(goldens.REAL.read_text()))))
        check_chats(rng, path, "conversations v13, real vocabulary", 200)
        path.unlink()
        (folder / "tokenizer.json").write_text(goldens.hugging_face(small).to_str())
        for version in goldens.VERSIONS:
            check_hugging_face(rng, folder, small, version)
        with_specials = settings.with_settings(small, settings.BUILDERS[0])
        (folder / "tokenizer.json").write_text(goldens.hugging_face(with_specials).to_str())
        check_hugging_face_settings(rng, folder, small)
    print(f"{counts['passed']} passed, {counts['failed']} failed")
    sys.exit(1 if counts["failed"] else 0)


if __name__ == "__main__":
    main()
