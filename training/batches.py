"""Token lists to tensors: packed documents, padded query rows, packed reading samples."""
from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from training.frames import Prompt
from training.model import Documents, Packed, Prompts, Queries


class Sample(NamedTuple):
    """A reading: token lists of the prompt and of what is said, the weight of each of those, and a teacher's log odds that the texts have no answer (None: unknown)."""
    prompt: list[int]
    answer: list[int]
    weight: float = 1.0
    odds: float | None = None


def pack(sequences: list[list[int]]) -> Packed:
    lengths = np.array([len(s) for s in sequences])
    cu = np.concatenate(([0], lengths.cumsum())).astype(np.int32)
    ids = torch.from_numpy(np.concatenate([np.asarray(s, dtype=np.int64) for s in sequences]))
    positions = torch.from_numpy(np.concatenate([np.arange(n, dtype=np.int64) for n in lengths]))
    return Packed(ids, positions, torch.from_numpy(cu), int(lengths.max()))


def documents(sequences: list[list[int]], pool: int, content_pool: int | None = None) -> Documents:
    """content_pool: tokens a chunk of K and V, where another number than the routing keys' `pool`."""
    packed = pack(sequences)
    docs = chunked(packed, pool)
    docs.content = chunked(packed, content_pool) if content_pool not in (None, pool) else None
    return docs


def chunked(packed: Packed, pool: int) -> Documents:
    lengths = (packed.cu[1:] - packed.cu[:-1]).numpy()
    chunks = -(-lengths // pool)
    first = np.concatenate(([0], chunks.cumsum()))
    chunk_of = np.concatenate([f + np.arange(n) // pool for f, n in zip(first, lengths)])
    place = np.arange(int(chunks.max()))[None]
    table = first[:-1, None] + np.where(place < chunks[:, None], place, 0)
    chunk_of = torch.from_numpy(chunk_of)
    return Documents(packed, chunk_of, torch.bincount(chunk_of).float(), torch.from_numpy(table),
                     torch.from_numpy(chunks.astype(np.int64)))


def queries(prompts: list[Prompt], head: list[int], top_k: int, excluded: torch.Tensor | None = None,
            answers: list[list[int]] | None = None) -> Queries:
    """Rows of head + prompt (+ answer). The prompt's positions start at 3 + k; answers do not route."""
    answers = answers or [[]] * len(prompts)
    width = len(head) + max(len(p.ids) + len(a) for p, a in zip(prompts, answers))
    width = -(-width // 8) * 8
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    routing = torch.zeros(len(prompts), width, dtype=torch.bool)
    labels = torch.full((len(prompts), width), -100)
    positions = torch.arange(width).repeat(len(prompts), 1)
    positions[:, len(head):] += 3 + top_k - len(head)
    for row, (prompt, answer) in enumerate(zip(prompts, answers)):
        end = len(head) + len(prompt.ids)
        ids[row, :end] = torch.tensor(head + prompt.ids)
        routing[row, len(head):end] = torch.tensor(prompt.routing)
        if answer:
            ids[row, end:end + len(answer)] = torch.tensor(answer)
            labels[row, end - 1:end - 1 + len(answer)] = torch.tensor(answer)
    return Queries(ids, positions, routing, len(head), excluded, labels if any(answers) else None)


def prompts(starts: list[int], lengths: list[int]) -> Prompts:
    """The rows from each start on, so many of them, as runs whose tokens all see each other."""
    rows = np.concatenate([np.arange(start, start + length) for start, length in zip(starts, lengths)])
    cu = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return Prompts(torch.from_numpy(rows.astype(np.int64)), torch.from_numpy(cu), max(lengths))


def reading(samples: list[Sample | tuple], full: bool = False) -> tuple[Packed, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Samples, or their first fields, packed; the places whose next token is learnt, those tokens, their weights. full: the tokens of
    a prompt see each other."""
    samples = [Sample(*s) for s in samples]
    packed = pack([s.prompt + s.answer for s in samples])
    if full:
        packed.full = prompts(packed.cu[:-1].tolist(), [len(s.prompt) for s in samples])
    places, targets, weights = [], [], []
    for start, s in zip(packed.cu.tolist(), samples):
        places += range(start + len(s.prompt) - 1, start + len(s.prompt) + len(s.answer) - 1)
        targets += s.answer
        weights += [s.weight] * len(s.answer)
    return packed, torch.tensor(places), torch.tensor(targets), torch.tensor(weights)


def begins(samples: list[Sample]) -> list[int]:
    """Where among reading()'s places each sample's answer begins."""
    return np.cumsum([0] + [len(s.answer) for s in samples]).tolist()[:-1]


def members(groups: list[list[Sample]]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """For each group of several samples its begins() [G, most], -1 past a group's last, and each one's share of being the one to believe [G, most]: of
    the first, which answers, 1; of others the teacher's probability that they do, 0 where it is unknown; of the sum. None: no such group."""
    begin, out, shares, at = begins(sum(groups, [])), [], [], 0
    for group in groups:
        if len(group) > 1:
            out.append(begin[at:at + len(group)])
            shares.append([1.0] + [0.0 if s.odds is None else 1 / (1 + math.exp(s.odds)) for s in group[1:]])
        at += len(group)
    most = max(map(len, out), default=0)
    fill = lambda rows, value: torch.tensor([row + [value] * (most - len(row)) for row in rows])
    return (fill(out, -1), torch.nn.functional.normalize(fill(shares, 0.0), p=1.0)) if out else None


def weighed(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor] | None:
    """begins() of the samples that a teacher weighed, and its log odds; None: there are none."""
    found = [(place, s.odds) for place, s in zip(begins(samples), samples) if s.odds is not None]
    return (torch.tensor([p for p, _ in found]), torch.tensor([o for _, o in found])) if found else None
