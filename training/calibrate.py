"""Chooses a checkpoint's thresholds on training questions: `python -m training.calibrate --base B --adapter A --bundle D --out F`.

Questions: SQuAD's of the articles that the run kept back (`held_articles`), answerable and not, and the training questions of
2Wiki and Hotpot; one memory of all those sets' training documents. Chosen, by rules fixed before looking at any evaluation:
- `refusal_bias`: the largest that wrongly refuses at most WRONG of the answerable questions over their own paragraph;
- `round_min_score`: what a second round's best new document must score. The threshold with the largest mean of: SQuAD
  questions whose paragraph was among the first three and to which nothing is added, and multi-hop questions that lack a document after three
  and are given it among the next three.
Writes every measured value to F, and the thresholds into the adapter's configuration with --write.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from training import frames
from training.adapter_io import load_adapter, read_config
from training.corpus import calibration_articles, read_xz
from training.evaluate import Bank, rank, reading, second_round, spread
from training.model import MsaModel

WRONG = 0.08


def refusal_bias(answerable: list[float], wrong: float) -> float:
    """The largest bias b with a share of at most `wrong` of the margins above -b."""
    ordered = sorted(answerable, reverse=True)
    return round(-ordered[min(len(ordered) - 1, int(wrong * len(ordered)))], 3)


def round_threshold(single: list[float], multi: list[tuple[float, bool]]) -> tuple[float, float, float]:
    """(threshold, share of `single` below it, share of `multi` found at or above it); values are best new scores."""
    best = max(sorted({*single, *(s for s, _ in multi)}), key=lambda t: sum(s < t for s in single) / max(1, len(single))
               + sum(s >= t and found for s, found in multi) / max(1, len(multi)))
    return (round(best, 4), sum(s < best for s in single) / max(1, len(single)),
            sum(s >= best and found for s, found in multi) / max(1, len(multi)))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "bundle", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--held-articles", type=int, default=4)
    parser.add_argument("--limit", type=int, default=400, help="questions of a kind")
    parser.add_argument("--documents", type=int, default=1 << 30, help="in memory, for a quick look")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = True
    root = Path(args.bundle)
    docs = read_xz(root / "docs.jsonl.xz")
    held = calibration_articles(docs, args.held_articles)
    asked = {"squad": [], "refused": [], "2wiki": [], "hotpot": []}
    for q in read_xz(root / "questions.jsonl.xz"):
        if q["s"] == "squad" and docs[q["p"][0]]["g"] in held:
            asked["refused" if "u" in q else "squad"].append(q)
        elif q["s"] in ("2wiki", "hotpot"):
            asked[q["s"]].append(q)
    asked = {name: spread(qs, args.limit) for name, qs in asked.items()}
    needed = {n for qs in asked.values() for q in qs for n in q["p"]}
    more = [i for i, d in enumerate(docs) if d["s"] in ("squad", "2wiki", "hotpot") and i not in needed]
    corpus = [{"id": i, "title": docs[i]["t"], "text": docs[i]["x"]} for i in sorted(needed) + more[: args.documents]]
    model = MsaModel(args.base, read_config(args.adapter), torch.bfloat16 if cuda else torch.float32)
    load_adapter(model, args.adapter)
    model, tokenizer = model.to("cuda" if cuda else "cpu"), frames.load_tokenizer(f"{args.base}/tokenizer.json")
    layers, head, raw = model.merged(), frames.encode(tokenizer, frames.HEAD), {}
    bank = Bank(model, layers, tokenizer, corpus)
    report = {"documents": len(corpus), "tokens": bank.tokens, "held_articles": sorted(held)}
    for name, questions in asked.items():
        texts, golds = [q["q"] for q in questions], [[bank.ids[n] for n in q["p"]] for q in questions]
        scores, _ = rank(model, layers, bank, [frames.routing_prompt(tokenizer, t) for t in texts], head)
        order = scores.topk(min(20, len(corpus)), -1).indices.tolist()
        later, found = second_round(model, layers, bank, tokenizer, head, texts, order, 3)
        raw[name] = {"second": [[s[:3], [d in g for d in more[:3]], [d in g for d in o[:3]]]
                                for s, more, o, g in zip(later, found, order, golds)]}
        some = [{"question": q["q"], "answers": [] if "u" in q else q["a"]} for q in questions]
        ways = {"own": (golds, None), "routed_3": (order, 3)}
        if name == "squad":
            ways["gold_removed_3"] = ([[d for d in o if d not in g] for o, g in zip(order, golds)], 3)
        report[name] = {way: reading(model, layers, tokenizer, bank, some, orders, n, 0.0, raw[name], way)
                        for way, (orders, n) in ways.items()}
        print(name, json.dumps(report[name]), flush=True)
    bias = refusal_bias([row[0] for row in raw["squad"]["own"]], WRONG)
    single = [s[0] for s, _, had in raw["squad"]["second"] if any(had)]
    multi = [(s[0], any(new)) for name in ("2wiki", "hotpot") for s, new, had in raw[name]["second"]
             if sum(had) < 2]
    least, kept, given = round_threshold(single, multi)
    report |= {"refusal_bias": bias, "round_min_score": least, "single_left_alone": round(kept, 3), "multi_found": round(given, 3),
               "refused_at_bias": round(sum(row[0] > -bias for row in raw["refused"]["own"]) / len(raw["refused"]["own"]), 3)}
    print(json.dumps(report), flush=True)
    Path(args.out).write_text(json.dumps(report | {"raw": raw}) + "\n")
    if args.write:
        path = Path(args.adapter) / "adapter_config.json"
        config = json.loads(path.read_text())
        config["msa_config"] |= {"refusal": frames.REFUSAL, "refusal_bias": bias, "round_min_score": least}
        path.write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    main()
