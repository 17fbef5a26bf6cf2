"""Writes what tests/tokenizer/golden/ holds for layout v15: conversations with settings as mistral-common encodes them,
JSON schemas as jsonschema checks them and patterns as `re` compiles them.

Run again only when a reference moves:  .venv/bin/python tools/make_settings_goldens.py
"""

import json
import random
import re
import warnings

import jsonschema
from make_tokenizer_goldens import (
    BARE, CLOCK, CONVERSATIONS, Reference, assistant, call, golden_rows, image_part, opened, random_conversation, random_text, result,
    small_vocabulary, special_rows, system, text_part, user, with_version, write_lines,
)  # fmt: skip

SETTINGS_SPECIALS = {36: "[MODEL_SETTINGS]", 37: "[/MODEL_SETTINGS]"}

# --- conversations --------------------------------------------------------------------------------------------------


def with_settings(vocabulary, builder):
    """Layout v15; `builder` is its model_settings_builder or None."""
    data = with_version(vocabulary, 15)
    data["special_tokens"] = special_rows(data["config"]["default_num_special_tokens"], more=SETTINGS_SPECIALS)
    if builder is not None:
        data["model_settings_builder"] = builder
    return data


def ignores_settings(conversation, builder):
    """mistral-common passes over what the tokenizer cannot be told, and over a schema beside another type; we refuse it."""
    form = conversation.get("response_format", {})
    asks_schema = form.get("type", "text") != "text"
    return (
        "reasoning_effort" in conversation and (builder is None or builder.reasoning_effort is None)
        or asks_schema and (builder is None or builder.json_schema is None)
        or form.get("json_schema") is not None and form.get("type") != "json_schema"
    )  # fmt: skip


class SettingsReference(Reference):
    def encode(self, conversation, ending="any"):
        answer = super().encode(conversation, ending)
        builder = self.tokenizer(ending).instruct_tokenizer.tokenizer.model_settings_builder
        return {"error": "ignored"} if "ids" in answer and ignores_settings(conversation, builder) else answer


EFFORT = {"type": "enum", "accepts_none": True, "default": "none", "values": ["none", "high"]}
ANY_EFFORT = EFFORT | {"default": "medium", "values": ["none", "minimal", "low", "medium", "high", "xhigh", "max"]}
SCHEMA = {"type": "json_schema", "accepts_none": False, "default": None}
BUILDERS = [
    {"reasoning_effort": EFFORT, "json_schema": SCHEMA},
    {"reasoning_effort": ANY_EFFORT},
    {"json_schema": SCHEMA},
    {"reasoning_effort": None},
    None,
]
RECEIPT = {
    "type": "object",
    "properties": {
        "zone": {"type": "string", "enum": ["UTC", "Zürich", None], "default": None, "pattern": "^\\\\w+ \"x\"$"},
        "amount": {"type": "number", "minimum": 1.0, "multipleOf": 1e-7, "maximum": 1e16},
        "a\tb\u0001": {"items": [{"const": -0.0}, True], "additionalItems": False},
    },
    "required": ["zone", "amount"],
    "$defs": {"free": {"type": "what you like"}},
}


def json_schema(schema, **more):
    return {"type": "json_schema", "json_schema": {"name": "receipt", "schema": schema} | more}


SETTINGS = [
    {},
    {"reasoning_effort": "none"},
    {"reasoning_effort": "high"},
    {"reasoning_effort": "max"},
    {"response_format": {"type": "text"}},
    {"response_format": {"type": "json_object"}},
    {"response_format": json_schema(RECEIPT)},
    {"response_format": json_schema({}, strict=True, description="Of a shop."), "reasoning_effort": "high"},
    {"response_format": json_schema({"anyOf": [RECEIPT, {"$ref": "#"}]}, strict=False), "reasoning_effort": "none"},
    {"response_format": {}},
    # Broken ones.
    {"reasoning_effort": "High"},
    {"reasoning_effort": ""},
    {"reasoning_effort": 3},
    {"response_format": {"type": "json"}},
    {"response_format": {"type": "json_schema"}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
    {"response_format": json_schema({}, name=5)},
    {"response_format": json_schema({}, strict="perhaps")},
    {"response_format": json_schema({}, description=[])},
    {"response_format": json_schema({}, more=1)},
    {"response_format": json_schema(True)},
    {"response_format": json_schema({"type": "any"})},
    {"response_format": json_schema({"properties": {"a": {"pattern": "(?<year>\\d)"}}})},
    {"response_format": json_schema({"properties": {"a": {"minLength": -1}}})},
    {"response_format": {"type": "json_object", "json_schema": {"name": "x", "schema": {}}}},
    {"response_format": {"type": "text", "more": 1}},
    {"response_format": "text"},
]  # fmt: skip

# What v15 does unlike v13.
CONVERSATIONS_15 = [
    [user([text_part("a"), text_part("b")]), assistant([text_part("c "), text_part(" d ")]), user("e")],
    [user("one"), user([text_part(""), text_part("two"), text_part("three")]), user([image_part(28, 28), text_part("four"), text_part("five")])],
    [user([text_part("a"), image_part(28, 28)]), user([image_part(28, 28), text_part("b")]), user([text_part("c"), text_part("d")])],
    [system([text_part("one"), text_part("two")]), system("three"), user("Hi"), assistant("Yo", prefix=True)],
    [user("t"), assistant(None, call("clock", "{}")), result([text_part("a"), image_part(60, 30), text_part("b"), text_part("c")]), assistant("x")],
    [user("t"), assistant(None, call("clock", "{}")), result([image_part(28, 28)]), user("which?")],
    [user("t"), assistant(None, call("clock", "{}")), result([text_part("a"), image_part(28, 28)]), assistant("x")],
    [user("t"), assistant(None, call("clock", "{}")), result([{"type": "thinking", "thinking": "x"}]), assistant("x")],
    [user("t"), assistant([text_part("a"), {"type": "thinking", "thinking": "b"}, {"type": "thinking", "thinking": "c"}, text_part("d "), text_part("e ")])],
    [user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
    [user("a"), assistant([{"type": "thinking", "thinking": ""}], weight=1)],
]  # fmt: skip


def random_settings(rng):
    settings = {}
    if rng.random() < 0.6:
        settings["reasoning_effort"] = rng.choice(["none", "high", "high", "low"])
    if rng.random() < 0.6:
        schema = rng.choice([RECEIPT, CLOCK["function"]["parameters"], random_schema(rng)])
        settings["response_format"] = rng.choice([{"type": "text"}, {"type": "json_object"}, json_schema(schema, strict=rng.random() < 0.5)])
    return settings


def random_chat(rng):
    """With settings, and with parts and pictures in tool results."""
    chat = random_conversation(rng) | random_settings(rng)
    for row in chat["messages"]:
        if row["role"] == "tool" and rng.random() < 0.5:
            row["content"] = [text_part(row["content"]), text_part(random_text(rng, 2))]
            if rng.random() < 0.5:
                row["content"].insert(rng.randint(0, 2), image_part(rng.randint(1, 60), rng.randint(1, 60)))
    return chat


# --- JSON schemas and regular expressions ---------------------------------------------------------------------------

KEYWORDS = list(jsonschema.Draft7Validator.META_SCHEMA["properties"]) + ["$defs", "title", "properties", "type", "pattern"]
VALUES = [
    None, True, False, 0, 1, -1, 2.5, 3.0, -0.5, "", "string", "object", "any", "[a-z]+", "(", [], ["a"], ["a", "b"], ["a", "a"], ["string", "null"],
    ["integer", "integer"], [1], {}, {"a": {}}, {"a": 1}, {"a": ["b"]}, {"(": True}, [{}], [True, {"type": "x"}],
]  # fmt: skip
PIECES = [
    "a", "b", "é", "-", ".", " ", "#", "\\d", "\\w", "\\s", "\\b", "\\Z", "\\n", "\\.", "\\/", "\\-", "\\p", "\\q", "\\1", "\\2", "\\12", "\\0", "\\08", "\\177", "\\777",
    "\\x41", "\\x4", "\\u00e9", "\\u0", "\\U0001F600", "\\U00110000", "\\", "[a-z]", "[^x-]", "[z-a]", "[]a]", "[^]", "[\\d-z]", "[a-\\w]", "[\\b\\n-\\r]", "[\\8]", "[\\1]", "[\\q]", "[",
    "]", "(", "(", ")", ")", ")", "(?:", "(?:", "(?P<n>", "(?P<n>", "(?P<1>", "(?P=n)", "(?P=m)", "(?P>", "(?=", "(?!", "(?<=", "(?<=", "(?<!", "(?<n>", "(?>", "(?#c)", "(?#", "(?(1)", "(?(n)",
    "(?(9)", "(?(0)", "(?i)", "(?ix)", "(?x:", "(?i:", "(?-i:", "(?i-s:", "(?i-i:", "(?-a:", "(?au)", "(?L)", "(?-i)", "(?-)", "(?z)", "(?", "|", "|", "*", "*", "+", "+", "?", "?", "{2}", "{2,}", "{,3}", "{2,1}", "{a}", "{",
    "}", "{}", "{99999999999}", "^", "$", "ab(c|de)", "(?P<n>a)", "(a)", "(b*)", "\\N{DIGIT ONE}", "\\N",
]  # fmt: skip


def random_schema(rng, depth=2):
    schema = {}
    for keyword in rng.sample(KEYWORDS, rng.randint(1, 3)):
        kind = jsonschema.Draft7Validator.META_SCHEMA["properties"].get(keyword)
        values = [value for value in VALUES if accepts({keyword: value})]
        if depth > 0 and isinstance(kind, dict) and kind.get("type") == "object":
            schema[keyword] = {rng.choice(["a", "ü", "x-"]): random_schema(rng, depth - 1)}
        elif depth > 0 and isinstance(kind, dict) and kind.get("$ref") == "#":
            schema[keyword] = random_schema(rng, depth - 1)
        else:
            schema[keyword] = rng.choice(values if rng.random() < 0.9 else VALUES)
    return schema


def accepts(schema):
    try:
        jsonschema.Draft7Validator.check_schema(schema)
    except Exception:
        return False
    return True


def random_pattern(rng):
    return "".join(rng.choices(PIECES, k=rng.randint(1, 7)))


def compiles(pattern):
    try:
        re.compile(pattern)
    except Exception:
        return False
    return True


def balanced(draw, holds, true, false):
    """Of what is drawn, so many for which it holds and so many for which it does not."""
    left, kept = {True: true, False: false}, []
    while any(left.values()):
        each = draw()
        which = bool(holds(each))
        if left[which] > 0:
            left[which] -= 1
            kept.append(each)
    return kept


# --- the files ------------------------------------------------------------------------------------------------------


def settings_goldens(vocabulary):
    rng = random.Random(10)
    cases = [(i % 3, {"messages": m, "tools": [CLOCK, BARE] if i % 4 == 0 else None} | SETTINGS[i % 10])
             for i, m in enumerate(CONVERSATIONS_15 + CONVERSATIONS)]  # fmt: skip
    cases += [(b, {"messages": [system("s"), user("Hi"), assistant("Yo"), user("x")]} | s) for b in range(len(BUILDERS)) for s in SETTINGS]
    references = [opened(with_settings(vocabulary, builder), SettingsReference) for builder in BUILDERS]
    cases += balanced(lambda: (rng.choice([0, 0, 0, 1, 2]), random_chat(rng)), lambda case: "ids" in references[case[0]].encode(case[1]), 160, 40)
    rows = [row for i, (b, case) in enumerate(cases) for row in golden_rows(references[b], case, {"builder": b, "case": i})]
    write_lines("settings_builders.jsonl", BUILDERS)
    write_lines("conversations_v15.jsonl", [case for _, case in cases])
    write_lines("chats_v15.jsonl", rows)


def schema_goldens():
    rng = random.Random(9)
    simple = [{keyword: value} for keyword in dict.fromkeys(KEYWORDS) for value in VALUES]
    schemas = simple + [random_schema(rng) for _ in range(200)]
    write_lines("schemas.jsonl", [[schema, int(accepts(schema))] for schema in schemas])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patterns = list(dict.fromkeys(PIECES + balanced(lambda: random_pattern(rng), compiles, 500, 400)))
        write_lines("patterns.jsonl", [[pattern, int(compiles(pattern))] for pattern in patterns])


if __name__ == "__main__":
    settings_goldens(small_vocabulary())
    schema_goldens()
