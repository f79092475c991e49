"""Writes tests/golden/full_weights: a toy backbone, an adapter of all its weights, and what they compute (oracle.py).

`python -m training.tests.make_full_case CASE`, half a minute on one core."""
from __future__ import annotations

import sys
from pathlib import Path

import torch

from training import frames, oracle
from training.adapter_io import save_adapter
from training.files import read_tensors, write_tensors
from training.model import MsaConfig, MsaModel
from training.tests import toy
from training.tests.test_training import STAGE, ToyCase, step_loss


def make(case: Path, steps: int = 160) -> None:
    torch.manual_seed(0)
    toy.backbone(case / "base")
    weights = case / "base" / "model.safetensors"
    write_tensors(weights, {n: t.bfloat16() for n, t in read_tensors(weights).items()})
    toys = ToyCase()
    toys.tokenizer = toy.tokenizer(case / "base")
    toys.head = frames.encode(toys.tokenizer, frames.HEAD)
    model, batch = MsaModel(str(case / "base"), MsaConfig((3,), pool=4, top_k=2, lora_rank=0)), toys.batch(pool=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        step_loss(model, batch, STAGE)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    save_adapter(model, str(case / "adapter"), "toy",
                 {"retrieval_mode": "router", "final_question": "causal", "router_rounds": 1, "reader_documents": 1})
    made = "training/tests/toy.py"
    chosen = {"documents": [{"source": made, "title": t.split("\n")[0], "text": t} for t in toy.documents()],
              "questions": [{"question": q, "gold": [i], "answers": [a], "source": made}
                            for i, (q, a) in enumerate(toy.questions()[:3])],
              "about": {"base": {"model": "toy"}, "weights": "bf16 raised to fp32, all of the adapter's; all compute fp32",
                        "reader_max_new_tokens": 8, "text_licence": "none needed: made up"}}
    oracle.make(case, str(case / "base"), str(case / "adapter"), chosen)


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(Path(sys.argv[1]))
