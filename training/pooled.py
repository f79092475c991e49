"""What pooled K and V can carry: `python -m training.pooled --base B --adapter A --bundle D --made M --out F --chunks 1 4 16 64`.

For each content chunk (tokens whose K and V are averaged; the routing keys keep the adapter's), trains a copy of the adapter for a
while on answering from memory alone, without any text, and measures the answer's loss on held-out questions with nothing,
with the pooled state of the routed documents, of the gold one, and with the gold text before a reader. --task reference
trains what NUMERICS calls generative retrieval instead: after the routing prompt the model writes the reference number of the
document, which it can only know from memory; compared with the router's best document. --go-on: each chunk's copy starts from
the one before. --distil W: that share of the loss is the divergence from what the adapter says with the gold text before it. --keep W:
the copy also reads that text, and W times its own divergence from the adapter there is added, so that it does not unlearn reading. One GPU.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import time
from pathlib import Path

import torch

from training import batches, frames, losses, tool
from training.adapter_io import load_adapter, read_config, read_raw, tensors, write_adapter
from training.corpus import read_lines, read_xz
from training.evaluate import spread
from training.model import MsaModel
from training.reading import central

ANSWER_HEAD = "assistant\n"
KINDS = ("squad", "made", "reqa")


class Questions:
    """Batches of (texts, questions as (text, gold place, answer)); `kind` of KINDS drawn by share."""

    def __init__(self, bundle: Path, made: str, labels: str, share: dict):
        self.docs = read_xz(bundle / "docs.jsonl.xz")
        self.by_article, self.share = {}, share
        for q in read_xz(bundle / "questions.jsonl.xz"):
            if q["s"] == "squad" and "u" not in q:
                self.by_article.setdefault(self.docs[q["p"][0]]["g"], []).append(q)
        files = sorted(Path(made).glob("made.*.jsonl")) if made else []
        self.made = [m for f in files for m in read_lines(f) if len(m["p"]) == 1 and m["r"] and "u" not in m]
        self.labelled = read_lines(Path(labels)) if labels else []

    def text(self, number: int) -> str:
        return frames.document_text(self.docs[number]["t"], self.docs[number]["x"])

    def draw(self, rng: random.Random, count: int) -> tuple[list[str], list[tuple[str, int, str]]]:
        there = {"squad": bool(self.by_article), "made": bool(self.made), "reqa": bool(self.labelled)}
        kind = rng.choices(KINDS, [self.share[k] * there[k] for k in KINDS])[0]
        if kind == "squad":
            articles = rng.sample(sorted(self.by_article), min(2, len(self.by_article)))
            pool = [q for a in articles for q in self.by_article[a]]
            chosen = [(q["q"], q["p"][0], central(q["a"]), []) for q in rng.sample(pool, min(count, len(pool)))]
        elif kind == "made":
            chosen = [(m["q"], m["p"][0], m["a"][0], rng.sample(m["n"], min(1, len(m["n"]))))
                      for m in rng.sample(self.made, min(count, len(self.made)))]
        else:
            chosen = [(m["q"], m["p"][0], m["a"], rng.sample(m["n"], min(1, len(m["n"]))))
                      for m in rng.sample(self.labelled, min(count, len(self.labelled)))]
        numbers = list(dict.fromkeys(n for _, gold, _, near in chosen for n in (gold, *near)))
        place = {n: i for i, n in enumerate(numbers)}
        return [self.text(n) for n in numbers], [(q, place[gold], a) for q, gold, a, _ in chosen]


def adapted(args) -> MsaModel:
    cuda = torch.cuda.is_available()
    config = read_config(args.adapter)
    model = MsaModel(args.base, dataclasses.replace(config, top_k=args.top_k or config.top_k), torch.bfloat16 if cuda else torch.float32)
    load_adapter(model, args.adapter)
    return model.to("cuda" if cuda else "cpu")


def divergence(logits: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """KL divergence of a copy's logits [n, V] from the teacher's, nats a token."""
    return torch.nn.functional.kl_div(logits.log_softmax(-1), said.log_softmax(-1), reduction="batchmean", log_target=True)


class Study:
    """model: the copy that is trained."""

    def __init__(self, args, chunk: int, model: MsaModel):
        self.args, self.chunk, self.model = args, chunk, model
        self.device = str(model.frequency.device)
        torch.manual_seed(args.seed)
        self.tokenizer = frames.load_tokenizer(f"{args.base}/tokenizer.json")
        self.head = frames.encode(self.tokenizer, frames.HEAD)

    def memory_of(self, texts: list[str], rng: random.Random):
        """Documents' tensors, their reference numbers, and their texts as far as they are encoded."""
        references = rng.sample(range(max(3000, len(texts))), len(texts))
        cut = [frames.cut(self.tokenizer, t, 320) for t in texts]
        tokens = [frames.document_ids(self.tokenizer, r, t) for r, t in zip(references, cut)]
        return batches.documents(tokens, self.model.msa.pool, self.chunk).to(self.device), references, cut

    def rows(self, questions: list[tuple[str, int, str]], references: list[int], excluded=None):
        prompts, said = [], []
        for question, gold, answer in questions:
            p = frames.routing_prompt(self.tokenizer, question)
            if self.args.task == "answer":
                extra = frames.encode(self.tokenizer, ANSWER_HEAD)
                p = frames.Prompt(p.ids + extra, p.routing + [False] * len(extra))
                said.append(frames.encode(self.tokenizer, f"{answer}<|im_end|>")[:48])
            else:
                said.append(frames.encode(self.tokenizer, f"[{references[gold]}]{frames.REF_END}"))
            prompts.append(p)
        return batches.queries(prompts, self.head, self.model.msa.top_k, excluded, said).to(self.device)

    def loss_of(self, layers, docs, queries, attend=True, memory=None):
        """Logits [n, V] of the answers' tokens, their loss [n], which row each is of, whether it is the likeliest, and the pass."""
        out = self.model.run(layers, docs, groups=(queries,), memory=memory, attend=attend)
        learnt = queries.labels >= 0
        logits = self.model.logits(out.hidden[0][learnt])
        targets = queries.labels[learnt]
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return logits, loss, learnt.nonzero()[:, 0], logits.argmax(-1) == targets, out

    def train(self, data: Questions, teacher, seconds: float) -> dict:
        """teacher: the layers of who reads the text, or None."""
        args, m = self.args, self.model
        optimizer = torch.optim.AdamW([*m.lora_a.values(), *m.lora_b.values(), *m.routers.values()], lr=args.lr, betas=(0.9, 0.98),
                                      weight_decay=0.01)
        rng, begun, step, recent = random.Random(f"{args.seed}/{self.chunk}"), time.time(), 0, []
        while (done := max((time.time() - begun) / seconds, step / args.steps)) < 1:
            texts, questions = data.draw(rng, args.questions)
            docs, references, cut = self.memory_of(texts, rng)
            rows = self.rows(questions, references)
            layers = m.merged()
            logits, loss, _, _, out = self.loss_of(layers, docs, rows)
            answer = loss.mean()
            if teacher is not None:
                said = self.said_with_text(teacher, cut, references, questions)
                answer = (1 - args.distil) * answer + args.distil * divergence(logits, said)
                if args.keep:
                    answer = answer + args.keep * divergence(self.read(layers, cut, references, questions)[0], said)
            positive = torch.zeros(len(questions), len(texts), dtype=torch.bool, device=self.device)
            positive[range(len(questions)), [gold for _, gold, _ in questions]] = True
            aux = losses.routing_loss(out.scores[0], positive, torch.zeros_like(positive), 0.02)
            (answer + args.routing * aux).backward()
            torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(1.0, (step + 1) / 30) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
            optimizer.step()
            m.zero_grad(set_to_none=True)
            recent = recent[-49:] + [loss.mean().detach()]
            step += 1
        return {"steps": step, "training_loss": round(torch.stack(recent).mean().item(), 3) if recent else None}

    @torch.no_grad()
    def measure(self, corpus: list[dict], asked: list[dict]) -> dict:
        """Held-out questions over the paragraphs of their articles, all in one memory."""
        layers, rng = self.model.merged(), random.Random(0)
        texts = [frames.document_text(d["title"], d["text"]) for d in corpus]
        place = {d["id"]: i for i, d in enumerate(corpus)}
        docs, references, _ = self.memory_of(texts, rng)
        memory = self.model.run(layers, docs).memory
        questions = [(q["question"], place[q["supporting_titles_or_ids"][0]], q["answers"][0]) for q in asked]
        totals = {name: [[], []] for name in ("nothing", "routed", "gold")}
        right = 0
        for begin in range(0, len(questions), 32):
            some = questions[begin:begin + 32]
            only = torch.ones(len(some), len(texts), dtype=torch.bool)
            only[range(len(some)), [gold for _, gold, _ in some]] = False
            for name in totals:
                rows = self.rows(some, references, only if name == "gold" else None)
                _, loss, row, hit, out = self.loss_of(layers, None, rows, name != "nothing", memory)
                totals[name][0] += loss.tolist()
                totals[name][1] += [bool(hit[row == r].all()) for r in range(len(some))]
                if name == "routed":
                    mean = torch.stack(list(out.scores[0].values())).mean(0).argmax(-1).tolist()
                    right += sum(a == gold for a, (_, gold, _) in zip(mean, some))
        mean = lambda x: sum(x) / max(1, len(x))
        report = {name: {"loss": round(mean(l), 3), "exact": round(100 * mean(e), 2)} for name, (l, e) in totals.items()}
        report["router_recall@1"] = round(100 * right / len(questions), 2)
        if self.args.task == "answer":
            report["text"] = self.with_text(layers, texts, references, questions)
            gap = report["nothing"]["loss"] - report["text"]["loss"]
            report["closed_routed"], report["closed_gold"] = (
                round(100 * (report["nothing"]["loss"] - report[n]["loss"]) / gap, 1) for n in ("routed", "gold"))
        return report

    def read(self, layers, texts, references, questions):
        """Logits [n, V] and targets [n] of the answers' tokens with the gold text before a reader; how many tokens each answer has."""
        samples = [(frames.encode(self.tokenizer, frames.reader_prompt(q, [(references[gold], texts[gold])],
                                                                        self.model.msa.reader_question)),
                    frames.encode(self.tokenizer, f"{a}<|im_end|>")[:48]) for q, gold, a in questions]
        packed, places, targets, _ = batches.reading(samples, self.model.msa.reads_full)
        hidden = self.model.run(layers, reading=packed.to(self.device)).reading
        return self.model.logits(hidden[places.to(self.device)]), targets.to(self.device), [len(a) for _, a in samples]

    @torch.no_grad()
    def said_with_text(self, teacher, texts, references, questions) -> torch.Tensor:
        return self.read(teacher, texts, references, questions)[0]

    def with_text(self, layers, texts, references, questions) -> dict:
        loss, exact = [], []
        for begin in range(0, len(questions), 100):
            logits, targets, lengths = self.read(layers, texts, references, questions[begin:begin + 100])
            loss += torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()
            exact += [bool(part.all()) for part in (logits.argmax(-1) == targets).split(lengths)]
        return {"loss": round(sum(loss) / len(loss), 3), "exact": round(100 * sum(exact) / len(exact), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "bundle", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--made", default="")
    parser.add_argument("--labels", default="")
    parser.add_argument("--task", choices=("answer", "reference"), default="answer")
    parser.add_argument("--chunks", type=int, nargs="*", default=[16])
    parser.add_argument("--seconds", type=float, nargs="*", default=[60], help="of training, a chunk size: one for all, or one each")
    parser.add_argument("--steps", type=int, default=1 << 30)
    parser.add_argument("--questions", type=int, default=64, help="a step")
    parser.add_argument("--share", type=float, nargs=3, default=[0.35, 0.5, 0.15], help="of steps, " + ", ".join(KINDS))
    parser.add_argument("--limit", type=int, default=400, help="held-out questions")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--top-k", type=int, default=0, help="documents attended to, 0 = the adapter's")
    parser.add_argument("--routing", type=float, default=0.1, help="weight of the routing loss")
    parser.add_argument("--go-on", action="store_true", help="start each chunk size from the one before")
    parser.add_argument("--distil", type=float, default=0.0, help="share of the answer's loss, 0 to 1")
    parser.add_argument("--keep", type=float, default=0.0, help="weight of reading as the adapter reads; wants --distil")
    parser.add_argument("--save", default="", help="folder for the last copy, an adapter")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if not 0 <= args.distil <= 1 or (args.distil and args.task != "answer"):
        raise ValueError(f"--distil {args.distil}: give a share from 0 to 1, and --task answer")
    if args.keep < 0 or (args.keep and not args.distil):
        raise ValueError(f"--keep {args.keep}: give a weight of 0 or more, and a --distil above 0")
    if len(args.seconds) not in (1, len(args.chunks)):
        raise ValueError(f"--seconds: give one number, or one for each of {len(args.chunks)} chunk sizes")
    torch.backends.cuda.matmul.allow_tf32 = True
    root = Path(args.bundle)
    data = Questions(root, args.made, args.labels, dict(zip(KINDS, args.share)))
    questions = read_xz(root / "eval_squad_questions.jsonl.xz")
    needed = {i for q in questions for i in q["supporting_titles_or_ids"]}
    corpus = [d for d in read_xz(root / "eval_squad_corpus.jsonl.xz") if d["id"] in needed]
    asked = spread(questions, args.limit)
    report = {"task": args.task, "documents": len(corpus), "questions": len(asked)}
    model, teacher = adapted(args), None
    if args.distil:
        with torch.no_grad():
            teacher = model.merged()
    for number, chunk in enumerate(args.chunks):
        if number and not args.go_on:
            model = adapted(args)
        study = Study(args, chunk, model)
        before = study.measure(corpus, asked)
        done = study.train(data, teacher, args.seconds[number % len(args.seconds)])
        report[str(chunk)] = {"before": before, **done, "after": study.measure(corpus, asked)}
        print(chunk, json.dumps(report[str(chunk)]), flush=True)
        Path(args.out).write_text(json.dumps(report, indent=1) + "\n")
        if args.save:
            write_adapter(args.save, tensors(model), read_raw(args.adapter))


if __name__ == "__main__":
    tool.run(main)
