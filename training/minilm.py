"""all-MiniLM-L6-v2's ranking of the evaluation sets: `python -m training.minilm --model DIR --bundle D --out F.json`.

For the baseline "MiniLM's documents before the same reader". Runs in an environment of its own, which holds
sentence-transformers and no other code of this folder than `corpus` and `frames`' text layout. Writes, by set, the
ids of the best 20 documents of each question, best first.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer

from training.corpus import read_xz

SETS = {"squad": "squad", "2wiki": "2wiki", "hotpot": "hotpot", "squad_refused": "squad"}  # questions: corpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the sentence-transformers model")
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    model, root = SentenceTransformer(args.model), Path(args.bundle)
    embed = lambda texts: model.encode(texts, batch_size=64, normalize_embeddings=True)
    stored, out = {}, {}
    for name, corpus in SETS.items():
        if corpus not in stored:
            docs = read_xz(root / f"eval_{corpus}_corpus.jsonl.xz")
            texts = [f"{d['title']}\n{d['text']}" if d["title"] else d["text"] for d in docs]
            stored[corpus] = [d["id"] for d in docs], embed(texts)
        path = root / f"eval_{name}_questions.jsonl.xz"
        path = path if path.exists() else root / f"eval_{name}.jsonl.xz"
        ids, keys = stored[corpus]
        scores = embed([q["question"] for q in read_xz(path)]) @ keys.T
        out[name] = [[ids[i] for i in row] for row in np.argsort(-scores, axis=1, kind="stable")[:, :20]]
        Path(args.out).write_text(json.dumps(out))
        print(name, len(out[name]), flush=True)


if __name__ == "__main__":
    main()
