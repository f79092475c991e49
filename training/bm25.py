"""BM25 over short documents, for hard negatives and as a baseline."""
from __future__ import annotations

import collections
import math
import re

import numpy as np

STOP = frozenset(
    "a an and are as at be by for from had has have he her his in is it its of on or she that the their they this to "
    "was were which who whom whose what when where why how did do does with".split())


def terms(text: str) -> list[str]:
    return [w for w in re.findall(r"\w+", text.lower()) if w not in STOP]


class Bm25:
    """Lucene's BM25 (k1 1.2, b 0.75). Memory: one posting of 8 bytes a distinct term and document."""

    def __init__(self, texts: list[str], k1: float = 1.2, b: float = 0.75):
        counts = [collections.Counter(terms(t)) for t in texts]
        lengths = np.array([sum(c.values()) for c in counts], dtype=np.float32)
        average = max(float(lengths.mean()), 1.0)
        postings: dict[str, tuple[list[int], list[int]]] = {}
        for number, count in enumerate(counts):
            for term, frequency in count.items():
                docs, freqs = postings.setdefault(term, ([], []))
                docs.append(number)
                freqs.append(frequency)
        self.size = len(texts)
        self._postings = {}
        for term, (docs, freqs) in postings.items():
            d, f = np.array(docs, dtype=np.int32), np.array(freqs, dtype=np.float32)
            idf = math.log(1 + (self.size - len(d) + 0.5) / (len(d) + 0.5))
            self._postings[term] = (d, idf * f * (k1 + 1) / (f + k1 * (1 - b + b * lengths[d] / average)))

    def scores(self, query: str) -> np.ndarray:
        out = np.zeros(self.size, dtype=np.float32)
        for term in terms(query):
            if term in self._postings:
                docs, weights = self._postings[term]
                out[docs] += weights
        return out

    def top(self, query: str, k: int) -> list[int]:
        """Best documents first, ties by lower number; documents without a common term are left out."""
        scores = self.scores(query)
        k = min(k, self.size)
        best = np.argpartition(-scores, k - 1)[:k]
        best = best[np.lexsort((best, -scores[best]))]
        return [int(i) for i in best if scores[i] > 0]
