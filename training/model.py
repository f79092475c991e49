"""A Llama / Qwen2 / Qwen3 decoder that is also a Memory Sparse Attention model.

Written over plain tensors, so that documents can be packed without padding and each effective weight
`W + scale * B A` is formed once a step. Shapes: N packed tokens, Q queries, T padded query tokens, C chunks,
D documents, S gathered chunks. `heads`, `kv_heads`, `head_dim` as in the backbone's configuration.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch._dynamo
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.files import read_json, read_tensors
from training.frames import READER_ATTENTION, READER_QUESTION

FAMILIES = ("llama", "qwen2", "qwen3")
LINEAR = {"q_proj": "self_attn", "k_proj": "self_attn", "v_proj": "self_attn", "o_proj": "self_attn",
          "gate_proj": "mlp", "up_proj": "mlp", "down_proj": "mlp"}
EPS = 1e-12
ROPE = ("default", "linear", "llama3")


def rope_type(rope: dict) -> str:
    return rope.get("rope_type") or rope.get("type") or "default"


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
    rope: dict = field(default_factory=dict)    # rope_scaling or rope_parameters of the configuration

    @staticmethod
    def load(folder: str) -> "BackboneConfig":
        raw = read_json(Path(folder) / "config.json")
        family = raw.get("model_type", "")
        if family not in FAMILIES:
            raise ValueError(f"{folder}/config.json: model_type '{family}' is not one of {', '.join(FAMILIES)}")
        if raw.get("mlp_bias") or (raw.get("attention_bias") and family != "qwen2"):
            raise ValueError(f"{folder}/config.json: attention_bias and mlp_bias are not known to training; give a backbone without")
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        if rope_type(rope) not in ROPE:
            raise ValueError(f"{folder}/config.json: rope_scaling has type '{rope_type(rope)}'; known: {', '.join(ROPE)}")
        heads = raw["num_attention_heads"]
        theta = raw.get("rope_theta") or rope.get("rope_theta", 10000.0)
        return BackboneConfig(family, raw["num_hidden_layers"], heads, raw.get("num_key_value_heads", heads),
                              raw.get("head_dim") or raw["hidden_size"] // heads, raw["hidden_size"], theta,
                              raw["rms_norm_eps"], raw.get("tie_word_embeddings", False), rope)

    def frequencies(self) -> Tensor:
        """[D/2] angles of a position, as the configuration scales them."""
        half, rope = self.head_dim // 2, self.rope
        plain = self.rope_theta ** (-torch.arange(half).float() / half)
        if rope_type(rope) == "default":
            return plain
        slow = plain / rope["factor"]
        if rope_type(rope) == "linear":
            return slow
        low, high = rope.get("low_freq_factor", 1.0), rope.get("high_freq_factor", 4.0)    # llama3: slow waves are slowed
        turns = rope.get("original_max_position_embeddings", 8192) * plain / (2 * math.pi)
        share = ((turns - low) / (high - low)).clamp(0, 1)
        return share * plain + (1 - share) * slow


@dataclass(frozen=True)
class MsaConfig:
    router_layers: tuple[int, ...]
    pool: int = 16          # tokens a chunk
    top_k: int = 16         # documents a layer attends to
    lora_rank: int = 16     # 0: full weights are trained
    lora_alpha: float = 16
    cosine: bool = True     # keys and routing queries normalised; else their products times head_dim^-0.5
    reader_question: str = "after"      # see frames.reader_prompt
    reader_attention: str = "causal"    # full: all tokens of a reader prompt see each other

    def __post_init__(self):
        for name, known in (("reader_question", READER_QUESTION), ("reader_attention", READER_ATTENTION)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is '{getattr(self, name)}'; known: {', '.join(known)}")

    @property
    def reads_full(self) -> bool:
        return self.reader_attention == "full"


@dataclass
class Prompts:
    """Runs of a pack's rows whose tokens all see each other, nothing else: rows [P], back to back; cu [B+1] int32 starts among those; longest: max length."""
    rows: Tensor
    cu: Tensor
    longest: int

    def to(self, device) -> "Prompts":
        return Prompts(self.rows.to(device, non_blocking=True), self.cu.to(device, non_blocking=True), self.longest)


@dataclass
class Packed:
    """Sequences back to back, causal but for the `full` rows. cu: [B+1] int32 starts; longest: max length."""
    ids: Tensor
    positions: Tensor
    cu: Tensor
    longest: int
    full: Prompts | None = None

    def to(self, device) -> "Packed":
        move = lambda t: t.to(device, non_blocking=True)
        return Packed(move(self.ids), move(self.positions), move(self.cu), self.longest, self.full and self.full.to(device))


@dataclass
class Documents:
    """Packed documents with their chunks. chunk_of: [N]; chunk_len: [C].

    table: [D, most chunks] chunk numbers, the first `count` [D] of a row; the rest repeat the row's first chunk,
    which changes no maximum and spreads the gradient's writes."""
    packed: Packed
    chunk_of: Tensor
    chunk_len: Tensor
    table: Tensor
    count: Tensor
    content: "Documents | None" = None      # the chunks of K and V where they are others than the routing keys'

    def to(self, device) -> "Documents":
        move = lambda t: t.to(device, non_blocking=True)
        return Documents(self.packed.to(device), move(self.chunk_of), move(self.chunk_len), move(self.table),
                         move(self.count), self.content and self.content.to(device))


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

    def packed(self) -> Packed:
        """The rows as sequences, padding included (it is behind every token that matters)."""
        rows, width = self.ids.shape
        cu = torch.arange(0, (rows + 1) * width, width, dtype=torch.int32, device=self.ids.device)
        return Packed(self.ids.flatten(), self.positions.flatten(), cu, width)

    def to(self, device) -> "Queries":
        move = lambda t: None if t is None else t.to(device, non_blocking=True)
        return Queries(move(self.ids), move(self.positions), move(self.routing), self.head,
                       move(self.excluded), move(self.labels))


@dataclass
class Memory:
    """Pooled state of the router layers: keys [C, Hkv*Dh] fp32, normalised if routing is cosine, k and v [C, Hkv, Dh] fp32; see Documents.

    content: table and count of k and v where their chunks are not the keys'."""
    keys: dict[int, Tensor]
    k: dict[int, Tensor]
    v: dict[int, Tensor]
    table: Tensor
    count: Tensor
    content: tuple[Tensor, Tensor] | None = None


@dataclass
class Result:
    """Of one pass. scores [Q,D], folded queries [Q*T,Hkv*Dh] and selected [Q,<=k] (best first, -1 = none) by group and
    layer; hidden states before the final norm: reading [N,E], and [Q,T,E] a group."""
    memory: Memory | None
    scores: list[dict[int, Tensor]]
    folded: list[dict[int, Tensor]]
    selected: list[dict[int, Tensor]]
    reading: Tensor | None
    hidden: list[Tensor]


def join(parts: list[Packed]) -> Packed | None:
    """Several packs as one; one of them at most has full rows."""
    if len(parts) <= 1:
        return parts[0] if parts else None
    starts, total, full = [parts[0].cu], len(parts[0].ids), parts[0].full
    for p in parts[1:]:
        starts.append(p.cu[1:] + total)
        full = Prompts(p.full.rows + total, p.full.cu, p.full.longest) if p.full else full
        total += len(p.ids)
    return Packed(torch.cat([p.ids for p in parts]), torch.cat([p.positions for p in parts]), torch.cat(starts),
                  max(p.longest for p in parts), full)


def load_backbone(folder: str) -> dict[str, Tensor]:
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    files = sorted(set(read_json(index)["weight_map"].values())) if index.exists() \
        else ["model.safetensors"]
    weights: dict[str, Tensor] = {}
    for name in files:
        weights.update(read_tensors(folder / name))
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


def after_attention(x, attended, w, eps: float, dropout: float = 0.0):
    x = x + F.dropout(F.linear(attended, w["o_proj"]), dropout, dropout > 0)
    h = rms_norm(x, w["post_attention_layernorm"], eps)
    return x + F.dropout(F.linear(F.silu(F.linear(h, w["gate_proj"])) * F.linear(h, w["up_proj"]), w["down_proj"]), dropout, dropout > 0)


def packed_attention(q, k, v, packed: Packed) -> Tensor:
    """Attention inside each packed sequence, causal but for its full rows. [N,Hq,D] -> [N,Hq*D]."""
    out = attention_within(q, k, v, packed.cu, packed.longest, causal=True)
    if packed.full is None:
        return out
    rows = packed.full.rows     # what follows such rows sees all of them as it is
    return out.index_copy(0, rows, attention_within(q[rows], k[rows], v[rows], packed.full.cu, packed.full.longest, causal=False))


def attention_within(q, k, v, cu: Tensor, longest: int, causal: bool) -> Tensor:
    """Inside each sequence of the starts `cu`. [N,Hq,D] -> [N,Hq*D]."""
    if q.is_cuda and q.dtype == torch.bfloat16:
        out = torch.ops.aten._flash_attention_forward(q, k, v, cu, cu, longest, longest, 0.0, causal, False)[0]
        return out.reshape(q.shape[0], -1)
    lengths = (cu[1:] - cu[:-1]).long()
    row = torch.repeat_interleave(torch.arange(len(lengths), device=q.device), lengths)
    column = torch.arange(q.shape[0], device=q.device) - cu[:-1].long()[row]
    group = q.shape[1] // k.shape[1]

    def pad(t):
        out = t.new_zeros(len(lengths), longest, *t.shape[1:])
        return out.index_put((row, column), t).transpose(1, 2)
    there = torch.arange(longest, device=q.device) < lengths[:, None]
    mask = None if causal else there[:, None, None] | ~there[:, None, :, None]    # rows past an end see anything rather than nothing
    out = F.scaled_dot_product_attention(pad(q), pad(k).repeat_interleave(group, 1),
                                         pad(v).repeat_interleave(group, 1), mask, is_causal=causal)
    return out.transpose(1, 2)[row, column].reshape(q.shape[0], -1)


class MsaModel(nn.Module):
    """Backbone (frozen under LoRA), LoRA on every linear map, dense routers on the router layers."""

    def __init__(self, folder: str, msa: MsaConfig, compute_dtype=torch.float32, weights=None,
                 compiled: bool = False, checkpointing: bool = False, dropout: float = 0.0):
        """dropout: of what attention and MLP add to a token, where gradients are taken."""
        super().__init__()
        self.cfg = BackboneConfig.load(folder)
        self.msa = msa
        self.dtype = compute_dtype
        self.checkpointing, self.dropout = checkpointing, dropout
        if not set(msa.router_layers) <= set(range(self.cfg.num_layers)):
            raise ValueError(f"router layers {msa.router_layers} do not fit {self.cfg.num_layers} layers")
        weights = weights if weights is not None else load_backbone(folder)
        self._full = msa.lora_rank == 0
        self._names = {name: name.replace(".", "/") for name in weights}
        store = nn.ParameterDict() if self._full else None
        for name, value in weights.items():
            if self._full:
                store[self._names[name]] = nn.Parameter(value.float())
            elif not self._is_adapted(name):
                self.register_buffer("base/" + self._names[name], value.to(compute_dtype), persistent=False)
        self.full = store
        self.lora_a, self.lora_b, self.routers = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self._add_adapters(weights, compute_dtype)
        self.register_buffer("frequency", self.cfg.frequencies(), persistent=False)
        self._before, self._after = before_attention, after_attention
        if compiled:  # head counts and eps are constants; only the number of tokens changes
            torch._dynamo.config.specialize_int = torch._dynamo.config.specialize_float = True
            self._before, self._after = torch.compile(before_attention), torch.compile(after_attention)

    @staticmethod
    def _is_adapted(name: str) -> bool:
        return name.endswith("_proj.weight")

    def _add_adapters(self, weights, compute_dtype) -> None:
        """LoRA of one linear map is stacked over the layers: a few large products a step, not hundreds."""
        rank, count = self.msa.lora_rank, self.cfg.num_layers
        for linear, block in LINEAR.items() if rank else ():
            base = torch.stack([weights[f"model.layers.{i}.{block}.{linear}.weight"] for i in range(count)])
            self.register_buffer("stack/" + linear, base.to(compute_dtype), persistent=False)
            _, out, inner = base.shape
            bound = inner ** -0.5
            self.lora_a[linear] = nn.Parameter(torch.empty(count, rank, inner).uniform_(-bound, bound))
            self.lora_b[linear] = nn.Parameter(torch.zeros(count, out, rank))
        for layer in self.msa.router_layers:  # copies of W_q, W_k: a random start is much worse
            for router, linear in (("q", "q_proj"), ("k", "k_proj")):
                source = weights[f"model.layers.{layer}.self_attn.{linear}.weight"]
                self.routers[f"{layer}/{router}"] = nn.Parameter(source.float().clone())

    def base(self, name: str) -> Tensor:
        return self.full[self._names[name]] if self._full else getattr(self, "base/" + self._names[name])

    def merged(self) -> list[dict[str, Tensor]]:
        """Effective weights of every layer in the compute type: W + alpha/r * B A, summed in fp32."""
        layers, stacks = [], {}
        for linear in self.lora_a:
            delta = torch.bmm(self.lora_b[linear], self.lora_a[linear]) * (self.msa.lora_alpha / self.msa.lora_rank)
            stacks[linear] = (getattr(self, "stack/" + linear) + delta).to(self.dtype).unbind(0)
        for layer in range(self.cfg.num_layers):
            prefix = f"model.layers.{layer}."
            w = {"before": {}, "after": {}, "router": {}}   # by use: compiled functions see one structure
            for linear, block in LINEAR.items():
                part = w["before" if linear in ("q_proj", "k_proj", "v_proj") else "after"]
                part[linear] = stacks[linear][layer] if stacks else \
                    self.base(f"{prefix}{block}.{linear}.weight").to(self.dtype)
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

    def _embed(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.base("model.embed_tokens.weight")).to(self.dtype)
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

    def run(self, layers, docs: Documents | None = None, reading: Packed | None = None,
            groups: tuple[Queries, ...] = (), memory: Memory | None = None, attend: bool = True) -> Result:
        """One pass over documents, plain text and queries together: they share all token-wise work.

        Documents and texts are causal to themselves (texts but for their full rows). Queries are too, and in router layers score the documents
        (those of this pass, or `memory`) and, with `attend`, see the pooled K,V of their best `top_k`."""
        c = self.cfg
        plain = join([p for p in (docs and docs.packed, reading) if p is not None])
        whole = join(([plain] if plain else []) + [g.packed() for g in groups])
        first_row = len(plain.ids) if plain else 0
        if docs:
            memory = Memory({}, {}, {}, docs.table, docs.count, docs.content and (docs.content.table, docs.content.count))
        out = Result(memory, *([{} for _ in groups] for _ in range(3)), None, [])
        x = self._embed(whole.ids)
        angle = whole.positions[:, None].float() * self.frequency
        cos, sin = angle.cos(), angle.sin()
        for index, w in enumerate(layers):
            h, q, k, v = self._run(self._before, x, cos, sin, w["before"], c.num_heads, c.num_kv_heads, c.rms_eps)
            if w["router"] and docs:
                self._remember(memory, index, h, k, v, w["router"], docs)
            if w["router"] and groups:
                self._route(out, index, h[first_row:], w["router"], groups)
            if w["router"] and groups and attend:
                parts = [packed_attention(q[:first_row], k[:first_row], v[:first_row], plain)] if plain else []
                attended = torch.cat(parts + self._attend_memory(out, index, groups, first_row, q, k, v))
            else:
                attended = packed_attention(q, k, v, whole)
            x = self._run(self._after, x, attended, w["after"], c.rms_eps, self.dropout if torch.is_grad_enabled() else 0.0)
        if reading is not None:
            out.reading = x[first_row - len(reading.ids):first_row]
        for group, row in zip(groups, self._rows(groups, first_row)):
            out.hidden.append(x[row].view(*group.ids.shape, -1))
        return out

    @staticmethod
    def _rows(groups, first: int) -> list[slice]:
        ends = [first]
        for group in groups:
            ends.append(ends[-1] + group.ids.numel())
        return [slice(a, b) for a, b in zip(ends, ends[1:])]

    def _remember(self, memory: Memory, index: int, h, k, v, router, docs: Documents) -> None:
        """Stage 1's pooling of one layer."""
        n = len(docs.packed.ids)
        r = F.linear(h[:n], router["k"]).view(k[:n].shape)
        content = docs.content or docs
        memory.k[index], memory.v[index] = self._pool(k[:n], content), self._pool(v[:n], content)
        keys = self._pool(r, docs)
        memory.keys[index] = (F.normalize(keys, dim=-1, eps=EPS) if self.msa.cosine else keys).flatten(1)

    def _route(self, out: Result, index: int, h, router, groups) -> None:
        for number, (group, row) in enumerate(zip(groups, self._rows(groups, 0))):
            out.folded[number][index] = self.folded_queries(h[row], router)
            s = self.score_again(out.folded[number][index], out.memory.keys[index], out.memory.table, group)
            allowed = s.detach()
            if group.excluded is not None:
                allowed = allowed.masked_fill(group.excluded, float("-inf"))
            out.scores[number][index] = s
            best = allowed.topk(min(self.msa.top_k, s.shape[1]), dim=-1)
            out.selected[number][index] = torch.where(best.values.isfinite(), best.indices, -1)

    def _attend_memory(self, out: Result, index: int, groups, first_row: int, q, k, v) -> list[Tensor]:
        parts = []
        for number, (group, row) in enumerate(zip(groups, self._rows(groups, first_row))):
            shape = group.ids.shape
            gq, gk, gv = (t[row].view(*shape, *t.shape[1:]) for t in (q, k, v))
            mk, mv, seen = self._gather(out.memory, index, out.selected[number][index])
            causal = torch.ones(shape[1], shape[1], dtype=torch.bool, device=q.device).tril()
            mask = self._memory_mask(seen, causal, group.head)
            parts.append(self._attend(gq, torch.cat((mk.to(k.dtype), gk), 1), torch.cat((mv.to(v.dtype), gv), 1), mask))
        return parts

    @staticmethod
    def _pool(t: Tensor, docs: Documents) -> Tensor:
        total = torch.zeros(len(docs.chunk_len), *t.shape[1:], device=t.device)
        return total.index_add(0, docs.chunk_of, t.float()) / docs.chunk_len[:, None, None]

    def folded_queries(self, h: Tensor, router) -> Tensor:
        """[n, E] -> [n, Hkv*D] fp32: routing queries, normalised or times D^-0.5, summed over each group, over Hq."""
        c = self.cfg
        q = F.linear(h, router["q"]).float().view(len(h), c.num_heads, c.head_dim)
        q = F.normalize(q, dim=-1, eps=EPS) if self.msa.cosine else q * c.head_dim ** -0.5
        group = c.num_heads // c.num_kv_heads
        return q.view(len(h), c.num_kv_heads, group, -1).sum(2).flatten(1) / c.num_heads

    def score_again(self, *args) -> Tensor:
        """score(), computed once more in the backward pass: its [Q*T, C] products would be kept a layer otherwise."""
        if torch.is_grad_enabled() and args[0].requires_grad:
            return checkpoint(self.score, *args, use_reentrant=False)
        return self.score(*args)

    @staticmethod
    def score(folded: Tensor, keys: Tensor, table: Tensor, queries: Queries) -> Tensor:
        """Folded queries [Q*T,Hkv*Dh] -> document scores [Q,D] fp32: mean over heads, max over tokens and chunks."""
        similarity = (folded @ keys.T).view(*queries.ids.shape, -1)
        similarity = similarity.masked_fill(~queries.routing[..., None], float("-inf")).amax(1)
        return similarity.index_select(1, table.flatten()).view(len(similarity), *table.shape).amax(-1)

    @staticmethod
    def _gather(memory: Memory, layer: int, selected: Tensor):
        """Pooled K,V of the selected documents [Q,S,Hkv,D] and which of the S are there."""
        table, count = memory.content or (memory.table, memory.count)
        chunks = table[selected.clamp(min=0)]                               # [Q, k, most chunks]
        place = torch.arange(chunks.shape[-1], device=chunks.device)
        there = (place < count[selected.clamp(min=0)][..., None]) & (selected >= 0)[..., None]
        shape = (len(selected), -1, *memory.k[layer].shape[1:])
        k, v = (t[layer].index_select(0, chunks.flatten()).view(shape) for t in (memory.k, memory.v))
        return k, v, there.flatten(1)

    @staticmethod
    def _memory_mask(seen: Tensor, causal: Tensor, head: int) -> Tensor:
        """[Q,1,T,S+T]; the template head sees only itself, the prompt sees memory and its past."""
        prompt = (torch.arange(len(causal), device=seen.device) >= head)[None, :, None]
        return torch.cat((seen[:, None, :] & prompt, causal.expand(len(seen), -1, -1)), -1)[:, None]

    @staticmethod
    def _attend(q, k, v, mask) -> Tensor:
        """[Q,T,Hq,D] over [Q,S+T,Hkv,D] -> [Q*T, Hq*D]."""
        group = q.shape[2] // k.shape[2]
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), mask)
        return out.transpose(1, 2).reshape(-1, q.shape[1] * q.shape[3])
