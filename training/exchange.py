"""Negatives from elsewhere: documents of other training processes, with gradient, or of this one's last batches; one clock for all."""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class GatherWithGradient(torch.autograd.Function):
    """[...] of every process -> [world, ...]. The gradient of a process's own part is the sum over processes.

    Every process must reach its backward pass: it communicates too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return gather(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


def gather(x: Tensor) -> Tensor:
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


@dataclass
class Others:
    """The other processes' documents: keys [C, Hkv*D] by layer, tables as in Documents, names [D]."""
    keys: dict[int, Tensor]
    table: Tensor
    names: Tensor


class Recent:
    """Documents of the last `count` batches, as more negatives without a gradient: keys move little from step to step, and what is
    kept costs a product only. Tables keep their batch's width: rows are filled up with their first chunk."""

    def __init__(self, count: int):
        self.count, self.parts = count, []

    def documents(self, keys: dict[int, Tensor], table: Tensor, names: Tensor) -> Others | None:
        """Those of earlier batches (one that was in two of them counts twice); then remembers these."""
        before, self.parts = self.parts, (self.parts + [Others({l: k.detach() for l, k in keys.items()}, table, names)])[-self.count:]
        if not before:
            return None
        width, start, tables = max(p.table.shape[1] for p in before), 0, []
        for part in before:
            moved = part.table + start
            tables.append(torch.cat((moved, moved[:, :1].expand(-1, width - moved.shape[1])), 1))
            start += len(next(iter(part.keys.values())))
        return Others({l: torch.cat([p.keys[l] for p in before]) for l in keys}, torch.cat(tables), torch.cat([p.names for p in before]))


class Exchange:
    """Sizes and times travel on the CPU, so that no step waits for its device."""

    def __init__(self):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.control = dist.new_group(backend="gloo")

    def from_first(self, value: float) -> float:
        box = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(box, 0, group=self.control)
        return box.item()

    def documents(self, keys: dict[int, Tensor], table: Tensor, names: Tensor) -> Others:
        """A layer's keys keep their gradient. Documents are numbered process by process, this one's left out."""
        own = torch.tensor([len(next(iter(keys.values()))), *table.shape])
        sizes = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(sizes, own, group=self.control)
        chunks, documents, width = torch.stack(sizes).amax(0).tolist()
        stacked = torch.stack(list(keys.values()))
        all_keys = GatherWithGradient.apply(F.pad(stacked, (0, 0, 0, chunks - stacked.shape[1])))
        padded = torch.full((documents, width), -1, dtype=table.dtype, device=table.device)
        padded[: len(table), : table.shape[1]] = table
        padded[: len(table), table.shape[1]:] = table[:, :1]
        tables, all_names = gather(padded), gather(F.pad(names, (0, documents - len(names)), value=-1))
        parts, kept = [], [r for r in range(self.world) if r != self.rank]
        for place, r in enumerate(kept):
            parts.append(tables[r][: sizes[r][1]] + place * chunks)
        found = torch.cat([all_names[r][: sizes[r][1]] for r in kept])
        by_layer = {layer: torch.cat([all_keys[r, i] for r in kept]) for i, layer in enumerate(keys)}
        return Others(by_layer, torch.cat(parts), found)
