"""all-MiniLM-L6-v2's ranking of the evaluation sets: `python -m training.minilm --model DIR --bundle D --out F.json`.

For the baseline "MiniLM's documents before the same reader". Needs `transformers`; computes what sentence-transformers does: mean over
tokens, at most 256 of them, normalised, cosine. Writes, by set, the ids of the best 20 documents of each question, best first.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from training import tool
from training.corpus import read_xz
from training.frames import document_text, load_tokenizer

SETS = {"squad": "squad", "2wiki": "2wiki", "hotpot": "hotpot", "squad_refused": "squad"}  # questions: corpus
MOST_TOKENS, ROWS = 256, 128


class Embedder:
    def __init__(self, folder: str):
        self.tokenizer = load_tokenizer(f"{folder}/tokenizer.json")
        from transformers import AutoModel  # nothing else here needs it
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = AutoModel.from_pretrained(folder, local_files_only=True).float().eval().to(self.device)
        self.tokenizer.enable_truncation(MOST_TOKENS)
        self.tokenizer.enable_padding()

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> torch.Tensor:
        """[n, 384] of unit length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), self.model.config.hidden_size)
        for begin in range(0, len(order), ROWS):
            some = order[begin:begin + ROWS]
            encoded = self.tokenizer.encode_batch([texts[i] for i in some])
            ids, mask = (torch.tensor([getattr(e, k) for e in encoded], device=self.device) for k in ("ids", "attention_mask"))
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            out[some] = torch.nn.functional.normalize(mean, dim=-1).cpu()
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--limit", type=int, default=0, help="documents and questions a set, 0 = all")
    args = parser.parse_args()
    embed, root = Embedder(args.model), Path(args.bundle)
    stored, out = {}, {}
    for name, corpus in SETS.items():
        if corpus not in stored:
            docs = read_xz(root / f"eval_{corpus}_corpus.jsonl.xz")[: args.limit or None]
            stored[corpus] = [d["id"] for d in docs], embed([document_text(d["title"], d["text"]) for d in docs])
        path = root / f"eval_{name}_questions.jsonl.xz"
        path = path if path.exists() else root / f"eval_{name}.jsonl.xz"
        ids, keys = stored[corpus]
        scores = embed([q["question"] for q in read_xz(path)][: args.limit or None]) @ keys.T
        best = scores.topk(min(20, len(ids)), dim=-1).indices.tolist()
        out[name] = [[ids[i] for i in row] for row in best]
        Path(args.out).write_text(json.dumps(out))
        print(name, len(out[name]), flush=True)


if __name__ == "__main__":
    tool.run(main)
