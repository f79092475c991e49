#!/usr/bin/env python3
"""The decoder beside its peers, in turns: model_bench, transformers, llama.cpp, again and again.

usage: model_bench.py [--bin build/release/benchmarks] [--peers build/peers]
                      [--model models/smollm2-135m-instruct] [--rounds 3] [--runs 3] [--threads N]

Prints one JSON object: tokens a second of each (median over the rounds of each round's median), and
what ours are of the faster peer and of each. A peer that is not installed (scripts/make_peers.sh) or
fails is named with the reason; the others are measured all the same.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "peers")
WORK = ("encode", "prefill_512", "decode_batch_1", "decode_batch_8")
SECONDS_AT_MOST = 240  # of one round; a busy machine makes the peers' idle threads spin


def peer_status(folder):
    try:
        with open(os.path.join(folder, "status.json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        reason = f"not prepared: run scripts/make_peers.sh {folder}"
        return {"transformers": reason, "llama_cpp": reason, "ld_library_path": ""}


class Contender:
    """A program that prints the rates of one round."""

    def __init__(self, command, environment=None):
        self.command = command
        self.environment = {**os.environ, **(environment or {})}
        self.rounds = []
        self.failure = None

    def run(self):
        if self.failure:
            return
        try:
            done = subprocess.run(self.command, env=self.environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, timeout=SECONDS_AT_MOST)
        except subprocess.TimeoutExpired:
            self.failure = f"no result within {SECONDS_AT_MOST} s: is the machine busy?"
            return
        if done.returncode != 0:
            last = done.stderr.strip().splitlines()[-1:] or ["no message"]
            self.failure = f"ended with {done.returncode}: {last[0]}"
            return
        self.rounds.append(json.loads(done.stdout.strip().splitlines()[-1]))


def middle(rounds):
    """Of one format or peer: rounds of {work: {tokens_per_s, min, max}}."""
    return {work: {"tokens_per_s": statistics.median(r[work]["tokens_per_s"] for r in rounds),
                   "min": min(r[work]["min"] for r in rounds),
                   "max": max(r[work]["max"] for r in rounds)}
            for work in WORK if work in rounds[0]}


def ratios(ours, peers):
    """{format: {work: {peer: ours / peer, "faster_peer": …}}}."""
    table = {}
    for name, rates in ours.items():
        for work in WORK:
            row = {peer: rates[work]["tokens_per_s"] / result[work]["tokens_per_s"]
                   for peer, result in peers.items() if work in result}
            if row:
                table.setdefault(name, {})[work] = {**row, "faster_peer": min(row.values())}
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", default="build/release/benchmarks")
    parser.add_argument("--peers", default="build/peers")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()

    status = peer_status(options.peers)
    python = os.path.join(options.peers, "bin", "python")
    threads, runs = str(options.threads), str(options.runs)
    environment = {"LD_LIBRARY_PATH": status["ld_library_path"], "OMP_NUM_THREADS": threads}
    contenders = {
        "msa": Contender([os.path.join(options.bin, "model_bench"), options.model, runs, threads]),
        "transformers": Contender([python, os.path.join(HERE, "transformers_peer.py"),
                                   options.model, threads, runs], environment),
        "llama_cpp": Contender([python, os.path.join(HERE, "llama_cpp_peer.py"), threads, runs],
                               environment),
    }
    for peer in ("transformers", "llama_cpp"):
        if status[peer] != "ready":
            contenders[peer].failure = status[peer]
    for _ in range(options.rounds):
        for contender in contenders.values():
            contender.run()

    msa = contenders["msa"]
    if msa.failure:
        sys.exit(f"model_bench: {msa.failure}")
    ours = {name: middle([r["weights"][name] for r in msa.rounds])
            for name in msa.rounds[0]["weights"]}
    peers, left_out = {}, {}
    for name in ("transformers", "llama_cpp"):
        contender = contenders[name]
        if contender.failure:
            left_out[name] = contender.failure
        else:
            peers[name] = {"version": contender.rounds[0]["version"], **middle(contender.rounds)}
    print(json.dumps({
        "benchmark": "model", "model": options.model, "threads": options.threads,
        "rounds": options.rounds, "runs_a_round": options.runs,
        "commands": {name: " ".join(c.command) for name, c in contenders.items()},
        "weights": ours, "peers": peers, "peers_left_out": left_out,
        "ours_over_peer": ratios(ours, peers)}))


if __name__ == "__main__":
    main()
