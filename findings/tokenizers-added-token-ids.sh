#!/usr/bin/env bash
# tokenizers: the ids of added_tokens in tokenizer.json are not read.
#
# Versions: tokenizers 0.23.3, transformers 5.24.0. Seen 2026-11-28.
#
# Expected: every entry of added_tokens has an id, so the token gets that id, or the file is refused.
# What happens: a token that the model's own vocabulary lacks gets the next free number, in the order of the list. So a gap (ids
#   kept free up to a round number, as embeddings that were padded have it) closes, and two entries in another order trade
#   places. A chat marker then picks another row of the embedding. Python is told nothing, with RUST_LOG=warn neither, and a
#   file that is saved again has the new numbers. transformers' added_tokens_decoder, whose keys are ids, does not help:
#   AutoTokenizer gives the new numbers there too.
#
# Output (a vocabulary of 8 words, 0 to 7):
#   in tokenizer.json            from_str gives               AutoTokenizer gives
#   <s> 8, </s> 9                <s> 8, </s> 9                <s> 8, </s> 9
#   <s> 16, </s> 17              <s> 8, </s> 9                <s> 8, </s> 9
#   </s> 9, <s> 8                </s> 8, <s> 9                </s> 8, <s> 9
#   <s> 3 (a word's id)          <s> 8                        <s> 8
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3 transformers==5.24.0

RUST_LOG=warn HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import AutoTokenizer

folder = Path(sys.argv[1]) / "tokenizer"
folder.mkdir()
words = {word: number for number, word in enumerate("abcdefgh")}
plain = json.loads(Tokenizer(models.WordLevel(words, unk_token="a")).to_str())


def ids_given(added):
    look = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    entries = [{"id": number, "content": token, **look} for token, number in added.items()]
    text = json.dumps({**plain, "added_tokens": entries})
    tokenizer = Tokenizer.from_str(text)
    direct = {token: tokenizer.token_to_id(token) for token in added}
    saved = {entry["content"]: entry["id"] for entry in json.loads(tokenizer.to_str())["added_tokens"]}
    assert saved == direct and all(tokenizer.encode(token).ids == [number] for token, number in direct.items())

    (folder / "tokenizer.json").write_text(text)
    decoder = {str(number): {"content": token, **look} for token, number in added.items()}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": decoder}))
    loaded = AutoTokenizer.from_pretrained(folder)
    return direct, {token: loaded.convert_tokens_to_ids(token) for token in added}


def show(ids):
    return ", ".join(f"{token} {number}" for token, number in ids.items())


print(f"{'in tokenizer.json':28} {'from_str gives':28} AutoTokenizer gives")
as_described = True
for added, note, given in (
    ({"<s>": 8, "</s>": 9}, "", {"<s>": 8, "</s>": 9}),
    ({"<s>": 16, "</s>": 17}, "", {"<s>": 8, "</s>": 9}),
    ({"</s>": 9, "<s>": 8}, "", {"</s>": 8, "<s>": 9}),
    ({"<s>": 3}, " (a word's id)", {"<s>": 8}),
):
    direct, loaded = ids_given(added)
    print(f"{show(added) + note:28} {show(direct):28} {show(loaded)}")
    as_described &= direct == given and loaded == given
print("as described" if as_described else "CHANGED")
sys.exit(0 if as_described else 1)
PYTHON
