"""Makes the training bundle from the shared data: documents, questions, links, evaluation sets, manifest.

`python -m training.prepare_data --data DIR --out DIR [--passages N]`. Deterministic for a seed. Formats (xz JSON lines):
  docs:      {"s": source, "t": title, "x": text, "g": group}              index = line number
  questions: {"s", "q", "a": [answers], "p": [gold docs, hop order], "n": [hard negatives], "u": 1 if unanswerable}
  links:     {"d": passage, "b": [begin, end] of the sentence, "m": [begin, end] of the mention, "to": passage}
  triples:   {"q", "a", "p": [titles, hop order], "e": [[subject, relation, object]]}
"""
from __future__ import annotations

import argparse
import collections
import json
import random
import re
from pathlib import Path

from training import tool
from training.bm25 import Bm25
from training.corpus import (Sets, normal, read_zst, shingles, words, write_xz)
from training.files import read_json

WIKI = ("wiki_2018new-00", "wiki_core2018-00", "wiki_core2018-01", "wiki_core2018-02", "wiki_featured-00",
        "wiki_featured-01", "wiki_good_sample-00")
WORDS = (35, 130)           # words of a passage


class Bundle:
    def __init__(self, evaluation_shingles: set[int]):
        self.docs: list[dict] = []
        self.questions: list[dict] = []
        self.dropped = collections.Counter()
        self._forbidden = evaluation_shingles

    def add_doc(self, source: str, title: str, text: str, group: str) -> int | None:
        if shingles(text) & self._forbidden:
            self.dropped[source + ": shares words with an evaluation document"] += 1
            return None
        self.docs.append({"s": source, "t": title, "x": text, "g": group})
        return len(self.docs) - 1

    def ask(self, source, question, answers, golds, negatives=(), unanswerable=False) -> None:
        if any(g is None for g in golds):
            self.dropped[source + ": a gold document was dropped"] += 1
            return
        record = {"s": source, "q": question, "a": answers, "p": golds, "n": [n for n in negatives if n is not None]}
        if unanswerable:
            record["u"] = 1
        self.questions.append(record)


def add_squad(bundle: Bundle, sets: Sets) -> None:
    ids = {}
    for d in sets.squad_corpus:
        if d["title"] not in sets.held_out:
            ids[d["id"]] = bundle.add_doc("squad", d["title"], d["text"], d["title"])
    numbers = [i for i in ids.values() if i is not None]
    index = Bm25([bundle.docs[i]["t"] + " " + bundle.docs[i]["x"] for i in numbers])
    for q, refused in [(q, False) for q in sets.squad_train] + [(q, True) for q in sets.refused_train]:
        gold = ids[q["supporting_titles_or_ids"][0]]
        near = [numbers[i] for i in index.top(q["question"], 8)]
        bundle.ask("squad", q["question"], q["answers"], [gold], [n for n in near if n != gold], refused)


def add_pairs(bundle: Bundle, root: Path) -> None:
    for source, folder, corpus, questions in (("reqa", "reqa_squad", "corpus_train", "questions_train"),
                                              ("pubmed", "pubmedqa", "corpus", "questions")):
        ids = {d["id"]: bundle.add_doc(source, d["title"], d["text"], d["id"])
               for d in read_zst(root / f"qa/{folder}/{corpus}.jsonl.zst")}
        for q in read_zst(root / f"qa/{folder}/{questions}.jsonl.zst"):
            bundle.ask(source, q["question"], q["answers"], [ids[q["supporting_titles_or_ids"][0]]])


def add_hops(bundle: Bundle, sets: Sets, root: Path) -> None:
    for source, folder, corpus, evaluation in (("2wiki", "2wiki_ctx", sets.two_corpus, sets.two_eval),
                                               ("hotpot", "hotpotqa", sets.hotpot_corpus, sets.hotpot_eval)):
        by_id = {d["id"]: d for d in corpus}
        closed = {i for q in evaluation for i in q["supporting_titles_or_ids"]}
        asked = {words_key(q["question"]) for q in evaluation}
        ids: dict[str, int | None] = {}
        open_ids = [d["id"] for d in corpus if d["id"] not in closed]
        index = Bm25([by_id[i]["title"] + " " + by_id[i]["text"] for i in open_ids])

        def doc(key):
            if key not in ids:
                d = by_id[key]
                ids[key] = None if key in closed else bundle.add_doc(source, d["title"], d["text"], key)
            return ids[key]
        for q in read_zst(root / f"qa/{folder}/questions_train.jsonl.zst"):
            golds = q["supporting_titles_or_ids"]
            if words_key(q["question"]) in asked or not q["all_support_present"]:
                bundle.dropped[source + ": asked in evaluation"] += 1
            elif closed & set(golds):
                bundle.dropped[source + ": shares a gold document with evaluation"] += 1
            else:
                near = [open_ids[i] for i in index.top(q["question"], 8)]
                rest = [c for c in dict.fromkeys(q["context_ids"] + near) if c not in golds]
                bundle.ask(source, q["question"], q["answers"], [doc(g) for g in golds], [doc(c) for c in rest])


def words_key(text: str) -> str:
    return " ".join(words(text))


def add_factbook(bundle: Bundle, root: Path) -> None:
    """Each document's lines in runs of at most 110 words; questions are made from its `key: value` lines later."""
    for d in read_zst(root / "qa/factbook/corpus.jsonl.zst"):
        lines, run = d["text"].split("\n"), []
        for line in lines + [None]:
            if run and (line is None or sum(len(x.split()) for x in run) + len(line.split()) > 110):
                text = "\n".join(run)
                if 12 <= len(text.split()) <= 160:
                    bundle.add_doc("factbook", d["title"], text, d["id"])
                run = []
            if line:
                run.append(line)


def triples(sets: Sets, root: Path) -> list[dict]:
    """2Wiki questions with evidence triples only; those that share a title with an evaluation question go."""
    closed = {normal(t) for q in sets.two_eval + sets.hotpot_eval for t in q["supporting_titles"]}
    closed |= {normal(x) for q in sets.two_eval for s, _, o in q["evidences"] for x in (s, o) if len(x) > 6}
    asked = {words_key(q["question"]) for q in sets.two_eval}
    kept = []
    for q in read_zst(root / "qa/2wiki_ctx/questions_nodocs_dev.jsonl.zst"):
        titles = q["supporting_titles_or_ids"]
        if words_key(q["question"]) not in asked and not closed & {normal(t) for t in titles}:
            kept.append({"q": q["question"], "a": q["answers"], "p": titles, "e": q["evidences"]})
    return kept


def passages_of(text: str, limit: int, rng: random.Random) -> list[str]:
    """The article's opening and up to `limit` further passages of whole paragraphs."""
    paragraphs = [p.strip() for p in text.split("\n")]
    found, run = [], []
    for p in paragraphs + [""]:
        count = len(p.split())
        if count < 8:                       # headings and list fragments separate
            if WORDS[0] <= sum(len(x.split()) for x in run):
                found.append(" ".join(run))
            run = []
        elif sum(len(x.split()) for x in run) + count <= WORDS[1]:
            run.append(p)
        else:
            if WORDS[0] <= sum(len(x.split()) for x in run):
                found.append(" ".join(run))
            run = [p] if count <= WORDS[1] else [shorten(p)]
    found = [f for f in found if f.count("|") < 4]
    return found[:1] + rng.sample(found[1:], min(limit, len(found) - 1)) if found else []


def shorten(paragraph: str) -> str:
    """Whole sentences up to the word limit."""
    out, count = [], 0
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", paragraph):
        count += len(sentence.split())
        if count > WORDS[1]:
            break
        out.append(sentence)
    return " ".join(out) or " ".join(paragraph.split()[: WORDS[1]])


def wiki_articles(root: Path) -> list[dict]:
    """Articles that no question set is about."""
    overlap = read_json(root / "wiki/overlap_titles.json")
    closed = {normal(t) for titles in overlap.values() for t in titles}
    articles = [a for name in WIKI for a in read_zst(root / f"wiki/{name}.jsonl.zst")]
    return [a for a in articles if normal(a["title"]) not in closed]


def add_wiki(bundle: Bundle, articles: list[dict], total: int, rng: random.Random) -> dict[str, int]:
    """Passages of the encyclopedia; returns opening passage by title."""
    openings = {}
    long_share = max(0, total - len(articles)) / sum(min(8, len(a["text"]) // 3000) for a in articles)
    for a in articles:
        size = min(8, len(a["text"]) // 3000) * long_share
        limit = int(size) + (rng.random() < size - int(size))
        for order, text in enumerate(passages_of(a["text"], limit, rng)):
            number = bundle.add_doc("wiki", a["title"], text, a["id"])
            if number is not None and order == 0:
                openings[a["title"]] = number
    return openings


def around(paragraph: str, at: int) -> str:
    """The sentences about word `at` of a paragraph, up to the word limit."""
    pieces = re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", paragraph)
    sizes, seen, middle = [len(words(x)) for x in pieces], 0, 0
    for middle, size in enumerate(sizes):
        seen += size
        if seen > at:
            break
    low = high = middle
    while True:
        grown = [(a, b) for a, b in ((low - 1, high), (low, high + 1))
                 if a >= 0 and b < len(pieces) and sum(sizes[a:b + 1]) <= WORDS[1]]
        if not grown:
            return " ".join(pieces[low:high + 1])
        low, high = grown[-1] if (high - middle) <= (middle - low) else grown[0]


def add_natural(bundle: Bundle, root: Path, articles: list[dict]) -> None:
    """ReQA's questions beside the encyclopedia's paragraph that holds their answer sentence, where it still does.

    Negatives: the article's other passages that share no run of words with it."""
    run, sentences = 8, {d["id"]: d["text"] for d in read_zst(root / "qa/reqa_squad/corpus_train.jsonl.zst")}
    wanted, lengths, asked = {}, {}, collections.defaultdict(list)
    for key, text in sentences.items():
        w = words(text)
        lengths[key] = max(1, len(w) - run + 1)
        for i in range(len(w) - run + 1):
            wanted.setdefault(tuple(w[i:i + run]), key)
    for q in read_zst(root / "qa/reqa_squad/questions_train.jsonl.zst"):
        asked[q["supporting_titles_or_ids"][0]].append(q["question"])
    siblings, done = collections.defaultdict(list), set()
    for number, d in enumerate(bundle.docs):
        if d["s"] == "wiki":
            siblings[d["g"]].append(number)
    for a in articles:
        for paragraph in a["text"].split("\n"):
            w = words(paragraph)
            found = collections.defaultdict(list)
            for at, piece in enumerate(zip(*(w[i:] for i in range(run)))):
                if piece in wanted:
                    found[wanted[piece]].append(at)
            for key, places in found.items():
                if key in done or len(places) < 0.5 * lengths[key]:
                    continue
                done.add(key)
                text = around(paragraph, places[len(places) // 2])
                number = bundle.add_doc("natural", a["title"], text, a["id"])
                own = shingles(text)
                near = [n for n in siblings[a["id"]] if not own & shingles(bundle.docs[n]["x"])]
                for question in asked[key]:
                    bundle.ask("natural", question, [], [number], near[:8])


def find_links(bundle: Bundle, openings: dict[str, int]) -> list[dict]:
    """Mentions of another article's title inside a passage, with the sentence around it."""
    known = {re.sub(r"\s*\([^)]*\)$", "", t): n for t, n in openings.items()}
    known = {t: n for t, n in known.items() if len(t) >= 6 and (" " in t or len(t) >= 8)}
    name = re.compile(r"[A-Z][\w'’.-]+(?: (?:of|the|and|de|van|von|in|for) (?=[A-Z])| (?=[A-Z0-9])|[\w'’.-]+)*")
    links = []
    for number, d in enumerate(bundle.docs):
        if d["s"] != "wiki":
            continue
        seen = set()
        for match in name.finditer(d["x"]):
            tokens = list(re.finditer(r"\S+", match.group()))
            hit = None
            for width in range(min(6, len(tokens)), 0, -1):
                for i in range(len(tokens) - width + 1):
                    piece = match.group()[tokens[i].start():tokens[i + width - 1].end()].rstrip(".,'’")
                    target = known.get(piece)
                    if target is not None and target != number and bundle.docs[target]["g"] != d["g"]:
                        hit = (match.start() + tokens[i].start(), piece, target)
                        break
                if hit:
                    break
            if hit and hit[2] not in seen:
                seen.add(hit[2])
                begin = max(d["x"].rfind(". ", 0, hit[0]) + 2, 0) if ". " in d["x"][:hit[0]] else 0
                end = d["x"].find(". ", hit[0] + len(hit[1]))
                end = len(d["x"]) if end < 0 else end + 1
                links.append({"d": number, "b": [begin, end], "m": [hit[0], hit[0] + len(hit[1])], "to": hit[2]})
    return links


def evaluation_files(sets: Sets, out: Path) -> None:
    def keep(q):
        return {k: q[k] for k in ("id", "question", "answers", "supporting_titles_or_ids", "type") if k in q}
    for name, corpus, questions in (("squad", sets.squad_corpus, sets.squad_eval),
                                    ("2wiki", sets.two_corpus, sets.two_eval),
                                    ("hotpot", sets.hotpot_corpus, sets.hotpot_eval),
                                    ("strategy", sets.strategy_corpus, sets.strategy_eval)):
        write_xz(out / f"eval_{name}_corpus.jsonl.xz", corpus)
        write_xz(out / f"eval_{name}_questions.jsonl.xz", [keep(q) for q in questions])
    write_xz(out / "eval_squad_refused.jsonl.xz", [keep(q) for q in sets.refused_eval])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--passages", type=int, default=150_000, help="encyclopedia passages")
    parser.add_argument("--seed", type=int, default=17)
    args = parser.parse_args()
    root, out, rng = Path(args.data), Path(args.out), random.Random(args.seed)
    out.mkdir(parents=True, exist_ok=True)
    sets = Sets(root)
    bundle = Bundle({s for d in sets.evaluation_golds() for s in shingles(d["text"])})
    add_squad(bundle, sets)
    add_pairs(bundle, root)
    add_hops(bundle, sets, root)
    add_factbook(bundle, root)
    articles = wiki_articles(root)
    openings = add_wiki(bundle, articles, args.passages, rng)
    add_natural(bundle, root, articles)
    links = find_links(bundle, openings)
    chains = triples(sets, root)
    for name, records in (("docs", bundle.docs), ("questions", bundle.questions), ("links", links),
                          ("triples", chains)):
        write_xz(out / f"{name}.jsonl.xz", records)
    evaluation_files(sets, out)
    manifest = {"seed": args.seed, "docs": collections.Counter(d["s"] for d in bundle.docs),
                "questions": collections.Counter(q["s"] + ("/unanswerable" if "u" in q else "")
                                                 for q in bundle.questions),
                "links": len(links), "triples": len(chains), "dropped": bundle.dropped,
                "held_out_squad_articles": sorted(sets.held_out)}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    print(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    tool.run(main)
