"""Answers of a larger model to questions that a smaller one wrote, or could only guess at.

`python -m training.teach --base TEACHER [--adapter A] --bundle D --made FOLDER --labels F --out FOLDER [--shard i/n] [--until T]`, on a GPU.
An instruction-tuned model that speaks ChatML reads each written question's passages (made.*.jsonl of ask.py), and each labelled question's
sentence (label.py), and copies the shortest phrase that answers it. A written question that it answers so is worth reading whatever the
smaller model thought (`r` 1, and `t`), with that answer; one that it says has none, or answers in other words, is not (`r` 0); a labelled
one is then left out. What is not reached in time stays as it was. Writes OUT/made.<i>.jsonl and OUT/labels.<i>.jsonl.

With --adapter the teacher has learnt the reader's frame, how people cut their answers, and to refuse (configs/teacher.yaml), and decides of
one passage whether it answers, too: a question that it refuses by a margin of SURE counts as unanswerable (`u`, `r` 1), one written to be so
that it answers by as much is read with that answer, and what lies between is not read (`r` 0). An answer that only begins as the refusal does is
an answer at any margin. How it does on kept-back questions is printed. Mine afterwards (mine.py): what may be routed is then known.
"""
from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path

import torch

from training import batches, frames, losses, tool
from training.adapter_io import load_adapter, read_config
from training.ask import Writer
from training.corpus import calibration_articles, read_lines, read_parts, read_xz, write_whole
from training.decode import complete, in_blocks
from training.evaluate import best_match, exact, f1, normal
from training.label import plausible
from training.model import MsaConfig, MsaModel
from training.refusal import Said, first_token, say

STEPS, NONE, LONGEST = 20, "none", 80
SURE = 1.0      # margin of refusing (see refusal.py) beyond which a trained teacher decides
TASK = ("Answer with the shortest phrase of the passage that answers the question, copied exactly. "
        "If the passage does not answer it, write: " + NONE)
SHOWN = ("Oxygen\nOxygen is a chemical element with atomic number 8. It was discovered by Carl Wilhelm Scheele, in Uppsala, in 1773 or earlier, "
         "and Joseph Priestley in Wiltshire, in 1774.")
SHOT = ("Where did Carl Wilhelm Scheele discover oxygen?", "Uppsala")


def turn(text: str, question: str, answer: str | None = None) -> str:
    said = "" if answer is None else f"{answer}<|im_end|>\n"
    return f"<|im_start|>user\nPassage: {text}\n\nQuestion: {question}\n\n{TASK}<|im_end|>\n<|im_start|>assistant\n{said}"


def prompt(text: str, question: str) -> str:
    return f"<|im_start|>system\nYou are a careful reader.<|im_end|>\n{turn(SHOWN, *SHOT)}{turn(text, question)}"


def copied(answer: str, question: str, texts: list[str]) -> str:
    """The answer as the texts have it, whole words; empty if it is none, long, in other words, or stands in the question already."""
    answer, several = answer.strip().strip('"').rstrip(".").strip(), len(texts) > 1
    if answer.lower() == NONE or not 0 < len(answer) <= LONGEST:
        return ""
    if several and answer.lower() in ("yes", "no"):
        return answer.lower()
    if not several and (answer.lower() in ("yes", "no") or re.search(words(normal(answer)), normal(question))):
        return ""
    for flags in (0, re.IGNORECASE):
        for text in texts:
            found = re.search(words(answer), text, flags)
            if found:
                return found.group()
    return ""


def words(phrase: str) -> str:
    """Expression of a phrase that neither begins nor ends within a word."""
    return r"\b" * phrase[:1].isalnum() + re.escape(phrase) + r"\b" * phrase[-1:].isalnum()


class Teacher:
    def __init__(self, folder: str, device, adapter: str = ""):
        cuda = device.type == "cuda"
        msa = read_config(adapter) if adapter else MsaConfig(router_layers=(), lora_rank=0)
        self.model = MsaModel(folder, msa, torch.bfloat16 if cuda else torch.float32, compiled=cuda)
        if adapter:
            load_adapter(self.model, adapter)
        self.trained, self.model = bool(adapter), self.model.to(device)
        with torch.no_grad():
            self.layers = self.model.merged()
        self.tokenizer = frames.load_tokenizer(f"{folder}/tokenizer.json")
        self.stop = self.tokenizer.token_to_id("<|im_end|>")
        if self.stop is None:
            raise ValueError(f"{folder}/tokenizer.json: has no <|im_end|>; give an instruction-tuned model that speaks ChatML")

    @torch.no_grad()
    def answers(self, asked: list[tuple[list[str], str]], block_tokens: int) -> list[str]:
        """asked: (texts, question). Of a trained teacher REFUSAL where it is sure of that, nothing where it is sure of neither."""
        if self.trained:
            return [decided(s) for s in say(self.model, self.layers, self.tokenizer, self.framed(asked), block_tokens, -SURE)]
        whole = self.tokenizer.encode_batch([prompt("\n\n".join(texts), q) for texts, q in asked], add_special_tokens=False)
        sequences, out = [e.ids for e in whole], [""] * len(asked)
        for block in in_blocks(sequences, block_tokens, STEPS):
            for i, tokens in zip(block, complete(self.model, self.layers, [sequences[i] for i in block], self.stop, STEPS)):
                out[i] = self.tokenizer.decode(tokens)
        return out


    def framed(self, asked: list[tuple[list[str], str]]) -> list[str]:
        return [frames.reader_prompt(q, list(enumerate(texts, 1)), self.model.msa.reader_question) for texts, q in asked]

    @torch.no_grad()
    def odds(self, asked: list[tuple[list[str], str]], block_tokens: int) -> list[float]:
        """Of a trained teacher the log odds that its answer begins as the refusal does."""
        whole, out = self.tokenizer.encode_batch(self.framed(asked), add_special_tokens=False), [0.0] * len(asked)
        sequences, device = [e.ids for e in whole], self.model.frequency.device
        token = torch.tensor(first_token(self.tokenizer), device=device)
        for block in in_blocks(sequences, block_tokens, 0):
            packed = batches.reading([(sequences[i], []) for i in block], self.model.msa.reads_full)[0].to(device)
            logits = self.model.logits(self.model.run(self.layers, reading=packed).reading[(packed.cu[1:] - 1).long()])
            for i, odds in zip(block, losses.log_odds(logits, token.expand(len(block))).tolist()):
                out[i] = odds
        return out


def decided(said: Said) -> str:
    """An answer may begin as the refusal does."""
    if said.margin > 0 and said.with_first != frames.REFUSAL:
        return said.with_first
    if said.margin >= SURE:
        return frames.REFUSAL
    return said.without if said.margin <= -SURE else ""


def taught(row: dict, answer: str, texts: list[str]) -> dict | None:
    """A written or labelled question with the teacher's answer; None: a labelled one without."""
    row = {k: v for k, v in row.items() if k != "t"}        # of an earlier teacher
    refused = answer == frames.REFUSAL
    found = "" if refused else copied(answer, row["q"], texts)
    if not written(row):
        return {**row, "a": found} if plausible(found, texts[0]) else None
    if found:
        return {k: v for k, v in row.items() if k != "u"} | {"a": [found], "r": 1, "t": 1}
    if refused and len(texts) == 1:     # two texts ask for a step that it may only have missed
        return {**row, "a": [], "u": 1, "r": 1, "t": 1}
    return {**row, "r": 0}


def written(row: dict) -> bool:
    """By ask.py, not labelled by label.py."""
    return isinstance(row["a"], list)


def kept_back(teacher: Teacher, writer: Writer, bundle: Path, held_articles: int, block_tokens: int) -> str:
    """How a trained teacher decides SQuAD's questions of the last articles, which its run is to have kept back, over their own paragraph."""
    held = calibration_articles(writer.docs, held_articles)
    asked = [q for q in read_xz(bundle / "questions.jsonl.xz") if q["s"] == "squad" and writer.docs[q["p"][0]]["g"] in held]
    texts = [[writer.text(q["p"][0])] for q in asked]
    said = teacher.answers([(t, q["q"]) for t, q in zip(texts, asked)], block_tokens)
    said = [a if a == frames.REFUSAL else copied(a, q["q"], t) for a, q, t in zip(said, asked, texts)]
    share = lambda values: f"{100 * sum(values) / max(1, len(values)):.1f} %"
    parts = []
    for kind, some in (("questions", [(a, q["a"]) for a, q in zip(said, asked) if "u" not in q]),
                       ("unanswerable", [(a, None) for a, q in zip(said, asked) if "u" in q])):
        given = [(a, golds) for a, golds in some if golds and a not in ("", frames.REFUSAL)]
        right = f", of the others EM {share([best_match(exact, *pair) for pair in given])} F1 {share([best_match(f1, *pair) for pair in given])}" if given else ""
        parts.append(f"{len(some)} {kind}, {share([a == frames.REFUSAL for a, _ in some])} refused, {share([not a for a, _ in some])} neither{right}")
    return "kept back: " + "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "bundle", "made", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--adapter", default="", help="of the teacher, trained to read and to refuse")
    parser.add_argument("--held-articles", type=int, default=4, help="that its run kept back (its configuration's held_articles), to be judged on; 0: none")
    parser.add_argument("--labels", default="", help="what label.py wrote")
    parser.add_argument("--shard", default="0/1", help="i/n")
    parser.add_argument("--until", type=float, default=float("inf"), help="wall time (since 1970) when teaching ends")
    parser.add_argument("--block", type=int, default=300_000, help="tokens of a block")
    parser.add_argument("--limit", type=int, default=1 << 30, help="questions of the shard; the others are in no file")
    args = parser.parse_args()
    shard, of = map(int, args.shard.split("/"))
    docs = read_xz(Path(args.bundle) / "docs.jsonl.xz")
    rows = read_lines(Path(args.labels), ("q", "a", "p", "n")) if args.labels else []
    rows += read_parts(Path(args.made), "made.*.jsonl", ("q", "a", "p", "n", "r"))
    random.Random(7).shuffle(rows)
    rows = rows[shard::of][: args.limit]
    teacher = Teacher(args.base, torch.device("cuda" if torch.cuda.is_available() else "cpu"), args.adapter)
    writer, done, begun, kept, refused = Writer(teacher.tokenizer, docs), [], time.time(), 0, 0
    if teacher.trained and not shard and args.held_articles:
        print(kept_back(teacher, writer, Path(args.bundle), args.held_articles, args.block), flush=True)
    wanted = [row for row in rows if teacher.trained or "u" not in row]
    rest = [row for row in rows if not teacher.trained and "u" in row]
    for at in range(0, len(wanted), 4096):
        some = wanted[at:at + 4096]
        if time.time() > args.until:
            rest += wanted[at:]
            break
        texts = [[writer.text(n) for n in row["p"]] for row in some]
        answers = teacher.answers([(t, row["q"]) for t, row in zip(texts, some)], args.block)
        new = [row for row in map(taught, some, answers, texts) if row]
        kept += sum(row.get("r", 1) for row in new if "u" not in row)     # a labelled one is there only if it was answered
        refused += sum(row["r"] for row in new if "u" in row)
        done += new
        print(f"{at + len(some)} of {len(wanted)} read, {kept} answered, {refused} refused, {time.time() - begun:.0f} s", flush=True)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / f"made.{shard}.jsonl", [row for row in done + rest if written(row)])
    write_whole(out / f"labels.{shard}.jsonl", [row for row in done + rest if not written(row)])
    print(f"{kept} of {len(wanted)} answered, {refused} refused, {len(rest)} as they were, {time.time() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    tool.run(main)
