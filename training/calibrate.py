"""Chooses a checkpoint's thresholds on training questions: `python -m training.calibrate --base B --adapter A --bundle D --out F`.

Questions: SQuAD's of the articles that the run kept back (`held_articles`), answerable and not, over a memory of the training
documents of SQuAD, 2Wiki and Hotpot. Chosen, by rules fixed before looking at any evaluation:
- `refusal_bias`: the largest that wrongly refuses at most WRONG of the answerable questions over their own paragraph;
- `round_min_score`: what a second round's new document must score; the least that leaves STOPPED of these questions, which need one
  paragraph, as they were after the first round. Multi-hop training questions are no help: a model that was trained on
  them finds both documents in the first round.
Writes every measured value to F, and with --write the thresholds into the adapter's configuration.
"""
from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch

from training import evaluate, frames, refusal, tool
from training.adapter_io import load_adapter, read_config, read_msa
from training.corpus import calibration_articles, read_xz
from training.files import read_json, write_json
from training.model import MsaModel

WRONG, STOPPED = 0.08, 0.95


def refusal_bias(answerable: list[float], wrong: float) -> float:
    """The largest bias b with a share of at most `wrong` of these inclinations to refuse above -b."""
    ordered = sorted(answerable, reverse=True)
    return round(-ordered[min(len(ordered) - 1, int(wrong * len(ordered)))], 3)


def round_min_score(single: list[float], stopped: float) -> float:
    """The least score that a share of at least `stopped` of the values stays below."""
    ordered = sorted(single)
    place = min(len(ordered) - 1, math.ceil(stopped * len(ordered)) - 1)
    return round(ordered[place] + 1e-4, 4)


def thresholds(model: MsaModel, layers, tokenizer, bundle: Path, held_articles: int, limit: int, against_all: bool = False,
               documents: int = 1 << 30) -> tuple[dict, dict]:
    """against_all: the checkpoint's refusal_against (refusal.py). (the chosen values with what they do to the questions that they were chosen on, every measured value)."""
    docs = read_xz(bundle / "docs.jsonl.xz")
    held = calibration_articles(docs, held_articles)
    asked = {"squad": [], "refused": []}
    for q in read_xz(bundle / "questions.jsonl.xz"):
        if q["s"] == "squad" and docs[q["p"][0]]["g"] in held:
            asked["refused" if "u" in q else "squad"].append(q)
    asked = {name: evaluate.spread(qs, limit) for name, qs in asked.items()}
    needed = {n for qs in asked.values() for q in qs for n in q["p"]}
    more = [i for i, d in enumerate(docs) if d["s"] in ("squad", "2wiki", "hotpot") and i not in needed]
    corpus = [{"id": i, "title": docs[i]["t"], "text": docs[i]["x"]} for i in sorted(needed) + more[:documents]]
    raw = {}
    bank = evaluate.Bank(model, layers, tokenizer, corpus)
    reader = evaluate.Reader(model, layers, tokenizer, 0.0, raw, against_all=against_all)
    for name, questions in asked.items():
        some = [{"question": q["q"], "answers": [] if "u" in q else q["a"]} for q in questions]
        own = [[bank.ids[n] for n in q["p"]] for q in questions]
        reader.read(name, bank, some, own, None)
    texts, golds = [q["q"] for q in asked["squad"]], [q["p"][0] for q in asked["squad"]]
    scores, _ = evaluate.rank(model, layers, bank, [frames.routing_prompt(tokenizer, t) for t in texts],
                              frames.encode(tokenizer, frames.HEAD))
    order = scores.topk(min(20, len(corpus)), -1).indices.tolist()
    later, _ = evaluate.second_round(model, layers, bank, tokenizer, texts, order, evaluate.ROUND)
    raw["second"] = [s[0] for s, o, g in zip(later, order, golds) if bank.ids[g] in o[:evaluate.ROUND]] or [s[0] for s in later]
    bias = refusal_bias([row[0] for row in raw["squad"]], WRONG)
    chosen = {"refusal_bias": bias, "round_min_score": round_min_score(raw["second"], STOPPED),
              "documents": len(corpus), "held_articles": sorted(held),
              "refused": evaluate.at_bias(raw["refused"], bias)["refused"], "answered": evaluate.at_bias(raw["squad"], bias)}
    return chosen, raw


def write(adapter: str, chosen: dict) -> None:
    path = Path(adapter) / "adapter_config.json"
    config = read_json(path)
    config["msa_config"] |= {"refusal": frames.REFUSAL, "refusal_bias": chosen["refusal_bias"],
                             "round_min_score": chosen["round_min_score"]}
    write_json(path, config)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "bundle", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--held-articles", type=int, default=4)
    parser.add_argument("--limit", type=int, default=400, help="questions of a kind")
    parser.add_argument("--documents", type=int, default=1 << 30, help="in memory beside the questions', for a quick look")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = True
    model = MsaModel(args.base, read_config(args.adapter), torch.bfloat16 if cuda else torch.float32)
    load_adapter(model, args.adapter)
    model, tokenizer = model.to("cuda" if cuda else "cpu"), frames.load_tokenizer(f"{args.base}/tokenizer.json")
    against_all = refusal.against_all(read_msa(args.adapter))
    chosen, raw = thresholds(model, model.merged(), tokenizer, Path(args.bundle), args.held_articles, args.limit, against_all, args.documents)
    print(json.dumps(chosen), flush=True)
    Path(args.out).write_text(json.dumps(chosen | {"raw": raw}) + "\n")
    if args.write:
        write(args.adapter, chosen)


if __name__ == "__main__":
    tool.run(main)
