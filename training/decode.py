"""Text from prompts: packed prefill, then one token a step over kept keys and values.

Plain decoding without memory: the reader's answers, and questions that a model is asked to write.
"""
from __future__ import annotations

import torch
from torch import Tensor

from training import batches
from training.model import MsaModel, Packed, Prompts, packed_attention


class Kept:
    """Keys and values of some rows, all layers: [B, Hkv, prompt width + steps, D] each; `hidden` keeps padding out. full: a prompt's tokens
    all see each other."""

    def __init__(self, model: MsaModel, layers, sequences: list[list[int]], steps: int, full: bool = False):
        self.model, self.layers = model, layers
        device = model.frequency.device
        self.lengths = torch.tensor([len(s) for s in sequences], device=device)
        self.width = int(self.lengths.max())
        ids = torch.zeros(len(sequences), self.width, dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, :len(sequence)] = torch.tensor(sequence)
        c = model.cfg
        shape = (len(sequences), c.num_kv_heads, self.width + steps, c.head_dim)
        self.k = [torch.zeros(shape, dtype=model.dtype, device=device) for _ in layers]
        self.v = [torch.zeros(shape, dtype=model.dtype, device=device) for _ in layers]
        place = torch.arange(self.width + steps, device=device)
        self.hidden = (place >= self.lengths[:, None]) & (place < self.width)
        lengths = self.lengths.tolist()
        prompts = batches.prompts([row * self.width for row in range(len(lengths))], lengths).to(device) if full else None
        self.logits = self._prefill(ids.to(device), prompts)

    def _prefill(self, ids: Tensor, prompts: Prompts | None) -> Tensor:
        c, (rows, width) = self.model.cfg, ids.shape
        positions = torch.arange(width, device=ids.device).repeat(rows)
        cu = torch.arange(0, (rows + 1) * width, width, dtype=torch.int32, device=ids.device)
        packed = Packed(ids.flatten(), positions, cu, width, prompts)
        x = self.model._embed(packed.ids)
        angle = positions[:, None].float() * self.model.frequency
        for index, w in enumerate(self.layers):
            _, q, k, v = self.model._before(x, angle.cos(), angle.sin(), w["before"], c.num_heads, c.num_kv_heads,
                                            c.rms_eps)
            for kept, new in ((self.k, k), (self.v, v)):
                kept[index][:, :, :width] = new.view(rows, width, c.num_kv_heads, c.head_dim).transpose(1, 2)
            x = self.model._after(x, packed_attention(q, k, v, packed), w["after"], c.rms_eps)
        last = torch.arange(rows, device=ids.device) * width + self.lengths - 1
        return self.model.logits(x[last])

    def step(self, tokens: Tensor, number: int) -> None:
        """Feeds each row its next token, the `number`th after its prompt."""
        c, end = self.model.cfg, self.width + number + 1
        ahead = torch.arange(self.hidden.shape[1], device=tokens.device) >= end
        x = self.model._embed(tokens)
        angle = (self.lengths + number)[:, None].float() * self.model.frequency
        hidden = (self.hidden | ahead)[:, None, None]   # whole rows: a slice of them would be copied a layer
        for index, w in enumerate(self.layers):
            _, q, k, v = self.model._before(x, angle.cos(), angle.sin(), w["before"], c.num_heads, c.num_kv_heads,
                                            c.rms_eps)
            self.k[index][:, :, end - 1], self.v[index][:, :, end - 1] = k, v
            q = q.view(len(tokens), c.num_kv_heads, -1, c.head_dim) * c.head_dim ** -0.5
            weight = (q @ self.k[index].transpose(-1, -2)).masked_fill_(hidden, float("-inf")).softmax(-1)
            attended = weight @ self.v[index]
            x = self.model._after(x, attended.reshape(len(tokens), -1), w["after"], c.rms_eps)
        self.logits = self.model.logits(x)

    def keep(self, rows: Tensor) -> None:
        self.lengths, self.hidden, self.logits = self.lengths[rows], self.hidden[rows], self.logits[rows]
        for kept in (self.k, self.v):
            for index in range(len(kept)):
                kept[index] = kept[index][rows]


def choose(logits: Tensor, temperature: float, generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    waits = torch.empty_like(logits).exponential_(generator=generator)     # the first of exponential clocks
    return (logits / temperature - waits.log_()).argmax(-1)


@torch.no_grad()
def complete(model: MsaModel, layers, sequences: list[list[int]], stop: int, steps: int, temperature: float = 0.0,
             generator=None, first=None, full: bool = False) -> list[list[int]]:
    """What follows each sequence up to `stop` (left out) or `steps` tokens; first(logits) chooses the first token. full: see Kept."""
    kept, device = Kept(model, layers, sequences, steps, full), model.frequency.device
    out: list[list[int]] = [[] for _ in sequences]
    rows = torch.arange(len(sequences), device=device)
    written = torch.full((len(sequences), steps), stop, device=device)
    for number in range(steps):
        tokens = first(kept.logits) if first and number == 0 else choose(kept.logits, temperature, generator)
        written[rows, number] = tokens
        if number % 8 == 7:  # finished rows leave now and then: each look waits for the device
            alive = (written[rows, :number + 1] != stop).all(-1)
            if not alive.any():
                break
            rows, tokens = rows[alive], tokens[alive]
            kept.keep(alive.nonzero()[:, 0])
        if number + 1 < steps:
            kept.step(tokens, number)
    for row, tokens in enumerate(written.tolist()):
        out[row] = tokens[: tokens.index(stop)] if stop in tokens else tokens
    return out


def in_blocks(sequences: list[list[int]], block_tokens: int, steps: int) -> list[list[int]]:
    """Places of the sequences in blocks of like length and at most `block_tokens` padded tokens."""
    order, blocks, block = sorted(range(len(sequences)), key=lambda i: len(sequences[i])), [], []
    for i in order:
        if block and (len(block) + 1) * (len(sequences[i]) + steps) > block_tokens:
            blocks.append(block)
            block = []
        block.append(i)
    return blocks + [block] if block else blocks
