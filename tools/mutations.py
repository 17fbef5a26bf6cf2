"""Small changes to C++ text, found by patterns: what tools/mutate.py makes one at a time.

A pattern looks at text in which comments, strings and directives are blanked out, and so are the arguments of what only
tells or asserts (TELLING): a message is no behaviour, and what an assertion of ours guards is not reached by a test.
The patterns trust clang-format: a binary operator has a space on either side, a template's bracket has none.
"""

import hashlib
import re
from dataclasses import dataclass

TELLING = ("user_error", "machine_error", "fmt::print", "TORCH_CHECK", "TORCH_INTERNAL_ASSERT", "static_assert")
NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
BESIDE = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}  # off by one
SIGNS = {"+": "-", "-": "+", "*": "/", "/": "*"}
STATEMENT = r"(?m)(?:^ +|(?<=\) )|(?<=else ))"  # where one may begin, on its line


@dataclass(frozen=True)
class Mutation:
    file: str  # from the root of the tree
    kind: str
    start: int
    end: int
    line: int
    before: str
    after: str
    id: str  # by the text of the line and not by its number, so that it outlives edits elsewhere

    def apply(self, text):
        return text[:self.start] + self.after + text[self.end:]

    def __str__(self):
        before, after = (" ".join(part.split()) or "nothing" for part in (self.before, self.after))
        return f"{self.id} {self.file}:{self.line} {self.kind}: {before} -> {after}"


def blank(text):
    """Text of the same length and lines without what is no code; strings keep their quotes."""
    code = re.compile(r"""//[^\n]*|/\*.*?\*/|^\#(?:[^\n]*\\\n)*[^\n]*|R"(\w*)\(.*?\)\1"|"(?:\\.|[^"\\])*"|(?<!\w)'(?:\\.|[^'\\])+'""",
                      re.S | re.M)

    def hollow(found):
        part = found.group()
        spaces = re.sub(r"[^\n]", " ", part)
        return spaces if part[0] in "/#" else part[0] + "_" * (len(part) - 2) + part[-1]

    text = code.sub(hollow, text)
    for name in TELLING:
        for found in re.finditer(rf"(?<![\w:]){name}\(", text):
            end = closing(text, found.end() - 1)
            text = text[:found.end()] + re.sub(r"[^\n]", "_", text[found.end():end]) + text[end:]
    return text


def closing(text, start):
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth == 0:
            return at
    return len(text)


def operand_end(text, at):
    """Where the operand that begins there ends: a name, number or bracket with calls and members behind it."""
    while at < len(text):
        if text[at] in "([{":
            at = closing(text, at) + 1
        elif re.match(r"[\w.]|::|->", text[at:at + 2]):
            at += 2 if text[at:at + 2] in ("::", "->") else 1
        else:
            break
    return at


def clause_end(text, at):
    """Where the clause of a condition that begins there ends."""
    while at < len(text):
        if text[at] in "([{":
            at = closing(text, at)
        elif text[at] in ")]};,?" or re.match(r" (&&|\|\||:) ", text[at:at + 4].replace("\n", " ")):
            break
        at += 1
    return at


def begins_statement(code, at):
    before = code[:at].rstrip()
    return before.endswith((";", "{", "}", ")", "else")) or (before.endswith(":") and not before.endswith("::"))


# Each finds (start, end, what stands there instead).


def comparisons(text, code):
    for found in re.finditer(r" (<|<=|>|>=|==|!=)(?=\s)", code):
        yield *found.span(1), NEGATED[found.group(1)]
    for found in re.finditer(r"\bstd::(min|max)\b", code):
        yield *found.span(1), "max" if found.group(1) == "min" else "min"


def bounds(text, code):
    for found in re.finditer(r" (<|<=|>|>=)(?=\s)", code):
        yield *found.span(1), BESIDE[found.group(1)]
    for found in re.finditer(r"(?<![\w.'])(?<!\de-)(\d+)(?![\w.'])", code):
        in_template = re.search(r"<[\w:, ]*$", code[:found.start()]) and re.match(r"[\w, ]*>", code[found.end():])
        if not in_template and not re.search(r"\b(case|operator) $", code[:found.start()]):
            number = int(found.group())
            yield *found.span(), str(number + 1)
            if number > 0:
                yield *found.span(), str(number - 1)


def terms(text, code):
    for found in re.finditer(r"\s(&&|\|\|)\s+", code):
        yield found.start(), clause_end(code, found.end()), ""
    for found in re.finditer(r"\s([-+*/])\s+", code):
        if '"' not in (code[found.start() - 1], code[found.end()]):
            yield found.start(), operand_end(code, found.end()), ""


def signs(text, code):
    for found in re.finditer(r"\s([-+*/])\s+", code):
        if '"' not in (code[found.start() - 1], code[found.end()]):
            yield *found.span(1), SIGNS[found.group(1)]
    for found in re.finditer(r" ([-+*/])= ", code):
        yield *found.span(1), SIGNS[found.group(1)]
    for found in re.finditer(r"(?<=[=(,] )-(?=[\w(])|(?<=\()-(?=[\w(])|(?<=return )-(?=[\w(])", code):
        yield *found.span(), ""


def constants(text, code):
    for found in re.finditer(r"(?<![\w.])(\d+\.\d*(?:e-?\d+)?|\d+e-?\d+)f?(?![\w.])", code):
        value = float(found.group(1))
        yield *found.span(1), repr(value * 2 if value else 1.0)
    for found in re.finditer(r"\b(true|false)\b", code):
        yield *found.span(), "false" if found.group() == "true" else "true"


def conditions(text, code):
    for found in re.finditer(r"\bif (?:constexpr )?(\()", code):
        start, end = found.end(), closing(code, found.start(1))
        condition = code[start:end]
        if ";" in condition:
            start += condition.rindex(";") + 1
        elif re.search(r"\w = ", condition):
            continue  # a declaration
        yield start, end, f"!({text[start:end].strip()})" if start == found.end() else f" !({text[start:end].strip()})"
    for found in re.finditer(r"\breturn !(?=\w)", code):
        yield found.end() - 1, found.end(), ""


def keys(text, code):
    # An option keeps its default, whatever it was set to.
    for found in re.finditer(r"\b((?:\w*(?:config|options|output)_?)(?:\.\w+)*)\.(\w+)\b(?!\(| [-+*/|]?= |\.)", code):
        yield *found.span(), f"std::remove_cvref_t<decltype({found.group(1)})>{{}}.{found.group(2)}"
    # Another name is looked for, or written.
    for found in re.finditer(r"[(\[{]\"(_+)\"(?=[)\],])", code):
        name = text[found.start(1):found.end(1)]
        if re.fullmatch(r"[A-Za-z_][\w.]*", name) and len(name) > 2:
            yield *found.span(1), name + "_"


def calls(text, code):
    for found in re.finditer(STATEMENT + r"((?:\w+(?:::|\.|->))*\w+)\(", code):
        end = closing(code, found.end() - 1) + 1
        name = found.group(1)
        if code[end:end + 1] != ";" or not begins_statement(code, found.start(1)):
            continue
        if name not in ("if", "for", "while", "switch", "return", *TELLING) or name == "user_error":
            yield found.start(1), end, ""


def assignments(text, code):
    for found in re.finditer(STATEMENT + r"((?:\*?[\w.\[\]]|->)+ [-+*/|]?= |\+\+|--)", code):
        end = found.end()
        while end < len(code) and code[end] != ";":
            end = closing(code, end) + 1 if code[end] in "([{" else end + 1
        if begins_statement(code, found.start(1)):
            yield found.start(1), end, ""


KINDS = {"comparison": comparisons, "bound": bounds, "term": terms, "sign": signs, "constant": constants,
         "condition": conditions, "key": keys, "call": calls, "assignment": assignments}


def mutations_of(file, text):
    """Every mutation of a source, in its order."""
    code, found, times = blank(text), [], {}
    for kind, find in KINDS.items():
        for start, end, after in find(text, code):
            line_start, line_end = text.rfind("\n", 0, start) + 1, text.find("\n", start)
            line = text[line_start:line_end].strip()
            key = f"{file}\n{kind}\n{line}\n{text[start:end]}\n{after}"
            times[key] = times.get(key, 0) + 1
            digest = hashlib.sha256(f"{key}\n{times[key]}".encode()).hexdigest()[:10]
            found.append(Mutation(file, kind, start, end, text.count("\n", 0, start) + 1, text[start:end], after, digest))
    return sorted(found, key=lambda each: (each.start, each.end, each.after))
