"""Writes tests/tokenizer/golden/: what mistral-common and Hugging Face tokenizers make of texts and conversations.

Run again only when a reference moves:  .venv/bin/python tools/make_tokenizer_goldens.py
The functions that ask the references are used by tests/interop/test_tokenizer.py too.
"""

import copy
import importlib.util
import json
import logging
import os
import pathlib
import random
import tempfile

import numpy as np

os.environ.setdefault("HF_HUB_OFFLINE", "1")
from mistral_common.protocol.instruct import chunk, messages, request, tool_calls  # noqa: E402
from mistral_common.protocol.instruct.validator import ValidationMode  # noqa: E402
from mistral_common.tokens.tokenizers import image as mistral_image  # noqa: E402
from mistral_common.tokens.tokenizers.base import SpecialTokenPolicy  # noqa: E402
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer  # noqa: E402
from mistral_common.tokens.tokenizers.tekken import Tekkenizer  # noqa: E402
from PIL import Image  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests/tokenizer/golden"
REAL = pathlib.Path(importlib.util.find_spec("mistral_common").origin).parent / "data/tekken_240911.json"
VERSIONS = [3, 7, 11, 13]  # for 15, whose conversations have settings, see make_settings_goldens.py
ENDINGS = {"any": ValidationMode.agnostic, "prompt": ValidationMode.serving, "sample": ValidationMode.finetuning}
SMALL_ROWS, SMALL_SPECIALS = 768, 40
SPECIALS = {
    **dict(enumerate(t["token_str"] for t in Tekkenizer.DEPRECATED_SPECIAL_TOKENS)),
    24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 32: "[ARGS]", 33: "[CALL_ID]", 34: "[THINK]", 35: "[/THINK]",
}  # fmt: skip
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]

# Only the grids matter here; the pixels would need opencv.
mistral_image.transform_image = lambda image, size: np.zeros(1)
logging.disable(logging.WARNING)


# --- vocabularies ---------------------------------------------------------------------------------------------------


def special_rows(count, thinking=True, more={}):
    names = {i: n for i, n in SPECIALS.items() if thinking or "THINK" not in n} | more
    return [{"rank": i, "token_str": names.get(i, f"<SPECIAL_{i}>"), "is_control": True} for i in range(count)]


def small_vocabulary():
    """The first rows of the real vocabulary, with the special tokens of Ministral 3 Reasoning."""
    data = json.loads(REAL.read_text())
    data["vocab"] = data["vocab"][:SMALL_ROWS]
    data["config"] |= {
        "num_vocab_tokens": SMALL_ROWS,
        "default_vocab_size": SMALL_ROWS + SMALL_SPECIALS,
        "default_num_special_tokens": SMALL_SPECIALS,
        "version": "v13",
    }
    data["special_tokens"] = special_rows(SMALL_SPECIALS)
    data["image"] = {"image_patch_size": 14, "max_image_size": 1540, "spatial_merge_size": 2}
    return data


def with_version(vocabulary, version, thinking=True):
    data = copy.copy(vocabulary)
    data["config"] = data["config"] | {"version": f"v{version}"}
    if not thinking:
        data["special_tokens"] = special_rows(SMALL_SPECIALS, thinking=False)
    return data


def hugging_face(vocabulary):
    """The same vocabulary as tokenizer.json, converted by transformers."""
    from transformers.integrations.mistral.tokenizer import MistralConverter

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tekken.json"
        path.write_text(json.dumps(vocabulary))
        return MistralConverter(path).converted()


def trained_tokenizer():
    """A small BPE by Hugging Face's own trainer: one merge a token, no whole-piece rule, GPT-2's pattern."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text for text in TEXTS if len(text) < 300] * 3, trainer)
    return tokenizer


def encode_hugging_face(tokenizer, text):
    """Ids of ordinary tokens: piece by piece, because Tokenizer.encode also matches special tokens in the text."""
    pieces = tokenizer.pre_tokenizer.pre_tokenize_str(text)
    return [token.id for piece, _ in pieces for token in tokenizer.model.tokenize(piece)]


# --- texts ----------------------------------------------------------------------------------------------------------

TEXTS = [
    "", " ", "  ", "a", "Hello, world!", "Hello world  and   more    spaces", "a   b", "HELLOworld", "ABC", "AbCdEf",
    "iPhone15ProMax", "don't WON'T we'll I'd they've", "snake_case camelCase PascalCase SCREAMING_CASE kebab-case",
    "1234567890", "3.14159 1,000,000 1e-5 0xFF", "٣٤٥ ½ ¾ ① Ⅷ ² ₃ 一二三 𝟘𝟙", "\n", "\r\n", "\n\n\n", "a\nb\r\nc\rd", " \n \n ",
    "tab\tand\ttabs\t\t\tend", "trailing   ", "   leading", "\u00a0nbsp\u00a0\u00a0x", "\u2003em\u2003\u2003space \u3000wide",
    "\u0085nel\u2028line\u2029para\u1680ogham", "zero\u200bwidth\u200c\u200dx\ufeffy\u2060z", "\u180evowel\u180e sep",
    "Le cœur a ses raisons que la raison ne connaît point — où ça?", "Größe ÄÖÜ ß ẞ Straße", "¿Qué pasó, señor? ¡Año nuevo!",
    "Привет, мир! ЁЖИК", "Γειά σου Κόσμε ΣΊΣΥΦΟΣ ς", "שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "السَّلَامُ عَلَيْكُمْ", "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก", "你好，世界！这是一个测试。", "こんにちは世界。カタカナ　ひらがな", "안녕하세요 세계 한글", "ありがとうﾊﾝｶｸ", "გამარჯობა", "Բարեւ",
    "ሰላም ልዑል", "வணக்கம்", "తెలుగు", "ខ្មែរ", "မြန်မာ", "བོད་སྐད", "ᏣᎳᎩ ꮳꮃꭹ", "ǅ ǈ ǋ ǲ ᾈ", "ʰʱʲ ˀ ˠ modifier ʼn", "ꟊꟋ\u1c89\u1c8a new case pairs",
    "e\u0301 o\u0308 combining", "\u0301\u0302\u0303 marks first", "a\u0300\u0301\u0302\u0303\u0304b", "Z̷̢a̶l̵g̸o̴", "ﬁ ﬂ ﷺ", "𝓗𝓮𝓵𝓵𝓸 𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𐍈𐌰𐌹 Gothic",
    "😀", "😀😃 😄", "👨‍👩‍👧‍👦 family", "👍🏽👍🏿", "🇫🇷🇩🇪🇯🇵", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "❤️ ☺️ ✌🏾", "1️⃣ #️⃣", "🤷🏼‍♀️ shrug", "😀a1 \n😀/\n",
    "def f(x):\n    return x ** 2  # square\n\n\nclass A:\n\tpass\n", "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "SELECT * FROM t WHERE a='b' AND c<>3;\r\n-- done", "<div class=\"x\">&nbsp;</div>\n<!-- c -->", "https://example.com/a/b?c=d&e=f#g",
    "/usr/local/bin//x\n/y", "C:\\Users\\x\\n", "{\"key\": [1, 2.5, null, true], \"ü\": \"\\u00fc\"}", "$$\\int_0^\\infty e^{-x^2}dx$$",
    "~!@#$%^&*()_+`-={}|[]\\:\";'<>?,./", "!!!???...---===///", "...\n/\r\n//\n", "a/b/c//\n\n", "=== END ===\n\n\n  next", "\t\n \t\n\t x",
    "[INST] hi [/INST]", "<s>[INST]x[/INST]</s>", "[IMG]", "[IMG][IMG_BREAK][IMG_END]<pad><unk>", "[TOOL_CALLS]f[ARGS]{}", "ju\u0016",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f\x80\x9f", "\x1c\x1d\x1e\x1f", "a\x00b", "\ufffd\ufffe\uffff\U0010ffff", "\ue000\uf8ff private \U000f0000",
    "supercalifragilisticexpialidocious Donaudampfschifffahrtsgesellschaftskapitän", "pneumonoultramicroscopicsilicovolcanoconiosis" * 3,
    "x" * 300, "ab" * 200, " " * 100 + "x" + " " * 50, "\n" * 64, "é" * 70, "—" * 33, "😀" * 20, "0" * 40, "AAAAaaaaAAAA" * 10,
    "<s_menu><s_nm>Milk</s_nm><s_cnt>2</s_cnt><s_price>3.50</s_price></s_menu>", "Describe this image.", "Ünïcödé ÀÉÎÕÜ àéîõü",
]  # fmt: skip

# Texts too long to store: the unit, how often, and a checksum of the ids.
REPEATS = [("a", 100_000), ("ab", 50_000), ("Q", 100_000), ("qwertzuiop", 10_000), ("é", 50_000), ("\u0301", 50_000), (" ", 100_000),
           ("中文", 20_000), ("?", 50_000), ("/\n", 20_000), ("The quick brown fox. ", 3_000)]  # fmt: skip

POOLS = [
    list(range(0x20, 0x7F)), list(range(0x100)), list(range(0x100, 0x250)), list(range(0x370, 0x600)), list(range(0x900, 0xE80)),
    list(range(0x300, 0x370)), list(range(0x3040, 0x3100)) + list(range(0x4E00, 0x4F00)), list(range(0xAC00, 0xAD00)),
    list(range(0x1F300, 0x1F700)) + [0x200D, 0xFE0F, 0x20E3], list(range(0x1F1E6, 0x1F200)),
    [9, 10, 13, 32, 32, 32, 0xA0, 0x2003, 0x85, 0x2028, 0x3000, 0x180E, 0x200B, 0x1C, 0x1F], SCALARS,
]  # fmt: skip


def random_text(rng, runs=6):
    return "".join(
        "".join(chr(rng.choice(pool)) for _ in range(rng.randint(1, 8)))
        for pool in rng.choices(POOLS, k=rng.randint(1, runs))
    )


# All that Unicode 16 assigns, private use aside; the interop test takes every scalar value.
ASSIGNED = [c for c in SCALARS if c < 0x34000 or 0xE0000 <= c < 0xE1000]


def scalar_blocks(scalars, size=4096):
    """Each scalar value in eight contexts, in blocks."""
    for start in range(0, len(scalars), size):
        block = [chr(c) for c in scalars[start : start + size]]
        yield "".join(f"{c}\na{c}b A{c}A {c}{c}1{c}  {c}x{c}/\n" for c in block)


def checksum(ids):
    """Sum of (position + 1) * id, modulo 2^64."""
    ids = np.asarray(ids, dtype=np.uint64)
    return int((ids * np.arange(1, len(ids) + 1, dtype=np.uint64)).sum(dtype=np.uint64))


def tekken_ids(tekken, text):
    return tekken.encode(text, bos=False, eos=False)


# --- conversations --------------------------------------------------------------------------------------------------


def to_chunk(part):
    if part["type"] == "image":
        return chunk.ImageChunk(image=Image.new("RGB", (part["width"], part["height"])))
    return messages._convert_openai_content_chunks(part)


def to_message(row):
    content = row.get("content")
    if isinstance(content, list):
        content = [to_chunk(part) for part in content]
    if row["role"] == "assistant":
        plain = {k: v for k, v in row.items() if k not in ("content", "prefix", "weight")}
        calls = messages.AssistantMessage.from_openai(plain | {"content": None}).tool_calls
        thought = row.get("reasoning", row.get("reasoning_content"))
        if thought is not None:
            rest = [chunk.TextChunk(text=content)] if isinstance(content, str) else content or []
            content = [chunk.ThinkChunk(thinking=thought), *rest]
        fields = {"content": content, "tool_calls": calls, "prefix": row.get("prefix", False)}
        if "weight" in row:
            return messages.FinetuningAssistantMessage(**fields, weight=row["weight"])
        return messages.AssistantMessage(**fields)
    if row["role"] == "tool":
        return messages.ToolMessage(content=content, tool_call_id=row.get("tool_call_id"), name=row.get("name"))
    return {"system": messages.SystemMessage, "user": messages.UserMessage}[row["role"]](content=content)


class Reference:
    """mistral-common for one tekken.json; also tells which ids each assistant turn has produced."""

    def __init__(self, path):
        self.path = path
        self.tokenizers = {}
        self.turns = []

    def tokenizer(self, ending):
        if ending not in self.tokenizers:
            self.tokenizers[ending] = MistralTokenizer.from_file(self.path, mode=ENDINGS[ending])
            for kind in ["user", "assistant", "tool", "system"]:
                self.record(self.tokenizers[ending].instruct_tokenizer, kind)
        return self.tokenizers[ending]

    def record(self, instruct, kind):
        encode = getattr(instruct, f"encode_{kind}_message")

        def recorded(*args, **kwargs):
            result = encode(*args, **kwargs)
            ids = result[0] if isinstance(result, tuple) else result
            self.turns.append((int(kind == "assistant"), len(ids)))
            return result

        setattr(instruct, f"encode_{kind}_message", recorded)

    def encode(self, conversation, ending="any"):
        """{"ids", "mask"} or {"error"}."""
        tokenizer = self.tokenizer(ending)
        self.turns.clear()
        try:
            chat = request.ChatCompletionRequest(
                model="any",
                messages=[to_message(row) for row in conversation["messages"]],
                tools=[tool_calls.Tool.from_openai(tool) for tool in conversation.get("tools") or []] or None,
                **{key: conversation[key] for key in ("reasoning_effort", "response_format") if key in conversation},
            )
            ids = tokenizer.encode_chat_completion(chat).tokens
        except Exception as error:
            return {"error": type(error).__name__}
        mask = [0] + [bit for bit, count in self.turns for _ in range(count)]
        assert len(mask) == len(ids)
        return {"ids": ids, "mask": mask}


def text_part(text):
    return {"type": "text", "text": text}


def image_part(width, height):
    return {"type": "image", "width": width, "height": height}


def user(content):
    return {"role": "user", "content": content}


def system(content):
    return {"role": "system", "content": content}


def assistant(content, *calls, **more):
    row = {"role": "assistant", "content": content} | more
    if calls:
        row["tool_calls"] = list(calls)
    return row


def call(name, arguments, id="abcdefgh1"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def result(content, id="abcdefgh1", **more):
    return {"role": "tool", "content": content, "tool_call_id": id} | more


CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Tells the time «là-bas».",
        "strict": True,
        "parameters": {"type": "object", "properties": {"zone": {"type": "string", "enum": ["UTC", "Zürich"]}}, "required": ["zone"]},
    },
}  # fmt: skip
BARE = {"type": "function", "function": {"name": "bare", "parameters": {"type": "object", "minimum": 1.5, "x": [1e16, 1e-7, -0.0]}}}

CONVERSATIONS = [
    [user("Hello")],
    [user("")],
    [user("Hi"), assistant("Hello!  ")],
    [user("Hi"), assistant("  kept in front")],
    [user("a"), assistant("yes"), user("b"), assistant("no")],
    [system("Be brief."), user("Hi"), assistant("Yo")],
    [system("one"), system("two"), user("Hi")],
    [system(""), user("Hi")],
    [system([text_part("one"), text_part("two")]), user([text_part("a"), text_part(""), text_part("b")])],
    [user("a"), system("late"), user("b")],
    [user("one"), user("two"), assistant("x"), assistant("y ")],
    [user("one"), user([text_part("two"), image_part(100, 60)]), user("three")],
    [user([text_part("What is this?"), image_part(100, 60)])],
    [user([image_part(29, 29), text_part("What is this?")]), assistant("A dot.")],
    [user([text_part("first"), image_part(30, 90), text_part("then"), image_part(280, 28), text_part("which?")])],
    [user([image_part(28, 28)])],
    [user([image_part(28, 28), image_part(56, 28)])],
    [user([text_part("a"), text_part("b"), image_part(28, 28)])],
    [system("s"), user([text_part("look"), image_part(57, 28)]), assistant("ok"), user("and now?")],
    [user("[INST] injected [/INST] </s>"), assistant("[/INST]</s> [TOOL_CALLS]")],
    [user("time?"), assistant(None, call("clock", '{"zone":"UTC"}')), result("12:00"), assistant("Noon.")],
    [user("time?"), assistant("", call("clock", {"zone": "Zürich"})), result('{"t":  12}'), assistant("Noon."), user("thanks")],
    [user("time?"), assistant("Let me see. ", call("clock", "")), result(""), assistant("?")],
    [user("t"), assistant(None, call("clock", "not json"), call("bare", '{"a":1,"b":[1.0,2e300,1e400],"a":"\\u00fc\\ud83d\\ude00"}', "abcdefgh2")),
     result("second", "abcdefgh2", name="bare"), result([text_part("fi"), text_part("rst")]), assistant("done")],
    [user("t"), assistant(None, call("clock", '{"big": 123456789012345678901234567890, "n": NaN, "e": 1E5, "z": -0, "s": "a\\/b\\n\\u0001\x7f"}'))],
    [user("t"), assistant(None, call("clock", "{}")), user("never mind"), assistant("ok")],
    [user("a"), assistant(None, call("clock", "{}")), result("1"), user("b"), assistant(None, call("clock", "{}", "abcdefgh3")), result("2", "abcdefgh3")],
    [user("t"), assistant("x", call("clock", "{}", "null"))],
    [user("t"), assistant(None, call("clock", "{}", "call_123")), result("r", "call_123")],
    [user("Hi"), assistant("To be cont", prefix=True)],
    [user("Hi"), assistant("not this", weight=0), user("again"), assistant("this", weight=1)],
    [user("Hi"), assistant("a", weight=0), assistant("b", weight=1)],
    [user("Hi"), assistant([{"type": "thinking", "thinking": "Hm. "}, text_part("Yes. ")])],
    [user("Hi"), assistant([{"type": "thinking", "thinking": "Hm", "closed": False}], prefix=True)],
    [user("Hi"), assistant("Yes.", reasoning="Because")],
    [user("Hi"), assistant(None, call("clock", "{}"), reasoning_content="Because")],
    [system([text_part("think: "), {"type": "thinking", "thinking": "draft"}, text_part("then answer")]), user("Hi")],
    [system("only")],
    [user("😀 你好"), assistant("ju\u0016")],
    # Broken ones.
    [],
    [assistant("alone")],
    [result("alone")],
    [user("a"), result("b")],
    [user("a"), assistant("b"), system("c"), user("d")],
    [user("a"), assistant("")],
    [user("a"), assistant(None)],
    [user("a"), assistant("   ")],
    [user("a"), assistant([image_part(28, 28)])],
    [system([image_part(28, 28)]), user("a")],
    [user([{"type": "thinking", "thinking": "x"}])],
    [user("t"), assistant(None, call("clock", "{}")), assistant("no result")],
    [user("t"), assistant(None, call("clock", "{}")), result("r", "abcdefgh9"), assistant("x")],
    [user("t"), assistant(None, call("clock", "{}")), result("r"), result("r"), assistant("x")],
    [user("t"), assistant(None, call("clock", "{}"), call("clock", "{}")), result("r"), result("r"), assistant("x")],
    [user("t"), assistant(None, call("clock", "{}"), call("bare", "{}", "abcdefgh2")), result("r"), assistant("x")],
    [user("t"), assistant(None, call("no spaces", "{}"))],
    [user("t"), assistant(None, call("clock", "{}")), {"role": "tool", "content": "r"}, assistant("x")],
    [user("t"), assistant("p", prefix=True), user("x")],
    [user("t"), assistant("x", weight=0.5)],
]  # fmt: skip


def random_conversation(rng):
    """Roles mostly, but not always, in a legal order. Two things on which mistral-common is odd are left out: it does
    not see the tool calls of a first message, and up to v7 it lets more results than calls end a conversation."""
    rows, open_calls = [], []
    if rng.random() < 0.3:
        rows.append(system(random_text(rng, 2)))
    role = "user"
    for _ in range(rng.randint(1, 7)):
        if rows and rng.random() < 0.08:
            role = rng.choice(["system", "user", "assistant", "tool"])
        if role == "system":
            rows.append(system(random_text(rng, 2)))
            role = "user"
        elif role == "user":
            parts = [
                image_part(rng.randint(1, 200), rng.randint(1, 200)) if rng.random() < 0.3 else text_part(random_text(rng, 2))
                for _ in range(rng.randint(1, 4))
            ]
            rows.append(user(parts if rng.random() < 0.5 else random_text(rng, 3)))
            role = "assistant" if rng.random() < 0.9 else "user"
        elif role == "assistant":
            open_calls = []
            if rng.random() < 0.4:
                ids = ["".join(rng.choices("abcXYZ019", k=9)) for _ in range(rng.randint(1, 3))]
                arguments = [rng.choice(["", "{}", '{"a": [1, 2.50, 1e3]}', "free text", {"k": "ü", "n": 1.5}]) for _ in ids]
                open_calls = [call(rng.choice(["clock", "bare"]), a, i) for a, i in zip(arguments, ids)]
            text = rng.choice([None, "", random_text(rng, 2) + "  "]) if open_calls else random_text(rng, 3)
            if rng.random() < 0.1:
                text = [{"type": "thinking", "thinking": random_text(rng, 2)}, text_part(random_text(rng, 2))]
            rows.append(assistant(text, *open_calls))
            role = "tool" if open_calls and rng.random() < 0.9 else rng.choice(["user", "user", "user", "assistant"])
        else:
            ids = [c["id"] for c in open_calls]
            rng.shuffle(ids)
            if rng.random() < 0.05:
                ids = ids[1:]
            rows.extend(result(random_text(rng, 2), i) for i in ids)
            open_calls = []
            role = rng.choice(["assistant", "assistant", "user"])
    tools = rng.choice([None, [], [CLOCK], [BARE, CLOCK]])
    return {"messages": rows, "tools": tools}


# --- the files ------------------------------------------------------------------------------------------------------


def write_lines(name, rows):
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    (GOLDEN / name).write_text(text)
    print(f"{name}: {len(rows)} lines, {len(text.encode())} bytes")


def compact(ids):
    return " ".join(map(str, ids))


def text_goldens():
    rng = random.Random(7)
    real = Tekkenizer.from_file(REAL)
    texts = TEXTS + [random_text(rng) for _ in range(120)]
    write_lines("texts.jsonl", [{"text": t, "ids": compact(tekken_ids(real, t))} for t in texts])

    long = []
    for unit, count in REPEATS:
        ids = tekken_ids(real, unit * count)
        long.append({"unit": unit, "count": count, "size": len(ids), "checksum": checksum(ids)})
    write_lines("repeats.jsonl", long)
    write_lines("scalars.jsonl", [checksum(tekken_ids(real, text)) for text in scalar_blocks(ASSIGNED)])

    decoded = []
    for i in range(100):
        ids = [rng.choice([rng.randrange(1256), rng.randrange(1000, 1256), rng.randrange(131072)]) for _ in range(12)]
        keep = real.decode(ids, special_token_policy=SpecialTokenPolicy.KEEP)
        decoded.append({"ids": compact(ids), "skip": real.decode(ids), "keep": keep})
    write_lines("decoded.jsonl", decoded)


def small_goldens(vocabulary):
    (GOLDEN / "tekken.json").write_text(json.dumps(vocabulary, separators=(",", ":"), ensure_ascii=False))
    converted, trained = hugging_face(vocabulary), trained_tokenizer()
    (GOLDEN / "converted.json").write_text(converted.to_str())
    (GOLDEN / "trained.json").write_text(trained.to_str())
    tekken = Tekkenizer.from_file(GOLDEN / "tekken.json")
    from tokenizers import Tokenizer

    bytes_only = Tokenizer.from_file(str(ROOT / "tests/fixtures/hf/tokenizer.json"))
    rng = random.Random(8)
    rows = []
    for text in [t for t in TEXTS if len(t) < 80] + [random_text(rng, 3) for _ in range(60)]:
        row = {"text": text, "tekken": compact(tekken_ids(tekken, text))}
        assert compact(encode_hugging_face(converted, text)) == row["tekken"], text
        row["trained"] = compact(encode_hugging_face(trained, text))
        row["bytes"] = compact(encode_hugging_face(bytes_only, text))
        rows.append(row)
    write_lines("small.jsonl", rows)


def golden_rows(reference, case, named):
    """A row for each answer of the reference, with the endings that it is for."""
    rows = []
    for ending in ENDINGS:
        answer = reference.encode(case, ending)
        if "ids" in answer:
            answer = {"ids": compact(answer["ids"]), "mask": "".join(map(str, answer["mask"]))}
            if "weight" in json.dumps(case["messages"]):
                del answer["mask"]  # mistral-common checks weights but does nothing with them
            if rows and rows[-1].get("ids") == answer["ids"]:
                rows[-1]["endings"].append(ending)
                continue
        rows.append(named | {"endings": [ending], **answer})
    return rows


def opened(data, kind=Reference):
    """mistral-common for a tekken.json of this content."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tekken.json"
        path.write_text(json.dumps(data))
        reference = kind(path)
        for ending in ENDINGS:
            reference.tokenizer(ending)
    return reference


def chat_goldens(vocabulary):
    rows = []
    for version in VERSIONS:
        for thinking in [True, False] if version == 13 else [True]:
            reference = opened(with_version(vocabulary, version, thinking))
            for i, conversation in enumerate(CONVERSATIONS):
                thinks = "thinking" in json.dumps(conversation) or "reasoning" in json.dumps(conversation)
                if not thinking and not thinks:
                    continue
                tools = [CLOCK, BARE] if i % 4 == 0 else None
                case = {"messages": conversation} | ({"tools": tools} if tools else {})
                rows += golden_rows(reference, case, {"version": version, "thinking": thinking, "case": i})
    write_lines("conversations.jsonl", [{"messages": m} | ({"tools": [CLOCK, BARE]} if i % 4 == 0 else {}) for i, m in enumerate(CONVERSATIONS)])
    write_lines("chats.jsonl", rows)


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    text_goldens()
    vocabulary = small_vocabulary()
    small_goldens(vocabulary)
    chat_goldens(vocabulary)
