"""Training batches, each a pure function of (seed, stage, step): resuming needs no state.

A batch is documents of one kind with questions about them (in-batch negatives, made hard by neighbours: the same
article, BM25's nearest passages, a question's own distractors), later-round questions, and reading samples.
The kind `ask` has no documents: its samples teach the model to write questions (see ask.py).
"""
from __future__ import annotations

import random
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from training import batches, frames, synth
from training.corpus import calibration_articles, read_lines, read_parts, read_xz
from training.model import Documents, Packed, Queries
from training.reading import Draft, ReadingSamples, section_of

KINDS = ("wiki", "squad", "pairs", "hops", "made", "ask")


@dataclass
class Group:
    """Questions of one shape: rows, their gold documents, documents that count for nothing."""
    queries: Queries
    positive: torch.Tensor
    ignored: torch.Tensor

    def to(self, device) -> "Group":
        return Group(self.queries.to(device), self.positive.to(device), self.ignored.to(device))


@dataclass
class Batch:
    """names: [D] a number that two documents share only if they are the same one. members, weighed: see batches' functions of these names."""
    kind: str
    docs: Documents | None
    groups: list[Group]
    reading: tuple[Packed, torch.Tensor, torch.Tensor] | None
    tokens: int
    names: torch.Tensor | None = None
    members: tuple[torch.Tensor, torch.Tensor] | None = None
    weighed: tuple[torch.Tensor, torch.Tensor] | None = None

    def to(self, device) -> "Batch":
        reading, members, weighed = (some and tuple(t.to(device) for t in some) for some in (self.reading, self.members, self.weighed))
        names = self.names if self.names is None else self.names.to(device)
        return Batch(self.kind, self.docs and self.docs.to(device), [g.to(device) for g in self.groups], reading, self.tokens, names, members, weighed)


class TrainingSet(ReadingSamples, Dataset):
    """Map from step to batch. `sizes`: questions a batch; `mix`: share of each kind; see configs/.

    Of `world` processes, those at one step get batches of one kind. made: folder of what ask.py wrote; labels: file
    of what label.py wrote; either may be None."""

    def __init__(self, bundle: str, tokenizer: str, stage: dict, seed: int, top_k: int, pool: int,
                 neighbours: np.ndarray | None = None, made: str | None = None, world: int = 1,
                 labels: str | None = None, reader_question: str = "after", reads_full: bool = False):
        root = Path(bundle)
        self.docs = read_xz(root / "docs.jsonl.xz", ("s", "t", "x", "g"))
        self.tokenizer_path, self.stage, self.seed, self.world = tokenizer, stage, seed, world
        self.top_k, self.pool, self.neighbours = top_k, pool, neighbours
        self.reader_question, self.reads_full = reader_question, reads_full
        self.by_source, self.by_group = defaultdict(list), defaultdict(list)
        for number, d in enumerate(self.docs):
            self.by_source[d["s"]].append(number)
            self.by_group[(d["s"], d["g"])].append(number)
            if d["s"] == "factbook":
                self.by_group[("section", section_of(d))].append(number)
        self.questions = defaultdict(list)
        self.asked_of = defaultdict(list)
        kept_back = calibration_articles(self.docs, stage.get("held_articles", 0))
        for q in read_xz(root / "questions.jsonl.xz", ("s", "q", "a", "p", "n")):
            if q["s"] == "squad" and self.docs[q["p"][0]]["g"] in kept_back:
                continue
            self.questions[q["s"] + ("/refused" if "u" in q else "")].append(q)
            self.asked_of[q["p"][0]].append(q)
        self.links = defaultdict(list)
        for link in read_xz(root / "links.jsonl.xz", ("d", "b", "m", "to")):
            self.links[link["d"]].append(link)
        self._prepare_triples(read_xz(root / "triples.jsonl.xz", ("q", "a", "p", "e")))
        self.articles = sorted({self.docs[q["p"][0]]["g"] for q in self.questions["squad"]})
        self._prepare_made(made)
        self.labelled = read_lines(Path(labels), ("q", "a", "p", "n")) if labels else []
        self._tokenizer = None

    def _prepare_made(self, folder: str | None) -> None:
        """Written questions about one passage, about two, and by article; for reading those that were answered alike.

        Files mined.*.jsonl beside them (see mine.py) give passages that the model confuses with a question's own; those that hold its answer,
        which may be another than when they were mined (teach.py), are left out, as are those that a teacher would answer from (weighed.*.jsonl, see
        weigh.py: its log odds of refusing over each). A question that is neither
        answered alike nor finds its own passage among the first is likely to lack its context: routing does not learn from it."""
        lines = lambda name, fields: read_parts(Path(folder), name, fields) if folder else []
        made = lines("made.*.jsonl", ("q", "a", "p", "n", "r"))
        key = lambda m: (m["q"], m["p"][0])
        weighed = {key(w): {int(n): odds for n, odds in w["o"].items()} for w in lines("weighed.*.jsonl", ("q", "p", "o"))}
        if self.stage.get("loss", {}).get("refuse") and not weighed:
            raise ValueError("loss.refuse learns what a teacher thinks; give a `made` with weigh.py's files")
        thought = lambda m: weighed.get(key(m), {})
        self.unsure = [(m, thought(m)[m["p"][0]]) for m in made if not m["r"] and m["p"][0] in thought(m)]
        self.unanswered = [m for m in made if "u" in m and m["r"]]
        self.unanswered_of = defaultdict(list)
        for m in self.unanswered + self.questions["squad/refused"]:
            self.unanswered_of[m["p"][0]].append(m["q"])
        made = [m for m in made if "u" not in m]
        for m in made:      # as written they were without the writer's answer, which may be another now
            m["n"] = self._without(m["n"], m["a"])
        mined = {key(m): m for m in lines("mined.*.jsonl", ("q", "p", "h"))}
        self.single = [m for m in made if len(m["p"]) == 1]
        self.linked = [m for m in made if len(m["p"]) == 2]
        self.readable = {"made": [m for m in self.single if m["r"]], "linked": [m for m in self.linked if m["r"]]}
        known = made + [q for some in self.questions.values() for q in some]
        found = lambda m: mined.get(key(m))
        self.odds = {id(m): {n: odds for n, odds in thought(m).items() if n not in m["p"]} for m in known if thought(m)}
        self.hard = {id(m): [n for n in self._without(found(m)["h"], m["a"]) if self.odds.get(id(m), {}).get(n, 1) > 0] for m in known if found(m)}
        if any(id(m) in self.hard for m in self.single):       # routing learns from these alone
            self.single = [m for m in self.single if found(m) and (m["r"] or found(m).get("o", 0) >= 0)]
        self.made_about = defaultdict(list)
        for m in self.single:
            self.made_about[self.docs[m["p"][0]]["g"]].append(m)
        kinds = dict(self.stage["mix"])
        if not self.single:
            kinds.pop("made", None)
        self.kinds = [kinds.get(k, 0) for k in KINDS]

    def _prepare_triples(self, chains: list[dict]) -> None:
        self.chains = chains
        self.facts = defaultdict(list)
        for chain in chains:
            for subject, relation, value in chain["e"]:
                if (relation, value) not in self.facts[subject]:
                    self.facts[subject].append((relation, value))
        self.subjects = {synth.bare(s): f for s, f in self.facts.items()} | dict(self.facts)

    def __len__(self) -> int:
        return 1 << 30

    @property
    def tokenizer(self):
        if self._tokenizer is None:
            self._tokenizer = frames.load_tokenizer(self.tokenizer_path)
            self.head = frames.encode(self._tokenizer, frames.HEAD)
        return self._tokenizer

    def __getitem__(self, step: int) -> Batch:
        place = f"{self.seed}/{self.stage['name']}"
        kind = random.Random(f"{place}/kind/{step // self.world}").choices(KINDS, self.kinds)[0]
        rng, draft = random.Random(f"{place}/{step}"), Draft()
        if kind == "ask":
            return self._ask_batch(rng)
        getattr(self, "_draft_" + kind)(rng, draft)
        return self._batch(rng, kind, draft)

    # Drafts: which documents and questions.

    def _put(self, draft: Draft, number: int) -> int:
        draft.docs[number] = (self.docs[number]["t"], self.docs[number]["x"])
        return number

    def _draft_wiki(self, rng, draft) -> None:
        passages, count = self.by_source["wiki"], self.stage["sizes"]["wiki"]
        while len(draft.docs) < count:
            seed = rng.choice(passages)
            if self.neighbours is not None and rng.random() < self.stage.get("near", 0.6):
                near = [int(n) for n in self.neighbours[seed] if n >= 0][: self.stage.get("cluster", 4) - 1]
            else:
                run = self.by_group[("wiki", self.docs[seed]["g"])]
                near = rng.sample(run, min(3, len(run)))
            cluster = [seed] + [n for n in near if n != seed]
            for number in cluster:
                self._put(draft, number)
            self._ask_cluster(rng, draft, cluster)
        draft.asked = rng.sample(draft.asked, min(len(draft.asked), self.stage["sizes"]["questions"]))

    def _ask_cluster(self, rng, draft, cluster) -> None:
        for number in cluster:
            d, question = self.docs[number], None
            kind = rng.random()
            if kind < 0.2 and self.links[number]:
                link = rng.choice(self.links[number])
                self._put(draft, link["to"])
                draft.asked.append((synth.bridge(rng, d, link, self.docs[link["to"]]), [number, link["to"]]))
                if rng.random() < 0.35:
                    first, second = (number, link["to"]) if rng.random() < 0.7 else (link["to"], number)
                    draft.hops.append((draft.asked[-1][0], [first], [second]))
                continue
            if kind < 0.32:
                question = synth.defined(rng, d["t"], d["x"])
            elif kind < 0.4 and len(cluster) > 1:
                other = rng.choice([n for n in cluster if n != number])
                if self.docs[other]["g"] != d["g"]:
                    draft.asked.append((synth.comparison(rng, d, self.docs[other]), [number, other]))
                    continue
            elif kind < 0.6:
                question = synth.blank(rng, d["t"], d["x"])
            if question:
                draft.asked.append((question[0], [number]))
            else:
                make = rng.choice((synth.keywords, synth.titled, synth.sentence))
                draft.asked.append((make(rng, d["t"], d["x"]), [number]))

    def _draft_squad(self, rng, draft) -> None:
        """Whole articles: every paragraph is a hard negative of its neighbours."""
        for article in rng.sample(self.articles, self.stage["sizes"]["articles"]):
            numbers = self.by_group[("squad", article)]
            for number in numbers:
                self._put(draft, number)
            pool = [q for n in numbers for q in self.asked_of[n] if "u" not in q]
            for q in rng.sample(pool, min(len(pool), self.stage["sizes"]["questions"]
                                          // self.stage["sizes"]["articles"])):
                self._put_hard(rng, draft, q, int(rng.random() < 0.5))
                self._ask_single(rng, draft, q["q"], q["p"])

    def _put_hard(self, rng, draft, q, count: int) -> None:
        """Of the passages that the model confuses with the question's own."""
        hard = self.hard.get(id(q), [])
        for number in rng.sample(hard, min(count, len(hard))):
            self._put(draft, number)

    def _ask_single(self, rng, draft, question, golds, *unsure) -> None:
        """One document answers: a later round that has it finds nothing more (see losses.stop_loss)."""
        draft.asked.append((question, golds, *unsure))
        if rng.random() < self.stage.get("stopping", 0.0):
            draft.hops.append((question, golds, []))

    def _draft_pairs(self, rng, draft) -> None:
        count = self.stage["sizes"]["questions"]
        for source, share in (("natural", 0.2), ("reqa", 0.5), ("pubmed", 0.08)):
            asked = self.questions[source]
            for q in rng.sample(asked, min(len(asked), int(count * share))):
                draft.asked.append((q["q"], [self._put(draft, q["p"][0])]))
                for number in rng.sample(q["n"], min(2, len(q["n"]))):
                    self._put(draft, number)
        while len(draft.asked) < count:
            number = rng.choice(self.by_source["factbook"])
            run = self.by_group[("factbook", self.docs[number]["g"])]
            for n in {number, *rng.sample(run, min(2, len(run)))}:
                question = synth.fact(rng, self.docs[n]["t"], self.docs[n]["x"])
                self._put(draft, n)
                if question:
                    draft.asked.append((question[0], [n]))

    def _draft_made(self, rng, draft) -> None:
        """Written questions about passages of the same articles, among passages that share the questions' words."""
        size = self.stage["sizes"]
        while len(draft.docs) < size["made"]:
            about = self.made_about[self.docs[rng.choice(self.single)["p"][0]]["g"]]
            chosen = rng.sample(about, min(len(about), 5))
            for m in chosen:
                hard = self.hard.get(id(m), [])
                for number in m["p"] + rng.sample(m["n"], min(2 if not hard else 1, len(m["n"]))):
                    self._put(draft, number)
                self._put_hard(rng, draft, m, 2)
            siblings = {n for m in chosen for n in m["p"]}
            for m in chosen:
                answer = m["a"][0]
                unsure = [n for n in siblings if n not in m["p"] and answer in self.docs[n]["x"]]
                self._ask_single(rng, draft, m["q"], m["p"], unsure)
        draft.asked = rng.sample(draft.asked, min(len(draft.asked), size["questions"]))

    def _draft_hops(self, rng, draft) -> None:
        """Real multi-hop questions with their distractors, written ones, and questions over passages made from triples."""
        size = self.stage["sizes"]["hops"]
        real = self.questions["2wiki"] + self.questions["hotpot"]
        written = min(len(self.linked), int(size * self.stage.get("written_hops", 0.5)))
        chosen = rng.sample(real, min(len(real), (size - written) // 2)) + rng.sample(self.linked, written)
        for q in chosen:
            for number in q["p"] + rng.sample(q["n"], min(2 if id(q) in self.hard else 3, len(q["n"]))):
                self._put(draft, number)
            self._put_hard(rng, draft, q, 2)
            self._ask_chain(rng, draft, q["q"], q["p"])
        for chain in rng.sample(self.chains, min(len(self.chains), size - len(chosen))):
            keys = self._put_chain(rng, draft, chain)
            self._ask_chain(rng, draft, chain["q"], keys)

    def _ask_chain(self, rng, draft, question, golds) -> None:
        draft.asked.append((question, golds))
        taken = [g for g in golds if rng.random() < 0.6][: len(golds) - 1] or [golds[0]]
        if rng.random() < self.stage.get("stopping", 0.0):
            taken = golds
        rest = [g for g in golds if g not in taken]
        if rest or "stopping" in self.stage:
            draft.hops.append((question, taken, rest))

    def _put_chain(self, rng, draft, chain) -> list[str]:
        for title in chain["p"]:
            facts = self.subjects.get(title) or self.subjects.get(synth.bare(title)) or []
            if title not in draft.docs:
                facts = rng.sample(facts, len(facts)) or [("occupation", "public figure")]
                filler = synth.sentences(self.docs[rng.choice(self.by_source["wiki"])]["x"])[1:]
                draft.docs[title] = (title, synth.entity_passage(rng, title, facts, filler))
        return list(chain["p"])

    # From drafts to tensors.

    def _batch(self, rng, kind, draft) -> Batch:
        tokenizer, limit = self.tokenizer, self.stage.get("doc_tokens", 240)
        keys = list(draft.docs)
        row = {key: i for i, key in enumerate(keys)}
        references = rng.sample(range(1, 100_000), len(keys))
        texts = [frames.cut(tokenizer, frames.document_text(*draft.docs[k]), limit) for k in keys]
        docs = batches.documents([frames.document_ids(tokenizer, r, t) for r, t in zip(references, texts)], self.pool)
        groups = [self._group([(frames.routing_prompt(tokenizer, self._short(q)), [row[u] for u in sum(unsure, [])],
                                [row[g] for g in golds]) for q, golds, *unsure in draft.asked], len(keys))]
        hops = self._hop_items(rng, draft, row, references, texts)
        if hops:
            groups.append(self._group(hops, len(keys), later=True))
        tokens = len(docs.packed.ids) + sum(g.queries.ids.numel() for g in groups)
        reading = members = weighed = None
        if self.stage.get("reading", 0):
            read = self._reading_groups(rng, self.stage.get("tokens", 1 << 30) - tokens)
            samples = sum(read, [])
            reading, members, weighed = batches.reading(samples, self.reads_full), batches.members(read), batches.weighed(samples)
            tokens += len(reading[0].ids)
        names = torch.tensor([k if isinstance(k, int) else (1 << 40) + zlib.crc32(k.encode()) for k in keys])
        return Batch(kind, docs, groups, reading, tokens, names, members, weighed)

    def _ask_batch(self, rng) -> Batch:
        """Samples (texts -> an answer and its question), and reading samples so that answers stay checkable."""
        samples, limit = [], self.stage.get("read_tokens", 220)
        for _ in range(self.stage["sizes"]["ask"]):
            texts, answer, question = self._asked_sample(rng)
            texts = [frames.cut(self.tokenizer, frames.document_text(*t), limit) for t in texts]
            prompt = frames.encode(self.tokenizer, frames.asking_prompt(texts, unanswerable=not answer))
            said = frames.encode(self.tokenizer, f"{answer}\n{question}" if answer else question)
            samples.append(batches.Sample(prompt, said[:80] + [self.tokenizer.token_to_id("<|im_end|>")]))
        samples += sum(self._reading_groups(rng, 1 << 30), []) if self.stage.get("reading", 0) else []
        reading = batches.reading(samples, self.reads_full)
        return Batch("ask", None, [], reading, len(reading[0].ids))

    def _asked_sample(self, rng) -> tuple[list[tuple[str, str]], str, str]:
        for _ in range(20):
            kind = rng.choices(("squad", "hops", "chain", "refused"), self.stage.get("asking_mix", (0.7, 0.15, 0.15, 0)))[0]
            if kind == "refused":
                q = rng.choice(self.questions["squad/refused"])
                return [self._text(q["p"][0])], "", q["q"]
            if kind == "chain":
                question, answer, golds, _ = self._read_chain(rng)
                break
            q = rng.choice(self.questions["squad"] if kind == "squad" else
                           self.questions[rng.choice(("2wiki", "hotpot"))])
            question, answer, golds = q["q"], q["a"][0], [self._text(n) for n in q["p"][:2]]
            if kind != "squad" or answer in self._cut_body(*golds[0], self.stage.get("read_tokens", 220)):
                break
        return golds[:2], answer, question

    def _short(self, question: str) -> str:
        """At most 30 words and 64 tokens: one odd "word" would widen every row of its batch."""
        return frames.cut(self.tokenizer, " ".join(question.split()[:30]), 64)

    def _hop_items(self, rng, draft, row, references, texts) -> list:
        """Later-round queries: the question, the taken texts with up to two distractors, the golds still missing."""
        items, limit = [], self.stage.get("hop_tokens", 400)
        for question, taken, golds in rng.sample(draft.hops, min(len(draft.hops), self.stage["sizes"]["later"])):
            gold_rows = {row[g] for g in golds}
            rows = [row[t] for t in taken]
            others = [r for r in rng.sample(range(len(texts)), 4) if r not in gold_rows and r not in rows]
            rows += others[: rng.randint(0, max(0, 3 - len(rows)))]
            rng.shuffle(rows)
            prompt = frames.next_round_prompt(self.tokenizer, self._short(question),
                                              [[(references[r], texts[r]) for r in rows]])
            if len(prompt.ids) <= limit:
                items.append((prompt, rows, sorted(gold_rows)))
        return items

    def _group(self, items, count, later: bool = False) -> Group:
        """items: (prompt, documents that do not count, golds); in later rounds the former are not selected either."""
        positive = torch.zeros(len(items), count, dtype=torch.bool)
        ignored = torch.zeros(len(items), count, dtype=torch.bool)
        for i, (_, taken, golds) in enumerate(items):
            positive[i, golds] = True
            ignored[i, taken] = True
        rows = batches.queries([p for p, _, _ in items], self.head, self.top_k, ignored if later else None)
        return Group(rows, positive, ignored)
