"""One adapter from several of one recipe and start: `python -m training.soup A B C --out FOLDER`.

Runs that differ by their seed end near each other; the mean of their weights reads and routes at least as well as one of them and
costs nothing to serve. Routers are averaged as they are. LoRA pairs are averaged as what they add to a weight, B A: the mean of
several is again factored, to the rank of one, by the singular value decomposition of the stacked factors.
"""
from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def mean_pair(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(A [r,in], B [out,r]) with B A the best approximation of rank r to the mean of the pairs' products."""
    rank = pairs[0][0].shape[0]
    a = torch.cat([a.float() for a, _ in pairs])                            # [n r, in]
    b = torch.cat([b.float() for _, b in pairs], 1) / len(pairs)           # [out, n r]
    qb, rb = torch.linalg.qr(b)
    qa, ra = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(rb @ ra.T)
    root = s[:rank].sqrt()
    return (root[:, None] * v[:rank]) @ qa.T, qb @ (u[:, :rank] * root)


def soup(files: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    names = set(files[0])
    if any(set(f) != names or any(f[n].shape != files[0][n].shape for n in names) for f in files):
        raise ValueError("the adapters do not have the same tensors")
    out = {}
    for name in sorted(names):
        if ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            out[name], out[other] = mean_pair([(f[name], f[other]) for f in files])
        elif ".lora_B." not in name:
            out[name] = torch.stack([f[name].float() for f in files]).mean(0)
    return {name: value.to(torch.bfloat16).contiguous() for name, value in out.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(min(8, os.cpu_count() or 1))
    mixed = soup([load_file(str(Path(a) / "adapter.safetensors")) for a in args.adapters])
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(mixed, str(out / "adapter.tmp"))
    os.replace(out / "adapter.tmp", out / "adapter.safetensors")
    config = json.loads((Path(args.adapters[0]) / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n")


if __name__ == "__main__":
    main()
