"""When to say that the memory has no answer, as a decision that a checkpoint is calibrated for.

The refusal is a fixed sentence. Where an answer begins, the margin is the logit of the sentence's first token less the
largest other logit; with `refusal_bias` b (msa_config, 0 if absent) the first token is chosen with b added to that logit, and
everything after it as ever. b > 0 refuses more, b < 0 less. With `refusal_against` "all" (absent: "largest") it is chosen where its log
odds, the margin less the excess of all other logits together over the largest of them, are above -b. This module keeps, for every
question, both and both continuations, from which any b's scores follow.
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
    """margin: > -b chooses the refusal's first token, or margin - excess where it is against all others. without, with_first: the texts
    that follow either choice. excess: log-sum-exp of the other logits less the largest of them."""
    margin: float
    without: str
    with_first: str
    excess: float = 0.0

    def inclination(self, against_all: bool) -> float:
        return self.margin - self.excess if against_all else self.margin


def against_all(msa: dict) -> bool:
    """What a checkpoint's msa_config says of `refusal_against`."""
    known = {"largest": False, "all": True}
    value = msa.get("refusal_against", "largest")
    if value not in known:
        raise ValueError(f"msa_config: refusal_against is {value!r}; known: {', '.join(known)}")
    return known[value]


def first_token(tokenizer) -> int:
    return frames.encode(tokenizer, frames.REFUSAL)[0]


def say(model: MsaModel, layers, tokenizer, prompts: list[str], block_tokens: int = 300_000, above: float = float("-inf")) -> list[Said]:
    """Greedy answers of reader prompts, with the refusal's first token (empty where the margin is not above `above`) and without it."""
    sequences, stop = [frames.encode(tokenizer, p) for p in prompts], tokenizer.token_to_id("<|im_end|>")
    token, said = first_token(tokenizer), [Said(0.0, "", "") for _ in prompts]
    for block in in_blocks(sequences, block_tokens, ANSWER_TOKENS):
        margins, excesses = [], []

        def ban(logits):
            others = logits.clone()
            others[:, token] = float("-inf")
            best = others.max(-1)
            margins.extend((logits[:, token] - best.values).tolist())
            excesses.extend((others.float().logsumexp(-1) - best.values).tolist())
            return best.indices

        def take(logits):
            return torch.full((len(logits),), token, device=logits.device)

        def texts(places, first):
            written = complete(model, layers, [sequences[i] for i in places], stop, ANSWER_TOKENS, first=first, full=model.msa.reads_full)
            return [tokenizer.decode(t, skip_special_tokens=True).strip() for t in written]
        for i, without, margin, excess in zip(block, texts(block, ban), margins, excesses):
            said[i] = Said(margin, without, "", excess)
        near = [i for i in block if said[i].margin > above]
        for i, with_first in zip(near, texts(near, take) if near else ()):
            said[i].with_first = with_first
    return said
