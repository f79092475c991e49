#!/usr/bin/env python3
"""What bf16, int8 and fp8 do to retrieval and to the model's output, on real questions.

usage: measure_precision.py --data FOLDER [--out docs/quality/precision.json]
                            [--questions 200] [--answers 40] [--passages 1000] [--rows f32-fp8-fp8 …]

FOLDER holds qa/squad_dev and qa/2wiki_ctx (docs/quality.md names the sets). Asked are evenly spaced
questions of SQuAD's last 8 articles and of 2Wiki's development set. The memory holds those questions'
gold and context passages and, evenly spaced, others of the same corpus, --passages in all; 0 takes the whole
corpus. Writes what benchmarks/precision_report printed and prints it as a table. Needs build/release
(cmake --build build/release --target precision_report) and `make model`.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

HELD_OUT_ARTICLES = 8
SETS = {
    "SQuAD held-out": ("qa/squad_dev/corpus.jsonl.zst", "qa/squad_dev/questions.jsonl.zst"),
    "2Wiki dev": ("qa/2wiki_ctx/corpus.jsonl.zst", "qa/2wiki_ctx/questions_dev.jsonl.zst"),
}


def read(path):
    done = subprocess.run(["zstd", "-dcq", path], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.decode("utf-8").split("\n") if line]


def write(path, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def spaced(values, count):
    """`count` of them, evenly spaced; all for 0."""
    if not count or count >= len(values):
        return values
    return [values[i * len(values) // count] for i in range(count)]


def sample(name, corpus, questions, options):
    if name == "SQuAD held-out":
        articles = list(dict.fromkeys(d["title"] for d in corpus))[-HELD_OUT_ARTICLES:]
        held_out = {d["id"] for d in corpus if d["title"] in articles}
        questions = [q for q in questions if q["supporting_titles_or_ids"][0] in held_out]
    questions = spaced(questions, options.questions)
    if not options.passages:
        return corpus, questions
    wanted = {i for q in questions for i in q["supporting_titles_or_ids"]}
    for question in questions:
        # Distractors that belong to a question make it as hard as in the whole corpus.
        room = options.passages - len(wanted)
        wanted.update(question.get("context_ids", [])[:max(0, room)])
    others = [d["id"] for d in corpus if d["id"] not in wanted]
    wanted.update(spaced(others, options.passages - len(wanted))
                  if len(wanted) < options.passages else [])
    return [d for d in corpus if d["id"] in wanted], questions


def table(report):
    lines = ["| weights / keys / content | @1 | @5 | @16 | same top 16 | of them shared | same a layer "
             "| logits: rms, max | same token | answers: same, EM / F1 |", "|" + "---|" * 10]
    for row in report["rows"]:
        recall = row["recall"]
        answers = row.get("answers")
        read_as = (f"{100 * answers['same']:.0f}, {100 * answers['exact_match']:.1f} / "
                   f"{100 * answers['f1']:.1f}" if answers else "–")
        lines.append(
            f"| {row['weights']} / {row['keys']} / {row['content']} "
            f"| {100 * recall['1']:.1f} | {100 * recall['5']:.1f} | {100 * recall['16']:.1f} "
            f"| {100 * row['same_top16']:.1f} | {100 * row['shared_of_top16']:.1f} "
            f"| {100 * row['same_selection_a_layer']:.1f} "
            f"| {row['logit_rms']:.4f}, {row['logit_max']:.2f} | {100 * row['same_next_token']:.1f} "
            f"| {read_as} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("MSA_CORPORA_DIR"))
    parser.add_argument("--out", default="docs/quality/precision.json")
    parser.add_argument("--program", default="build/release/benchmarks/precision_report")
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--adapter", default="models/smollm2-135m-instruct-msa")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--answers", type=int, default=40)
    parser.add_argument("--passages", type=int, default=1000)
    parser.add_argument("--rows", nargs="*", default=[],
                        help="weights-keys-content, as f32-fp8-fp8: these alone, beside float32")
    parser.add_argument("--sets", nargs="*", default=list(SETS))
    options = parser.parse_args()
    if not options.data:
        sys.exit("give --data FOLDER, or set MSA_CORPORA_DIR: the folder that holds qa/squad_dev")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    result = {"command": "scripts/measure_precision.py --data DATA " + " ".join(
                  f"--{name} {getattr(options, name)}"
                  for name in ("questions", "answers", "passages"))
              + (" --rows " + " ".join(options.rows) if options.rows else ""),
              "commit": commit.stdout.strip(), "sets": {}}
    for name in options.sets:
        corpus_file, questions_file = (os.path.join(options.data, f) for f in SETS[name])
        corpus, questions = sample(name, read(corpus_file), read(questions_file), options)
        with tempfile.TemporaryDirectory() as folder:
            write(f"{folder}/corpus.jsonl", corpus)
            write(f"{folder}/questions.jsonl", questions)
            done = subprocess.run(
                [options.program, options.model, options.adapter, f"{folder}/corpus.jsonl",
                 f"{folder}/questions.jsonl", str(options.answers), *options.rows], stdout=subprocess.PIPE)
        if done.returncode != 0:
            sys.exit(f"{options.program} ended with {done.returncode}")
        report = json.loads(done.stdout)
        result["sets"][name] = report
        print(f"\n{name}: {report['questions']} questions, {report['documents']} passages, "
              f"{report['tokens']:,} tokens of memory; {report['answered']} answered\n")
        print(table(report), flush=True)
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
