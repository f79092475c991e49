"""How routing and reading hold up as the memory grows: `python -m training.scale prepare|run|texts …`.

`prepare` lays out one corpus: the gold paragraphs of some held-out SQuAD questions, then the rest of their articles,
then the rest of SQuAD, then encyclopedia passages that share no title with any evaluation set; as token ids, so
that the machine with the GPU tokenises nothing. `run` asks the same questions with ever longer beginnings of that corpus
in memory. Each document is encoded once; every question is routed again at each size, since what it attends to changes.
`texts` writes the same documents and questions as JSON lines for `msa add` and `msa eval`; scripts/scale_curve.py asks an engine.
"""
from __future__ import annotations

import argparse
import itertools
import json
import lzma
import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import torch

from training import batches, frames, tool
from training.adapter_io import load_adapter, read_config, read_msa
from training.corpus import normal, read_xz, write_whole
from training.evaluate import DOC_TOKENS, Reader, rank, recall, spread
from training.model import Memory, MsaModel
from training.prepare_data import wiki_articles
from training.refusal import against_all

GOLD_TOKENS = 15_000    # of the questions' own paragraphs: the smallest memory is little more than them


PASSAGE_WORDS = 130
SIZES = [16_000, 100_000, 400_000, 1_000_000, 4_000_000]


def whole_passages(text: str) -> list[str]:
    """An article cut into runs of paragraphs of at most PASSAGE_WORDS words; nothing is left out."""
    found, run, count = [], [], 0
    for paragraph in text.split("\n") + [None]:
        words = paragraph.split() if paragraph is not None else []
        if run and (paragraph is None or count + len(words) > PASSAGE_WORDS):
            found.append(" ".join(run))
            run, count = [], 0
        while len(words) > PASSAGE_WORDS:
            found.append(" ".join(words[:PASSAGE_WORDS]))
            words = words[PASSAGE_WORDS:]
        if words:
            run.append(" ".join(words))
            count += len(words)
    return found


def lay_out(bundle: Path, data: Path | None) -> tuple[list[tuple[str, str]], list[dict]]:
    """(documents as (id, text) in the order of the corpus, questions asked)."""
    squad = read_xz(bundle / "eval_squad_corpus.jsonl.xz")
    questions = read_xz(bundle / "eval_squad_questions.jsonl.xz")
    gold = list(dict.fromkeys(i for q in questions for i in q["supporting_titles_or_ids"]))
    chosen = set(spread(gold, GOLD_TOKENS // 170))
    asked = [q for q in questions if set(q["supporting_titles_or_ids"]) <= chosen]
    titles = {d["title"] for d in squad if d["id"] in set(gold)}
    turn = lambda d: 0 if d["id"] in chosen else 1 if d["title"] in titles else 2
    documents = [(d["id"], frames.document_text(d["title"], d["text"])) for d in sorted(squad, key=turn)]
    known = {normal(d["title"]) for d in squad}
    if data:
        wiki = [(a["title"], p) for a in wiki_articles(data) if normal(a["title"]) not in known for p in whole_passages(a["text"])]
    else:
        wiki = [(d["t"], d["x"]) for d in read_xz(bundle / "docs.jsonl.xz") if d["s"] == "wiki" and normal(d["t"]) not in known]
    random.Random(17).shuffle(wiki)
    return documents + [("", frames.document_text(*d)) for d in wiki], asked


def prepare(args) -> None:
    tokenizer = frames.load_tokenizer(args.tokenizer)
    documents, asked = lay_out(Path(args.bundle), args.data and Path(args.data))
    ids, tokens, total = [], [], 0
    for (name, _), sequence in zip(documents, tokenised(tokenizer, [text for _, text in documents], args.processes)):
        if total + len(sequence) > args.tokens:
            break
        ids.append(name)
        tokens.append(sequence)
        total += len(sequence)
    print(f"{len(documents)} documents at hand", flush=True)
    head = {"ids": [i for i in ids if i], "lengths": [len(t) for t in tokens], "questions": asked}
    whole = json.dumps(head).encode() + b"\n" + np.concatenate(tokens).tobytes()
    Path(args.out).write_bytes(whole if args.preset < 0 else lzma.compress(whole, preset=args.preset))
    print(json.dumps({"documents": len(tokens), "tokens": total, "questions": len(asked)}))


def tokenised(tokenizer, texts: list[str], processes: int):
    """Each text's frame as tokens, numbered by place."""
    yield from forked(lambda place: np.asarray(frames.document_ids(tokenizer, place, frames.cut(tokenizer, texts[place], DOC_TOKENS)),
                                               dtype="<u2"), len(texts), processes)


def forked(work, count: int, processes: int):
    """work(0), work(1), … in this order, by forked processes."""
    global WORK
    WORK = work
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        yield from pool.imap(worked, range(count), chunksize=256)


WORK = None     # what forked() left for its workers


def worked(place: int):
    return WORK(place)


def texts(args) -> None:
    """FOLDER/questions.jsonl, and a file a size with the documents that it has beyond the smaller ones."""
    head, sequences = load(args.corpus)
    whole, out = Texts(frames.load_tokenizer(args.tokenizer), sequences), Path(args.out)
    ends = np.searchsorted(np.cumsum([len(s) for s in sequences]), sorted(args.sizes), side="right").tolist()
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "questions.jsonl", head["questions"])
    lines = forked(lambda place: json.dumps(document(head["ids"], place, whole[place]), ensure_ascii=False) + "\n", ends[-1], args.processes)
    for size, count in zip(sorted(args.sizes), np.diff(ends, prepend=0).tolist()):
        with (out / f"documents_{size:09d}.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(itertools.islice(lines, count))
        print(json.dumps({"size": size, "documents": count}), flush=True)


def document(ids: list[str], place: int, text: str) -> dict:
    """As `msa add` reads it; the engine puts the title's line before the text again."""
    title, _, rest = text.partition("\n")
    return {"id": ids[place] if place < len(ids) else f"passage-{place}", **({"title": title, "text": rest} if rest else {"text": text})}


class Texts:
    """Document texts by place, read back from their frames' tokens."""

    def __init__(self, tokenizer, sequences: list[list[int]]):
        self.tokenizer, self.sequences = tokenizer, sequences

    def __getitem__(self, place: int) -> str:
        framed = self.tokenizer.decode(self.sequences[place].tolist(), skip_special_tokens=True)
        return framed[len(f"[{place}]. "): len(framed) - len(f"[{place}]")]


class Growing:
    """A memory that grows; the parts of evaluate.Bank that ranking and reading look at.

    In the model's type, allocated once for `most` tokens: keys on the device (bf16, 3 KB a chunk of 8 layers), K and V on the host,
    from where the selected documents' are fetched."""

    def __init__(self, model, layers, tokenizer, sequences: list[np.ndarray], most: int):
        self.model, self.layers, self.sequences = model, layers, sequences
        self.texts, self.tokens, self.count, self.chunks = Texts(tokenizer, sequences), 0, 0, 0
        lengths = np.array([len(s) for s in sequences])
        lengths = lengths[: int(np.searchsorted(lengths.cumsum(), most, side="right"))]
        self.of_document = -(-lengths // model.msa.pool)
        c, device, total = model.cfg, model.frequency.device, int(self.of_document.sum())
        room = lambda place, *shape: {l: torch.empty(total, *shape, dtype=model.dtype, device=place) for l in model.msa.router_layers}
        self.whole = room(device, c.num_kv_heads * c.head_dim), *(room("cpu", c.num_kv_heads, c.head_dim) for _ in "kv")
        first = np.concatenate(([0], self.of_document.cumsum()))[:-1]
        place = np.arange(int(self.of_document.max()))[None]
        table = first[:, None] + np.where(place < self.of_document[:, None], place, 0)
        self.table, self.each = torch.from_numpy(table).to(device), torch.from_numpy(self.of_document).to(device)

    def grow(self, tokens: int, block_tokens: int = 200_000) -> None:
        """Encodes documents until the next one would not fit into `tokens`."""
        block, size = [], 0
        for sequence in self.sequences[self.count:len(self.each)]:
            if self.tokens + len(sequence) > tokens:
                break
            if size + len(sequence) > block_tokens:
                self._add(block)
                block, size = [], 0
            block.append(sequence)
            size, self.tokens, self.count = size + len(sequence), self.tokens + len(sequence), self.count + 1
        if block:
            self._add(block)

    def _add(self, block: list[np.ndarray]) -> None:
        docs = batches.documents(block, self.model.msa.pool)
        part = self.model.run(self.layers, docs.to(self.model.frequency.device)).memory
        end = self.chunks + len(docs.chunk_len)
        for whole, new in zip(self.whole, (part.keys, part.k, part.v)):
            for layer in whole:
                whole[layer][self.chunks:end] = new[layer].to(self.model.dtype)
        self.chunks = end

    @property
    def memory(self) -> Memory:
        keys, k, v = ({l: t[: self.chunks] for l, t in whole.items()} for whole in self.whole)
        return Memory(keys, k, v, self.table[: self.count], self.each[: self.count])


def gather_from_host(memory: Memory, layer: int, selected):
    """MsaModel._gather for K and V that lie on the host."""
    chunks = memory.table[selected.clamp(min=0)]
    there = (torch.arange(chunks.shape[-1], device=chunks.device) < memory.count[selected.clamp(min=0)][..., None]) & (selected >= 0)[..., None]
    rows, shape = chunks.flatten().cpu(), (len(selected), -1, *memory.k[layer].shape[1:])
    k, v = (t[layer].index_select(0, rows).view(shape).to(selected.device) for t in (memory.k, memory.v))
    return k, v, there.flatten(1)


def score_in_blocks(folded, keys, table, queries, block: int = 1 << 19):
    """MsaModel.score for a memory whose products with all query tokens would not fit; sums in fp32."""
    parts = []
    for begin in range(0, len(keys), block):
        some = keys[begin:begin + block].T
        product = torch.mm(folded.to(keys.dtype), some, out_dtype=torch.float32) if keys.is_cuda else folded @ some.float()
        product = product.view(*queries.ids.shape, -1)
        parts.append(product.masked_fill_(~queries.routing[..., None], float("-inf")).amax(1))
    chunks = torch.cat(parts, 1)
    return chunks.index_select(1, table.flatten()).view(len(chunks), *table.shape).amax(-1)


def load(path: str) -> tuple[dict, list[np.ndarray]]:
    whole = Path(path).read_bytes()
    try:
        line, flat = (lzma.decompress(whole) if whole.startswith(b"\xfd7zXZ") else whole).split(b"\n", 1)
        head = json.loads(line)
    except (ValueError, lzma.LZMAError) as error:
        raise ValueError(f"{path}: not what `scale prepare` writes ({error}); make it again") from error
    tokens, ends = np.frombuffer(flat, dtype="<u2"), np.cumsum(head["lengths"])
    return head, [tokens[e - n:e] for e, n in zip(ends, head["lengths"])]


def measure(reader: Reader, bank: Growing, head: dict, read_limit: int) -> dict:
    model, layers, tokenizer = reader.model, reader.layers, reader.tokenizer
    started, questions = time.time(), head["questions"]
    places = {name: place for place, name in enumerate(head["ids"])}
    golds = [[places[i] for i in q["supporting_titles_or_ids"]] for q in questions]
    prompts = [frames.routing_prompt(tokenizer, q["question"]) for q in questions]
    scores, _ = rank(model, layers, bank, prompts, frames.encode(tokenizer, frames.HEAD),
                     rows=24 if bank.tokens < 60_000_000 else 12)
    order = scores.topk(min(20, bank.count), -1).indices.tolist()
    out = {"documents": bank.count, "tokens": bank.tokens, "questions": len(questions), "one_round": recall(order, golds)}
    if read_limit:
        out["reading"] = reader.read_all(bank, questions, {"retrieved_3": (order, 3)}, read_limit)
    return out | {"seconds": round(time.time() - started, 1)}


@torch.no_grad()
def run(args) -> None:
    cuda = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = True
    model = MsaModel(args.base, read_config(args.adapter), torch.bfloat16 if cuda else torch.float32)
    load_adapter(model, args.adapter)
    model = model.to("cuda" if cuda else "cpu")
    tokenizer, layers = frames.load_tokenizer(f"{args.base}/tokenizer.json"), model.merged()
    head, sequences = load(args.corpus)
    head["questions"] = spread(head["questions"], args.limit)
    model.score, model._gather = score_in_blocks, gather_from_host
    bank, report = Growing(model, layers, tokenizer, sequences, max(args.sizes)), {"device": torch.cuda.get_device_name() if cuda else "cpu"}
    msa, raw = read_msa(args.adapter), {}
    for size in args.sizes:
        bank.grow(size)
        reader = Reader(model, layers, tokenizer, msa.get("refusal_bias", 0.0), raw.setdefault(str(size), {}), against_all=against_all(msa))
        report[str(size)] = measure(reader, bank, head, args.read_limit)
        print(size, json.dumps(report[str(size)]), flush=True)
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n")
        Path(args.out).with_suffix(".raw.json").write_text(json.dumps(raw) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    first = verbs.add_parser("prepare")
    first.set_defaults(act=prepare)
    first.add_argument("--bundle", required=True)
    first.add_argument("--tokenizer", required=True)
    first.add_argument("--tokens", type=int, default=10_000_000)
    first.add_argument("--processes", type=int, default=1)
    first.add_argument("--preset", type=int, default=6, help="lzma's: 0 is fast; -1 does not compress")
    first.add_argument("--data", default="", help="the shared data: then whole articles are cut up, not the bundle's passages")
    second = verbs.add_parser("run")
    second.set_defaults(act=run)
    second.add_argument("--base", required=True)
    second.add_argument("--adapter", required=True)
    second.add_argument("--corpus", required=True, help="what prepare wrote")
    second.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    second.add_argument("--limit", type=int, default=0, help="questions asked, evenly spaced, 0 = all")
    second.add_argument("--read-limit", type=int, default=0, help="questions read too, 0 = none")
    third = verbs.add_parser("texts")
    third.set_defaults(act=texts)
    third.add_argument("--corpus", required=True, help="what prepare wrote")
    third.add_argument("--tokenizer", required=True)
    third.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    third.add_argument("--processes", type=int, default=1)
    for verb in (first, second, third):
        verb.add_argument("--out", required=True)
    args = parser.parse_args()
    args.act(args)


if __name__ == "__main__":
    tool.run(main)
