"""When to say that the memory has no answer, as a decision that a checkpoint is calibrated for.

The refusal is a fixed sentence. Where an answer begins, the margin is the logit of the sentence's first token less the
largest other logit; with `refusal_bias` b (msa_config, 0 if absent) the first token is chosen with b added to that logit, and
everything after it as ever. b > 0 refuses more, b < 0 less. This module keeps, for every question, the margin and both
continuations, from which any b's scores follow.
"""
from __future__ import annotations

from dataclasses import dataclass

import torch

from training import frames
from training.decode import complete, in_blocks
from training.model import MsaModel

ANSWER_TOKENS = 32


@dataclass
class Said:
    """margin: > -b chooses the refusal's first token. without, with_first: the texts that follow either choice."""
    margin: float
    without: str
    with_first: str

    def text(self, bias: float) -> str:
        return self.with_first if self.margin + bias > 0 else self.without


def first_token(tokenizer) -> int:
    return frames.encode(tokenizer, frames.REFUSAL)[0]


def say(model: MsaModel, layers, tokenizer, prompts: list[str], block_tokens: int = 300_000, above: float = float("-inf")) -> list[Said]:
    """Greedy answers of reader prompts, with the refusal's first token (empty where the margin is not above `above`) and without it."""
    sequences, stop = [frames.encode(tokenizer, p) for p in prompts], tokenizer.token_to_id("<|im_end|>")
    token, said = first_token(tokenizer), [Said(0.0, "", "") for _ in prompts]
    for block in in_blocks(sequences, block_tokens, ANSWER_TOKENS):
        margins: list[float] = []

        def ban(logits):
            others = logits.clone()
            others[:, token] = float("-inf")
            best = others.max(-1)
            margins.extend((logits[:, token] - best.values).tolist())
            return best.indices

        def take(logits):
            return torch.full((len(logits),), token, device=logits.device)

        def texts(places, first):
            written = complete(model, layers, [sequences[i] for i in places], stop, ANSWER_TOKENS, first=first, full=model.msa.reads_full)
            return [tokenizer.decode(t, skip_special_tokens=True).strip() for t in written]
        for i, without, margin in zip(block, texts(block, ban), margins):
            said[i] = Said(margin, without, "")
        near = [i for i in block if said[i].margin > above]
        for i, with_first in zip(near, texts(near, take) if near else ()):
            said[i].with_first = with_first
    return said
