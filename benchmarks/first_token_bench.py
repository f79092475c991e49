#!/usr/bin/env python3
"""Question → first token over `msa serve`, at several sizes of memory, against routing off, by stage.

usage: first_token_bench.py [--bin build/release/benchmarks] [--model models/smollm2-135m-instruct]
                            [--tokens 10000 100000] [--requests 16] [--weights f32]

Prints one JSON object. The client is `msa bench --operation ask`, one question at a time; every row's
questions are asked once before, to warm up. Stages are the server's own account (Timings in proto/msa/v1). Text: examples/factbook and, for
what it has not, Wikipedia from MSA_CORPORA_DIR.
"""
import argparse
import json
import os

from service import QUESTIONS, Processes, real_text


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/benchmarks")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--tokens", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--weights", default="f32")
    options = parser.parse_args()
    msa = os.path.join(os.path.dirname(options.bin.rstrip("/")), "bin", "msa")
    corpora = os.environ.get("MSA_CORPORA_DIR")

    with Processes(msa) as processes:
        server = processes.start("serve", "serve", "--data-dir", processes.path("data"), "--model",
                                 options.model, "--weights", options.weights, "--listen",
                                 "127.0.0.1:0")
        questions = processes.questions_file()
        # Name of the row → flags of `msa bench`.
        rows = {"no memory": ["--no-memory"]}
        held = {}
        for tokens in options.tokens:
            documents, text = real_text(corpora)
            bank = f"tokens-{tokens}"
            held[bank] = processes.fill(server, bank, documents, tokens)
            rows[bank] = ["--bank", bank]
            rows[f"{bank}, one round"] = ["--bank", bank, "--max-rounds", "1"]

        def ask(flags, requests):
            return processes.msa(server, "bench", "--operation", "ask", "--questions", questions,
                                 "--requests", str(requests), "--max-new-tokens", "8", *flags)[0]

        for flags in rows.values():
            ask(flags, len(QUESTIONS))
        result = {name: ask(flags, options.requests) for name, flags in rows.items()}
        stats = {bank: processes.msa(server, "stats", "--bank", bank)[0] for bank in held}

    alone = result["no memory"]["first_token_ms"]["p50"]
    print(json.dumps({
        "benchmark": "first_token", "model": options.model, "weights": options.weights,
        "text": text, "questions": len(QUESTIONS), "requests": options.requests,
        "memory_tokens": held,
        "memory_parts": {bank: sum(s["parts"] for s in found["shards"])
                         for bank, found in stats.items()},
        "rows": [{"memory": name, "first_token_ms": row["first_token_ms"],
                  "over_no_memory": row["first_token_ms"]["p50"] / alone,
                  "stages_ms": row["first_token_stages_ms"],
                  "mean_prompt_tokens": row["mean_prompt_tokens"]}
                 for name, row in result.items()]}))


if __name__ == "__main__":
    main()
