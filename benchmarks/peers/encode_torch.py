"""Encoding by transformers on a GPU: hidden states of batches of documents, MSA-4B's shapes, random weights.

Usage: encode_torch.py [--documents 16] [--tokens 512] [--runs 7] [--attention sdpa]
Prints one JSON line: tokens a second, median and spread, TFLOP/s of the dense products. No padding: every document is
as long as the next, the best case of a padded batch.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import Qwen3Config, Qwen3Model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--attention", default="sdpa")
    args = parser.parse_args()
    config = Qwen3Config(
        vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, use_cache=False,
        attn_implementation=args.attention)
    torch.manual_seed(1)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen3Model(config).eval()
    ids = torch.randint(0, 151936, (args.documents, args.tokens), device="cuda")
    seconds = []
    with torch.inference_mode():
        for run in range(args.runs + 2):
            torch.cuda.synchronize()
            start = time.perf_counter()
            model(input_ids=ids, use_cache=False)
            torch.cuda.synchronize()
            if run >= 2:
                seconds.append(time.perf_counter() - start)
    tokens = args.documents * args.tokens
    dense = 2 * 36 * 2560 * (6144 + 4096 + 3 * 9728)
    median = statistics.median(seconds)
    print(json.dumps({
        "peer": f"transformers {args.attention}", "torch": torch.__version__, "documents": args.documents,
        "tokens": args.tokens, "tokens_per_s": tokens / median, "min": tokens / max(seconds),
        "max": tokens / min(seconds), "dense_tflop_s": dense * tokens / median * 1e-12}))


if __name__ == "__main__":
    main()
