"""Questions written by the model itself, for passages that nobody asked about.

`python -m training.ask --base B --adapter A --bundle D --out FOLDER [--vectors F]`, also under torchrun (each process
does its share). A model trained by the stage kind `ask` reads one passage, or two that a link joins, and writes an
answer and its question (sampled). Kept if the answer stands in the texts and the question is one; marked `r` when the
model (--reader: another one, which reads better), reading the passage, answers with exactly that. A share of the passages is asked
for a question that it does not answer (`u`; `a` is empty), kept where the reader is at least unsure. With passage vectors (see neighbours.py) each question also
gets the passages whose words match it best, as hard negatives.
Writes FOLDER/made.<rank>.jsonl: {"q", "a": [answer], "p": [passages], "n": [passages], "r": 0 or 1[, "u": 1]}.
"""
from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import random
import re
import time
from pathlib import Path

import numpy as np
import torch

from training import batches, frames, losses, tool
from training.adapter_io import load_adapter, read_config, wait_for
from training.corpus import read_xz, write_whole
from training.decode import complete, in_blocks
from training.evaluate import normal
from training.model import MsaModel
from training.neighbours import closest
from training.refusal import first_token

TEXT_TOKENS, STEPS = 220, 56
UNSURE = -1.0   # margin of refusing (see refusal.py) from which a question counts as unanswerable
Item = tuple[list[int], bool]   # passages, and whether a question without an answer is wanted


def candidates(docs: list[dict], links: list[dict], rng: random.Random, pairs: float, unanswerable: float = 0.0,
               twice: bool = False) -> list[Item]:
    """Passages (one) and linked passages (two) in the order to ask about them. twice: each single one for either kind of question."""
    kinds = (lambda: (False, True)) if twice else (lambda: (rng.random() < unanswerable,))
    single = [[([n], kind) for kind in kinds()] for n, d in enumerate(docs) if d["s"] == "wiki"]
    double = [[([l["d"], l["to"]], False)] for l in links]
    rng.shuffle(single)
    rng.shuffle(double)
    double = double[: int(len(single) * pairs / (1 - pairs))]
    both = single + double
    rng.shuffle(both)
    return [item for items in both for item in items]


def question_like(question: str) -> bool:
    return question.endswith("?") and 4 <= len(question.split()) <= 32


def sound(answer: str, question: str, texts: list[str]) -> bool:
    """Cheap checks of a written pair."""
    if not question_like(question) or not 0 < len(answer) <= 80:
        return False
    if normal(answer) and normal(answer) in normal(question):
        return len(texts) == 2  # a comparison names its answer
    return any(answer in t for t in texts) or (len(texts) == 2 and answer in ("yes", "no"))


class Writer:
    """Turns passages into token lists; forked workers share it (tokenising is most of the processor's work)."""

    def __init__(self, tokenizer, docs: list[dict]):
        self.tokenizer, self.docs = tokenizer, docs
        self.stop = tokenizer.token_to_id("<|im_end|>")

    def text(self, number: int) -> str:
        d = self.docs[number]
        return frames.cut(self.tokenizer, frames.document_text(d["t"], d["x"]), TEXT_TOKENS)

    def asking(self, item: Item) -> tuple[list[str], list[int]]:
        texts = [self.text(n) for n in item[0]]
        return texts, frames.encode(self.tokenizer, frames.asking_prompt(texts, item[1]))

    def reading(self, m: dict, place: str) -> tuple[list[int], list[int]]:
        prompt = frames.reader_prompt(m["q"], [(1 + i, self.text(n)) for i, n in enumerate(m["p"])], place)
        answer = first_token(self.tokenizer) if "u" in m else None
        return frames.encode(self.tokenizer, prompt), [answer] if answer is not None else \
            frames.encode(self.tokenizer, m["a"][0]) + [self.stop]


WRITER: Writer | None = None    # of this process; the workers have its copy


def asking_of(items: list[Item]) -> list[tuple[list[str], list[int]]]:
    return [WRITER.asking(item) for item in items]


def reading_of(m: dict, place: str) -> tuple[list[int], list[int]]:
    return WRITER.reading(m, place)


class Asker:
    def __init__(self, model: MsaModel, tokenizer, seed: int, temperature: float):
        self.model, self.tokenizer, self.temperature = model, tokenizer, temperature
        with torch.no_grad():
            self.layers = model.merged()
        self.generator = torch.Generator(model.frequency.device).manual_seed(seed)
        self.stop = tokenizer.token_to_id("<|im_end|>")

    def ask(self, items: list[Item], prepared: list, block_tokens: int) -> list[dict]:
        texts, prompts, made = [t for t, _ in prepared], [p for _, p in prepared], []
        for block in in_blocks(prompts, block_tokens, STEPS):
            written = complete(self.model, self.layers, [prompts[i] for i in block], self.stop, STEPS,
                               self.temperature, self.generator, full=self.model.msa.reads_full)
            for i, tokens in zip(block, written):
                passages, unanswerable = items[i]
                answer, _, question = ("", "", self.tokenizer.decode(tokens)) if unanswerable else \
                    self.tokenizer.decode(tokens).partition("\n")
                answer, question = answer.strip(), re.sub(r"\s+", " ", question).strip()
                if unanswerable and question_like(question):
                    made.append({"q": question, "a": [], "p": passages, "n": [], "r": 0, "u": 1})
                elif not unanswerable and sound(answer, question, texts[i]):
                    made.append({"q": question, "a": [answer], "p": passages, "n": [], "r": 0})
        return made

    @torch.no_grad()
    def check(self, made: list[dict], samples: list, block_tokens: int) -> None:
        """Marks the pairs whose answer greedy reading repeats, and the questions that it would rather refuse; samples: their
        reading_of()."""
        for block in in_blocks([p + a for p, a in samples], block_tokens, 0):
            packed, places, targets, _ = batches.reading([samples[i] for i in block], self.model.msa.reads_full)
            device = self.model.frequency.device
            hidden = self.model.run(self.layers, reading=packed.to(device)).reading
            logits = self.model.logits(hidden[places.to(device)])
            right = (logits.argmax(-1).cpu() == targets).tolist()
            margin = losses.margin(logits, targets.to(device)).tolist()
            at = 0
            for i in block:
                size = len(samples[i][1])
                made[i]["r"] = int(margin[at] > UNSURE if "u" in made[i] else all(right[at:at + size]))
                at += size


def add_negatives(made: list[dict], docs: list[dict], vectors: str, device, k: int = 8) -> None:
    """Passages that share words with the question but not the answer."""
    index = np.load(vectors + ".rows.npy")
    idf, matrix = np.load(vectors + ".idf.npy"), torch.from_numpy(np.load(vectors + ".npy"))
    near = closest(matrix.to(device), idf, [m["q"] for m in made], k + 2).cpu().numpy()
    for m, row in zip(made, near):
        answer = "".join(m["a"])
        found = [int(index[i]) for i in row]
        m["n"] = [n for n in found if n not in m["p"] and (len(answer) < 4 or answer not in docs[n]["x"])][:k]


def place(model: MsaModel, adapter: str, device) -> MsaModel:
    load_adapter(model, adapter)
    return model.to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "bundle", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--reader", default="", help="adapter that reads what was written; --adapter's if none")
    parser.add_argument("--unread", action="store_true", help="nobody reads it here (`r` 0 throughout): teach.py will")
    parser.add_argument("--wait", type=float, default=0, help="wall time (since 1970) until which the adapter may still be in the making")
    parser.add_argument("--unanswerable", type=float, default=0.0, help="share of single passages asked for a question they do not answer")
    parser.add_argument("--twice", action="store_true", help="each single passage is asked for a question of either kind")
    parser.add_argument("--vectors", default="", help="prefix of what neighbours.py --vectors wrote")
    parser.add_argument("--seconds", type=float, default=40, help="of asking, a process")
    parser.add_argument("--until", type=float, default=float("inf"), help="wall time (since 1970) when asking ends too")
    parser.add_argument("--limit", type=int, default=1 << 30, help="passages asked about, a process")
    parser.add_argument("--pairs", type=float, default=0.25, help="share of linked passages")
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--block", type=int, default=500_000, help="tokens of a block")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    docs, links = (read_xz(Path(args.bundle) / f"{n}.jsonl.xz") for n in ("docs", "links"))
    tokenizer = frames.load_tokenizer(f"{args.base}/tokenizer.json")
    global WRITER
    WRITER = Writer(tokenizer, docs)
    work = candidates(docs, links, random.Random(args.seed), args.pairs, args.unanswerable, args.twice)[rank::world][: args.limit]
    parts = [work[at:at + 4096] for at in range(0, len(work), 4096)]
    with multiprocessing.get_context("fork").Pool(args.workers) as pool:    # before the device is touched
        if cuda:
            torch.cuda.set_device(device)
        wait_for([f"{args.adapter}/adapter_config.json"], args.wait)    # written last
        dtype = torch.bfloat16 if cuda else torch.float32
        model = place(MsaModel(args.base, read_config(args.adapter), dtype), args.adapter, device)
        asker = Asker(model, tokenizer, args.seed + rank, args.temperature)
        made, begin, done = [], time.time(), 0
        for part in parts:
            fine = [part[i:i + 128] for i in range(0, len(part), 128)]
            prepared = [one for some in pool.map(asking_of, fine, chunksize=1) for one in some]
            made += asker.ask(part, prepared, args.block)
            done += len(part)
            print(f"rank {rank}: asked {done}, kept {len(made)}, {time.time() - begin:.0f} s", flush=True)
            if time.time() > min(begin + args.seconds, args.until):
                break
        if args.reader and not args.unread:
            model = place(MsaModel(args.base, read_config(args.reader), dtype), args.reader, device)
            asker = Asker(model, tokenizer, args.seed, 0.0)
        if not args.unread:
            reading = functools.partial(reading_of, place=model.msa.reader_question)
            asker.check(made, pool.map(reading, made, chunksize=128), args.block)
    if args.vectors and Path(args.vectors + ".npy").exists():
        add_negatives(made, docs, args.vectors, device)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    write_whole(Path(args.out) / f"made.{rank}.jsonl", made)
    some = [m["r"] for m in made if "u" in m]
    print(f"rank {rank}: {len(made)} questions, {sum(m['r'] for m in made) - sum(some)} answered alike, "
          f"{sum(some)} of {len(some)} unanswerable, {time.time() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    tool.run(main)
