"""The demo model's words and its tekken.json: the Tekken format in small, about 600 ids.

Called by model_files.py; receipts.py and formats.py take their words from here.
"""

import base64
import json
from pathlib import Path

ADJECTIVES = (
    "Iced Hot Fried Fresh Spicy Sweet Green Black Mini Big Red Lemon Mango Milk Beef Fish Duck Egg "
    "Plain Smoked"
).split()
NOUNS = (
    "Tea Coffee Latte Rice Noodle Soup Salad Cake Toast Burger Pizza Pasta Roll Bun Wings Fries "
    "Juice Soda Cocoa Bread Pie Curry Steak Donut Waffle Muffin Taco Wrap Stew Chips"
).split()
SHOPS = "CAFE BAR GRILL DINER BAKERY KITCHEN".split()
LABELS = "SUBTOTAL TAX TOTAL".split()
# Words that output schemas name their fields by: cord-v2's own and others.
CORD_KEYS = "menu nm cnt price sub_total subtotal_price tax_price total total_price".split()
OTHER_KEYS = (
    "item items name count qty amount sum cost list goods paid rows dish fee bill lines due part "
    "value"
).split()
PROMPT_WORDS = (
    "Read the receipt as text Extract tags xml json format with Describe this image What is in"
).split()
PUNCTUATION = '</ >< /> /><  ></ ": ":" "," {" ":{" ":[{" "},{" "}],"  "}} "}]} "} "}," ]}'.split()

# Tekken's own pattern, letter for letter: programs may know it by heart.
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Ministral 3's names at Ministral 3's ids; its table goes on to 1000.
SPECIALS = (
    "<unk> <s> </s> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS] "
    "[/TOOL_RESULTS] [TOOL_CALLS] [IMG] <pad> [IMG_BREAK] [IMG_END] [PREFIX] [MIDDLE] [SUFFIX] "
    "[SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT]"
).split()
SPECIALS += [f"<SPECIAL_{i}>" for i in range(20, 40)]
for _id, _name in {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 32: "[ARGS]", 33: "[CALL_ID]"}.items():
    SPECIALS[_id] = _name


def key_parts(keys):
    """The pieces Tekken's pattern cuts keys into: total_price -> total, _price."""
    plain = {key.split("_")[0] for key in keys} | {"s", "sep"}
    joined = {"_" + part for key in keys for part in ("s_" + key).split("_")[1:]}
    return sorted(plain), sorted(joined)


def words():
    """Every word that is one token, whatever precedes it."""
    plain, _ = key_parts(CORD_KEYS + OTHER_KEYS)
    return sorted({*ADJECTIVES, *NOUNS, *SHOPS, *LABELS, *PROMPT_WORDS, *plain})


def merge_all(pieces):
    """Byte-pair merges, in order, until every piece is one symbol.

    No merge crosses from a space, `>` or `"` into a word, because no piece holds both. So a word is
    the same token after each of them, and what the model learns of it in one output format serves
    in all.
    """
    split = [list(piece) for piece in pieces]
    merges = []
    while any(len(symbols) > 1 for symbols in split):
        counts = {}
        for symbols in split:
            for pair in zip(symbols, symbols[1:]):
                joined = "".join(pair)
                counts[joined] = counts.get(joined, 0) + 1
        best = min(counts, key=lambda joined: (-counts[joined], joined))
        merges.append(best)
        for symbols in split:
            i = 0
            while i + 1 < len(symbols):
                if symbols[i] + symbols[i + 1] == best:
                    symbols[i : i + 2] = [best]
                i += 1
    return merges


def token_bytes():
    """Bytes of each ordinary token by rank: the 256 bytes, then merges."""
    _, joined = key_parts(CORD_KEYS)
    merges = merge_all(words()) + joined + merge_all(PUNCTUATION)
    tokens = [bytes([i]) for i in range(256)] + [merge.encode() for merge in merges]
    tokens = list(dict.fromkeys(tokens))
    # A vocabulary of whole 32s is kinder to matrix kernels.
    filler = (-(len(tokens) + len(SPECIALS))) % 32
    tokens += [b" " * (i + 2) for i in range(filler)]
    return tokens


def write_tekken(path):
    tokens = token_bytes()
    rows = []
    for rank, data in enumerate(tokens):
        try:
            text = data.decode()
        except UnicodeDecodeError:
            text = None
        rows.append(dict(rank=rank, token_bytes=base64.b64encode(data).decode(), token_str=text))
    tekken = dict(
        config=dict(
            pattern=PATTERN,
            num_vocab_tokens=len(tokens),
            default_vocab_size=len(tokens) + len(SPECIALS),
            default_num_special_tokens=len(SPECIALS),
            version="v13",
        ),
        vocab=rows,
        special_tokens=[
            dict(rank=i, token_str=name, is_control=True) for i, name in enumerate(SPECIALS)
        ],
        image=dict(image_patch_size=14, max_image_size=560, spatial_merge_size=2),
    )
    Path(path).write_text(json.dumps(tekken, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return len(tokens) + len(SPECIALS)
