#!/usr/bin/env python3
"""Writes tests/generate/golden/scores.json: what Donut's own code and the anls package make of answers, right and wrong.

  .venv/bin/pip install --no-deps --target SCORERS donut-python==1.0.9 zss==1.2.0 nltk==3.9.1 anls==0.0.2 six==1.17.0
  PYTHONPATH=SCORERS .venv/bin/python tools/make_score_goldens.py

Of donut-python only donut/util.py is run; what it imports beside zss and nltk stands empty here.
"""

import importlib.util
import json
import random
import sys
import types
from pathlib import Path

import nltk
from anls.metrics.score import anls_score

ROOT = Path(__file__).resolve().parent.parent
WORDS = ["Iced Tea", "Nasi Goreng", "1", "x2", "12,000", "Café crème", "紅茶", "", " pad ", "0", "TOTAL", "Ünlü"]
KEYS = ["nm", "cnt", "price", "menu", "sub_total", "total", "étc", "a"]


def donut_evaluator():
    for name, names in (("datasets", ["load_dataset"]),):
        module = types.ModuleType(name)
        for each in names:
            setattr(module, each, None)
        sys.modules[name] = module
    for folder in sys.path:
        path = Path(folder) / "donut" / "util.py"
        if path.exists():
            spec = importlib.util.spec_from_file_location("donut_util", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module.JSONParseEvaluator()
    sys.exit("donut-python is not on PYTHONPATH")


def receipt(rng, depth=0):
    value = {}
    for key in rng.sample(KEYS, rng.randint(0 if depth else 1, 4)):
        kind = rng.random()
        if kind < 0.45 or depth == 3:
            value[key] = rng.choice(WORDS)
        elif kind < 0.55:
            value[key] = [rng.choice(WORDS) for _ in range(rng.randint(0, 3))]
        elif kind < 0.62:
            value[key] = rng.choice([0, 3, 2.5, None, True, False, [], {}, [1, "b"], [{"nm": "x"}, "loose"]])
        elif kind < 0.8:
            value[key] = [receipt(rng, depth + 1) for _ in range(rng.randint(1, 3))]
        else:
            value[key] = receipt(rng, depth + 1)
    return value


def damaged(rng, value):
    """The value with some of it changed, gone or added."""
    if isinstance(value, dict):
        out = {}
        for key, child in value.items():
            if rng.random() < 0.12:
                continue
            out[rng.choice(KEYS) if rng.random() < 0.08 else key] = damaged(rng, child)
        if rng.random() < 0.1:
            out[rng.choice(KEYS)] = rng.choice(WORDS)
        return out
    if isinstance(value, list):
        out = [damaged(rng, child) for child in value if rng.random() > 0.1]
        return out + [rng.choice(WORDS)] if rng.random() < 0.05 else out
    if isinstance(value, str) and rng.random() < 0.3:
        return value[:-1] + rng.choice("ab1é茶 ")
    return value


def fixed_cases():
    order = {"menu": [{"nm": "cake", "cnt": "2"}, {"nm": "juice", "cnt": "1"}], "total": {"total_price": "9"}}
    yield from [(order, order), (order, {}), (order, {"text_sequence": "no tags"}), (order, {"menu": order["menu"][0]}),
                (order, {"total": order["total"], "menu": order["menu"][::-1]}), (order, [order]),
                ({"menu": {"nm": "cake"}}, {"menu": [{"nm": "cake"}]}), ({"menu": {"nm": ["cake"]}}, {"menu": {"nm": "cake"}}),
                ({"a": {"b": {"c": "d"}}}, {"a.b": {"c": "d"}}), ({"a": "   "}, {"a": ""}),
                ({"a": "x", "b": "y"}, {"b": "y", "a": "x"}), ({"menu": []}, {"menu": []}), ({}, {"a": "b"})]


def main():
    evaluator = donut_evaluator()
    rng = random.Random(5)
    cases = list(fixed_cases())
    for _ in range(50):
        truth = receipt(rng)
        cases.append((truth, damaged(rng, truth) if rng.random() < 0.85 else receipt(rng)))
    trees = []
    for truth, answer in cases:
        case = {"truth": truth, "answer": answer}
        # Donut divides by zero where there is nothing to find.
        nothing, none_said = (not evaluator.normalize_dict(value) for value in (truth, answer))
        case["f1"] = None if nothing and none_said else evaluator.cal_f1([answer], [truth])
        case["accuracy"] = None if nothing else float(evaluator.cal_acc(answer, truth))
        trees.append(case)
    pairs = [("", ""), ("a", ""), ("Tea", "tea"), ("two  words ", "two words"), ("ab", "abcd"), ("abc", "abcd"), ("CAFÉ", "café"),
             ("紅茶 x", "紅茶 y"), ("ПРИВЕТ", "привет"), ("ΑΒΓ", "αβγ"), ("completely", "different")]
    for _ in range(40):
        text = " ".join(rng.choice(WORDS) for _ in range(rng.randint(0, 4)))
        pairs.append((damaged(rng, text), text) if rng.random() < 0.8 else (rng.choice(WORDS), text))
    texts = [{"answer": a, "wanted": b, "edit_distance": nltk.edit_distance(a, b), "anls": anls_score(a, [b])} for a, b in pairs]
    scores = [case["accuracy"] for case in trees if case["accuracy"] is not None]
    assert 5 < sum(0.05 < s < 0.95 for s in scores), "the cases do not tell scorers apart"
    out = ROOT / "tests" / "generate" / "golden" / "scores.json"
    rows = [json.dumps(row, ensure_ascii=False) for row in trees], [json.dumps(row, ensure_ascii=False) for row in texts]
    out.write_text('{"documents": [\n' + ",\n".join(rows[0]) + '\n],\n"texts": [\n' + ",\n".join(rows[1]) + "\n]}\n")
    print(f"{out.relative_to(ROOT)}: {len(trees)} documents, {len(texts)} texts")


if __name__ == "__main__":
    main()
