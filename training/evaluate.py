"""Retrieval recall and reading scores: `python -m training.evaluate --base B --adapter A --bundle D --out F.json`.

Retrieval: documents ranked by the mean of their scores over the router layers, one round, and with a second round
that routes with the question and the texts of the best `n` (those stay ahead of its ranking). Reading: the best texts through
the reader prompt, greedy. Baselines put BM25's documents, or the gold ones, before the same reader.
"""
from __future__ import annotations

import argparse
import collections
import json
import re
import string
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from training import batches, frames, tool
from training.adapter_io import load_adapter, read_config, read_msa
from training.bm25 import Bm25
from training.corpus import read_xz
from training.files import read_json
from training.model import Memory, MsaModel
from training.refusal import Said, against_all, say

SETS = ("squad", "2wiki", "hotpot", "strategy")
CUTS = (1, 5, 16, 20)
# How documents to read are chosen: a ranking (evaluate_set) and how many of its first, None for all.
WAYS = {"gold": ("gold", None), "retrieved_3": ("one_round", 3), "bm25_3": ("bm25", 3), "two_rounds_rule": ("two_rounds_rule", None),
        "two_rounds_3+3": ("two_rounds", 6), "gold_removed_3": ("gold_removed", 3), "retrieved_1": ("one_round", 1),
        "retrieved_6": ("one_round", 6), "nothing": ("one_round", 0), "minilm_3": ("minilm", 3)}
AS_SERVED = ("retrieved_3", "bm25_3", "minilm_3", "two_rounds_rule", "gold_removed_3", "unanswerable_3")    # read as a round's documents
DOC_TOKENS, READ_TOKENS = 512, 400
ROUND = 3       # documents that a round adds to what is read


class Bank:
    """A corpus in memory: texts by reference number (= place in the corpus) and pooled state."""

    def __init__(self, model: MsaModel, layers, tokenizer, corpus: list[dict], block_tokens: int = 200_000):
        self.ids = {d["id"]: i for i, d in enumerate(corpus)}
        self.texts = [frames.document_text(d["title"], d["text"]) for d in corpus]
        cut = [frames.cut(tokenizer, t, DOC_TOKENS) for t in self.texts]
        tokens = [frames.document_ids(tokenizer, i, t) for i, t in enumerate(cut)]
        parts, block, count = [], [], 0
        for sequence in tokens + [None]:
            if block and (sequence is None or count + len(sequence) > block_tokens):
                docs = batches.documents(block, model.msa.pool)
                parts.append(model.run(layers, docs.to(model.frequency.device)).memory)
                block, count = [], 0
            if sequence:
                block.append(sequence)
                count += len(sequence)
        self.memory = join_memory(parts)
        self.tokens = sum(map(len, tokens))


def join_memory(parts: list[Memory]) -> Memory:
    sizes = [len(next(iter(p.keys.values()))) for p in parts]
    width, start, tables = max(p.table.shape[1] for p in parts), 0, []
    for part, size in zip(parts, sizes):
        table = part.table + start
        tables.append(torch.cat((table, table[:, :1].expand(-1, width - table.shape[1])), 1))
        start += size
    merge = lambda name: {l: torch.cat([getattr(p, name)[l] for p in parts]) for l in parts[0].keys}
    return Memory(merge("keys"), merge("k"), merge("v"), torch.cat(tables), torch.cat([p.count for p in parts]))


def rank(model, layers, bank: Bank, prompts, head, excluded=None, rows: int = 48):
    """Layer-mean scores [Q, D] and, per layer, the top 16 (votes)."""
    device, out, votes = model.frequency.device, [], collections.defaultdict(list)
    for begin in range(0, len(prompts), rows):
        some = None if excluded is None else excluded[begin:begin + rows]
        q = batches.queries(prompts[begin:begin + rows], head, model.msa.top_k, some).to(device)
        done = model.run(layers, groups=(q,), memory=bank.memory)
        out.append(torch.stack(list(done.scores[0].values())).mean(0).cpu())
        for layer, s in done.selected[0].items():
            votes[layer].append(s.cpu())
    return torch.cat(out), {l: torch.cat(v) for l, v in votes.items()}


def recall(order: list[list[int]], golds: list[list[int]]) -> dict:
    """Mean share of gold documents in the first k, and share of questions with all of them."""
    out = {}
    for k in CUTS:
        found = [len(set(o[:k]) & set(g)) / len(set(g)) for o, g in zip(order, golds)]
        out[f"recall@{k}"] = round(100 * sum(found) / len(found), 2)
        out[f"all@{k}"] = round(100 * sum(f == 1 for f in found) / len(found), 2)
    return out


def second_round(model, layers, bank: Bank, tokenizer, questions, first, n: int):
    """What another round ranks, 20 a question: (scores, documents) [Q, 20]; it routes with the question and the texts of the
    first n, which are left out."""
    prompts, head = [], frames.encode(tokenizer, frames.HEAD)
    for question, order in zip(questions, first):
        taken = [(i, frames.cut(tokenizer, bank.texts[i], DOC_TOKENS)) for i in order[:n]]
        prompts.append(frames.next_round_prompt(tokenizer, question, [taken]))
    excluded = torch.zeros(len(first), len(bank.texts), dtype=torch.bool)
    for row, order in enumerate(first):
        excluded[row, order[:n]] = True
    scores, _ = rank(model, layers, bank, prompts, head, excluded, rows=12)
    best = scores.masked_fill(excluded, float("-inf")).topk(min(20, len(bank.texts)), -1)
    return best.values.tolist(), best.indices.tolist()


def after_two(first: list[int], scores: list[float], more: list[int], n: int, least: float) -> tuple[list[int], list[int]]:
    """Documents that are read after two rounds, and the whole ranking."""
    added = [d for d, s in zip(more[:n], scores) if s >= least]
    return first[:n] + added, first[:n] + more if added else first


def normal(text: str) -> str:
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def f1(answer: str, gold: str) -> float:
    a, g = normal(answer).split(), normal(gold).split()
    same = sum((collections.Counter(a) & collections.Counter(g)).values())
    return 2 * same / (len(a) + len(g)) if same else float(a == g)


def best_match(score, text: str, answers: list[str]) -> float:
    return float(max(score(text, a) for a in answers)) if answers else 0.0


def exact(answer: str, gold: str) -> bool:
    return normal(answer) == normal(gold)


def judged(said: list[Said], questions: list[dict], against_all: bool) -> list[list[float]]:
    """A question: how inclined the model is to refuse; em, f1 and whether it refuses, without the refusal's first token and with it."""
    out = []
    for s, q in zip(said, questions):
        out.append([round(s.inclination(against_all), 3)])
        for text in (s.without, s.with_first):
            out[-1] += [best_match(exact, text, q["answers"]), round(best_match(f1, text, q["answers"]), 4),
                        float(text == frames.REFUSAL)]
    return out


def at_bias(rows: list[list[float]], bias: float) -> dict:
    """EM, F1 and share refused (%) of judged() rows."""
    chosen = [row[4:7] if row[0] + bias > 0 else row[1:4] for row in rows]
    em, mean, refused = (round(100 * sum(c) / len(rows), 2) for c in zip(*chosen))
    return {"questions": len(rows), "em": em, "f1": mean, "refused": refused}


def spread(items: list, count: int) -> list:
    """At most `count` of the items, evenly spaced."""
    return items if not count or len(items) <= count else [items[i * len(items) // count] for i in range(count)]


@dataclass
class Reader:
    """The model as it answers from documents' texts. raw: judged() by the name of what was read."""
    model: MsaModel
    layers: list
    tokenizer: object
    bias: float
    raw: dict
    apart: float | None = None      # the checkpoint's reader_apart_margin
    against_all: bool = False       # the checkpoint's refusal_against

    def say(self, bank, questions, orders) -> list[Said]:
        """What is answered from the documents of each order, read together."""
        prompts = []
        for q, order in zip(questions, orders):
            texts = [(i, frames.cut(self.tokenizer, bank.texts[i], READ_TOKENS)) for i in order]
            prompts.append(frames.reader_prompt(q["question"], texts, self.model.msa.reader_question))
        return say(self.model, self.layers, self.tokenizer, prompts)

    def say_apart(self, bank, questions, orders) -> list[list[Said]]:
        """The same first, a question, and then, of one round's documents, what is answered from each by itself."""
        groups = [[order] + ([[d] for d in sorted(order)] if 1 < len(order) <= ROUND else []) for order in orders]
        said = iter(self.say(bank, [q for q, group in zip(questions, groups) for _ in group], [o for group in groups for o in group]))
        return [[next(said) for _ in group] for group in groups]

    def least_refused(self, readings: list[Said]) -> Said:
        """Of say_apart's: that over which the model is least inclined to refuse, all together only where it is so by `apart`."""
        return min(enumerate(readings), key=lambda r: r[1].margin + self.apart * (r[0] == 0))[1]

    def score(self, name: str, said: list[Said], questions) -> dict:
        self.raw[name] = judged(said, questions, self.against_all)
        scores = at_bias(self.raw[name], self.bias)
        return scores if questions[0]["answers"] else {k: scores[k] for k in ("questions", "refused")}

    def read(self, name: str, bank, questions, orders, n: int | None) -> dict:
        """EM, F1 and share refused when the first n documents of each order are read: as the checkpoint reads them and, where that
        is apart, together."""
        orders = [order[:n] for order in orders]
        if self.apart is None or name not in AS_SERVED:
            return {name: self.score(name, self.say(bank, questions, orders), questions)}
        readings, together = self.say_apart(bank, questions, orders), name + "_together"
        return {name: self.score(name, [self.least_refused(r) for r in readings], questions),
                together: self.score(together, [r[0] for r in readings], questions)}

    def read_all(self, bank, questions, orders: dict, count: int) -> dict:
        """Reading scores of each way to choose documents, on the same evenly spaced questions."""
        chosen = spread(list(range(len(questions))), count)     # orders: lists, or dictionaries by place
        some = [questions[i] for i in chosen]
        out = {}
        for name, (order, n) in orders.items():
            done = self.read(name, bank, some, [order[i] for i in chosen], n)
            print(json.dumps(done), flush=True)
            out |= done
        return out

    def read_unanswerable(self, root: Path, bank, count: int) -> dict:
        """Questions without an answer, over the routed three and over the paragraph that they were written about."""
        refused = spread(read_xz(root / "eval_squad_refused.jsonl.xz"), count)
        prompts = [frames.routing_prompt(self.tokenizer, q["question"]) for q in refused]
        s, _ = rank(self.model, self.layers, bank, prompts, frames.encode(self.tokenizer, frames.HEAD))
        own = [[bank.ids[i] for i in q["supporting_titles_or_ids"]] for q in refused]
        return {**self.read("unanswerable_3", bank, refused, s.topk(ROUND, -1).indices.tolist(), None),
                **self.read("unanswerable_own", bank, refused, own, None)}


def evaluate_set(reader: Reader, root: Path, name: str, args, others: dict, least: float) -> dict:
    """others: MiniLM's ids by set and question (minilm.py), may lack the set. least: the checkpoint's round_min_score."""
    model, layers, tokenizer, raw = reader.model, reader.layers, reader.tokenizer, reader.raw
    started, head = time.time(), frames.encode(tokenizer, frames.HEAD)
    corpus = read_xz(root / f"eval_{name}_corpus.jsonl.xz")
    questions = read_xz(root / f"eval_{name}_questions.jsonl.xz")[: args.limit or None]
    bank = Bank(model, layers, tokenizer, corpus)
    golds = [[bank.ids[i] for i in q["supporting_titles_or_ids"]] for q in questions]
    texts = [q["question"] for q in questions]
    scores, votes = rank(model, layers, bank, [frames.routing_prompt(tokenizer, t) for t in texts], head)
    best = scores.topk(min(20, len(corpus)), -1)
    order = best.indices.tolist()
    out = {"questions": len(questions), "documents": len(corpus), "tokens": bank.tokens,
           "one_round": recall(order, golds),
           "layer_recall@16": {l: recall(v.tolist(), golds)["recall@16"] for l, v in votes.items()}}
    raw["first"] = [[round(v, 4) for v in row[:6]] for row in best.values.tolist()]
    rankings = {"gold": golds, "one_round": order,
                "gold_removed": [[d for d in o if d not in g] for o, g in zip(order, golds)]}
    if name != "squad" or args.full:  # single-hop questions: on those that are read
        some = spread(list(range(len(questions))), args.read_limit if name == "squad" else 0)
        pick = lambda items: [items[i] for i in some]
        found = second_round(model, layers, bank, tokenizer, pick(texts), pick(order), ROUND)
        raw["second"] = [[i, [round(v, 4) for v in s[:ROUND]], [d in golds[i] for d in more[:ROUND]],
                          [d in golds[i] for d in order[i][:ROUND]]]
                         for i, s, more in zip(some, *found)]
        for rule, limit in (("two_rounds", float("-inf")), ("two_rounds_rule", least)):
            done = [after_two(order[i], s, more, ROUND, limit) for i, s, more in zip(some, *found)]
            rankings[rule] = dict(zip(some, (read for read, _ in done)))
            out[rule] = {"questions": len(some), "added": round(sum(len(r) - ROUND for r, _ in done) / len(done), 3),
                         **recall([whole for _, whole in done], pick(golds))}
    if args.full:
        index = Bm25([t.replace("\n", " ") for t in bank.texts])
        rankings["bm25"] = [index.top(t, 20) for t in texts]
        out["bm25"] = recall(rankings["bm25"], golds)
        if name in others:
            rankings["minilm"] = [[bank.ids[i] for i in ids] for ids in others[name][: len(questions)]]
            out["minilm"] = recall(rankings["minilm"], golds)
        ways = {way: (rankings[ranking], n) for way, (ranking, n) in WAYS.items()
                if ranking in rankings and (not args.ways or way in args.ways)}
        print(name, "retrieval", json.dumps(out), flush=True)  # what is known stays known if time runs out
        out["reading"] = {}
        if name == "squad":
            out["reading"] |= reader.read_unanswerable(root, bank, args.read_limit)
            print(name, json.dumps(out["reading"]), flush=True)
        out["reading"] |= reader.read_all(bank, questions, ways, args.read_limit)
    out["seconds"] = round(time.time() - started, 1)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--sets", nargs="*", default=SETS)
    parser.add_argument("--limit", type=int, default=0, help="questions a set, 0 = all")
    parser.add_argument("--read-limit", type=int, default=0, help="questions read a set, evenly spaced, 0 = all")
    parser.add_argument("--full", action="store_true", help="reading and the baselines too")
    parser.add_argument("--calibrate", type=int, default=0, help="choose thresholds first, on this many questions (calibrate.py)")
    parser.add_argument("--ways", nargs="*", default=[], choices=WAYS, help="of choosing documents to read; all if none is named")
    parser.add_argument("--minilm", default="", help="rankings that minilm.py wrote")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = True
    model = MsaModel(args.base, read_config(args.adapter), torch.bfloat16 if cuda else torch.float32)
    load_adapter(model, args.adapter)
    model = model.to("cuda" if cuda else "cpu")
    tokenizer = frames.load_tokenizer(f"{args.base}/tokenizer.json")
    others = read_json(args.minilm) if args.minilm else {}
    report, raw = {"adapter": args.adapter, "device": torch.cuda.get_device_name() if cuda else "cpu"}, {}
    msa = read_msa(args.adapter)
    with torch.no_grad():
        layers = model.merged()
        if args.calibrate:
            from training import calibrate      # which needs this module
            chosen, raw["calibration"] = calibrate.thresholds(model, layers, tokenizer, Path(args.bundle), 4, args.calibrate, against_all(msa))
            report["calibration"] = chosen
            msa |= {k: chosen[k] for k in ("refusal_bias", "round_min_score")}
            print(json.dumps(chosen), flush=True)
        for name in args.sets:
            raw[name] = {}
            reader = Reader(model, layers, tokenizer, msa.get("refusal_bias", 0.0), raw[name], msa.get("reader_apart_margin"),
                            against_all(msa))
            report[name] = evaluate_set(reader, Path(args.bundle), name, args, others, msa.get("round_min_score", float("-inf")))
            print(name, json.dumps(report[name]), flush=True)
            Path(args.out).write_text(json.dumps(report, indent=1) + "\n")
            Path(args.out).with_suffix(".raw.json").write_text(json.dumps(raw) + "\n")


if __name__ == "__main__":
    tool.run(main)
