"""Writes src/tokenizer/pretokenizer_unicode.h: the members that tiktoken's character classes have and Unicode 14 has not.

PCRE2 10.42 (Debian 12, Ubuntu 24.04) knows Unicode 14, tiktoken's regex a newer one. The classes are measured, not
looked up: each is run over every scalar value. Needs Python 3.11, whose unicodedata is Unicode 14 too.
Run again when tiktoken moves:  .venv/bin/python tools/make_unicode_additions.py
"""

import pathlib
import unicodedata

import tiktoken

CLASSES = ["L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "N"]
SCALARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
HEADER = """\
// What Unicode 16 adds to the classes of Unicode 14, as ranges for a PCRE2 bracket expression.
// Made by tools/make_unicode_additions.py; read by pretokenizer.cpp.
#pragma once

#include <string_view>

namespace trestle {

struct UnicodeAddition {
  std::string_view property;
  std::string_view ranges;
};

// clang-format off
inline constexpr UnicodeAddition kUnicodeAdditions[] = {
"""


def measured(name):
    """Members by tiktoken: what the pattern does not match, its encoder drops."""
    encoding = tiktoken.Encoding(
        "bytes", pat_str=rf"\p{{{name}}}", mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={}
    )
    members = set()
    for start in range(0, len(SCALARS), 4096):
        text = "".join(map(chr, SCALARS[start : start + 4096]))
        members.update(map(ord, bytes(encoding.encode(text)).decode()))
    return members


def ranges(members):
    out = []
    for c in sorted(members):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return [rf"\x{{{a:x}}}" + (rf"-\x{{{b:x}}}" if b > a else "") for a, b in out]


def main():
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    lines = [HEADER]
    for name in CLASSES:
        old = {c for c in SCALARS if unicodedata.category(chr(c)).startswith(name)}
        new = measured(name)
        assert not old - new, f"{name} lost members, which a list of additions cannot say"
        rows = ranges(new - old)
        lines.append(f'    {{"{name}",\n')
        for i in range(0, max(len(rows), 1), 5):
            lines.append(f'     R"({"".join(rows[i : i + 5])})"\n')
        lines[-1] = lines[-1].rstrip("\n") + "},\n"
    lines.append("};\n// clang-format on\n\n}  // namespace trestle\n")
    path = pathlib.Path(__file__).parent.parent / "src/tokenizer/pretokenizer_unicode.h"
    path.write_text("".join(lines))


if __name__ == "__main__":
    main()
