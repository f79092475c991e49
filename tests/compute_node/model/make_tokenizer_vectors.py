#!/usr/bin/env python3
"""Makes the tokenizer test vectors beside this file with the Hugging Face `tokenizers` library.

    pip install tokenizers==0.23.3 xxhash zstandard
    python make_tokenizer_vectors.py               # writes tokenizer_hashes.json and tokenizer_cases.json
    python make_tokenizer_vectors.py --explain qwen 17   # the lines and ids of one block, to compare

The lines are not stored: line i is composed from tokenizer_recipe.json and tokenizer_seed.txt by a small
generator with seed i, which tokenizer_vectors_test.cc repeats. What is stored of 60,000 lines is a hash of
each block of 500: of the text, so that a difference between the two generators is told from one between
the tokenizers, and of the ids. A few hundred lines are stored with their ids. With MSA_CORPORA_DIR set the
texts of its corpora are hashed too.
"""

import argparse
import copy
import io
import json
import os
import pathlib
import struct
import sys

import xxhash
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
TOKENIZERS = HERE.parent.parent / "golden" / "tokenizers"
NUM_LINES = 60_000
BLOCK_LINES = 500
NUM_STORED = 150
CORPORA = [
    "squad_dev/corpus", "reqa_squad/corpus_train", "2wiki_ctx/corpus", "hotpotqa/corpus",
    "strategyqa/corpus", "pubmedqa/corpus", "scifact_pairs/corpus_train", "factbook/corpus",
]  # fmt: skip

RECIPE = json.loads((HERE / "tokenizer_recipe.json").read_text(encoding="utf-8"))
SEED = (HERE / "tokenizer_seed.txt").read_text(encoding="utf-8")


class Random:
    """splitmix64: the same few lines in every language."""

    MASK = (1 << 64) - 1

    def __init__(self, seed):
        self.state = seed

    def below(self, limit):
        self.state = (self.state + 0x9E3779B97F4A7C15) & self.MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & self.MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & self.MASK
        return (z ^ (z >> 31)) % limit

    def choice(self, items):
        return items[self.below(len(items))]


def random_character(random):
    first, last = random.choice(RECIPE["planes"])
    code_point = first + random.below(last - first + 1)
    return "\ufffd" if 0xD800 <= code_point < 0xE000 else chr(code_point)


def make_part(random):
    kind = random.below(100)
    if kind < 30:
        start = random.below(len(SEED))
        return SEED[start : start + 1 + random.below(40)]
    if kind < 55:
        character = random_character(random)
        return character * (1 + random.below(3))
    if kind < 70:
        return random.choice(RECIPE["words"])
    if kind < 84:
        space = random.choice(RECIPE["spaces"])
        return space * (1 + random.below(4))
    if kind < 92:
        zero = random.choice(RECIPE["zeros"])
        return "".join(chr(zero + random.below(10)) for _ in range(1 + random.below(6)))
    if kind < 99:
        return random.choice(RECIPE["specials"])
    character = random_character(random)
    return character * (50 + random.below(300))


def make_line(index):
    random = Random(index)
    return "".join(make_part(random) for _ in range(1 + random.below(24)))


def merge_patch(target, patch):
    """RFC 7396."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    target = target if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def load_variant(variant):
    base = json.loads((TOKENIZERS / variant["base"]).read_text(encoding="utf-8"))
    return Tokenizer.from_str(json.dumps(merge_patch(base, variant["patch"])))


def encode(tokenizer, lines):
    return [e.ids for e in tokenizer.encode_batch(lines, add_special_tokens=False)]


def hash_ids(lines_of_ids):
    digest = xxhash.xxh3_64()
    for ids in lines_of_ids:
        digest.update(struct.pack(f"<{len(ids) + 1}i", len(ids), *ids))
    return digest.hexdigest()


def hash_text(lines):
    return xxhash.xxh3_64("\n".join(lines).encode()).hexdigest()


def blocks(lines):
    return [lines[i : i + BLOCK_LINES] for i in range(0, len(lines), BLOCK_LINES)]


def read_corpus(folder, name):
    import zstandard

    with open(folder / "qa" / f"{name}.jsonl.zst", "rb") as file:
        stream = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8", newline="\n")
        return [json.loads(line)["text"] for line in stream]


def make_hashes(tokenizers, data_folder):
    all_blocks = blocks([make_line(i) for i in range(NUM_LINES)])
    hashes = {
        "block_lines": BLOCK_LINES,
        "text": [hash_text(block) for block in all_blocks],
        "ids": {
            name: [hash_ids(encode(tokenizer, block)) for block in all_blocks]
            for name, tokenizer in tokenizers.items()
        },
        "corpora": {},
    }
    for corpus in CORPORA if data_folder else []:
        texts = read_corpus(data_folder, corpus)
        hashes["corpora"][corpus] = {
            "texts": len(texts),
            "ids": {name: hash_ids(encode(tokenizers[name], texts)) for name in RECIPE["corpora_variants"]},
        }
    return hashes


def make_cases(tokenizers):
    lines = RECIPE["lines"] + [make_line(NUM_LINES + i) for i in range(NUM_STORED)]
    lines = [line for line in lines if len(line) < 200]
    encoded = {name: encode(tokenizer, lines) for name, tokenizer in tokenizers.items()}
    decodes, random = [], Random(1 << 40)
    for name in ("qwen", "smollm2"):
        size = tokenizers[name].get_vocab_size(with_added_tokens=True)
        for index in range(60):
            ids = [random.below(size) for _ in range(1 + random.below(30))]
            text = tokenizers[name].decode(ids, skip_special_tokens=index % 2 == 0)
            decodes.append({"variant": name, "ids": ids, "skip_special": index % 2 == 0, "text": text})
    return {"lines": lines, "ids": encoded, "decodes": decodes}


def write(name, value):
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace('],"', '],\n"').replace("],[", "],\n[")
    (HERE / name).write_text(text + "\n", encoding="ascii")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--explain", nargs=2, metavar=("VARIANT", "BLOCK"))
    arguments = parser.parse_args()
    tokenizers = {v["name"]: load_variant(v) for v in RECIPE["variants"]}
    if arguments.explain:
        first = int(arguments.explain[1]) * BLOCK_LINES
        lines = [make_line(i) for i in range(first, first + BLOCK_LINES)]
        for line, ids in zip(lines, encode(tokenizers[arguments.explain[0]], lines)):
            print(json.dumps({"line": line, "ids": ids}))
        return 0
    data_folder = os.environ.get("MSA_CORPORA_DIR")
    write("tokenizer_hashes.json", make_hashes(tokenizers, pathlib.Path(data_folder) if data_folder else None))
    write("tokenizer_cases.json", make_cases(tokenizers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
