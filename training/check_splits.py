"""Proves that a training bundle keeps evaluation apart: `python -m training.check_splits --data DIR --bundle DIR`.

Reads the bundle as training does and the evaluation sets as evaluation does; exits 1 and names what overlaps.
"""
from __future__ import annotations

import argparse
from pathlib import Path

from training import tool
from training.corpus import NON_COMMERCIAL, Sets, normal, read_xz, shingles, words
from training.files import read_json


def problems(sets: Sets, bundle: Path, overlap_titles: set[str]) -> list[str]:
    docs, found = read_xz(bundle / "docs.jsonl.xz"), []
    questions, chains = read_xz(bundle / "questions.jsonl.xz"), read_xz(bundle / "triples.jsonl.xz")
    evaluation = sets.squad_eval + sets.refused_eval + sets.two_eval + sets.hotpot_eval
    asked = {" ".join(words(q["question"])) for q in evaluation}
    golds = sets.evaluation_golds()
    gold_shingles = {s for d in golds for s in shingles(d["text"])}
    gold_texts = {" ".join(words(d["text"])) for d in golds}
    for number, d in enumerate(docs):
        if any(d["s"].startswith(name) for name in NON_COMMERCIAL):
            found.append(f"document {number}: source {d['s']} may not be used commercially")
        if d["s"] == "squad" and d["t"] in sets.held_out:
            found.append(f"document {number}: held-out article {d['t']}")
        if d["s"] == "wiki" and normal(d["t"]) in overlap_titles:
            found.append(f"document {number}: overlap title {d['t']}")
        if shingles(d["x"]) & gold_shingles or " ".join(words(d["x"])) in gold_texts:
            found.append(f"document {number} ({d['t']}): shares text with an evaluation gold document")
    for q in questions + chains:
        if " ".join(words(q["q"])) in asked:
            found.append(f"question asked in evaluation: {q['q']}")
    closed = {normal(t) for q in sets.two_eval for t in q["supporting_titles"]}
    for chain in chains:
        if closed & {normal(t) for t in chain["p"]}:
            found.append(f"triple question shares a gold title with evaluation: {chain['q']}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--bundle", required=True)
    args = parser.parse_args()
    root = Path(args.data)
    overlap = read_json(root / "wiki/overlap_titles.json")
    found = problems(Sets(root), Path(args.bundle), {normal(t) for titles in overlap.values() for t in titles})
    for line in found[:20]:
        print(line)
    if found:
        raise SystemExit(f"{len(found)} overlaps")
    print("training and evaluation are apart")


if __name__ == "__main__":
    tool.run(main)
