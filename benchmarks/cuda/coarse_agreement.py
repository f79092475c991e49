"""How many candidates the coarse codes of kernels/cuda/coarse.h need on real text.

Runs a Llama-type MSA checkpoint (base model and adapter, as in models/) over documents and questions on
the CPU, makes routing keys and folded questions as docs/numerics.md says, and prints, for codes of 4, 3
and 2 bits with and without a Hadamard rotation of each head, the share of layer-questions whose exact
top 16 lie among the best N documents by codes. One JSON line each. Needs torch, safetensors, tokenizers.

    python benchmarks/cuda/coarse_agreement.py --model models/smollm2-135m-instruct \
        --adapter models/smollm2-135m-instruct-msa --documents corpus.jsonl --questions questions.jsonl
"""

import argparse
import json

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

TOP_K = 16
CANDIDATES = (16, 24, 32, 48, 64, 96, 128, 256)
BATCH = 32
PROMPT = (
    "\nPlease answer the question based on the above historical document information\n\n{}"
    "\nPlease return all documents related to the question\n"
)


class Router:
    """The backbone up to each router layer's normalised input, and the router projections."""

    def __init__(self, model, adapter):
        self.config = json.load(open(f"{model}/config.json"))
        self.msa = json.load(open(f"{adapter}/adapter_config.json"))
        self.layers = [int(i) for i in self.msa["msa_config"]["router_layer_idx"].split(",")]
        self.w = {k: v.float() for k, v in load_file(f"{model}/model.safetensors").items()}
        self.a = {k: v.float() for k, v in load_file(f"{adapter}/adapter.safetensors").items()}
        scale = self.msa["lora_alpha"] / self.msa["r"]
        for name in [k for k in self.a if k.endswith("lora_A.weight")]:
            base = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
            self.w[base] += scale * self.a[name.replace("lora_A", "lora_B")] @ self.a[name]
        self.tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
        self.heads, self.kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        self.dim = self.config.get("head_dim") or self.config["hidden_size"] // self.heads
        self.inv_freq = self.config["rope_theta"] ** (-torch.arange(0, self.dim, 2).float() / self.dim)

    def norm(self, x, weight):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.config["rms_norm_eps"]) * self.w[weight]

    def rope(self, x):
        angle = torch.arange(x.shape[1]).float()[:, None] * self.inv_freq
        cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))
        half = self.dim // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    @torch.no_grad()
    def project(self, ids, which):
        """{layer: [batch, tokens, width]} of router_k or router_q."""
        batch, tokens = ids.shape
        x, out = self.w["model.embed_tokens.weight"][ids], {}
        for layer in range(max(self.layers) + 1):
            at = f"model.layers.{layer}."
            h = self.norm(x, at + "input_layernorm.weight")
            if layer in self.layers:
                out[layer] = h @ self.a[f"{at}self_attn.router_{which}_proj.0.weight"].T
            q, k, v = (
                (h @ self.w[f"{at}self_attn.{p}_proj.weight"].T).view(batch, tokens, -1, self.dim) for p in "qkv"
            )
            group = self.heads // self.kv_heads
            mix = torch.nn.functional.scaled_dot_product_attention(
                self.rope(q).transpose(1, 2),
                self.rope(k).repeat_interleave(group, 2).transpose(1, 2),
                v.repeat_interleave(group, 2).transpose(1, 2),
                is_causal=True,
            )
            x = x + mix.transpose(1, 2).reshape(batch, tokens, -1) @ self.w[at + "self_attn.o_proj.weight"].T
            h = self.norm(x, at + "post_attention_layernorm.weight")
            gate, up = (h @ self.w[f"{at}mlp.{p}_proj.weight"].T for p in ("gate", "up"))
            x = x + (torch.nn.functional.silu(gate) * up) @ self.w[at + "mlp.down_proj.weight"].T
        return out

    def vectors(self, texts, which, reduce):
        """{layer: list over texts of reduce(projection of its tokens)}."""
        ids = [self.tokenizer.encode(text, add_special_tokens=False).ids[:256] for text in texts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = {layer: [None] * len(ids) for layer in self.layers}
        for first in range(0, len(order), BATCH):
            group = order[first : first + BATCH]
            padded = torch.zeros(len(group), max(len(ids[i]) for i in group), dtype=torch.long)
            for row, i in enumerate(group):
                padded[row, : len(ids[i])] = torch.tensor(ids[i])
            for layer, x in self.project(padded, which).items():
                for row, i in enumerate(group):
                    found[layer][i] = reduce(x[row, : len(ids[i])]).numpy()
        return found

    def keys(self, texts):
        size = self.msa["msa_config"]["pooling_kernel_size"]

        def pool(x):
            chunks = torch.stack([part.mean(0) for part in x.split(size)])
            heads = chunks.view(len(chunks), self.kv_heads, self.dim)
            return torch.nn.functional.normalize(heads, dim=-1).flatten(1)

        return self.vectors(texts, "k", pool)

    def questions(self, texts):
        def fold(x):
            heads = torch.nn.functional.normalize(x.view(len(x), self.heads, self.dim), dim=-1)
            return heads.view(len(x), self.kv_heads, -1, self.dim).sum(2).flatten(1) / self.heads

        return self.vectors(texts, "q", fold)


def encode(keys, bits):
    """The keys that codes of `bits` stand for, as EncodeCoarse makes them."""
    half, largest = 2 ** (bits - 1), np.abs(keys).max(1, keepdims=True)
    best, coded = np.full(len(keys), -1.0), np.zeros_like(keys)
    for i in range(12):
        code = np.clip(np.floor(keys * half / (largest * (1 - i / 18))), -half, half - 1) + 0.5
        product, square = (keys * code).sum(1), (code * code).sum(1)
        better = product**2 / square > best
        best[better] = (product**2 / square)[better]
        coded[better] = (code * (product / square)[:, None])[better]
    return coded


def rotate(x, dim):
    hadamard = np.array([[1.0]])
    while len(hadamard) < dim:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    return (x.reshape(len(x), -1, dim) @ (hadamard / np.sqrt(dim))).reshape(x.shape)


def ranks(keys, codes, questions, starts):
    """For each question, the rank by codes of the worst of the exact top 16."""
    found = []
    for q in questions:
        exact = np.maximum.reduceat((keys @ q.T).max(1), starts)
        step = np.abs(q).max(1, keepdims=True) / 127
        coarse = np.maximum.reduceat((codes @ (np.round(q / step) * step).T).max(1), starts)
        best = np.argsort(-exact, kind="stable")[:TOP_K]
        found.append(int((coarse >= coarse[best].min()).sum()))
    return found


def lines(path, count):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line, _ in zip(file, range(count))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "adapter", "documents", "questions"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--num-docs", type=int, default=6000)
    parser.add_argument("--num-questions", type=int, default=150)
    args = parser.parse_args()
    router = Router(args.model, args.adapter)
    documents = lines(args.documents, args.num_docs)
    texts = [f"<|im_start|>[{i}]. {d['text']}[{i}]<|im_end|>" for i, d in enumerate(documents)]
    keys = router.keys(texts)
    questions = router.questions(
        [PROMPT.format(q["question"]) for q in lines(args.questions, args.num_questions)]
    )
    for bits in (4, 3, 2):
        for rotated in (False, True):
            found = []
            for layer in router.layers:
                starts = np.cumsum([0] + [len(k) for k in keys[layer]][:-1])
                key, asked = np.concatenate(keys[layer]), questions[layer]
                if rotated:
                    key, asked = rotate(key, router.dim), [rotate(q, router.dim) for q in asked]
                found += ranks(key, encode(key, bits), asked, starts)
            found = np.array(found)
            share = {n: round(float((found <= n).mean()), 4) for n in CANDIDATES}
            print(json.dumps({"what": "coarse agreement", "bits": bits, "rotated": rotated,
                              "layer_questions": len(found), "needed_at_most": int(found.max()),
                              "same_top16_by_candidates": share}))


if __name__ == "__main__":
    main()
