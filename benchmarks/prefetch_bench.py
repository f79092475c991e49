#!/usr/bin/env python3
"""How many layers a document's first fetch should bring (`--prefetch-layers`), on real questions.

usage: prefetch_bench.py [--bin build/release/benchmarks] [--model models/smollm2-135m-instruct]
                         [--questions 16] [--passages 200] [--layers 1 2 4 8]

Prints one JSON object. The memory lives on two `msa memory-node` processes behind `msa router`; for every
number of layers a `msa compute-node` is started with a content cache of its own, empty, and asked the same
questions, one at a time, one round each (`msa retrieve`). For each: fetching and whole milliseconds, bytes
fetched, and what share of what later layers selected the earlier fetches had brought. Passages
and questions: SQuAD's last articles from MSA_CORPORA_DIR; without it the factbook and eight questions.
"""
import argparse
import json
import os
import socket
import statistics
import sys

from service import QUESTIONS, Processes, read_lines, real_text

HELD_OUT_ARTICLES = 8


def passages_and_questions(corpora, num_passages, num_questions):
    folder = os.path.join(corpora or "", "qa", "squad_dev")
    if not corpora or not os.path.exists(folder):
        documents, text = real_text(None)
        return [next(documents) for _ in range(num_passages)], list(QUESTIONS), text
    corpus = list(read_lines(os.path.join(folder, "corpus.jsonl.zst")))
    articles = list(dict.fromkeys(d["title"] for d in corpus))[-HELD_OUT_ARTICLES:]
    passages = [d for d in corpus if d["title"] in articles][:num_passages]
    ids = {d["id"] for d in passages}
    asked = [q["question"] for q in read_lines(os.path.join(folder, "questions.jsonl.zst"))
             if q["supporting_titles_or_ids"][0] in ids]
    asked = [asked[i * len(asked) // num_questions] for i in range(min(num_questions, len(asked)))]
    return passages, asked, "SQuAD held-out"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def coverage(events):
    """Of one round: [share of layer l's parts that layer 0 selected too], the first layer left out, and the
    share that any earlier layer did."""
    layers = [{p["reference"] for p in layer["parts"]} for layer in events["layers"]]
    first, earlier = layers[0], set(layers[0])
    by_first, by_earlier = [], []
    for selected in layers[1:]:
        by_first.append(len(selected & first) / max(1, len(selected)))
        by_earlier.append(len(selected & earlier) / max(1, len(selected)))
        earlier |= selected
    return by_first, by_earlier


def mean_by_layer(rows):
    return [round(statistics.mean(column), 4) for column in zip(*rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/benchmarks")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--passages", type=int, default=160)
    parser.add_argument("--layers", type=int, nargs="*", default=[1, 2, 4, 8])
    options = parser.parse_args()
    msa = os.path.join(os.path.dirname(options.bin.rstrip("/")), "bin", "msa")
    passages, questions, text = passages_and_questions(os.environ.get("MSA_CORPORA_DIR"),
                                                       options.passages, options.questions)

    with Processes(msa) as processes:
        # A compute node and a router for each number of layers, over the same two shards.
        shards = [{"name": name, "address": f"127.0.0.1:{free_port()}"} for name in "ab"]
        rows = []
        routers = {}
        for layers in options.layers:
            node, router = (f"127.0.0.1:{free_port()}" for _ in range(2))
            shard_map = processes.path(f"map-{layers}.json")
            with open(shard_map, "w", encoding="utf-8") as file:
                json.dump({"version": 1, "slots": 1024, "shards": shards, "router": router,
                           "compute_nodes": [{"name": "c", "address": node}]}, file)
            if not routers:
                for shard in shards:
                    processes.start(f"shard-{shard['name']}", "memory-node", "--shard-map", shard_map,
                                    "--name", shard["name"], "--data-dir",
                                    processes.path(shard["name"]))
            processes.start(f"node-{layers}", "compute-node", "--shard-map", shard_map, "--name", "c",
                            "--model", options.model, "--prefetch-layers", str(layers))
            routers[layers] = processes.start(f"router-{layers}", "router", "--shard-map", shard_map)
        lines = "".join(json.dumps(p) + "\n" for p in passages)
        tokens = sum(line["tokens"] for line in processes.msa(
            routers[options.layers[0]], "add", "-", stdin=lines))

        answers = {layers: [] for layers in options.layers}
        by_first, by_earlier = [], []
        for question in questions:  # in turns: the machine's speed drifts
            for layers in options.layers:
                events = processes.msa(routers[layers], "ask", "--mode", "router", "--max-rounds", "1",
                                       "--max-new-tokens", "1", question)
                answers[layers].append(events[-1])
            routing = [e for e in events if e["event"] == "routing"][0]
            first, earlier = coverage(routing)
            by_first.append(first)
            by_earlier.append(earlier)

    for layers in options.layers:
        timings = [a["timings_ms"] for a in answers[layers]]
        fetched = [a["usage"]["fetched_bytes"] for a in answers[layers]]
        rows.append({"prefetch_layers": layers,
                     "fetch_ms_p50": statistics.median(t["fetch"] for t in timings),
                     "fetch_ms_mean": statistics.mean(t["fetch"] for t in timings),
                     "first_token_ms_p50": statistics.median(t["first_token"] for t in timings),
                     "fetched_bytes_mean": statistics.mean(fetched)})
    print(json.dumps({
        "benchmark": "prefetch", "model": options.model, "text": text, "questions": len(questions),
        "passages": len(passages), "memory_tokens": tokens,
        "selected_by_the_first_layer_too": mean_by_layer(by_first),
        "selected_by_an_earlier_layer": mean_by_layer(by_earlier),
        "rows": rows}))


if __name__ == "__main__":
    sys.exit(main())
