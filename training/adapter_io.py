"""Adapter files: PEFT's LoRA names, the published engine's router names, the backbone's own names; in bf16."""
from __future__ import annotations

import time
from pathlib import Path

import torch

from training.files import read_json, read_tensors, write_json, write_tensors
from training.model import LINEAR, MsaConfig, MsaModel


COSINE = "INFONCE"      # any other aux_loss_method, or none, routes by the products of rows that are not normalised


def lora_name(layer: int, linear: str, which: str) -> str:
    return f"base_model.model.model.layers.{layer}.{LINEAR[linear]}.{linear}.lora_{which}.weight"


def router_name(layer: int, which: str) -> str:
    return f"model.layers.{layer}.self_attn.router_{which}_proj.0.weight"


def lora_tensors(model: MsaModel) -> dict[str, torch.Tensor]:
    """Views of the stacked LoRA parameters, one a layer."""
    return {lora_name(layer, linear, which): stack[layer]
            for store, which in ((model.lora_a, "A"), (model.lora_b, "B"))
            for linear, stack in store.items() for layer in range(len(stack))}


def full_tensors(model: MsaModel) -> dict[str, torch.Tensor]:
    """Every weight when all are trained, else none; without what old files hold besides and nothing uses."""
    unused = ("lm_head.weight",) if model.cfg.tied else ()
    return {name: model.base(name) for name in (model._names if model.full is not None else ())
            if name not in unused and not name.endswith("rotary_emb.inv_freq")}


def parameters(model: MsaModel) -> dict[str, torch.Tensor]:
    """What is trained, by file name: LoRA and routers, or every weight and routers."""
    out = lora_tensors(model) | full_tensors(model)
    for key, value in model.routers.items():
        layer, which = key.split("/")
        out[router_name(int(layer), which)] = value
    return out


def tensors(model: MsaModel) -> dict[str, torch.Tensor]:
    """The adapter's tensors by file name."""
    return {name: value.detach().to(torch.bfloat16).cpu().contiguous() for name, value in parameters(model).items()}


def adapter_config(model: MsaModel, base_name: str, msa_extra: dict) -> dict:
    m = model.msa
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base_name,
        "r": m.lora_rank, "lora_alpha": m.lora_alpha, "lora_dropout": 0.0, "bias": "none",
        "fan_in_fan_out": False, "use_rslora": False, "use_dora": False, "inference_mode": True,
        "target_modules": list(LINEAR), "modules_to_save": None, "layers_to_transform": None,
        "rank_pattern": {}, "alpha_pattern": {},
        "msa_config": {
            "router_layer_idx": ",".join(map(str, m.router_layers)), "pooling_kernel_size": m.pool,
            "doc_top_k": m.top_k, "top_k_docs": m.top_k, "decouple_router": True,
            "aux_loss_method": COSINE if m.cosine else "INFONCE_DOT", "head_reduce_method": "mean", "query_reduce_method": "max",
            "chunk_reduce_method": "max", "decouple_pooling_mode": "mean", "rewrite_position": True,
            **msa_extra,
        },
    }


def write_adapter(folder: str, stored: dict[str, torch.Tensor], config: dict) -> None:
    """The adapter's two files; whoever copies them meanwhile gets whole ones, and the configuration is written last."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / "adapter.safetensors", stored)
    write_json(folder / "adapter_config.json", config)


def save_adapter(model: MsaModel, folder: str, base_name: str, msa_extra: dict) -> None:
    write_adapter(folder, tensors(model), adapter_config(model, base_name, msa_extra))


def wait_for(paths: list[str], until: float) -> None:
    """Returns when all files are there, or at the wall time `until` (then the caller fails as ever); another process writes them."""
    while not all(Path(p).exists() for p in paths) and time.time() < until:
        time.sleep(0.2)


def read_raw(folder: str) -> dict:
    """adapter_config.json, with what this code looks for in it."""
    path = Path(folder) / "adapter_config.json"
    raw = read_json(path)
    for part, keys in ((raw, ("r", "lora_alpha", "base_model_name_or_path", "msa_config")),
                       (raw.get("msa_config", {}), ("router_layer_idx", "pooling_kernel_size"))):
        missing = [k for k in keys if k not in part]
        if missing:
            raise ValueError(f"{path}: no {', '.join(missing)}; give the folder of an MSA adapter")
    return raw


def read_msa(folder: str) -> dict:
    return read_raw(folder)["msa_config"]


def read_config(folder: str) -> MsaConfig:
    raw = read_raw(folder)
    msa = raw["msa_config"]
    layers = tuple(int(x) for x in msa["router_layer_idx"].split(",") if x)
    return MsaConfig(layers, msa["pooling_kernel_size"], msa.get("doc_top_k", 16), raw["r"], raw["lora_alpha"],
                     msa.get("aux_loss_method") == COSINE, msa.get("reader_question", "after"),
                     msa.get("reader_attention", "causal"))


def refuse_shape(folder: str, name: str, given: torch.Size, wanted: torch.Size, axis: int) -> None:
    """LoRA may be of a smaller rank, nothing else may differ."""
    alike = len(given) == len(wanted) and all(a == b for i, (a, b) in enumerate(zip(given, wanted)) if "lora_" not in name or i != axis)
    if not alike:
        raise ValueError(f"{folder}: {name} is {list(given)}, the model's {list(wanted)}; give an adapter of this backbone")
    if given[axis] > wanted[axis]:
        raise ValueError(f"{folder}: its LoRA has rank {given[axis]}, the model's {wanted[axis]}; give adapter.lora_rank={given[axis]} "
                         "(and a lora_alpha in proportion), or an adapter of a smaller rank")


def load_adapter(model: MsaModel, folder: str) -> None:
    """Copies the adapter's tensors into `model`; refuses a file that does not fit.

    LoRA of a smaller rank fills the first ranks; the others of B become zero, so the weights W + BA are the file's
    where both scales alpha / r are equal."""
    stored = read_tensors(Path(folder) / "adapter.safetensors")
    wanted = parameters(model)
    if set(stored) != set(wanted):
        odd = sorted(set(stored) ^ set(wanted))
        raise ValueError(f"{folder}: {len(odd)} tensors do not match the model's, the first is {odd[0]}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            value, axis = stored[name].float(), 1 if name.endswith("lora_B.weight") else 0
            refuse_shape(folder, name, value.shape, parameter.shape, axis)
            if "lora_" not in name or value.shape[axis] >= parameter.shape[axis]:
                parameter.copy_(value)
                continue
            if axis == 1:
                parameter.zero_()
            parameter.narrow(axis, 0, value.shape[axis]).copy_(value)
