"""Ways to write a receipt down: plain lines, cord-v2's ground truth, and schemas of the same kind
with other names. Called by make_data.py.
"""

import json
import random
from dataclasses import dataclass

from vocabulary import CORD_KEYS, OTHER_KEYS

# What prompts call each of cord-v2's fields; never the field's own key.
ROLES = dict(
    menu="list",
    nm="name",
    cnt="count",
    price="cost",
    sub_total="part",
    subtotal_price="sum",
    tax_price="fee",
    total="bill",
    total_price="due",
)
READ_PROMPT = "Read the receipt."


def as_text(receipt):
    return "\n".join(" ".join(filter(None, line)) for line in receipt.lines())


def ground_truth(receipt):
    """cord-v2's gt_parse."""
    menu = [dict(nm=name, cnt=count, price=price) for count, name, price in receipt.items]
    parse = dict(menu=menu)
    if receipt.subtotal:
        parse["sub_total"] = dict(subtotal_price=receipt.subtotal)
        if receipt.tax:
            parse["sub_total"]["tax_price"] = receipt.tax
    parse["total"] = dict(total_price=receipt.total)
    return parse


@dataclass(frozen=True)
class Schema:
    """An output format: a style, a name for each field, and the order of the fields."""

    style: str
    names: dict  # cord-v2 key -> name used instead
    order: tuple  # cord-v2 keys; within a group their order is that of the output

    def rename(self, node):
        if isinstance(node, list):
            return [self.rename(entry) for entry in node]
        if isinstance(node, str):
            return node
        keys = sorted(node, key=self.order.index)
        return {self.names[key]: self.rename(node[key]) for key in keys}

    def write(self, receipt):
        parse = self.rename(ground_truth(receipt))
        if self.style == "json":
            return json.dumps(parse, separators=(",", ":"))
        if self.style == "text":
            return "\n".join(flat_lines(parse))
        return tagged(parse, "s_" if self.style == "tags" else "")

    def prompt(self):
        fields = " ".join(f"{ROLES[key]}={self.names[key]}" for key in self.order)
        return f"Extract {self.style}: {fields}"


def tagged(node, prefix):
    """<key>value</key>, entries of a list joined by <sep/>; keys in the order given."""
    if isinstance(node, list):
        return "<sep/>".join(tagged(entry, prefix) for entry in node)
    if isinstance(node, str):
        return node
    return "".join(
        f"<{prefix}{key}>{tagged(value, prefix)}</{prefix}{key}>" for key, value in node.items()
    )


def flat_lines(node):
    """key=value pairs, one group or list entry a line."""
    for value in node.values():
        for entry in value if isinstance(value, list) else [value]:
            yield ";".join(f"{key}={text}" for key, text in entry.items())


def random_schema(rng, style=None):
    """A schema in which no field has the name cord-v2 gives it: the demo's own never occurs."""
    style = style or rng.choice(("tags", "tags", "json", "xml", "text"))
    while True:
        names = dict(zip(CORD_KEYS, rng.sample(CORD_KEYS + OTHER_KEYS, len(CORD_KEYS))))
        if all(key != name for key, name in names.items()):
            break
    groups = [
        ["menu"] + rng.sample(["nm", "cnt", "price"], 3),
        ["sub_total"] + rng.sample(["subtotal_price", "tax_price"], 2),
        ["total", "total_price"],
    ]
    rng.shuffle(groups)
    return Schema(style, names, tuple(sum(groups, [])))


def fixed_schemas():
    """Twelve schemas that prompts call by number: quicker to learn than ever new ones."""
    styles = ["tags"] * 6 + ["json"] * 3 + ["xml"] * 2 + ["text"]
    return [random_schema(random.Random(i), style) for i, style in enumerate(styles)]


def format_pair(rng, receipt, fixed_share):
    """A prompt and the answer to it, in a fixed or a new schema."""
    if rng.random() < fixed_share:
        number = rng.randrange(len(FIXED))
        return f"Extract format {number}.", FIXED[number].write(receipt)
    schema = random_schema(rng)
    return schema.prompt(), schema.write(receipt)


FIXED = fixed_schemas()
