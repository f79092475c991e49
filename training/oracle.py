"""Stored vectors of a bundled adapter: fp32, one sequence at a time, straight from the written numerics.

Shares no code with model.py but the frames; `python -m training.oracle make|check` writes a case or compares
this computation with a stored one.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path

import torch
import torch.nn.functional as F

from training import frames, tool
from training.adapter_io import read_raw
from training.files import read_json, read_tensors, write_tensors


class Oracle:
    """Merged fp32 weights and the layer-by-layer computation of a Llama-type MSA model."""

    def __init__(self, base: str, adapter: str):
        self.raw = read_json(Path(base) / "config.json")
        adapter_config = read_raw(adapter)
        self.msa = adapter_config["msa_config"]
        self.routers = [int(x) for x in self.msa["router_layer_idx"].split(",")]
        self.pool, self.k = self.msa["pooling_kernel_size"], self.msa["doc_top_k"]
        self.w = {n: t.float() for n, t in read_tensors(Path(base) / "model.safetensors").items()}
        delta = {n: t.float() for n, t in read_tensors(Path(adapter) / "adapter.safetensors").items()}
        self.w.update({n: t for n, t in delta.items() if "lora_" not in n})     # routers; all, where all were trained
        scale = adapter_config["lora_alpha"] / max(adapter_config["r"], 1)
        for name in [n for n in delta if n.endswith("lora_A.weight")]:
            target = name.removeprefix("base_model.model.").replace("lora_A.", "")
            self.w[target] = self.w[target] + scale * (delta[name.replace("lora_A", "lora_B")] @ delta[name])
        self.hq, self.hkv = self.raw["num_attention_heads"], self.raw["num_key_value_heads"]
        self.d = self.raw["hidden_size"] // self.hq
        self.layers = self.raw["num_hidden_layers"]

    def norm(self, x, name):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.raw["rms_norm_eps"]) * self.w[name]

    def rope(self, x, positions):
        half = self.d // 2
        theta = self.raw.get("rope_theta") or self.raw["rope_parameters"]["rope_theta"]
        angle = torch.tensor(positions).float()[:, None] * theta ** (-torch.arange(half).float() / half)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        return torch.cat((x[..., :half] * cos - x[..., half:] * sin, x[..., half:] * cos + x[..., :half] * sin), -1)

    def project(self, layer, x, positions):
        p = f"model.layers.{layer}."
        h = self.norm(x, p + "input_layernorm.weight")
        q, k, v = ((h @ self.w[f"{p}self_attn.{n}_proj.weight"].T).view(len(x), -1, self.d) for n in "qkv")
        return h, self.rope(q, positions), self.rope(k, positions), v

    def finish(self, layer, x, q, keys, values, mask):
        """keys, values [S,Hkv,D]; mask [T,S] true where seen."""
        p = f"model.layers.{layer}."
        group = self.hq // self.hkv
        scores = torch.einsum("thd,shd->hts", q, keys.repeat_interleave(group, 1)) * self.d ** -0.5
        weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        out = torch.einsum("hts,shd->thd", weights, values.repeat_interleave(group, 1)).flatten(1)
        x = x + out @ self.w[p + "self_attn.o_proj.weight"].T
        h = self.norm(x, p + "post_attention_layernorm.weight")
        up = F.silu(h @ self.w[p + "mlp.gate_proj.weight"].T) * (h @ self.w[p + "mlp.up_proj.weight"].T)
        return x + up @ self.w[p + "mlp.down_proj.weight"].T

    def logits(self, x):
        return self.norm(x, "model.norm.weight") @ self.w["model.embed_tokens.weight"].T

    def sequence(self, ids, visit=None, full=0):
        """Plain pass, positions from 0, causal but that the first `full` tokens see each other. visit(layer, h, k, v) sees every layer."""
        x, positions = self.w["model.embed_tokens.weight"][torch.tensor(ids)], list(range(len(ids)))
        mask = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        mask[:full, :full] = True
        for layer in range(self.layers):
            h, q, k, v = self.project(layer, x, positions)
            if visit:
                visit(layer, h, k, v)
            x = self.finish(layer, x, q, k, v, mask)
        return x

    def encode_document(self, ids):
        """{layer: (pooled k, pooled v, routing keys)}, each [chunks,Hkv,D]."""
        out = {}

        def pooled(t):
            return torch.stack([t[b:b + self.pool].mean(0) for b in range(0, len(t), self.pool)])

        def visit(layer, h, k, v):
            if layer in self.routers:
                r = h @ self.w[f"model.layers.{layer}.self_attn.router_k_proj.0.weight"].T
                r = pooled(r.view(len(h), self.hkv, self.d))
                out[layer] = (pooled(k), pooled(v), r / r.norm(dim=-1, keepdim=True).clamp(min=1e-12))
        self.sequence(ids, visit)
        return out

    def template(self, ids):
        out = {}
        self.sequence(ids, lambda layer, h, k, v: out.__setitem__(layer, (k, v)))
        return out

    def fold(self, layer, h):
        q = (h @ self.w[f"model.layers.{layer}.self_attn.router_q_proj.0.weight"].T).view(len(h), self.hq, self.d)
        q = q / q.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        return q.view(len(h), self.hkv, -1, self.d).sum(2) / self.hq

    def query(self, prompt: frames.Prompt, template, documents):
        """Stage 2 of one prompt: scores, selections and folded queries a router layer, hidden a layer, logits."""
        first = 3 + self.k
        positions = list(range(first, first + len(prompt.ids)))
        routing = torch.tensor(prompt.routing)
        x = self.w["model.embed_tokens.weight"][torch.tensor(prompt.ids)]
        causal = torch.ones(len(x), len(x), dtype=torch.bool).tril()
        scores, selected, folded, hidden = {}, {}, {}, []
        for layer in range(self.layers):
            h, q, k, v = self.project(layer, x, positions)
            keys, values = [template[layer][0]], [template[layer][1]]
            if layer in self.routers:
                folded[layer] = self.fold(layer, h[routing])
                scores[layer] = torch.stack([torch.einsum("tgd,cgd->tc", folded[layer], d[layer][2]).max()
                                             for d in documents])
                order = sorted(range(len(documents)), key=lambda i: (-scores[layer][i].item(), i))
                selected[layer] = order[: self.k]
                for document in sorted(selected[layer]):
                    keys.append(documents[document][layer][0])
                    values.append(documents[document][layer][1])
            memory = sum(len(t) for t in keys)
            mask = torch.cat((torch.ones(len(x), memory, dtype=torch.bool), causal), 1)
            x = self.finish(layer, x, q, torch.cat(keys + [k]), torch.cat(values + [v]), mask)
            hidden.append(x[-1])
        return scores, selected, folded, torch.stack(hidden), self.logits(x[-1])

    def generate(self, ids, limit, stop, first_bias=None):
        """Greedy; logits of the first position, tokens, argmax margins. first_bias: (token, what its first logit gains, and whether
        it has to beat the log-sum-exp of all others instead of the largest)."""
        full = len(ids) if self.msa.get("reader_attention", "causal") == "full" else 0
        ids, out, margins, first = list(ids), [], [], None
        for _ in range(limit):
            logits = self.logits(self.sequence(ids, full=full)[-1])
            if first is None:
                first = logits
                if first_bias:
                    token, gain, against_all = first_bias
                    others = without(logits, token)
                    logits = logits.clone()
                    logits[token] += gain - (float(others.logsumexp(0) - others.max()) if against_all else 0.0)
            top = logits.topk(2)
            out.append(int(top.indices[0]))
            margins.append(float(top.values[0] - top.values[1]))
            ids.append(out[-1])
            if out[-1] == stop:
                break
        return first, out, margins


def sha256(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def compute(oracle: Oracle, tokenizer, spec: dict) -> tuple[dict, dict]:
    """(expected.json, expected.safetensors) of a case description with `documents` and `questions`."""
    out, expected = {}, {"questions": []}
    template = oracle.template(spec["template_head_ids"])
    for layer, (k, v) in template.items():
        out[f"layers.{layer}.template_k"], out[f"layers.{layer}.template_v"] = k, v
    documents = [oracle.encode_document(d["token_ids"]) for d in spec["documents"]]
    for layer in spec["pooled_layers"]:
        for which, name in enumerate(("pooled_k", "pooled_v", "routing_keys")):
            out[f"layers.{layer}.{name}"] = torch.cat([documents[i][layer][which] for i in spec["pooled_documents"]])
    for index, question in enumerate(spec["questions"]):
        prompt = frames.Prompt(question["prompt_ids"], [bool(x) for x in question["routing_mask"]])
        scores, selected, folded, hidden, logits = oracle.query(prompt, template, documents)
        out[f"q{index}.doc_scores"] = torch.stack([scores[l] for l in oracle.routers])
        out[f"q{index}.selected"] = torch.tensor([selected[l] for l in oracle.routers])
        if index == 0:
            out["q0.prefill.hidden_last"] = hidden
            out.update({f"q0.layers.{l}.folded_q": folded[l] for l in oracle.routers})
        if index < 2:
            out[f"q{index}.prefill.logits"] = logits
        expected["questions"].append(describe(oracle, tokenizer, spec, question, scores, selected, out, index))
    return expected, {n: t.contiguous() for n, t in out.items()}


def describe(oracle, tokenizer, spec, question, scores, selected, out, index) -> dict:
    """Routing, ranking and the reader's answer of one question, for reading."""
    entry = {"routing": [], "question": question["question"]}
    for layer in oracle.routers:
        ordered = scores[layer].sort(descending=True).values
        gaps = ordered[:-1] - ordered[1:]
        entry["routing"].append({"layer": layer, "selected": selected[layer],
                                 "margin_in": float(gaps[oracle.k - 1]) if len(gaps) >= oracle.k else None,
                                 "margin_order": float(gaps[: oracle.k].min())})
    mean = torch.stack([scores[l] for l in oracle.routers]).mean(0)
    order = sorted(range(len(mean)), key=lambda i: (-mean[i].item(), i))
    entry["ranking"] = order[:5]
    entry["ranking_scores"] = [float(mean[i]) for i in order[:5]]
    entry["ranking_margins"] = [float(mean[a] - mean[b]) for a, b in zip(order[:5], order[1:6])]
    best = sorted(order[: spec["reader_documents"]])
    refusal = None
    if oracle.msa.get("refusal"):
        refusal = (frames.encode(tokenizer, oracle.msa["refusal"])[0], oracle.msa.get("refusal_bias", 0.0),
                   oracle.msa.get("refusal_against") == "all")

    def read(documents):
        """(prompt, ids, logits of the first position, tokens, argmax margins)"""
        text = frames.reader_prompt(question["question"], [(i, spec["documents"][i]["text"]) for i in documents],
                                    oracle.msa.get("reader_question", "after"))
        ids = frames.encode(tokenizer, text)
        return text, ids, *oracle.generate(ids, spec["reader_max_new_tokens"], spec["stop_token"], refusal)
    text, ids, first, answer, margins = read(best)
    out[f"q{index}.reader.logits"] = first
    entry["reader"] = {"documents": best, "prompt": text, "prompt_ids": ids, "first_position": 0,
                       "answer_ids": answer, "argmax_margins": margins,
                       "answer": tokenizer.decode(answer, skip_special_tokens=True)}
    if "reader_apart_margin" in oracle.msa:
        readings = [(first, answer)] + [read([i])[2:4] for i in best]
        inclined = [refusal_margin(logits, refusal[0]) for logits, _ in readings]
        taken = min(range(len(readings)), key=lambda i: inclined[i] + oracle.msa["reader_apart_margin"] * (i == 0))
        entry["reader"]["apart"] = {"refusal_margins": inclined, "taken": taken, "answer_ids": readings[taken][1],
                                    "answer": tokenizer.decode(readings[taken][1], skip_special_tokens=True)}
    return entry


def refusal_margin(logits, token: int) -> float:
    """How much larger the logit of the refusal's first token is than the largest other."""
    return float(logits[token] - without(logits, token).max())


def without(logits, token: int):
    return torch.cat((logits[:token], logits[token + 1:]))


def describe_inputs(oracle, tokenizer, chosen: dict, base: str, adapter: str, case: Path) -> dict:
    """input.json from `chosen`: {"documents": [{source,title,text}], "questions": [{question,gold,answers,source}]}, and
    in "about" the fields that are others than for SmolLM2."""
    first = 3 + oracle.k
    documents, questions = [], []
    for index, d in enumerate(chosen["documents"]):
        ids = frames.document_ids(tokenizer, index, d["text"])
        documents.append({"id": index, **d, "wrapped": f"<|im_start|>[{index}]. {d['text']}[{index}]<|im_end|>",
                          "token_ids": ids, "chunks": -(-len(ids) // oracle.pool)})
    for q in chosen["questions"]:
        prompt = frames.routing_prompt(tokenizer, q["question"])
        questions.append({**q, "prompt_ids": prompt.ids,
                          "positions": list(range(first, first + len(prompt.ids))),
                          "routing_mask": [int(x) for x in prompt.routing]})
    files = ("config.json", "model.safetensors", "tokenizer.json")
    return {
        "base": {"model": "SmolLM2-135M-Instruct", "files_sha256": {f: sha256(Path(base) / f) for f in files}},
        "adapter": os.path.relpath(adapter, case),
        "adapter_sha256": sha256(Path(adapter) / "adapter.safetensors"),
        "weights": "bf16 raised to fp32; W = W_base + (lora_alpha / r) * (B @ A) in fp32, not rounded afterwards; "
                   "all compute fp32",
        "msa_config": oracle.msa, "template_head_ids": frames.encode(tokenizer, frames.HEAD),
        "template_head_positions": [0, 1, 2], "pooled_documents": [0, 1],
        "pooled_layers": [oracle.routers[0], oracle.routers[-1]],
        "reader_documents": oracle.msa.get("reader_documents", 3), "reader_max_new_tokens": 32, "stop_token": 2,
        "text_licence": "document and question texts: SQuAD 1.1 dev (Wikipedia), CC BY-SA 4.0",
        "documents": documents, "questions": questions, **chosen.get("about", {}),
    }


def compare(case: Path, tensors: dict) -> None:
    stored = read_tensors(case / "expected.safetensors")
    worst: dict[str, float] = {}
    for name, value in tensors.items():
        if name in stored:
            kind = name.split(".")[-1]
            error = (stored[name].float() - value.float()).abs().max().item()
            worst[kind] = max(worst.get(kind, 0.0), error)
    print(json.dumps({k: float(f"{v:.3g}") for k, v in worst.items()}))


def make(case: Path, base: str, adapter: str, chosen: dict) -> None:
    """Writes a case's three files."""
    oracle = Oracle(base, adapter)
    tokenizer = frames.load_tokenizer(str(Path(base) / "tokenizer.json"))
    with torch.no_grad():
        spec = describe_inputs(oracle, tokenizer, chosen, base, adapter, case)
        expected, tensors = compute(oracle, tokenizer, spec)
    case.mkdir(parents=True, exist_ok=True)
    write_tensors(case / "expected.safetensors", tensors)
    for name, value in (("input.json", spec), ("expected.json", expected)):
        (case / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def check(case: Path, base: str, adapter: str) -> bool:
    """Prints the largest differences, and a question a line; whether rankings and answers are the stored ones."""
    spec = read_json(case / "input.json")
    tokenizer = frames.load_tokenizer(str(Path(base) / "tokenizer.json"))
    with torch.no_grad():
        expected, tensors = compute(Oracle(base, adapter), tokenizer, spec)
    compare(case, tensors)
    pairs = list(zip(expected["questions"], read_json(case / "expected.json")["questions"]))
    compared = lambda q: (q["ranking"], q["reader"]["answer_ids"], q["reader"].get("apart", {}).get("answer_ids"))
    same = [compared(a) == compared(b) for a, b in pairs]
    for alike, (mine, _) in zip(same, pairs):
        print("same" if alike else "DIFFERS", mine["reader"]["answer"])
    return all(same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=("make", "check"))
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", required=True)
    parser.add_argument("--case", required=True)
    parser.add_argument("--chosen", help="documents and questions to make a case of (JSON)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.verb == "make":
        make(Path(args.case), args.base, args.adapter, read_json(args.chosen))
    elif not check(Path(args.case), args.base, args.adapter):
        raise SystemExit(1)


if __name__ == "__main__":
    tool.run(main)
