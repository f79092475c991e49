"""Carries a quantised backbone in small files: `split` a GGUF into raw pieces, `join` them into bf16 Hugging Face files.

For machines that take only a few tens of megabytes a transfer. Knows F32, F16, Q4_1, Q8_0, Q4_K and Q6_K, and llama.cpp's
rotary row order of a Llama's Q and K.
"""
from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch

from training import tool
from training.files import read_json, write_tensors

NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
         "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}

TURNED = {"llama": True, "qwen2": False, "qwen3": False}     # whether llama.cpp has Q and K in its own rotary order


def target_name(name: str) -> str:
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    if name == "output.weight":
        return "lm_head.weight"
    _, layer, kind, what = name.split(".")
    return f"model.layers.{layer}.{NAMES[kind]}.{what}"


def split(gguf: str, out: Path, pieces: int) -> None:
    from gguf import GGUFReader  # only this side needs it
    tensors = GGUFReader(gguf).tensors
    total = sum(t.n_bytes for t in tensors)
    index, piece, blob = [], 0, bytearray()
    out.mkdir(parents=True, exist_ok=True)
    for t in tensors:
        index.append({"name": t.name, "type": t.tensor_type.name, "shape": [int(x) for x in reversed(t.shape)],
                      "piece": piece, "at": len(blob), "bytes": int(t.n_bytes)})
        blob += t.data.tobytes()
        if len(blob) >= total / pieces or t is tensors[-1]:
            (out / f"weights.{piece}.bin").write_bytes(blob)
            piece, blob = piece + 1, bytearray()
    (out / "weights.json").write_text(json.dumps(index))


def dequantise(raw: np.ndarray, kind: str, shape: list[int]) -> np.ndarray:
    if kind in ("F32", "F16"):
        return raw.view(np.float32 if kind == "F32" else np.float16).astype(np.float32).reshape(shape)
    if kind == "Q8_0":
        block = raw.reshape(-1, 34)
        scale = block[:, :2].copy().view(np.float16).astype(np.float32)
        return (scale * block[:, 2:].view(np.int8).astype(np.float32)).reshape(shape)
    if kind == "Q4_1":
        block = raw.reshape(-1, 20)
        scale, low = (block[:, i:i + 2].copy().view(np.float16).astype(np.float32) for i in (0, 2))
        nibbles = np.concatenate((block[:, 4:] & 15, block[:, 4:] >> 4), axis=1).astype(np.float32)
        return (scale * nibbles + low).reshape(shape)
    if kind == "Q4_K":
        block = raw.reshape(-1, 144)    # of 256: scale and least of the eight groups' scales and leasts, those in 6 bits, nibbles
        scale, low = (block[:, i:i + 2].copy().view(np.float16).astype(np.float32)[:, :, None] for i in (0, 2))
        first, second, third = block[:, 4:8], block[:, 8:12], block[:, 12:16]
        scales = np.concatenate((first & 63, (third & 15) | (first >> 6 << 4)), axis=1)[:, :, None]
        lows = np.concatenate((second & 63, (third >> 4) | (second >> 6 << 4)), axis=1)[:, :, None]
        pairs = block[:, 16:].reshape(-1, 4, 1, 32)
        nibbles = np.concatenate((pairs & 15, pairs >> 4), axis=2).reshape(-1, 8, 32)
        return (scale * scales * nibbles - low * lows).reshape(shape)
    if kind == "Q6_K":
        block = raw.reshape(-1, 210)    # of 256: low nibbles, high pairs of bits, sixteen groups' scales, theirs
        nibbles = block[:, :128].reshape(-1, 2, 1, 64)
        nibbles = np.concatenate((nibbles & 15, nibbles >> 4), axis=2).reshape(-1, 2, 4, 32)
        high = block[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1) & 3
        values = (nibbles | high << 4).astype(np.float32).reshape(-1, 16, 16) - 32
        scale = block[:, 208:].copy().view(np.float16).astype(np.float32)[:, :, None]
        return (scale * block[:, 192:208].view(np.int8)[:, :, None] * values).reshape(shape)
    raise ValueError(f"tensor type {kind} is not supported")


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def join(folder: Path, base_files: Path, out: Path) -> None:
    """base_files: folder with config.json and tokenizer.json."""
    config = read_json(base_files / "config.json")
    family = config["model_type"]
    if family not in TURNED:
        raise ValueError(f"{base_files}/config.json: model_type '{family}' is not one of {', '.join(TURNED)}: how its GGUF orders Q and K is not known")
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]} if TURNED[family] else {}
    pieces, weights = {}, {}
    for t in read_json(folder / "weights.json"):
        if t["piece"] not in pieces:
            pieces[t["piece"]] = np.fromfile(folder / f"weights.{t['piece']}.bin", dtype=np.uint8)
        value = dequantise(pieces[t["piece"]][t["at"]:t["at"] + t["bytes"]], t["type"], t["shape"])
        kind = t["name"].split(".")[2] if t["name"].startswith("blk.") else ""
        if kind in heads:
            value = unpermute(value, heads[kind])
        weights[target_name(t["name"])] = torch.from_numpy(np.ascontiguousarray(value)).bfloat16()
    out.mkdir(parents=True, exist_ok=True)
    write_tensors(out / "model.safetensors", weights, {"format": "pt"})
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(base_files / name, out / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("split", "join"))
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--files", help="join: folder with config.json and tokenizer.json")
    parser.add_argument("--pieces", type=int, default=2)
    args = parser.parse_args()
    if args.verb == "split":
        split(args.source, Path(args.out), args.pieces)
    else:
        join(Path(args.source), Path(args.files), Path(args.out))


if __name__ == "__main__":
    tool.run(main)
