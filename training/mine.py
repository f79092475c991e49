"""Passages that the model itself confuses with a question's own, as hard negatives.

`python -m training.mine --base B --adapter A --bundle D --made FOLDER [--shard i/n] [--until T]`, on a GPU. Ranks the training
documents that are passages (MEMORY) for SQuAD's, the multi-hop sets' and the written questions that have an answer, by a few router layers' scores without
attention to memory (close to the engine's ranking, and far cheaper), and keeps the best that do not hold the answer, best first. Writes
FOLDER/mined.<i>.jsonl: {"q", "p", "h": [passages], "o": own passage's place in the ranking, -1 if not among the first} of the questions
reached in time, every n-th of all; the written ones in a shuffled order, after the others.
"""
from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch

from training import batches, frames, tool
from training.adapter_io import load_adapter, read_config, wait_for
from training.corpus import read_parts, read_xz, write_whole
from training.evaluate import join_memory
from training.model import MsaModel, packed_attention
from training.reading import stands

PASSAGE_TOKENS, KEPT, RANKED = 320, 8, 24
MEMORY = ("wiki", "squad", "natural", "2wiki", "hotpot")


class Keys:
    """Routing keys of passages for a few layers, bf16 [C, Hkv*Dh], and their table of chunks [D, most]."""

    def __init__(self, model: MsaModel, layers, tokenizer, texts: list[str], chosen: list[int], block_tokens: int = 200_000):
        parts, block, size = [], [], 0
        whole = [f"<|im_start|>[{i}]. {t}[{i}]<|im_end|>" for i, t in enumerate(texts)]
        framed = [e.ids[:PASSAGE_TOKENS] for e in tokenizer.encode_batch(whole, add_special_tokens=False)]
        for sequence in framed + [None]:
            if block and (sequence is None or size + len(sequence) > block_tokens):
                part = model.run(layers, batches.documents(block, model.msa.pool).to(model.frequency.device)).memory
                part.keys = {l: part.keys[l].bfloat16() for l in chosen}
                part.k = part.v = part.keys
                parts.append(part)
                block, size = [], 0
            if sequence:
                block.append(sequence)
                size += len(sequence)
        whole = join_memory(parts)
        self.by_layer, self.table = whole.keys, whole.table


def best(model: MsaModel, layers, keys: Keys, prompts, head, k: int) -> list[list[int]]:
    """Each prompt's k passages, best first."""
    device = model.frequency.device
    q = batches.queries(prompts, head, model.msa.top_k).to(device)
    x, packed = model._embed(q.packed().ids), q.packed()
    c, angle = model.cfg, q.positions.flatten()[:, None].float() * model.frequency
    total = 0.0
    for index, w in enumerate(layers):
        h, query, key, value = model._before(x, angle.cos(), angle.sin(), w["before"], c.num_heads, c.num_kv_heads, c.rms_eps)
        if index in keys.by_layer:
            folded = model.folded_queries(h, w["router"]).to(keys.by_layer[index].dtype)[q.routing.flatten()]
            row = torch.arange(len(prompts), device=device).repeat_interleave(q.routing.sum(1))
            total = total + peaks(folded, row, len(prompts), keys.by_layer[index], keys.table)
        if index == max(keys.by_layer):
            break
        x = model._after(x, packed_attention(query, key, value, packed), w["after"], c.rms_eps)
    return total.topk(k, -1).indices.tolist()


def peaks(folded, row, count: int, keys, table, block: int = 1 << 18):
    """[count, D] largest product of a question's tokens and a document's chunks; one block of chunks at a time."""
    parts = []
    sizes = torch.bincount(row, minlength=count).tolist()
    for begin in range(0, len(keys), block):
        product = folded @ keys[begin:begin + block].T
        parts.append(torch.stack([piece.amax(0) for piece in product.split(sizes)]))
    chunks = torch.cat(parts, 1)
    return chunks.index_select(1, table.flatten()).view(count, *table.shape).amax(-1).float()


@torch.no_grad()
def mine(args) -> None:
    cuda = torch.cuda.is_available()
    docs = read_xz(Path(args.bundle) / "docs.jsonl.xz")
    asked = [q for q in read_xz(Path(args.bundle) / "questions.jsonl.xz") if q["s"] in MEMORY]
    model = MsaModel(args.base, read_config(args.adapter), torch.bfloat16 if cuda else torch.float32)
    load_adapter(model, args.adapter)
    model, tokenizer = model.to("cuda" if cuda else "cpu"), frames.load_tokenizer(f"{args.base}/tokenizer.json")
    layers, head = model.merged(), frames.encode(tokenizer, frames.HEAD)
    numbers = [i for i, d in enumerate(docs) if d["s"] in MEMORY][: args.passages]
    texts = [frames.document_text(docs[i]["t"], docs[i]["x"]) for i in numbers]
    keys = Keys(model, layers, tokenizer, texts, list(model.msa.router_layers)[-args.layers:])
    print(f"{len(texts)} passages encoded", flush=True)
    shard, of = map(int, args.shard.split("/"))
    wait_for([f"{args.made}/made.{i}.jsonl" for i in range(args.parts)], args.until)
    made = read_parts(Path(args.made), "made.*.jsonl", ("q", "a", "p", "n", "r"))
    random.Random(5).shuffle(made)
    made = [m for m in made if "u" not in m]
    lines, hard, begun = [], 0, time.time()
    asked = (asked + made)[shard::of][: args.limit]
    for begin in range(0, len(asked), args.rows):
        some = asked[begin:begin + args.rows]
        prompts = [frames.routing_prompt(tokenizer, " ".join(m["q"].split()[:30])) for m in some]
        for m, found in zip(some, best(model, layers, keys, prompts, head, min(RANKED, len(texts)))):
            ranking = [numbers[i] for i in found]
            said = [a.lower() for a in m["a"]]
            others = [n for n in ranking if n not in m["p"]]
            fresh = [n for n in others if not any(stands(a, docs[n]["x"].lower()) for a in said)][:KEPT]
            hard += ranking[0] not in m["p"]
            own = ranking.index(m["p"][0]) if m["p"][0] in ranking else -1
            lines.append({"q": m["q"], "p": m["p"], "h": fresh, "o": own})
        if time.time() > args.until:
            break
    write_whole(Path(args.made) / f"mined.{shard}.jsonl", lines)
    print(f"mined for {len(lines)} of {len(asked)} questions in {time.time() - begun:.0f} s; "
          f"own passage not first for {100 * hard / max(1, len(lines)):.0f} %", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "bundle", "made"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--until", type=float, default=float("inf"), help="wall time (since 1970) when mining ends")
    parser.add_argument("--parts", type=int, default=0, help="of the written questions, waited for")
    parser.add_argument("--shard", default="0/1", help="i/n")
    parser.add_argument("--limit", type=int, default=1 << 30, help="questions")
    parser.add_argument("--rows", type=int, default=128, help="questions at once")
    parser.add_argument("--layers", type=int, default=4, help="of the last router layers")
    parser.add_argument("--passages", type=int, default=1 << 30)
    mine(parser.parse_args())


if __name__ == "__main__":
    tool.run(main)
