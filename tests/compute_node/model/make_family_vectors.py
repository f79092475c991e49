"""Tiny random checkpoints of each decoder family with the logits transformers computes for them (float32, CPU).

    python make_family_vectors.py OUTPUT_DIR      needs torch and transformers 4.51.3

Writes OUTPUT_DIR/{name}/ as save_pretrained does (some in shards, some in 16 bit) and vectors.safetensors with
input_ids [T] and logits [T, V]. The C++ test reads them from tests/golden/families.
"""
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM,
                          Qwen3Config, Qwen3ForCausalLM)

COMMON = dict(vocab_size=97, hidden_size=48, intermediate_size=80, num_hidden_layers=3,
              num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=512,
              initializer_range=0.2)
LLAMA3_ROPE = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                   original_max_position_embeddings=64)
# name: (model class, configuration, type of the saved weights, shard size)
CASES = {
    "llama_bias": (LlamaForCausalLM, LlamaConfig(**COMMON, attention_bias=True, mlp_bias=True),
                   torch.float32, "5GB"),
    "llama3_rope": (LlamaForCausalLM,
                    LlamaConfig(**COMMON, rope_scaling=LLAMA3_ROPE, rope_theta=500000.0, head_dim=16,
                                tie_word_embeddings=True), torch.float16, "5GB"),
    "llama_linear_rope": (LlamaForCausalLM,
                          LlamaConfig(**COMMON, rope_scaling=dict(rope_type="linear", factor=4.0)),
                          torch.float32, "5GB"),
    "qwen2": (Qwen2ForCausalLM, Qwen2Config(**COMMON, rope_theta=1e6), torch.bfloat16, "40KB"),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**COMMON, head_dim=16, tie_word_embeddings=True),
              torch.bfloat16, "5GB"),
}


def main(out: Path) -> None:
    for seed, (name, (cls, config, dtype, shard)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        model = cls(config)
        for parameter in model.parameters():  # biases and norms start at 0 and 1: untested as they are
            if parameter.dim() == 1:
                parameter.data.add_(torch.randn_like(parameter) * 0.3)
        model = model.to(dtype)
        model.save_pretrained(out / name, max_shard_size=shard)
        ids = torch.randint(0, config.vocab_size, (1, 130))
        with torch.no_grad():
            logits = cls.from_pretrained(out / name, torch_dtype=torch.float32,
                                         attn_implementation="eager")(ids).logits[0]
        save_file({"input_ids": ids[0].contiguous(), "logits": logits.contiguous()},
                  out / name / "vectors.safetensors")
        print(name, tuple(logits.shape), float(logits.abs().max()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
