"""A small question set in both harnesses' formats: `python -m training.small_set --bundle BUNDLE --out FOLDER`.

Evenly spaced held-out SQuAD paragraphs and two questions about each of the first two thirds of them: little enough for
`msa eval` and `training.evaluate` to run on a CPU and be compared. Writes corpus.jsonl and questions.jsonl for `msa eval`,
and the same as a bundle that `training.evaluate` reads. With --unanswerable N the two files for `msa eval` have so many more
questions, without answers, and the paragraphs that these were written about.
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

from training import tool
from training.corpus import read_xz, write_xz
from training.evaluate import spread


def choose(corpus: list[dict], questions: list[dict], paragraphs: int) -> tuple[list[dict], list[dict]]:
    about: dict[str, list[dict]] = {}
    for q in questions:
        about.setdefault(q["supporting_titles_or_ids"][0], []).append(q)
    asked = [i for i in about if len(about[i]) >= 2]
    kept = spread(asked, paragraphs)
    golds = set(spread(kept, paragraphs * 2 // 3))
    return [d for d in corpus if d["id"] in set(kept)], [q for i in kept if i in golds for q in spread(about[i], 2)]


def with_unanswerable(chosen: list[dict], questions: list[dict], corpus: list[dict], refused: list[dict]) -> tuple[list[dict], list[dict]]:
    wanted = {d["id"] for d in chosen} | {i for q in refused for i in q["supporting_titles_or_ids"]}
    return [d for d in corpus if d["id"] in wanted], questions + [{**q, "answers": []} for q in refused]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--paragraphs", type=int, default=75)
    parser.add_argument("--unanswerable", type=int, default=0, help="questions that nothing answers, for `msa eval` only")
    args = parser.parse_args()
    bundle, out = Path(args.bundle), Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    corpus, questions = (read_xz(bundle / f"eval_squad_{name}.jsonl.xz") for name in ("corpus", "questions"))
    refused = spread(read_xz(bundle / "eval_squad_refused.jsonl.xz"), args.unanswerable) if args.unanswerable else []
    sets = choose(corpus, questions, args.paragraphs)
    for name, records in zip(("corpus", "questions"), sets):
        write_xz(out / f"eval_squad_{name}.jsonl.xz", records)
    for name, records in zip(("corpus", "questions"), with_unanswerable(*sets, corpus, refused)):
        lines = (json.dumps(r, ensure_ascii=False) for r in records)
        (out / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        print(f"{len(records)} {name}")


if __name__ == "__main__":
    tool.run(main)
