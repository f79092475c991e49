"""One adapter from several of one recipe and start: `python -m training.soup A B C --out FOLDER`.

Runs that differ by their seed end near each other; the mean of their weights reads and routes at least as well as one of them and
costs nothing to serve. One that is named twice weighs twice. Routers are averaged as they are. LoRA pairs are averaged as what they add to a weight, B A: the mean of
several is again factored, to the rank of one, by the singular value decomposition of the stacked factors.
"""
from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
import torch.nn.functional as F

from training import tool
from training.adapter_io import read_raw, write_adapter
from training.files import read_tensors


def mean_pair(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(A [r,in], B [out,r]) with B A the best approximation of rank r to the mean of the pairs' products."""
    rank = pairs[0][0].shape[0]
    a = torch.cat([a.float() for a, _ in pairs])                            # [n r, in]
    b = torch.cat([b.float() for _, b in pairs], 1) / len(pairs)           # [out, n r]
    qb, rb = torch.linalg.qr(b)
    qa, ra = torch.linalg.qr(a.T)
    u, s, v = torch.linalg.svd(rb @ ra.T)
    most = min(rank, len(s))        # fewer than the rank where the weight itself is smaller
    root, none = s[:most].sqrt(), rank - most
    return (F.pad((root[:, None] * v[:most]) @ qa.T, (0, 0, 0, none)), F.pad(qb @ (u[:, :most] * root), (0, none)))


def soup(adapters: list[tuple[str, dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """Of (adapter, its tensors), the adapters' names for what is wrong with one."""
    first, wanted = adapters[0]
    for adapter, tensors in adapters:
        odd = sorted(n for n in wanted | tensors if n not in tensors or n not in wanted or wanted[n].shape != tensors[n].shape)
        if odd:
            shape = lambda some: list(some[odd[0]].shape) if odd[0] in some else "missing"
            raise ValueError(f"{adapter}: {len(odd)} tensors unlike those of {first}, the first is {odd[0]} ({shape(tensors)}, there "
                             f"{shape(wanted)}); give adapters of one configuration")
    files, out = [tensors for _, tensors in adapters], {}
    for name in sorted(wanted):
        if ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            out[name], out[other] = mean_pair([(f[name], f[other]) for f in files])
        elif ".lora_B." not in name:
            out[name] = torch.stack([f[name].float() for f in files]).mean(0)
    return {name: value.to(torch.bfloat16).contiguous() for name, value in out.items()}


# How the weights are used, not what they are trained for: most of it is chosen anew for the mean (calibrate.py).
USES = ("refusal", "refusal_bias", "refusal_against", "round_min_score", "reader_apart_margin")


def common_config(configs: list[dict]) -> dict:
    """The first's, if all were trained to be used alike; USES may differ, and what of it the first lacks is that of the next that has it."""
    def used(config: dict) -> dict:
        kept = {k: v for k, v in config["msa_config"].items() if k not in USES}
        return kept | {k: config[k] for k in ("r", "lora_alpha", "base_model_name_or_path")}
    for config in configs[1:]:
        odd = sorted(k for k in used(configs[0]) | used(config) if used(configs[0]).get(k) != used(config).get(k))
        if odd:
            raise ValueError(f"the adapters differ in {', '.join(odd)}: their mean would fit none of their settings")
    uses = {}
    for config in reversed(configs):
        uses |= {k: v for k, v in config["msa_config"].items() if k in USES}
    return configs[0] | {"msa_config": configs[0]["msa_config"] | uses}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    torch.set_num_threads(min(8, os.cpu_count() or 1))
    config = common_config([read_raw(a) for a in args.adapters])
    write_adapter(args.out, soup([(a, read_tensors(Path(a) / "adapter.safetensors")) for a in args.adapters]), config)


if __name__ == "__main__":
    tool.run(main)
