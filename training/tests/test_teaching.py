"""A larger model's answers to written questions, and its weights out of llama.cpp's files."""
import json
import math
import random
import re
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from training import ask, frames, gguf_pieces, teach
from training.adapter_io import parameters, save_adapter
from training.ask import Writer
from training.corpus import read_parts, write_xz
from training.data import TrainingSet
from training.files import read_tensors
from training.model import MsaConfig, MsaModel, Packed
from training.reading import Draft
from training.refusal import Said, say
from training.tests import test_tools, toy

ROME = {"s": "wiki", "t": "Rome", "x": "Rome was founded in 753 BC. Its river is the Tiber.", "g": "Rome"}
PARIS = {"s": "wiki", "t": "Paris", "x": "The river of Paris is the Seine.", "g": "Paris"}
SENTENCE = {"s": "reqa", "t": "", "x": "The abbey was rebuilt by monks from Cluny after a long dispute.", "g": ""}


def written(question: str, passages=(0,), answer="the Tiber", r=0, **more) -> dict:
    return {"q": question, "a": [answer] if answer else [], "p": list(passages), "n": [1], "r": r, **more}


class CopiedTest(unittest.TestCase):
    def test_a_phrase_is_taken_as_the_text_has_it(self):
        texts = [f"{ROME['t']}\n{ROME['x']}"]
        self.assertEqual(teach.copied(" the tiber.", "Which river does Rome have?", texts), "the Tiber")
        self.assertEqual(teach.copied('"753 BC"', "When was it founded?", texts), "753 BC")

    def test_what_is_no_phrase_of_the_text_is_nothing(self):
        texts = [ROME["x"]]
        for answer in ("none", "None.", "", "the Rhine", "x" * 81):
            self.assertEqual(teach.copied(answer, "Which river?", texts), "", answer)
        self.assertEqual(teach.copied("Rome", "When was Rome founded?", texts), "")     # the question has it already

    def test_a_part_of_a_word_is_no_phrase(self):
        texts = ["Russia lost in 1957, and the US$20 million went to the U.S. in 5 parts."]
        self.assertEqual(teach.copied("us", "Who got it?", texts), "US")
        self.assertEqual(teach.copied("5", "How many parts were there in 1957?", texts), "5")
        self.assertEqual(teach.copied("$20 million", "How much?", texts), "$20 million")
        for answer in ("95", "Russ", "part"):
            self.assertEqual(teach.copied(answer, "Which?", texts), "", answer)

    def test_two_passages_may_be_compared(self):
        texts = [ROME["x"], PARIS["x"]]
        self.assertEqual(teach.copied("Yes", "Do both have a river?", texts), "yes")
        self.assertEqual(teach.copied("Yes", "Does it have a river?", texts[:1]), "")
        self.assertEqual(teach.copied("Paris", "Is Rome or Paris on the Seine?", texts), "Paris")


class TeachTest(unittest.TestCase):
    def run_with(self, answers: dict, *more: str, made=None, labels=()) -> tuple[list[dict], list[dict], list]:
        """(written questions, labelled ones, what the teacher was asked); answers: by question."""
        asked = []

        def say(_, pairs, block_tokens):
            asked.extend(pairs)
            return [answers[question] for _, question in pairs]
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            toy.backbone(root / "base", "qwen2")
            toy.tokenizer(root / "base")
            write_xz(root / "docs.jsonl.xz", [ROME, PARIS, SENTENCE])
            (root / "made").mkdir()
            (root / "made" / "made.0.jsonl").write_text("".join(json.dumps(m) + "\n" for m in made))
            (root / "labels").write_text("".join(json.dumps(m) + "\n" for m in labels))
            with mock.patch.object(teach.Teacher, "answers", say):
                code = test_tools.outcome("teach", "--base", f"{root}/base", "--bundle", scratch, "--made", f"{root}/made",
                                          "--labels", f"{root}/labels", "--out", f"{root}/out", *more)
            self.assertEqual(code, 0)
            return read_parts(root / "out", "made.*", ("q", "a", "p", "n", "r")), read_parts(root / "out", "labels.*", ("q", "a", "p", "n")), asked

    def test_answers_decide_what_is_read(self):
        made = [written("Which river does Rome have?", answer="753 BC"), written("When was it founded?", r=1),
                written("Do Rome and Paris have the same river?", (0, 1), "yes", 1), written("Who drained it?", answer="", r=1, u=1)]
        labels = [{"q": "Who rebuilt the abbey?", "a": "Cluny", "p": [2], "n": []}, {"q": "Who burnt the abbey?", "a": "monks", "p": [2], "n": []}]
        out, kept, asked = self.run_with({"Which river does Rome have?": "the Tiber", "When was it founded?": "none",
                                          "Do Rome and Paris have the same river?": "no", "Who rebuilt the abbey?": "monks from Cluny",
                                          "Who burnt the abbey?": "none"}, made=made, labels=labels)
        by_question = {m["q"]: m for m in out}
        river, founded, both, without = (by_question[m["q"]] for m in made)
        self.assertEqual((river["a"], river["r"], river["t"]), (["the Tiber"], 1, 1))
        self.assertEqual((founded["a"], founded["r"], "t" in founded), (["the Tiber"], 0, False))     # its answer stays, and is not read
        self.assertEqual((both["a"], both["r"]), (["no"], 1))
        self.assertEqual(without, made[3])                                                           # nobody asks the teacher
        self.assertEqual([(k["q"], k["a"], k["p"]) for k in kept], [("Who rebuilt the abbey?", "monks from Cluny", [2])])
        texts = {question: "\n\n".join(text) for text, question in asked}
        self.assertEqual(set(texts), set(by_question) - {"Who drained it?"} | {"Who rebuilt the abbey?", "Who burnt the abbey?"})
        self.assertIn(ROME["x"] + "\n\nParis\n" + PARIS["x"], texts["Do Rome and Paris have the same river?"])
        self.assertEqual(texts["Who rebuilt the abbey?"], SENTENCE["x"])

    def test_what_is_not_reached_stays(self):
        made = [written("Which river does Rome have?", r=1)]
        labels = [{"q": "Who rebuilt the abbey?", "a": "Cluny", "p": [2], "n": []}]
        out, kept, asked = self.run_with({}, "--until", "1", made=made, labels=labels)
        self.assertEqual((out, kept, asked), (made, labels, []))

    def test_shards_share_the_questions(self):
        made = [written(f"Which river does Rome have, {i}?") for i in range(7)]
        parts = [self.run_with({m["q"]: "the Tiber" for m in made}, "--shard", f"{i}/2", made=made)[0] for i in (0, 1)]
        self.assertEqual(sorted(m["q"] for part in parts for m in part), sorted(m["q"] for m in made))
        self.assertEqual(sorted(map(len, parts)), [3, 4])

    def test_the_teacher_goes_on_from_the_prompt(self):
        with tempfile.TemporaryDirectory() as scratch:
            toy.backbone(Path(scratch), "qwen2")
            toy.tokenizer(Path(scratch))
            teacher = teach.Teacher(scratch, torch.device("cpu"))
            asked = [(["The code of the red fox is 417."], "What is the code?"), (["Short."], "Why?")]
            self.assertEqual(teacher.answers(asked, 100_000), [greedy(teacher, *pair) for pair in asked])

    def test_a_teacher_without_chatml_is_refused(self):
        with tempfile.TemporaryDirectory() as scratch:
            toy.backbone(Path(scratch), "qwen2")
            toy.tokenizer(Path(scratch))
            file = Path(scratch) / "tokenizer.json"
            file.write_text(file.read_text().replace("<|im_end|>", "<|over|>"))
            with self.assertRaisesRegex(ValueError, "has no <.im_end.>"):
                teach.Teacher(scratch, torch.device("cpu"))

    def test_an_earlier_teacher_is_forgotten(self):
        row = written("Which river does Rome have?", r=1, t=1)
        self.assertNotIn("t", teach.taught(row, "none", [ROME["x"]]))
        self.assertEqual(teach.taught(row, "the Tiber", [ROME["x"]])["t"], 1)


class AskingTest(unittest.TestCase):
    DOCS = [{"s": "wiki"} for _ in range(40)] + [{"s": "squad"}]

    def test_a_passage_is_asked_for_either_kind_at_random(self):
        items = ask.candidates(self.DOCS, [{"d": 0, "to": 1}] * 30, random.Random(3), 0.2, 0.5)
        single = {n: kind for (n, *more), kind in items if not more}
        self.assertEqual(sorted(single), list(range(40)))
        self.assertTrue(8 < sum(single.values()) < 32)
        self.assertEqual([kind for passages, kind in items if len(passages) == 2], [False] * 10)

    def test_or_twice(self):
        items = ask.candidates(self.DOCS, [], random.Random(3), 0.0, twice=True)
        self.assertEqual([kind for _, kind in items], [False, True] * 40)
        self.assertEqual([p for p, _ in items[::2]], [p for p, _ in items[1::2]])
        self.assertNotEqual([p for p, _ in items[::2]], [[n] for n in range(40)])

    def test_what_nobody_read_here_is_left_to_a_teacher(self):
        """--unread writes what was asked without a second pass of reading."""
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            toy.backbone(root / "base", "qwen2")
            toy.tokenizer(root / "base")
            write_xz(root / "docs.jsonl.xz", [ROME, PARIS])
            write_xz(root / "links.jsonl.xz", [])
            model = MsaModel(str(root / "base"), MsaConfig(router_layers=(), lora_rank=2))
            save_adapter(model, str(root / "a"), "x", {})
            made = [{"q": "Where is it?", "a": ["Rome"], "p": [0], "n": [], "r": 0}]
            with mock.patch.object(ask.Asker, "ask", lambda *_: list(made)), mock.patch.object(ask.Asker, "check") as check:
                code = test_tools.outcome("ask", "--base", f"{root}/base", "--adapter", f"{root}/a", "--bundle", scratch, "--out",
                                          f"{root}/out", "--workers", "1", "--unread", "--twice")
            self.assertEqual((code, check.called), (0, False))
            self.assertEqual(read_parts(root / "out", "made.*", ("q", "a", "p", "n", "r")), made)


class TrainedTest(unittest.TestCase):
    """A teacher that has learnt the reader's frame decides of one passage whether it answers."""

    def test_what_is_said_by_margin(self):
        said = lambda margin: teach.decided(Said(margin, "Tiber", frames.REFUSAL))
        self.assertEqual([said(m) for m in (-3.0, -0.5, 0.5, 3.0)], ["Tiber", "", "", frames.REFUSAL])
        self.assertEqual(teach.decided(Said(3.0, "Tiber", "The Tiber")), "The Tiber")       # begins as the refusal does
        self.assertEqual(teach.decided(Said(-3.0, "Tiber", "The Tiber")), "Tiber")

    def test_what_a_decision_makes_of_a_question(self):
        text, row = [ROME["x"]], written("Which river does Rome have?", r=1)
        without = written("Which river does Rome have?", answer="", r=1, u=1)
        taught = lambda *a: {k: v for k, v in teach.taught(*a).items() if k in "aurt"}
        self.assertEqual(taught(row, frames.REFUSAL, text), {"a": [], "u": 1, "r": 1, "t": 1})
        self.assertEqual(taught(without, frames.REFUSAL, text), {"a": [], "u": 1, "r": 1, "t": 1})
        self.assertEqual(taught(without, "the Tiber", text), {"a": ["the Tiber"], "r": 1, "t": 1})
        self.assertEqual(taught(row, "", text), {"a": ["the Tiber"], "r": 0})
        self.assertEqual(taught(without, "", text), {"a": [], "u": 1, "r": 0})
        linked = written("Which rivers?", (0, 1), "both", 1)
        self.assertEqual(taught(linked, frames.REFUSAL, [ROME["x"], PARIS["x"]]), {"a": ["both"], "r": 0})
        self.assertIsNone(teach.taught({"q": "Who?", "a": "monks", "p": [2], "n": []}, frames.REFUSAL, [SENTENCE["x"]]))

    def test_yes_and_no_are_for_two_passages(self):
        self.assertEqual(teach.copied("no", "Is it a city?", ["There is no harbour."]), "")

    def world(self, scratch: str) -> tuple[list[dict], list[dict]]:
        """A trained teacher's base and adapter, a bundle of eight notes, each with an answerable and an unanswerable question; (notes, questions)."""
        docs = [{"s": "squad", "t": "Notes", "x": f"The code of the {name} is {code}.", "g": name} for name, code in toy.FACTS]
        asked = [{"s": "squad", "q": q, "a": [a], "p": [i], "n": []} for i, (q, a) in enumerate(toy.questions())]
        asked += [{**q, "q": q["q"].replace("code", "key"), "a": [], "u": 1} for q in asked]
        toy.backbone(Path(scratch), "qwen2")
        toy.tokenizer(Path(scratch))
        model = MsaModel(scratch, MsaConfig(router_layers=(), lora_rank=4, lora_alpha=4))
        for value in model.lora_b.values():
            torch.nn.init.normal_(value, std=0.1)
        save_adapter(model, f"{scratch}/adapter", "toy", {})
        write_xz(Path(scratch) / "docs.jsonl.xz", docs)
        write_xz(Path(scratch) / "questions.jsonl.xz", asked)
        return docs, asked

    def test_its_decisions_become_what_is_read(self):
        """Of four written questions over a note each: the answer, refused, unsure, and in other words; then what is printed of kept-back ones."""
        with tempfile.TemporaryDirectory() as scratch:
            docs, asked = self.world(scratch)
            said = {"code": lambda name: Said(-4.0, dict(toy.FACTS)[name], ""), "key": lambda name: Said(4.0, "417", frames.REFUSAL),
                    "name": lambda name: Said(0.2, "417", frames.REFUSAL), "size": lambda name: Said(-4.0, "as big as a fox", "")}

            def say_so(model, layers, tokenizer, prompts, block_tokens, above):
                found = [re.search(r"What is the (\w+) of the ([\w ]+)\?", p).groups() for p in prompts]
                return [said[kind](name) for kind, name in found]
            rows = [{"q": f"What is the {kind} of the {toy.FACTS[i][0]}?", "a": [], "p": [i], "n": [], "r": 0, "u": 1}
                    for i, kind in enumerate(said)]
            (Path(scratch) / "made").mkdir()
            (Path(scratch) / "made" / "made.0.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            with mock.patch.object(teach, "say", say_so):
                self.assertEqual(test_tools.outcome("teach", "--base", scratch, "--adapter", f"{scratch}/adapter", "--bundle", scratch,
                                                    "--made", f"{scratch}/made", "--out", f"{scratch}/out"), 0)
                teacher = teach.Teacher(scratch, torch.device("cpu"), f"{scratch}/adapter")
                judged = teach.kept_back(teacher, Writer(teacher.tokenizer, docs), Path(scratch), 4, 300_000)
            out = {m["q"].split()[3]: {k: v for k, v in m.items() if k in "aurt"} for m in read_parts(Path(scratch) / "out", "made.*", ("q", "a", "p", "n", "r"))}
        self.assertEqual(out, {"code": {"a": ["417"], "r": 1, "t": 1}, "key": {"a": [], "u": 1, "r": 1, "t": 1},
                               "name": {"a": [], "u": 1, "r": 0}, "size": {"a": [], "u": 1, "r": 0}})
        self.assertEqual(judged, "kept back: 4 questions, 0.0 % refused, 0.0 % neither, of the others EM 100.0 % F1 100.0 %; "
                                 "4 unanswerable, 100.0 % refused, 0.0 % neither")

    def test_it_weighs(self):
        """The confused passages of an answered question, and the own one of an unsure; each by itself, without padding or neighbours."""
        with tempfile.TemporaryDirectory() as scratch:
            docs, asked = self.world(scratch)
            made = Path(scratch) / "made"
            made.mkdir()
            row = lambda q, p, r, *a, **more: {"q": q, "a": a, "p": p, "n": [], "r": r, **more}
            rows = [row("Which code?", [0], 1, "417"), row("Which key?", [1], 0, u=1), row("Which name?", [2], 1, u=1), row("Which size?", [3], 0, "1"), row("Which two?", [4, 5], 1, "2")]
            (made / "made.0.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            mined = [{"q": q, "p": p, "h": [6, 7, 5]} for q, p in (("Which code?", [0]), ("Which size?", [3]), ("Which two?", [4, 5]), (asked[0]["q"], [0]))]
            (made / "mined.0.jsonl").write_text("".join(json.dumps(m) + "\n" for m in mined))
            for shard in ("0/2", "1/2"):
                self.assertEqual(test_tools.outcome("weigh", "--base", scratch, "--adapter", f"{scratch}/adapter", "--bundle", scratch, "--made", f"{made}", "--shard", shard), 0)
            out = {m["q"]: m for m in read_parts(made, "weighed.*", ("q", "p", "o"))}
            teacher = teach.Teacher(scratch, torch.device("cpu"), f"{scratch}/adapter")
        self.assertEqual({q: [int(n) for n in m["o"]] for q, m in out.items()}, {"Which code?": [6, 7], asked[0]["q"]: [6, 7], "Which key?": [1], "Which size?": [3]})
        refusing = frames.encode(teacher.tokenizer, frames.REFUSAL)[0]
        for m in out.values():
            for number, odds in m["o"].items():
                ids = torch.tensor(frames.encode(teacher.tokenizer, frames.reader_prompt(m["q"], [(1, frames.document_text("Notes", docs[int(number)]["x"]))])))
                packed = Packed(ids, torch.arange(len(ids)), torch.tensor([0, len(ids)], dtype=torch.int32), len(ids))
                with torch.no_grad():
                    chance = teacher.model.logits(teacher.model.run(teacher.layers, reading=packed).reading[-1:]).softmax(-1)[0, refusing].item()
                self.assertAlmostEqual(odds, math.log(chance / (1 - chance)), delta=0.006)

    def test_it_reads_with_its_adapter(self):
        with tempfile.TemporaryDirectory() as scratch:
            self.world(scratch)
            stored = read_tensors(Path(scratch) / "adapter" / "adapter.safetensors")
            teacher = teach.Teacher(scratch, torch.device("cpu"), f"{scratch}/adapter")
            for name, value in parameters(teacher.model).items():
                torch.testing.assert_close(value.detach(), stored[name].float(), msg=name)
            plain = teach.Teacher(scratch, torch.device("cpu"))
            self.assertGreater((teacher.layers[0]["before"]["q_proj"] - plain.layers[0]["before"]["q_proj"]).abs().max().item(), 0.01)

    def test_the_refusal_is_written_only_near_the_margin(self):
        with tempfile.TemporaryDirectory() as scratch:
            docs, asked = self.world(scratch)
            teacher = teach.Teacher(scratch, torch.device("cpu"), f"{scratch}/adapter")
        prompts = [frames.reader_prompt(q["q"], [(1, docs[q["p"][0]]["x"])]) for q in asked]
        read = lambda *above: say(teacher.model, teacher.layers, teacher.tokenizer, prompts, 300_000, *above)
        whole = read()
        self.assertTrue(all(said.with_first for said in whole))
        middle = sorted(said.margin for said in whole)[len(whole) // 2]
        for some, said in zip(read(middle), whole):
            self.assertEqual((some.margin, some.without), (said.margin, said.without))
            self.assertEqual(some.with_first, said.with_first if said.margin > middle else "")


@torch.no_grad()
def greedy(teacher, texts: list[str], question: str) -> str:
    """The whole text again for each token."""
    ids, out = teacher.tokenizer.encode(teach.prompt(texts[0], question), add_special_tokens=False).ids, []
    for _ in range(teach.STEPS):
        whole = torch.tensor(ids + out)
        packed = Packed(whole, torch.arange(len(whole)), torch.tensor([0, len(whole)], dtype=torch.int32), len(whole))
        hidden = teacher.model.run(teacher.layers, reading=packed).reading
        token = int(teacher.model.logits(hidden[-1:]).argmax())
        if token == teacher.stop:
            break
        out.append(token)
    return teacher.tokenizer.decode(out)


class HardTest(unittest.TestCase):
    """A passage that the model confuses with a question's own, and that holds its answer, is no negative."""

    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)

    def prepared(self, *answers: str, near=(), weighed=(), more=()) -> tuple[TrainingSet, dict]:
        """A training set whose one question has these answers, mined with the other two passages; near: by words; more questions, and lines of weigh.py."""
        made = TrainingSet.__new__(TrainingSet)
        made.docs, made.questions, made.stage = [ROME, PARIS, SENTENCE], {"squad/refused": []}, {"mix": {}, "ranked": 1.0}
        with tempfile.TemporaryDirectory() as scratch:
            row = {"q": "Which river?", "p": [0]}
            (Path(scratch) / "made.0.jsonl").write_text("".join(json.dumps(r) + "\n" for r in ({**row, "a": answers, "n": near, "r": 1}, *more)))
            (Path(scratch) / "weighed.0.jsonl").write_text("".join(json.dumps(w) + "\n" for w in weighed))
            (Path(scratch) / "mined.0.jsonl").write_text(json.dumps({**row, "h": [1, 2], "o": 0}))
            made._prepare_made(scratch)
        return made, made.single[0]

    def test_while_reading(self):
        made, asked = self.prepared("Seine")
        self.assertEqual(made._distractors(random.Random(1), asked, "Seine"), [("", SENTENCE["x"])])
        made, asked = self.prepared("Tiber")
        self.assertEqual(len(made._distractors(random.Random(1), asked, "Tiber")), 2)

    def test_a_question_without_an_answer_in_its_passage_may_have_one_beside_it(self):
        made, _ = self.prepared("Seine")
        made.unanswered = [{"q": "Which sea?", "a": [], "p": [0], "n": [1], "r": 1, "u": 1}]
        self.assertEqual(made._read_unanswered(random.Random(1)), ("Which sea?", frames.REFUSAL, [(ROME["t"], ROME["x"])], []))

    def test_the_words_nearest_passages_too(self):
        made, asked = self.prepared("Seine", near=[1, 2])
        self.assertEqual(asked["n"], [2])

    def test_contrasts(self):
        """One answer, over the passage that has it; the same question over what is confused with it, and another that its passage does not answer."""
        made, asked = self.prepared("Tiber")
        made.stage |= {"refusal_weight": 0.8, "contrasts": 1, "reading": 0}
        made.questions["squad"], made.reader_question = [asked], "after"
        made._tokenizer = toy.tokenizer(Path(tempfile.mkdtemp(dir=self.scratch.name)))
        shown = lambda samples: [(made.tokenizer.decode(s.prompt), made.tokenizer.decode(s.answer), s.weight) for s in samples]
        for unanswered, texts in (([], [ROME, PARIS, SENTENCE]), (["Which hill?"], [ROME, PARIS, SENTENCE, ROME])):
            made.unanswered_of = {0: unanswered}
            (group,) = made._reading_groups(random.Random(2), 10_000)
            (prompt, answer, weight), *others = shown(group)
            self.assertTrue(ROME["x"] in prompt and answer == "Tiber" and weight == 1.0)
            self.assertEqual({(a, w) for _, a, w in others}, {(frames.REFUSAL, 0.8 / len(texts))})
            self.assertEqual(sorted(x["x"] for x in texts[1:]), sorted(x["x"] for p, *_ in others for x in (ROME, PARIS, SENTENCE) if x["x"] in p))
            self.assertEqual([("Which hill?" in p) for p, *_ in others], [False, False] + [True] * len(unanswered))

    def test_what_a_teacher_thinks(self):
        """Of two passages that it weighed the surely refused one is refused; both, and an unsure question's own, carry its odds."""
        unsure = {"q": "Which hill?", "p": [1], "a": ["Seine"], "n": [], "r": 0}
        weighed = [{"q": "Which river?", "p": [0], "o": {"1": 2.5, "2": -1.5}}, {"q": "Which hill?", "p": [1], "o": {"1": 0.25}}]
        made, asked = self.prepared("Tiber", weighed=weighed, more=[unsure])
        self.assertEqual(made.hard[id(asked)], [1])       # it would answer from the other
        made.stage |= {"refusal_weight": 0.6, "contrasts": 1, "unsure": 1, "reading": 0}
        made.questions["squad"], made.reader_question = [asked], "after"
        made._tokenizer = toy.tokenizer(Path(tempfile.mkdtemp(dir=self.scratch.name)))
        (own, *others), (doubted,) = made._reading_groups(random.Random(2), 10_000)
        self.assertEqual((own.odds, own.weight), (None, 1.0))
        found = {s.odds: (made.tokenizer.decode(s.prompt), s.weight) for s in others}
        self.assertEqual({odds: weight for odds, (_, weight) in found.items()}, {2.5: 0.6 / 3, -1.5: 0.0})
        self.assertTrue(PARIS["x"] in found[2.5][0] and SENTENCE["x"] in found[-1.5][0])
        self.assertEqual((doubted.odds, doubted.weight), (0.25, 0.0))
        self.assertTrue("Which hill?" in made.tokenizer.decode(doubted.prompt) and PARIS["x"] in made.tokenizer.decode(doubted.prompt))

    def test_without_a_teacher(self):
        for stage, why in (({"loss": {"refuse": 0.4}}, "weigh.py"), ({"unsure": 1, "reading": 0}, "unsure 0")):
            with self.subTest(why):
                made, asked = self.prepared("Tiber")
                made.stage |= stage
                with tempfile.TemporaryDirectory() as empty, self.assertRaisesRegex(ValueError, why):
                    made._prepare_made(empty)
                    made._reading_groups(random.Random(2), 10_000)

    def test_contrasts_want_what_was_mined(self):
        for answer, title, more in (("Seine", "Paris", ""),                     # one passage is left
                                    ("Tiber", "The tiber", ""),                 # and here, whose title is read too
                                    ("the river is the Tiber", "Paris", ""),    # stands nowhere
                                    ("no", "Paris", " No sea."),                # says nothing
                                    ("The Tiber", "Paris", "")):                # begins as the refusal does
            with self.subTest(answer), mock.patch.dict(PARIS, t=title), mock.patch.dict(ROME, x=ROME["x"] + more):
                made, asked = self.prepared(answer)
                made.stage |= {"contrasts": 1, "reading": 0}
                made.questions["squad"], made._tokenizer = [asked], toy.tokenizer(Path(tempfile.mkdtemp(dir=self.scratch.name)))
                made.unanswered_of = {0: []}
                with self.assertRaisesRegex(ValueError, "mine.py"):
                    made._reading_groups(random.Random(2), 10_000)

    def test_while_routing(self):
        for answer, expected in (("Seine", [2]), ("Tiber", [1, 2])):
            made, asked = self.prepared(answer)
            draft = Draft()
            made._put_hard(random.Random(1), draft, asked, 2)
            self.assertEqual(sorted(draft.docs), expected)


def bits6(d: int, q: bytes) -> tuple[int, int]:
    """Scale and least of a group of Q4_K, as ggml's get_scale_min_k4."""
    if d < 4:
        return q[d] & 63, q[d + 4] & 63
    return (q[d + 4] & 15) | (q[d - 4] >> 6 << 4), (q[d + 4] >> 4) | (q[d] >> 6 << 4)


class QuantisedTest(unittest.TestCase):
    """The blocks of llama.cpp's k-quants, value by value."""

    def test_q4_k(self):
        rng = np.random.default_rng(3)
        raw = rng.integers(0, 256, (3, 144), dtype=np.uint8)
        raw[:, :4] = np.array([[0.01, 0.5]] * 3, np.float16).view(np.uint8)
        want = np.zeros((3, 256), np.float64)
        for row, block in zip(want, raw):
            d, least = block[:4].view(np.float16).astype(np.float64)
            for i in range(256):
                group, at = i // 32, 16 + i // 64 * 32 + i % 32
                nibble = int(block[at]) >> 4 if i // 32 % 2 else int(block[at]) & 15
                scale, low = bits6(group, bytes(block[4:16]))
                row[i] = d * scale * nibble - least * low
        np.testing.assert_allclose(gguf_pieces.dequantise(raw.reshape(-1), "Q4_K", [3, 256]), want, rtol=1e-6, atol=1e-6)

    def test_q6_k(self):
        rng = np.random.default_rng(4)
        raw = rng.integers(0, 256, (3, 210), dtype=np.uint8)
        raw[:, 208:] = np.array([[0.002]] * 3, np.float16).view(np.uint8)
        want = np.zeros((3, 256), np.float64)
        for row, block in zip(want, raw):
            scales, d = block[192:208].view(np.int8), block[208:].view(np.float16).astype(np.float64)[0]
            for i in range(256):
                half, within = i // 128, i % 128
                low = int(block[64 * half + within % 64])
                low = low >> 4 if within >= 64 else low & 15
                high = int(block[128 + 32 * half + within % 32]) >> 2 * (within // 32) & 3
                row[i] = d * scales[i // 16] * ((low | high << 4) - 32)
        np.testing.assert_allclose(gguf_pieces.dequantise(raw.reshape(-1), "Q6_K", [3, 256]), want, rtol=1e-6, atol=1e-6)

    def test_rows_of_other_families_stay_where_they_are(self):
        for family, turned in (("llama", True), ("qwen2", False)):
            with self.subTest(family), tempfile.TemporaryDirectory() as scratch:
                root = Path(scratch)
                weight = np.arange(8 * 4, dtype=np.float32).reshape(8, 4)       # two heads of four rows
                (root / "weights.0.bin").write_bytes(weight.tobytes() + np.arange(8, dtype=np.float32).tobytes())
                (root / "weights.json").write_text(json.dumps([
                    {"name": "blk.0.attn_q.weight", "type": "F32", "shape": [8, 4], "piece": 0, "at": 0, "bytes": 128},
                    {"name": "blk.0.attn_q.bias", "type": "F32", "shape": [8], "piece": 0, "at": 128, "bytes": 32}]
                    [: 1 if family == "llama" else 2]))
                with self.assertRaisesRegex(ValueError, "mistral"):
                    (root / "config.json").write_text(json.dumps({"model_type": "mistral"}))
                    gguf_pieces.join(root, root, root / "out")
                (root / "config.json").write_text(json.dumps({"model_type": family, "num_attention_heads": 2, "num_key_value_heads": 1}))
                (root / "tokenizer.json").write_text("{}")
                gguf_pieces.join(root, root, root / "out")
                made = read_tensors(root / "out" / "model.safetensors")
                got = made["model.layers.0.self_attn.q_proj.weight"].float().numpy()
                order = [0, 2, 1, 3, 4, 6, 5, 7] if turned else list(range(8))
                np.testing.assert_array_equal(got, weight[order])
                if not turned:
                    self.assertEqual(made["model.layers.0.self_attn.q_proj.bias"].tolist(), list(range(8)))


if __name__ == "__main__":
    unittest.main()
