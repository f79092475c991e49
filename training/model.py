"""A Llama / Qwen2 / Qwen3 decoder that is also a Memory Sparse Attention model.

Written over plain tensors, so that documents can be packed without padding and each effective weight
`W + scale * B A` is formed once a step. Shapes: N packed tokens, Q queries, T padded query tokens, C chunks,
D documents, S gathered chunks. `heads`, `kv_heads`, `head_dim` as in the backbone's configuration.
"""
from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch._dynamo
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FAMILIES = ("llama", "qwen2", "qwen3")
LINEAR = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn",
          "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}
EPS = 1e-12


@dataclass(frozen=True)
class BackboneConfig:
    family: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    hidden: int
    rope_theta: float
    rms_eps: float
    tied: bool

    @staticmethod
    def load(folder: str) -> "BackboneConfig":
        raw = json.loads((Path(folder) / "config.json").read_text())
        family = raw.get("model_type", "")
        if family not in FAMILIES:
            raise ValueError(f"{folder}/config.json: model_type '{family}' is not one of {', '.join(FAMILIES)}")
        heads = raw["num_attention_heads"]
        theta = raw.get("rope_theta") or raw.get("rope_parameters", {}).get("rope_theta", 10000.0)
        return BackboneConfig(family, raw["num_hidden_layers"], heads, raw.get("num_key_value_heads", heads),
                              raw.get("head_dim") or raw["hidden_size"] // heads, raw["hidden_size"], theta,
                              raw["rms_norm_eps"], raw.get("tie_word_embeddings", False))


@dataclass(frozen=True)
class MsaConfig:
    router_layers: tuple[int, ...]
    pool: int = 16          # tokens a chunk
    top_k: int = 16         # documents a layer attends to
    lora_rank: int = 16     # 0: full weights are trained
    lora_alpha: float = 16


@dataclass
class Packed:
    """Sequences back to back. cu: [B+1] int32 starts; longest: max length."""
    ids: Tensor
    positions: Tensor
    cu: Tensor
    longest: int

    def to(self, device) -> "Packed":
        move = lambda t: t.to(device, non_blocking=True)
        return Packed(move(self.ids), move(self.positions), move(self.cu), self.longest)


@dataclass
class Documents:
    """Packed documents with their chunks. chunk_of: [N]; chunk_len: [C]; table: [D, most chunks], C = none."""
    packed: Packed
    chunk_of: Tensor
    chunk_len: Tensor
    table: Tensor

    def to(self, device) -> "Documents":
        move = lambda t: t.to(device, non_blocking=True)
        return Documents(self.packed.to(device), move(self.chunk_of), move(self.chunk_len), move(self.table))


@dataclass
class Queries:
    """Rows of head + prompt (+ answer), padded on the right. All [Q, T]; head: tokens of the template head.

    excluded: [Q, D] documents that must not be selected (taken in earlier rounds), or None.
    labels: [Q, T] the next token where it is to be learnt, else -100."""
    ids: Tensor
    positions: Tensor
    routing: Tensor
    head: int
    excluded: Tensor | None = None
    labels: Tensor | None = None

    def to(self, device) -> "Queries":
        move = lambda t: None if t is None else t.to(device, non_blocking=True)
        return Queries(move(self.ids), move(self.positions), move(self.routing), self.head,
                       move(self.excluded), move(self.labels))


@dataclass
class Memory:
    """Pooled state of the router layers: keys [C, Hkv*Dh] fp32 normalised, k and v [C, Hkv, Dh]."""
    keys: dict[int, Tensor]
    k: dict[int, Tensor]
    v: dict[int, Tensor]
    table: Tensor


def load_backbone(folder: str) -> dict[str, Tensor]:
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    files = sorted(set(json.loads(index.read_text())["weight_map"].values())) if index.exists() \
        else ["model.safetensors"]
    weights: dict[str, Tensor] = {}
    for name in files:
        weights.update(load_file(str(folder / name)))
    return weights


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [N, H, D], cos and sin [N, D/2]; rotates the two halves of each head."""
    a, b = x.float().chunk(2, dim=-1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat((a * c - b * s, b * c + a * s), dim=-1).to(x.dtype)


def before_attention(x, cos, sin, w, heads: int, kv_heads: int, eps: float):
    """Normalised input h [N,E] and rotated q [N,Hq,D], k, v [N,Hkv,D]."""
    h = rms_norm(x, w["input_layernorm"], eps)
    q, k, v = (F.linear(h, w[n], w.get(n + ".bias")).view(x.shape[0], count, -1)
               for n, count in (("q_proj", heads), ("k_proj", kv_heads), ("v_proj", kv_heads)))
    if "q_norm" in w:
        q, k = rms_norm(q, w["q_norm"], eps), rms_norm(k, w["k_norm"], eps)
    return h, rotate(q, cos, sin), rotate(k, cos, sin), v


def after_attention(x, attended, w, eps: float):
    x = x + F.linear(attended, w["o_proj"])
    h = rms_norm(x, w["post_attention_layernorm"], eps)
    return x + F.linear(F.silu(F.linear(h, w["gate_proj"])) * F.linear(h, w["up_proj"]), w["down_proj"])


def packed_attention(q, k, v, packed: Packed) -> Tensor:
    """Causal attention inside each packed sequence. [N,Hq,D] -> [N,Hq*D]."""
    if q.is_cuda and q.dtype == torch.bfloat16:
        out = torch.ops.aten._flash_attention_forward(
            q, k, v, packed.cu, packed.cu, packed.longest, packed.longest, 0.0, True, False)[0]
        return out.reshape(q.shape[0], -1)
    lengths = (packed.cu[1:] - packed.cu[:-1]).long()
    row = torch.repeat_interleave(torch.arange(len(lengths), device=q.device), lengths)
    column = torch.arange(q.shape[0], device=q.device) - packed.cu[:-1].long()[row]
    group = q.shape[1] // k.shape[1]

    def pad(t):
        out = t.new_zeros(len(lengths), packed.longest, *t.shape[1:])
        return out.index_put((row, column), t).transpose(1, 2)
    out = F.scaled_dot_product_attention(pad(q), pad(k).repeat_interleave(group, 1),
                                         pad(v).repeat_interleave(group, 1), is_causal=True)
    return out.transpose(1, 2)[row, column].reshape(q.shape[0], -1)


class MsaModel(nn.Module):
    """Backbone (frozen under LoRA), LoRA on every linear map, dense routers on the router layers."""

    def __init__(self, folder: str, msa: MsaConfig, compute_dtype=torch.float32, weights=None,
                 compiled: bool = False, checkpointing: bool = False):
        super().__init__()
        self.cfg = BackboneConfig.load(folder)
        self.msa = msa
        self.dtype = compute_dtype
        self.checkpointing = checkpointing
        if not set(msa.router_layers) <= set(range(self.cfg.num_layers)):
            raise ValueError(f"router layers {msa.router_layers} do not fit {self.cfg.num_layers} layers")
        weights = weights if weights is not None else load_backbone(folder)
        self._full = msa.lora_rank == 0
        self._names = {name: name.replace(".", "/") for name in weights}
        store = nn.ParameterDict() if self._full else None
        for name, value in weights.items():
            if self._full:
                store[self._names[name]] = nn.Parameter(value.float())
            else:
                self.register_buffer("base/" + self._names[name], value.to(compute_dtype), persistent=False)
        self.full = store
        self.lora_a, self.lora_b, self.routers = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self._add_adapters(weights)
        half = self.cfg.head_dim // 2
        self.register_buffer("frequency", self.cfg.rope_theta ** (-torch.arange(half).float() / half),
                             persistent=False)
        self._before, self._after = before_attention, after_attention
        if compiled:  # head counts and eps are constants; only the number of tokens changes
            torch._dynamo.config.specialize_int = torch._dynamo.config.specialize_float = True
            self._before, self._after = torch.compile(before_attention), torch.compile(after_attention)

    def _add_adapters(self, weights) -> None:
        rank = self.msa.lora_rank
        for layer in range(self.cfg.num_layers):
            for linear, block in LINEAR.items() if rank else ():
                out, inner = weights[f"model.layers.{layer}.{block}.{linear}.weight"].shape
                a = torch.empty(rank, inner)
                nn.init.kaiming_uniform_(a, a=math.sqrt(5))
                self.lora_a[f"{layer}/{linear}"] = nn.Parameter(a)
                self.lora_b[f"{layer}/{linear}"] = nn.Parameter(torch.zeros(out, rank))
        for layer in self.msa.router_layers:  # copies of W_q, W_k: a random start is much worse
            for router, linear in (("q", "q_proj"), ("k", "k_proj")):
                source = weights[f"model.layers.{layer}.self_attn.{linear}.weight"]
                self.routers[f"{layer}/{router}"] = nn.Parameter(source.float().clone())

    def base(self, name: str) -> Tensor:
        return self.full[self._names[name]] if self._full else getattr(self, "base/" + self._names[name])

    def merged(self) -> list[dict[str, Tensor]]:
        """Effective weights of every layer in the compute type: W + alpha/r * B A, summed in fp32."""
        scale = self.msa.lora_alpha / self.msa.lora_rank if self.msa.lora_rank else 0.0
        layers = []
        for layer in range(self.cfg.num_layers):
            prefix = f"model.layers.{layer}."
            w = {"before": {}, "after": {}, "router": {}}   # by use: compiled functions see one structure
            for linear, block in LINEAR.items():
                weight = self.base(f"{prefix}{block}.{linear}.weight")
                key = f"{layer}/{linear}"
                if key in self.lora_a:
                    weight = weight.float() + scale * (self.lora_b[key] @ self.lora_a[key])
                part = w["before" if linear in ("q_proj", "k_proj", "v_proj") else "after"]
                part[linear] = weight.to(self.dtype)
                bias = f"{prefix}{block}.{linear}.bias"
                if bias in self._names:
                    part[linear + ".bias"] = self.base(bias).to(self.dtype)
            for norm, path, use in (("input_layernorm",) * 2 + ("before",), ("q_norm", "self_attn.q_norm", "before"),
                                    ("k_norm", "self_attn.k_norm", "before"),
                                    ("post_attention_layernorm",) * 2 + ("after",)):
                name = f"{prefix}{path}.weight"
                if name in self._names:
                    w[use][norm] = self.base(name).to(self.dtype)
            for router in ("q", "k"):
                if f"{layer}/{router}" in self.routers:
                    w["router"][router] = self.routers[f"{layer}/{router}"].to(self.dtype)
            layers.append(w)
        return layers

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        angle = positions.reshape(-1, 1).float() * self.frequency
        return angle.cos(), angle.sin()

    def _embed(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids.reshape(-1), self.base("model.embed_tokens.weight")).to(self.dtype)
        # Every layer's input then needs a gradient alike: one compiled function fewer, and checkpoints work.
        return x.requires_grad_() if torch.is_grad_enabled() and not x.requires_grad else x

    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head; hidden [n, E] -> [n, V]."""
        x = rms_norm(hidden, self.base("model.norm.weight").to(self.dtype), self.cfg.rms_eps)
        head = "model.embed_tokens.weight" if self.cfg.tied else "lm_head.weight"
        return F.linear(x, self.base(head).to(self.dtype)).float()

    def _run(self, function, *args):
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *args, use_reentrant=False)
        return function(*args)

    def _plain_layer(self, x, cos, sin, w, packed: Packed):
        c = self.cfg
        h, q, k, v = self._before(x, cos, sin, w["before"], c.num_heads, c.num_kv_heads, c.rms_eps)
        return self._after(x, packed_attention(q, k, v, packed), w["after"], c.rms_eps), h, k, v

    def read(self, layers, packed: Packed) -> Tensor:
        """Plain causal language model; hidden states [N, E] before the final norm."""
        x = self._embed(packed.ids)
        cos, sin = self._angles(packed.positions)
        for w in layers:
            x = self._run(self._plain_layer, x, cos, sin, w, packed)[0]
        return x

    def encode_documents(self, layers, docs: Documents) -> Memory:
        """Stage 1: document-wise positions, causal inside each document, chunk means in fp32."""
        x = self._embed(docs.packed.ids)
        cos, sin = self._angles(docs.packed.positions)
        memory = Memory({}, {}, {}, docs.table)
        last = max(self.msa.router_layers)
        for index, w in enumerate(layers[: last + 1]):
            x, h, k, v = self._run(self._plain_layer, x, cos, sin, w, docs.packed)
            if w["router"]:
                r = F.linear(h, w["router"]["k"]).view(k.shape)
                memory.k[index] = self._pool(k, docs).to(self.dtype)
                memory.v[index] = self._pool(v, docs).to(self.dtype)
                memory.keys[index] = F.normalize(self._pool(r, docs), dim=-1, eps=EPS).flatten(1)
        return memory

    @staticmethod
    def _pool(t: Tensor, docs: Documents) -> Tensor:
        total = torch.zeros(len(docs.chunk_len), *t.shape[1:], device=t.device)
        return total.index_add(0, docs.chunk_of, t.float()) / docs.chunk_len[:, None, None]

    def folded_queries(self, h: Tensor, w) -> Tensor:
        """[n, E] -> [n, Hkv*D] fp32: normalised routing queries summed over each group, over Hq."""
        c = self.cfg
        q = F.normalize(F.linear(h, w["router"]["q"]).float().view(len(h), c.num_heads, c.head_dim), dim=-1, eps=EPS)
        group = c.num_heads // c.num_kv_heads
        return q.view(len(h), c.num_kv_heads, group, -1).sum(2).flatten(1) / c.num_heads

    def score(self, h: Tensor, w, keys: Tensor, table: Tensor, queries: Queries) -> Tensor:
        """h [Q,T,E] -> document scores [Q,D] fp32: mean over heads, max over tokens, max over chunks."""
        folded = self.folded_queries(h.reshape(-1, h.shape[-1]), w)
        similarity = (folded @ keys.T).view(*queries.ids.shape, -1)
        similarity = similarity.masked_fill(~queries.routing[..., None], float("-inf")).amax(1)
        return F.pad(similarity, (0, 1), value=float("-inf"))[:, table].amax(-1)

    def query(self, layers, queries: Queries, memory: Memory, attend: bool = True):
        """Stage 2. Returns ({layer: scores [Q,D]}, {layer: selected [Q,<=k]}, hidden [Q,T,E]).

        attend=False leaves the memory out of attention (the router warm-up)."""
        c, (rows, width) = self.cfg, queries.ids.shape
        x = self._embed(queries.ids)
        cos, sin = self._angles(queries.positions)
        causal = torch.ones(width, width, dtype=torch.bool, device=x.device).tril()
        scores, selected = {}, {}
        for index, w in enumerate(layers):
            h, q, k, v = self._before(x, cos, sin, w["before"], c.num_heads, c.num_kv_heads, c.rms_eps)
            q, k, v = (t.view(rows, width, *t.shape[1:]) for t in (q, k, v))
            mask = None
            if w["router"]:
                s = self.score(h.view(rows, width, -1), w, memory.keys[index], memory.table, queries)
                scores[index] = s
                allowed = s.detach()
                if queries.excluded is not None:
                    allowed = allowed.masked_fill(queries.excluded, float("-inf"))
                selected[index] = allowed.topk(min(self.msa.top_k, s.shape[1]), dim=-1).indices
                if attend:
                    mk, mv, seen = self._gather(memory, index, selected[index], allowed)
                    mask = self._memory_mask(seen, causal, queries.head)
                    k, v = torch.cat((mk, k), 1), torch.cat((mv, v), 1)
            x = self._after(x, self._attend(q, k, v, mask), w["after"], c.rms_eps)
        return scores, selected, x.view(rows, width, -1)

    @staticmethod
    def _gather(memory: Memory, layer: int, selected: Tensor, allowed: Tensor):
        """Pooled K,V of the selected documents [Q,S,Hkv,D] and which of the S are there."""
        chunks = memory.table[selected]                                     # [Q, k, most chunks]
        there = chunks < len(memory.k[layer])
        there &= torch.isfinite(allowed.gather(1, selected))[..., None]
        flat = chunks.clamp(max=len(memory.k[layer]) - 1).flatten(1)
        return memory.k[layer][flat], memory.v[layer][flat], there.flatten(1)

    @staticmethod
    def _memory_mask(seen: Tensor, causal: Tensor, head: int) -> Tensor:
        """[Q,1,T,S+T]; the template head sees only itself, the prompt sees memory and its past."""
        prompt = (torch.arange(len(causal), device=seen.device) >= head)[None, :, None]
        return torch.cat((seen[:, None, :] & prompt, causal.expand(len(seen), -1, -1)), -1)[:, None]

    @staticmethod
    def _attend(q, k, v, mask) -> Tensor:
        group = q.shape[2] // k.shape[2]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1),
                                             attn_mask=mask, is_causal=mask is None)
        return out.transpose(1, 2).reshape(-1, q.shape[1] * q.shape[3])
