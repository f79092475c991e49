"""What a trained teacher thinks of the passages that the model confuses with a question's own.

`python -m training.weigh --base TEACHER --adapter A --bundle D --made FOLDER [--shard i/n] [--until T]`, on a GPU, after teach.py and mine.py.
For each question that mine.py ranked passages for and one passage answers, the first AMONG of them, and for each written question of which teach.py
was not sure its passage, alone before the teacher: the log odds that it refuses. A small model learns from them how sure to be (losses.refusing_loss), which
of several readings to believe (losses.choice_loss), and that a passage which answers after all is no negative. Writes FOLDER/weighed.<i>.jsonl:
{"q", "p", "o": {passage: log odds}} of the questions reached in time, every n-th of all, in a shuffled order.
"""
from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import torch

from training import tool
from training.adapter_io import wait_for
from training.ask import Writer
from training.corpus import read_parts, read_xz, write_whole
from training.teach import Teacher

AMONG = 2


def weighable(made: list[dict], mined: list[dict], asked: list[dict]) -> list[dict]:
    """{"q", "p", "n": passages to be weighed}; asked: the bundle's questions. What several passages answer together is left out."""
    answered = {(q["q"], q["p"][0]) for q in made + asked if q["a"] and len(q["p"]) == 1 and q.get("r", 1)}
    rows = [{"q": m["q"], "p": m["p"], "n": m["h"][:AMONG]} for m in mined if (m["q"], m["p"][0]) in answered and m["h"]]
    return rows + [{"q": m["q"], "p": m["p"], "n": m["p"]} for m in made if not m["r"] and len(m["p"]) == 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "adapter", "bundle", "made"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--shard", default="0/1", help="i/n")
    parser.add_argument("--parts", type=int, default=0, help="of mine.py's files, waited for")
    parser.add_argument("--until", type=float, default=float("inf"), help="wall time (since 1970) when weighing ends")
    parser.add_argument("--block", type=int, default=300_000, help="tokens of a block")
    parser.add_argument("--limit", type=int, default=1 << 30, help="questions of the shard")
    args = parser.parse_args()
    shard, of = map(int, args.shard.split("/"))
    docs, asked = (read_xz(Path(args.bundle) / f"{n}.jsonl.xz") for n in ("docs", "questions"))
    teacher = Teacher(args.base, torch.device("cuda" if torch.cuda.is_available() else "cpu"), args.adapter)
    writer, made = Writer(teacher.tokenizer, docs), Path(args.made)
    wait_for([f"{made}/mined.{i}.jsonl" for i in range(args.parts)], args.until)
    rows = weighable(read_parts(made, "made.*.jsonl", ("q", "a", "p", "n", "r")), read_parts(made, "mined.*.jsonl", ("q", "p", "h")),
                     [q for q in asked if "u" not in q])
    random.Random(9).shuffle(rows)
    rows, lines, begun = rows[shard::of][: args.limit], [], time.time()
    for at in range(0, len(rows), 2048):
        some = rows[at:at + 2048]
        odds = iter(teacher.odds([([writer.text(n)], row["q"]) for row in some for n in row["n"]], args.block))
        lines += [{"q": row["q"], "p": row["p"], "o": {n: round(next(odds), 2) for n in row["n"]}} for row in some]
        if time.time() > args.until:
            break
    write_whole(made / f"weighed.{shard}.jsonl", lines)
    refused = [value > 0 for line in lines for value in line["o"].values()]
    print(f"weighed {len(refused)} passages of {len(lines)} of {len(rows)} questions in {time.time() - begun:.0f} s; "
          f"refused {100 * sum(refused) / max(1, len(refused)):.0f} %", flush=True)


if __name__ == "__main__":
    tool.run(main)
