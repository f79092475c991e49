"""Choices that can be changed without training, one at a time: `python -m training.ablate --base B --adapter A --bundle D --out F`.

Recall of one round on the evaluation sets' questions with another number of selected documents, other reductions, another chunk size,
fewer router layers, or no attention to memory while routing. The adapter was trained for the first row: what another
training would do is not measured here.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import torch

from training import batches, frames, tool
from training.adapter_io import load_adapter, read_config
from training.corpus import read_xz
from training.evaluate import Bank, recall
from training.model import MsaModel

# name: (pool, top_k, attend, head, query, chunk)
ROWS = {
    "as trained": (16, 16, True, "mean", "max", "max"),
    "top 4 attended": (16, 4, True, "mean", "max", "max"),
    "top 8 attended": (16, 8, True, "mean", "max", "max"),
    "top 32 attended": (16, 32, True, "mean", "max", "max"),
    "no memory attended": (16, 16, False, "mean", "max", "max"),
    "heads max": (16, 16, True, "max", "max", "max"),
    "query tokens mean": (16, 16, True, "mean", "mean", "max"),
    "chunks mean": (16, 16, True, "mean", "max", "mean"),
    "chunk of 8": (8, 16, True, "mean", "max", "max"),
    "chunk of 32": (32, 16, True, "mean", "max", "max"),
    "chunk of 64": (64, 16, True, "mean", "max", "max"),
}


def reducer(model: MsaModel, head: str, query: str, chunk: str):
    """(folded_queries, score) that reduce as named; the mean over heads stays folded into the queries."""
    c = model.cfg
    group = c.num_heads // c.num_kv_heads

    def unfolded(h, router):
        q = torch.nn.functional.linear(h, router["q"]).float().view(len(h), c.num_heads, c.head_dim)
        return torch.nn.functional.normalize(q, dim=-1).flatten(1)

    def similarity(folded, keys):
        if head == "mean":
            return folded @ keys.T
        q, k = folded.view(len(folded), c.num_heads, -1), keys.view(len(keys), c.num_kv_heads, -1)
        best = None
        for h in range(c.num_heads):
            one = q[:, h] @ k[:, h // group].T
            best = one if best is None else torch.maximum(best, one)
        return best

    def score(folded, keys, table, queries):
        s = similarity(folded, keys).view(*queries.ids.shape, -1)
        routing = queries.routing[..., None]
        s = s.masked_fill(~routing, float("-inf")).amax(1) if query == "max" else (s * routing).sum(1) / routing.sum(1)
        of = s.index_select(1, table.flatten()).view(len(s), *table.shape)
        if chunk == "max":
            return of.amax(-1)
        count = (table != table[:, :1]).sum(1) + 1          # the rest of a row repeats its first chunk
        there = torch.arange(table.shape[1], device=table.device) < count[:, None]
        return (of * there).sum(-1) / count
    return (model.folded_queries if head == "mean" else unfolded), score


@torch.no_grad()
def measure(args, name: str, tokenizer, sets) -> dict:
    pool, top_k, attend, head, query, chunk = ROWS[name]
    cuda = torch.cuda.is_available()
    msa = dataclasses.replace(read_config(args.adapter), pool=pool, top_k=top_k)
    model = MsaModel(args.base, msa, torch.bfloat16 if cuda else torch.float32)
    load_adapter(model, args.adapter)
    model = model.to("cuda" if cuda else "cpu")
    model.folded_queries, model.score = reducer(model, head, query, chunk)
    layers, device, out = model.merged(), model.frequency.device, {}
    head_ids = frames.encode(tokenizer, frames.HEAD)
    for data, (corpus, questions) in sets.items():
        bank = Bank(model, layers, tokenizer, corpus)
        golds = [[bank.ids[i] for i in q["supporting_titles_or_ids"]] for q in questions]
        each = []
        for begin in range(0, len(questions), 32):
            prompts = [frames.routing_prompt(tokenizer, q["question"]) for q in questions[begin:begin + 32]]
            rows = batches.queries(prompts, head_ids, top_k).to(device)
            scores = model.run(layers, groups=(rows,), memory=bank.memory, attend=attend).scores[0]
            each.append(torch.stack([scores[l].cpu() for l in msa.router_layers]))
        each = torch.cat(each, 1)                           # [layers, questions, documents]
        best = lambda s: recall(s.mean(0).topk(min(20, len(corpus)), -1).indices.tolist(), golds)
        out[data] = best(each)
        if name == "as trained":
            for count in (1, 2, 4):
                out[f"{data}, last {count} layers"] = best(each[-count:])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "bundle", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--sets", nargs="*", default=["squad", "2wiki"])
    parser.add_argument("--limit", type=int, default=0, help="questions a set, 0 = all")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = True
    tokenizer = frames.load_tokenizer(f"{args.base}/tokenizer.json")
    read = lambda name, what: read_xz(Path(args.bundle) / f"eval_{name}_{what}.jsonl.xz")
    sets = {name: (read(name, "corpus"), read(name, "questions")[: args.limit or None]) for name in args.sets}
    report = {}
    for name in ROWS:
        report[name] = measure(args, name, tokenizer, sets)
        print(name, json.dumps(report[name]), flush=True)
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    tool.run(main)
