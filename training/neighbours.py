"""BM25-like nearest passages of every passage, by one dense product of hashed term vectors on an accelerator.

160,000 passages take seconds on a GPU. Used to put passages that a word matcher confuses into the same batch.
"""
from __future__ import annotations

import argparse
import collections
import multiprocessing
import zlib
from pathlib import Path

import numpy as np
import torch

from training import tool
from training.bm25 import terms
from training.corpus import read_xz

BUCKETS = 8192


def hashed(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Bucket numbers and saturated term frequencies (k1 1.2, no length term: passages are alike)."""
    count = collections.Counter(zlib.crc32(t.encode()) % BUCKETS for t in terms(text))
    buckets = np.fromiter(count.keys(), dtype=np.int32)
    frequency = np.fromiter(count.values(), dtype=np.float32)
    return buckets, frequency * 2.2 / (frequency + 1.2)


def vectors(texts: list[str], processes: int, device) -> tuple[torch.Tensor, np.ndarray]:
    """Term vectors of the texts, each bucket times the root of its idf (a product then has idf once); the idf."""
    with multiprocessing.Pool(processes) as pool:
        rows = pool.map(hashed, texts, chunksize=512)
    seen = np.zeros(BUCKETS)
    for buckets, _ in rows:
        seen[buckets] += 1
    idf = np.log(1 + (len(rows) - seen + 0.5) / (seen + 0.5))
    return dense(rows, idf).to(device), idf


def dense(rows: list, idf: np.ndarray) -> torch.Tensor:
    out = np.zeros((len(rows), BUCKETS), dtype=np.float16)
    for number, (buckets, weight) in enumerate(rows):
        out[number, buckets] = weight * np.sqrt(idf[buckets])
    return torch.from_numpy(out)


def closest(matrix: torch.Tensor, idf: np.ndarray, queries: list[str], k: int, block: int = 1024) -> torch.Tensor:
    """[queries, k] rows of `matrix` with the largest product: BM25's order, but for lengths and shared buckets."""
    out = []
    for begin in range(0, len(queries), block):
        asked = dense([hashed(q) for q in queries[begin:begin + block]], idf).to(matrix.device)
        out.append((asked.to(matrix.dtype) @ matrix.T).topk(min(k, len(matrix)), dim=-1).indices)
    return torch.cat(out) if out else torch.zeros(0, k, dtype=torch.long)


def nearest(matrix: torch.Tensor, groups: torch.Tensor, k: int, block: int = 2048) -> torch.Tensor:
    """[n, k] rows with the largest cosine, at most those of another group, -1 where a row nearly repeats it."""
    unit = torch.nn.functional.normalize(matrix.float(), dim=-1).to(matrix.dtype)
    out = []
    for begin in range(0, len(unit), block):
        similarity = (unit[begin:begin + block] @ unit.T).float()
        similarity[groups[begin:begin + block, None] == groups[None]] = -1
        similarity[similarity > 0.8] = -1
        value, index = similarity.topk(k, dim=-1)
        out.append(torch.where(value > 0.05, index, -1))
    return torch.cat(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--out", required=True, help=".npy of [documents, k], -1 = none")
    parser.add_argument("--k", type=int, default=6)
    parser.add_argument("--vectors", default="", help="prefix: also writes the passages' vectors, for ask.py")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    docs = read_xz(Path(args.bundle) / "docs.jsonl.xz")
    wiki = [i for i, d in enumerate(docs) if d["s"] == "wiki"]
    matrix, idf = vectors([docs[i]["t"] + " " + docs[i]["x"] for i in wiki], multiprocessing.cpu_count(), device)
    if args.vectors:
        np.save(args.vectors + ".rows.npy", np.array(wiki, dtype=np.int32))
        np.save(args.vectors + ".idf.npy", idf)
        np.save(args.vectors + ".npy", matrix.cpu().numpy())
    groups = torch.tensor([zlib.crc32(docs[i]["g"].encode()) for i in wiki], device=device)
    near = nearest(matrix, groups, args.k).cpu().numpy()
    table = np.full((len(docs), args.k), -1, dtype=np.int32)
    numbers = np.array(wiki, dtype=np.int32)
    table[numbers] = np.where(near >= 0, numbers[near], -1)
    np.save(args.out, table)
    print(f"neighbours: {len(wiki)} passages, {(table >= 0).sum() / len(wiki):.2f} each")


if __name__ == "__main__":
    tool.run(main)
