"""Answers for questions whose answer sentence is known but not the answer: `python -m training.label … --out F.jsonl`.

A model reads the one sentence, which is far easier than the documents that the reader gets later, and its answer is
kept where it stands in the sentence, is no refusal and is likely. Also finds each question's nearest other
sentences by words, as distractors. Writes {"q", "a", "p": [sentence], "n": [sentences]}.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from training import batches, frames, tool
from training.adapter_io import load_adapter, read_config
from training.corpus import read_xz
from training.decode import complete, in_blocks
from training.model import MsaModel
from training.neighbours import closest, vectors

STEPS, LIKELY = 24, 0.25


def plausible(answer: str, sentence: str) -> bool:
    return 0 < len(answer) <= 80 and answer in sentence and len(answer) < max(20, 0.6 * len(sentence))


def chance(model: MsaModel, layers, samples: list[tuple[list[int], list[int]]], block_tokens: int) -> list[float]:
    """Probability of each answer's tokens together."""
    out, device = [0.0] * len(samples), model.frequency.device
    for block in in_blocks([p + a for p, a in samples], block_tokens, 0):
        packed, places, targets, _ = batches.reading([samples[i] for i in block], model.msa.reads_full)
        hidden = model.run(layers, reading=packed.to(device)).reading
        logits = model.logits(hidden[places.to(device)]).log_softmax(-1)
        each = logits.gather(1, targets.to(device)[:, None])[:, 0].cpu()
        for i, part in zip(block, each.split([len(samples[i][1]) for i in block])):
            out[i] = part.sum().exp().item()
    return out


@torch.no_grad()
def answers(model: MsaModel, tokenizer, questions: list[dict], docs: list[dict], block_tokens: int) -> list[dict]:
    layers, stop = model.merged(), tokenizer.token_to_id("<|im_end|>")
    prompts = [frames.encode(tokenizer, frames.reader_prompt(q["q"], [(1, docs[q["p"][0]]["x"])], model.msa.reader_question))
               for q in questions]
    kept, samples = [], []
    for block in in_blocks(prompts, block_tokens, STEPS):
        for i, tokens in zip(block, complete(model, layers, [prompts[i] for i in block], stop, STEPS, full=model.msa.reads_full)):
            answer = tokenizer.decode(tokens, skip_special_tokens=True).strip()
            if plausible(answer, docs[questions[i]["p"][0]]["x"]):
                kept.append({"q": questions[i]["q"], "a": answer, "p": questions[i]["p"]})
                samples.append((prompts[i], tokens + [stop]))
    sure = chance(model, layers, samples, block_tokens // 8)
    return [k for k, p in zip(kept, sure) if p >= LIKELY]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "bundle", "out"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--block", type=int, default=200_000, help="tokens of a block")
    parser.add_argument("--limit", type=int, default=1 << 30, help="questions")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    docs = read_xz(Path(args.bundle) / "docs.jsonl.xz")
    asked = [q for q in read_xz(Path(args.bundle) / "questions.jsonl.xz") if q["s"] == "reqa"][: args.limit]
    numbers = [i for i, d in enumerate(docs) if d["s"] == "reqa"]
    device = "cuda" if cuda else "cpu"
    matrix, idf = vectors([docs[i]["x"] for i in numbers], args.processes, device)  # forks: before the model
    model = MsaModel(args.base, read_config(args.adapter), torch.bfloat16 if cuda else torch.float32)
    load_adapter(model, args.adapter)
    tokenizer = frames.load_tokenizer(f"{args.base}/tokenizer.json")
    kept = answers(model.to(device), tokenizer, asked, docs, args.block)
    near = closest(matrix if cuda else matrix.float(), idf, [k["q"] for k in kept], 9).cpu().tolist()
    for k, row in zip(kept, near):
        k["n"] = [numbers[i] for i in row if numbers[i] not in k["p"]]
    with Path(args.out).open("w") as file:
        file.writelines(json.dumps(k, ensure_ascii=False) + "\n" for k in kept)
    print(f"{len(kept)} of {len(asked)} questions have an answer now")


if __name__ == "__main__":
    tool.run(main)
