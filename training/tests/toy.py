"""A tiny random backbone, its tokenizer and a toy memory, for the tests."""
from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, decoders, trainers

from training import frames

FACTS = [("red fox", "417"), ("blue owl", "938"), ("old oak", "256"), ("tin bell", "803"), ("wet moss", "571"),
         ("far hill", "649"), ("low reed", "182"), ("new moon", "764")]


def documents() -> list[str]:
    return [f"Notes\nThe code of the {name} is {code}." for name, code in FACTS]


def questions() -> list[tuple[str, str]]:
    return [(f"What is the code of the {name}?", code) for name, code in FACTS]


def tokenizer(folder: Path) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                  pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    text = documents() + [frames.ROUTE] * 20 + [q for q, _ in questions()]
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], show_progress=False)
    made.train_from_iterator(text, trainer)
    made.add_special_tokens([AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    return frames.load_tokenizer(str(folder / "tokenizer.json"))


def backbone(folder: Path, family: str = "llama", layers: int = 4) -> None:
    """Writes config.json and model.safetensors of a random model: E 64, Hq 4, Hkv 2, D 16."""
    torch.manual_seed(0)
    hidden, heads, kv, inner, vocab = 64, 4, 2, 128, 512
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_type": family, "num_hidden_layers": layers, "num_attention_heads": heads,
              "num_key_value_heads": kv, "head_dim": hidden // heads, "hidden_size": hidden, "rope_theta": 10000.0,
              "rms_norm_eps": 1e-5, "tie_word_embeddings": True, "intermediate_size": inner, "vocab_size": vocab}
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"model.embed_tokens.weight": torch.randn(vocab, hidden) * 0.3, "model.norm.weight": torch.ones(hidden)}
    shapes = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (hidden // 2, hidden),
              "self_attn.v_proj": (hidden // 2, hidden), "self_attn.o_proj": (hidden, hidden),
              "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        for name, shape in shapes.items():
            weights[f"{prefix}{name}.weight"] = torch.randn(shape) * shape[1] ** -0.5
            if family == "qwen2" and name.split(".")[1][0] in "qkv":
                weights[f"{prefix}{name}.bias"] = torch.randn(shape[0]) * 0.1
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{prefix}{name}.weight"] = torch.ones(hidden)
        if family == "qwen3":
            for name in ("q_norm", "k_norm"):
                weights[f"{prefix}self_attn.{name}.weight"] = torch.ones(hidden // heads)
    save_file(weights, str(folder / "model.safetensors"))
