#!/usr/bin/env python3
"""The same questions through a running server while its memory grows.

usage: scale_curve.py --texts FOLDER --out F [--server 127.0.0.1:7070] [--sizes N …] [--seconds S]

FOLDER is what `python -m training.scale texts` wrote. For each of its sizes, or of --sizes, the documents that it has
beyond the one before are added to --bank, which is made when it is not there, and all questions asked: recall@1/5/16,
exact match and F1 of one round (--rounds 0: as many as the checkpoint wants), and the time of a question asked alone.
A size that would not be done --seconds after the start is left out, and so are those behind it; what was added of it
stays. Writes F after each size, details a question beside it, and prints a table.
"""
import argparse
import json
import os
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ALONE = 24  # questions asked one after the other
PART_TOKENS = 640  # no document of these is split, as none is by training.scale


class OutOfTime(Exception):
    pass


class Engine:
    def __init__(self, options):
        self.options, self.started = options, time.monotonic()

    def left(self):
        return self.options.seconds - (time.monotonic() - self.started) if self.options.seconds else None

    def msa(self, *arguments):
        """What a verb printed; OutOfTime when it was stopped for that."""
        left = self.left()
        if left is not None and left <= 0:
            raise OutOfTime
        command = [self.options.msa, *arguments, "--server", self.options.server]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, err = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise OutOfTime from None
        if process.returncode != 0:
            raise SystemExit(f"scale_curve: {' '.join(command)} ended with {process.returncode}: {err.strip()}")
        return out

    def stats(self):
        stats = json.loads(self.msa("stats", "--bank", self.options.bank, "--json"))
        total = lambda key: sum(shard[key] for shard in stats["shards"])
        return {"documents": total("documents"), "tokens": total("tokens"),
                "key_bytes": total("resident_key_bytes"), "disk_bytes": total("disk_bytes")}

    def ask(self, *arguments):
        rounds = ["--max-rounds", str(self.options.rounds)] if self.options.rounds else []
        return json.loads(self.msa("eval", "--no-add", "--bank", self.options.bank, "--answers", "--json", *rounds,
                                   "--questions", os.path.join(self.options.texts, "questions.jsonl"), *arguments))


def measured(engine, options, size):
    """One row: what was added for it, and what the questions found."""
    begun = time.monotonic()
    engine.msa("add", "--bank", options.bank, os.path.join(options.texts, f"documents_{size:09d}.jsonl"))
    row = {"size": size, "seconds_of_adding": round(time.monotonic() - begun, 2), **engine.stats()}
    row["all"] = engine.ask("--concurrency", str(options.concurrency), "--details", f"{options.out}.{size}.details.jsonl")
    return row


def write(rows, options):
    with open(options.out, "w", encoding="utf-8") as file:
        json.dump({"rounds": options.rounds, "rows": rows}, file, indent=1)


def table(rows):
    yield "| tokens | documents | s of adding | recall@1 | @5 | @16 | EM / F1, refused | ms a question alone: retrieve, answer |"
    yield "|" + "---|" * 8
    for row in rows:
        score = lambda *keys: " / ".join(f"{100 * row['all'][key]:.1f}" for key in keys)
        recall = " | ".join(f"{100 * row['all']['recall'][k]:.1f}" for k in ("1", "5", "16"))
        alone = ", ".join(f"{row['alone'][key]['p50']:.0f}" for key in ("retrieve_ms", "answer_ms")) if "alone" in row else "–"
        yield (f"| {row['tokens']:,} | {row['documents']:,} | {row['seconds_of_adding']:.1f} | {recall} "
               f"| {score('exact_match', 'f1')}, {score('refused')} | {alone} |")


def sizes_of(texts):
    names = sorted(name for name in os.listdir(texts) if name.startswith("documents_"))
    return [int(name[len("documents_"):-len(".jsonl")]) for name in names]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--server", default="127.0.0.1:7070")
    parser.add_argument("--bank", default="scale")
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=0, help="0: as many as it takes")
    parser.add_argument("--msa", default=os.path.join(ROOT, "build/release/bin/msa"))
    options = parser.parse_args()
    engine, rows = Engine(options), []
    try:
        banks = engine.msa("bank", "ls", "--json").splitlines()
        if options.bank not in [json.loads(bank)["name"] for bank in banks]:
            engine.msa("bank", "create", options.bank, "--part-tokens", str(PART_TOKENS))
        for size in options.sizes or sizes_of(options.texts):
            rows.append(measured(engine, options, size))
            write(rows, options)
            rows[-1]["alone"] = engine.ask("--limit", str(ALONE))
            write(rows, options)
    except OutOfTime:
        print("scale_curve: out of time; the sizes that are missing were not reached", file=sys.stderr)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
