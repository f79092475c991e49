#!/usr/bin/env python3
"""Question → first token over `msa serve`, at several sizes of memory, against routing off, by stage.

usage: first_token_bench.py [--bin build/release/benchmarks] [--model models/smollm2-135m-instruct]
                            [--tokens 10000 100000] [--requests 8] [--weights f32]

Prints one JSON object. The client is `msa bench --operation ask`, one question at a time; the questions
are asked once before, to warm up, and routing off is measured beside every size. One bank grows from size
to size, so that nothing is encoded twice. Stages are the server's own account (Timings in
proto/msa/v1). Text: examples/factbook and, for what it has not, Wikipedia from MSA_CORPORA_DIR. About five
minutes on two cores, half of them encoding.
"""
import argparse
import json
import os

from service import QUESTIONS, Processes, real_text

BANK = "grows"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/benchmarks")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--tokens", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--weights", default="f32")
    options = parser.parse_args()
    msa = os.path.join(os.path.dirname(options.bin.rstrip("/")), "bin", "msa")
    corpora = os.environ.get("MSA_CORPORA_DIR")

    with Processes(msa) as processes:
        server = processes.start("serve", "serve", "--data-dir", processes.path("data"), "--model",
                                 options.model, "--weights", options.weights, "--listen",
                                 "127.0.0.1:0")
        questions = processes.questions_file()

        def ask(flags, requests=options.requests):
            return processes.msa(server, "bench", "--operation", "ask", "--questions", questions,
                                 "--requests", str(requests), "--max-new-tokens", "8", *flags)[0]

        documents, text = real_text(corpora)
        held, rows = 0, []
        for tokens in sorted(options.tokens):
            held = processes.fill(server, BANK, documents, tokens, held)
            stats = processes.msa(server, "stats", "--bank", BANK)[0]
            size = {"memory_tokens": held,
                    "memory_parts": sum(shard["parts"] for shard in stats["shards"])}
            ask(["--bank", BANK], len(QUESTIONS))
            ask(["--no-memory"], 2)
            alone = ask(["--no-memory"])
            for memory, row in (("routing off", alone),
                                ("as the model says", ask(["--bank", BANK])),
                                ("one round", ask(["--bank", BANK, "--max-rounds", "1"]))):
                rows.append({
                    "memory": memory, **size, "first_token_ms": row["first_token_ms"],
                    "over_routing_off": row["first_token_ms"]["p50"] / alone["first_token_ms"]["p50"],
                    "stages_ms": row["first_token_stages_ms"],
                    "mean_prompt_tokens": row["mean_prompt_tokens"]})

    print(json.dumps({
        "benchmark": "first_token", "model": options.model, "weights": options.weights,
        "text": text, "questions": len(QUESTIONS), "requests": options.requests, "rows": rows}))


if __name__ == "__main__":
    main()
