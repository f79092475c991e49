"""Writes tests/golden/full_weights and full_reader: a toy backbone, an adapter of all its weights and one of a few, whose reader sees its whole
prompt, and what they compute (oracle.py).

`python -m training.tests.make_toy_cases GOLDEN`, a minute on one core: a folder GOLDEN/CASE for each CASE that GOLDEN does not have yet."""
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

ROUTED = {"retrieval_mode": "router", "final_question": "causal", "router_rounds": 1}


def backbone(folder: Path) -> None:
    toy.backbone(folder)
    weights = folder / "model.safetensors"
    write_tensors(weights, {n: t.bfloat16() for n, t in read_tensors(weights).items()})
    toy.tokenizer(folder)


def make(case: Path, base: Path, msa: MsaConfig, extra: dict, steps: int = 160) -> None:
    torch.manual_seed(0)
    toys = ToyCase()
    toys.tokenizer = frames.load_tokenizer(str(base / "tokenizer.json"))
    toys.head = frames.encode(toys.tokenizer, frames.HEAD)
    model, batch = MsaModel(str(base), msa), toys.batch(pool=4, full=msa.reads_full)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        step_loss(model, batch, STAGE)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    save_adapter(model, str(case / "adapter"), "toy", ROUTED | extra)
    made = "training/tests/toy.py"
    chosen = {"documents": [{"source": made, "title": t.split("\n")[0], "text": t} for t in toy.documents()],
              "questions": [{"question": q, "gold": [i], "answers": [a], "source": made}
                            for i, (q, a) in enumerate(toy.questions()[:3])],
              "about": {"base": {"model": "toy"}, "weights": "bf16 raised to fp32, with the adapter's; all compute fp32",
                        "reader_max_new_tokens": 8, "text_licence": "none needed: made up"}}
    oracle.make(case, str(base), str(case / "adapter"), chosen)


def main(golden: Path) -> None:
    base = golden / "full_weights" / "base"
    if not base.exists():
        backbone(base)
        make(base.parent, base, MsaConfig((3,), pool=4, top_k=2, lora_rank=0), {"reader_documents": 1})
    if not (golden / "full_reader").exists():
        make(golden / "full_reader", base, MsaConfig((3,), pool=4, top_k=2, lora_rank=8, lora_alpha=8, reader_attention="full"),
             {"reader_documents": 2, "reader_attention": "full", "refusal": frames.REFUSAL, "reader_apart_margin": 1.0})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
