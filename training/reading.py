"""Reading samples of a batch: a question, its answer or the refusal, and the texts that stand before it.

Each kind is a method `_read_<kind>` giving (question, answer, gold texts, other texts), texts as (title, text).
"""
from __future__ import annotations

from dataclasses import dataclass, field

from training import frames, synth
from training.batches import Sample

READING = ("squad", "refused", "hops", "wiki", "factbook", "chain", "made", "linked", "edited", "reqa", "pubmed",
           "yes_no", "removed", "unanswered", "recurring")
SAID = ("yes", "no", "maybe", frames.REFUSAL)                   # answers that stand in no text
LOSES_GOLD = ("squad", "wiki", "factbook", "made", "reqa")      # kinds whose gold text may be taken away
CONFUSED = 5    # passages that are ranked next to a question's own, of which a contrast has some
SURE = 1.0      # a teacher's log odds of refusing beyond which its word is taken for the answer's tokens, too


@dataclass
class Draft:
    """What a batch will hold: documents by key in first-come order, questions with their gold documents' keys."""
    docs: dict = field(default_factory=dict)          # key -> (title, text)
    asked: list = field(default_factory=list)         # (question, [gold keys]) or with [keys that do not count]
    hops: list = field(default_factory=list)          # (question, [taken keys], [gold keys])


def section_of(doc: dict) -> str:
    """Of a fact book's document "Country — Section"."""
    return doc["t"].split(" — ")[-1]


def stands(answer: str, text: str) -> bool:
    """Whether a text holds the answer; "no" stands in every other one and says nothing."""
    return answer not in SAID and answer in text


def shows(title: str, text: str, *answers: str) -> bool:
    """Whether a text, its title read too, holds one of the answers in whatever case."""
    whole = (title + "\n" + text).lower()
    return any(a.lower() in whole for a in answers)


def central(answers: list[str]) -> str:
    """Of several people's answers the one that shares most words with the others; of such, the shortest."""
    bags = [set(a.lower().split()) for a in answers]
    agreement = [sum(2 * len(b & c) / max(1, len(b) + len(c)) for c in bags) for b in bags]
    return min(zip(answers, agreement), key=lambda pair: (-round(pair[1], 3), len(pair[0])))[0]


class ReadingSamples:
    """Part of TrainingSet, whose documents and questions it draws from."""

    def _reading_groups(self, rng, room: int) -> list[list[Sample]]:
        """`contrasts` groups of several samples, `unsure` and then `reading` single ones; in a small room the last are left out: a batch's tokens
        are the device's memory."""
        groups, room, stage = [], min(room, self.stage.get("reading_tokens", room)), self.stage
        makes = [self._contrast] * stage.get("contrasts", 0) + [self._doubted] * stage.get("unsure", 0) + [self._single] * stage["reading"]
        for make in makes:
            group = make(rng)
            room -= sum(len(s.prompt) + len(s.answer) for s in group)
            if groups and room < 0:
                break
            groups.append(group)
        return groups

    def _single(self, rng) -> list[Sample]:
        return [self._reading_sample(rng)]

    def _doubted(self, rng) -> list[Sample]:
        """A question of which the teacher was not sure whether its passage answers: what it thinks of that is all there is to learn."""
        if not self.unsure:
            raise ValueError("unsure: the teacher was sure of every written question; give a `made` with weigh.py's files, or unsure 0")
        q, odds = rng.choice(self.unsure)
        return [self._over_another(rng, synth.varied(rng, q["q"]), q["p"][0], 0.0, odds)]

    def _over_another(self, rng, question: str, number: int, weight: float, odds: float | None) -> Sample:
        """Over a passage alone that is refused by `weight`; of one that a teacher has weighed only where it is sure of that."""
        title, text = self._text(number)
        weight = 0.0 if odds is not None and odds < SURE else weight
        texts = self._numbered(rng, [(title, self._cut_body(title, text, self.stage.get("read_tokens", 240)))])
        return self._sample(question, texts, frames.REFUSAL, weight)._replace(odds=odds)

    def _contrast(self, rng) -> list[Sample]:
        """One question over its passage alone, which answers it; then over passages that the model confuses with it, each alone, refused or as a
        teacher weighed them, and a question that the passage does not answer where there is one. See losses.choice_loss."""
        limit, refusing = self.stage.get("read_tokens", 240), frames.encode(self.tokenizer, frames.REFUSAL)[0]
        for _ in range(200):
            q = self._answered(rng)
            number, answer = q["p"][0], q["a"][0] if "r" in q else central(q["a"])
            odds = self.odds.get(id(q), {})
            hard = list(odds) or [n for n in self.hard.get(id(q), [])[:CONFUSED] if not shows(*self._text(n), *q["a"])]
            # Of an answer that begins as the refusal does the margin would say the opposite.
            if len(hard) < 2 or answer in SAID or frames.encode(self.tokenizer, answer)[0] == refusing:
                continue
            title, text = self._text(number)
            text = synth.trimmed(rng, text, answer) if rng.random() < self.stage.get("trim", 0.0) else text
            text = self._cut_body(title, text, limit + 160)
            if shows(title, text, answer):
                break
        else:
            raise ValueError("contrasts: no question has passages that the model confuses with its own; give a `made` with mine.py's files")
        question = synth.varied(rng, q["q"])
        unanswered = self.unanswered_of[number]
        others = rng.sample(hard, min(2 if unanswered else 3, len(hard)))
        weight = self.stage.get("refusal_weight", 1.0) / (1 + len(others) + bool(unanswered))     # one answer stands against all of these
        own = lambda asked, said, weight: self._sample(asked, self._numbered(rng, [(title, text)]), said, weight)
        group = [own(question, answer, 1.0)]
        group += [self._over_another(rng, question, n, weight, odds.get(n)) for n in others]
        if unanswered:
            group.append(own(synth.varied(rng, rng.choice(unanswered)), frames.REFUSAL, weight))
        return group

    def _reading_sample(self, rng) -> Sample:
        mix, limit = self.stage["reading_mix"], self.stage.get("read_tokens", 240)
        for _ in range(20):
            kind = rng.choices(READING, [mix.get(k, 0) for k in READING])[0]
            question, answer, golds, negatives = getattr(self, "_read_" + kind)(rng)
            golds = [(t, self._cut_body(t, x, limit + 160)) for t, x in golds]
            # An answer that is not there (cut off, or named otherwise) would teach to invent it.
            if answer in SAID or any(shows(t, x, answer) for t, x in golds):
                break
        lost, total = self.stage.get("no_gold", 0.06), 0
        if "no_gold_alone" in self.stage:   # earlier runs drew the number of texts later
            total = self._texts_read(rng)
            lost = self.stage["no_gold_alone"] if total == 1 else lost
        if kind in LOSES_GOLD and negatives and rng.random() < lost:
            golds, negatives, answer = negatives[:1], negatives[1:], frames.REFUSAL
        elif kind in ("squad", "made") and rng.random() < self.stage.get("trim", 0.0):
            golds = [(t, synth.trimmed(rng, x, answer)) for t, x in golds]
        total = max(len(golds), total or self._texts_read(rng))
        negatives += self._unrelated(rng, answer, total - len(golds) - len(negatives))
        chosen = golds + [(t, self._cut_body(t, x, limit)) for t, x in negatives[: total - len(golds)]]
        texts = self._numbered(rng, chosen)
        weight = self.stage.get("refusal_weight", 1.0) if answer == frames.REFUSAL else 1.0
        return self._sample(synth.varied(rng, question), texts, answer, weight)

    def _numbered(self, rng, texts: list[tuple[str, str]]) -> list[tuple[int, str]]:
        """Whole texts in any order behind rising references."""
        references = sorted(rng.sample(range(1, 100_000 if rng.random() < 0.5 else 2000), len(texts)))
        rng.shuffle(texts)
        return [(r, frames.document_text(*t)) for r, t in zip(references, texts)]

    def _sample(self, question: str, texts: list[tuple[int, str]], answer: str, weight: float) -> Sample:
        prompt = frames.encode(self.tokenizer, frames.reader_prompt(question, texts, self.reader_question))
        return Sample(prompt, frames.encode(self.tokenizer, answer)[:48] + [self.tokenizer.token_to_id("<|im_end|>")], weight)

    def _texts_read(self, rng) -> int:
        return rng.choice(self.stage.get("reading_documents", (1, 3, 3, 3)))

    def _unrelated(self, rng, answer: str, count: int) -> list[tuple[str, str]]:
        """Passages of the encyclopedia without the answer."""
        some = rng.sample(self.by_source["wiki"], min(max(0, count), len(self.by_source["wiki"])))
        return [self._text(n) for n in self._without(some, [answer])]

    def _without(self, numbers: list[int], answers: list[str]) -> list[int]:
        """The passages that hold none of the answers."""
        return [n for n in numbers if not any(stands(a, self.docs[n]["x"]) for a in answers)]

    def _cut_body(self, title: str, text: str, limit: int) -> str:
        whole = frames.cut(self.tokenizer, frames.document_text(title, text), limit)
        return whole[len(title) + 1:] if title else whole

    def _text(self, number: int) -> tuple[str, str]:
        return self.docs[number]["t"], self.docs[number]["x"]

    def _read_question(self, rng, q, answer):
        return q["q"], answer, [self._text(n) for n in q["p"]], self._distractors(rng, q, answer)

    def _distractors(self, rng, q, answer) -> list[tuple[str, str]]:
        """A passage that holds the answer too is no distractor. A share `ranked` of the samples has what the model itself ranks
        best, in order, as it will read it; the others some of that and of the words' nearest."""
        hard, near = self.hard.get(id(q), []), self._without(q["n"], [answer])
        if hard and rng.random() < self.stage.get("ranked", 0.0):
            return [self._text(n) for n in hard[:6]]
        near = list(dict.fromkeys(hard[:3] + near))
        return [self._text(n) for n in rng.sample(near, min(len(near), 6))]

    def _read_reqa(self, rng):
        """A question about one sentence, which stands alone or among unrelated ones."""
        if not self.labelled:
            return self._read_squad(rng)
        q = rng.choice(self.labelled)
        answer, others = q["a"], [n for n in q["n"] if q["a"] not in self.docs[n]["x"]]
        others += [n for n in rng.sample(self.by_source["reqa"], 12) if answer not in self.docs[n]["x"] and n not in q["p"]]
        near, rest = [self.docs[n]["x"] for n in others[:6]], [self.docs[n]["x"] for n in others[6:]]

        def passage(sentence: str) -> tuple[str, str]:
            run = [sentence] + (rng.sample(rest, min(len(rest), rng.randint(1, 4))) if rng.random() < 0.7 else [])
            rng.shuffle(run)
            return "", " ".join(run)
        return q["q"], answer, [passage(self.docs[q["p"][0]]["x"])], [passage(x) for x in rng.sample(near, len(near))]

    def _read_pubmed(self, rng):
        q = rng.choice(self.questions["pubmed"])
        others = rng.sample(self.by_source["pubmed"], 2)
        return q["q"], q["a"][0], [self._text(q["p"][0])], [self._text(n) for n in others if n not in q["p"]]

    def _read_made(self, rng, kind: str = "made"):
        if not self.readable[kind]:
            return self._read_wiki(rng)
        q = rng.choice(self.readable[kind])
        return self._read_question(rng, q, q["a"][0])

    def _read_linked(self, rng):
        return self._read_made(rng, "linked")

    def _read_edited(self, rng):
        """A question whose name or number was changed for another: its passage has no answer any more."""
        for _ in range(20):
            q = self._answered(rng)
            text = self._text(q["p"][0])
            if rng.random() < self.stage.get("twisted", 0.0):
                edited = synth.twisted(rng, q["q"], "\n".join(text))
            else:
                edited = synth.edited(rng, q["q"], "\n".join(text), self.docs[rng.choice(q["n"])]["x"]) if q["n"] else None
            if edited:
                near = [n for n in self._distractors(rng, q, q["a"][0]) if edited[1] not in n[1]]
                return edited[0], frames.REFUSAL, [text], near
        return self._read_refused(rng)

    def _answered(self, rng):
        """A question whose answer stands in its one passage."""
        return rng.choice(self.readable["made"] if self.readable["made"] and rng.random() < 0.7 else self.questions["squad"])

    def _read_removed(self, rng):
        """A passage without the only sentence that holds the answer."""
        for _ in range(20):
            q = self._answered(rng)
            title, text = self._text(q["p"][0])
            rest = synth.without(text, q["a"])
            if rest and not any(a.lower() in title.lower() for a in q["a"]):
                return q["q"], frames.REFUSAL, [(title, rest)], self._distractors(rng, q, q["a"][0])
        return self._read_refused(rng)

    def _read_unanswered(self, rng):
        """Questions that their passage seems to answer and does not (ask.py, teach.py), which says nothing of passages near it."""
        if not self.unanswered:
            return self._read_refused(rng)
        q = rng.choice(self.unanswered)
        return q["q"], frames.REFUSAL, [self._text(n) for n in q["p"]], []

    def _read_squad(self, rng):
        q = rng.choice(self.questions["squad"])
        return self._read_question(rng, q, central(q["a"]))

    def _read_refused(self, rng):
        return self._read_question(rng, rng.choice(self.questions["squad/refused"]), frames.REFUSAL)

    def _read_hops(self, rng):
        q = rng.choice(self.questions[rng.choice(("2wiki", "2wiki", "hotpot"))])
        return self._read_question(rng, q, q["a"][0])

    def _read_wiki(self, rng):
        for _ in range(20):
            number = rng.choice(self.by_source["wiki"])
            d = self.docs[number]
            made = (synth.blank if rng.random() < 0.7 else synth.defined)(rng, d["t"], d["x"])
            if made and len(made[1]) < 60:
                run = [n for n in self.by_group[("wiki", d["g"])] if n != number]
                if self.neighbours is not None:
                    run = run + [int(n) for n in self.neighbours[number] if n >= 0]
                # A sibling passage may hold the answer too: it is no distractor then.
                run = [n for n in run if made[1] not in self.docs[n]["x"]]
                return made[0], made[1], [self._text(number)], [self._text(n) for n in rng.sample(run, min(3, len(run)))]
        return self._read_squad(rng)

    def _read_recurring(self, rng):
        """A sentence whose name, date or number is to be found in a passage that does not hold the sentence."""
        for _ in range(20):
            number = rng.choice(self.by_source["wiki"])
            title, text = self._text(number)
            run = [n for n in self.by_group[("wiki", self.docs[number]["g"])] if n != number]
            made = synth.recurring(rng, text, [self.docs[n]["x"] for n in rng.sample(run, min(2, len(run)))])
            if made and len(made[1]) < 60:
                near = [n for n in run if made[1] not in self.docs[n]["x"]]
                return made[0], made[1], [(title, made[2])], [self._text(n) for n in rng.sample(near, min(3, len(near)))]
        return self._read_wiki(rng)

    def _read_yes_no(self, rng):
        for _ in range(40):
            number = rng.choice(self.by_source["wiki"])
            other = rng.choice(self.by_source["wiki"])
            if self.neighbours is not None and rng.random() < 0.5 and self.neighbours[number][0] >= 0:
                other = int(self.neighbours[number][0])
            made = synth.yes_no(rng, self.docs[number], self.docs[other])
            if made:
                both = [self._text(number)] + [self._text(other)] * made[2]
                return made[0], made[1], both, [self._text(n) for n in rng.sample(self.by_source["wiki"], 3)]
        return self._read_pubmed(rng)

    def _read_factbook(self, rng):
        for _ in range(20):
            number = rng.choice(self.by_source["factbook"])
            made = synth.fact(rng, *self._text(number))
            if made:
                country, section = self.docs[number]["t"].split(" — ")[0], section_of(self.docs[number])
                alike = self.by_group[("section", section)]     # the same facts of other countries
                others = [n for n in rng.sample(alike, min(6, len(alike))) if self.docs[n]["t"].split(" — ")[0] != country]
                return made[0], made[1], [self._text(number)], [self._text(n) for n in others]
        return self._read_squad(rng)

    def _read_chain(self, rng):
        draft = Draft()
        chain = rng.choice(self.chains)
        keys = self._put_chain(rng, draft, chain)
        return chain["q"], chain["a"][0], [draft.docs[k] for k in keys], []
