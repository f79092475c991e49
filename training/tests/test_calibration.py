"""Thresholds, stopping and mining against small cases worked out by hand or by the plain path."""
import argparse
import contextlib
import io
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from training import batches, evaluate, frames, losses, scale
from training.adapter_io import load_adapter, save_adapter
from training.calibrate import refusal_bias, round_min_score
from training.evaluate import after_two, at_bias
from training.mine import Keys, best
from training.model import MsaConfig, MsaModel
from training.refusal import Said, against_all, first_token, say
from training.small_set import with_unanswerable
from training.soup import common_config, mean_pair
from training.tests import toy

torch.set_num_threads(1)


class ThresholdTest(unittest.TestCase):
    def test_refusal_bias_keeps_to_the_share(self):
        margins = [-5.0, -4.0, -3.0, -2.0, -1.0, 0.5, 1.0, 2.0, 3.0, 4.0]
        bias = refusal_bias(margins, 0.2)
        self.assertEqual(sum(m + bias > 0 for m in margins), 2)
        self.assertEqual(bias, -2.0)

    def test_round_threshold_leaves_the_share_alone(self):
        scores = [i / 20 for i in range(20)]
        level = round_min_score(scores, 0.9)
        self.assertEqual(sum(s < level for s in scores), 18)

    def test_a_round_that_adds_nothing_leaves_the_ranking(self):
        first, more = [4, 2, 9, 7, 1], [7, 8, 3]
        self.assertEqual(after_two(first, [0.5, 0.4, 0.1], more, 3, 0.3), ([4, 2, 9, 7, 8], [4, 2, 9, 7, 8, 3]))
        self.assertEqual(after_two(first, [0.2, 0.1, 0.1], more, 3, 0.3), ([4, 2, 9], first))

    def test_operating_points(self):
        rows = [[1.0, 1, 1, 0, 0, 0, 1], [-1.0, 1, 1, 0, 0, 0, 1]]
        self.assertEqual(at_bias(rows, 0.0), {"questions": 2, "em": 50.0, "f1": 50.0, "refused": 50.0})
        self.assertEqual(at_bias(rows, -2.0)["f1"], 100.0)
        self.assertEqual(at_bias(rows, 2.0)["refused"], 100.0)


    def test_refusing_against_all_others_is_by_the_log_odds(self):
        said = [Said(1.0, "Tiber", frames.REFUSAL, 0.5), Said(1.0, "Tiber", frames.REFUSAL, 1.5)]
        asked = [{"answers": ["Tiber"]}] * 2
        for against, refused in ((False, 100.0), (True, 50.0)):
            reader = evaluate.Reader(None, [], None, 0.0, {}, against_all=against)
            self.assertEqual(reader.score("gold", said, asked)["refused"], refused)
        self.assertEqual([against_all(c) for c in ({}, {"refusal_against": "largest"}, {"refusal_against": "all"})], [False, False, True])
        with self.assertRaisesRegex(ValueError, "refusal_against is 'most'; known: largest, all"):
            against_all({"refusal_against": "most"})


class StopLossTest(unittest.TestCase):
    def test_by_hand(self):
        score = torch.tensor([[0.7, 0.2, 0.9], [0.3, 0.1, 0.9]])
        positive = torch.tensor([[True, False, False], [False, False, False]])
        ignored = torch.tensor([[False, False, True], [False, False, True]])
        e = lambda *x: sum(torch.exp(torch.tensor(v / 0.1)) for v in x)
        wanted = (-(e(0.7) / e(0.7, 0.2, 0.5)).log() - (e(0.5) / e(0.3, 0.1, 0.5)).log()) / 2
        self.assertAlmostEqual(losses.stop_loss(score, positive, ignored, 0.1, 0.5).item(), wanted.item(), places=5)

    def test_rows_without_a_positive_have_finite_gradients(self):
        score = torch.zeros(2, 3, requires_grad=True)
        nothing = torch.zeros(2, 3, dtype=torch.bool)
        losses.stop_loss(score, nothing, nothing, 0.02, 0.5).backward()
        self.assertTrue(torch.isfinite(score.grad).all())


class ApartTest(unittest.TestCase):
    ALONE = {0: 1.0, 1: -2.0, 2: 0.5, 3: -1.0}

    def said(self, together: float, margin: float, orders) -> list[str]:
        """What is read; margins by document, the same for all that are read together."""
        class Fake(evaluate.Reader):
            def say(self, bank, questions, orders):
                return [Said(together if len(o) != 1 else ApartTest.ALONE[o[0]], str(o), "") for o in orders]
        reader = Fake(None, [], None, 0.0, {}, margin)
        return [reader.least_refused(readings).without for readings in reader.say_apart(None, [None] * len(orders), orders)]

    def test_the_text_that_is_least_refused_answers(self):
        orders = [[0, 1, 2], [3, 2], [0, 1, 2, 3], [0], []]
        self.assertEqual(self.said(0.0, 0.5, orders), ["[1]", "[3]", "[0, 1, 2, 3]", "[0]", "[]"])

    def test_texts_together_answer_where_they_are_refused_less_by_the_margin(self):
        self.assertEqual(self.said(-2.75, 1.0, [[2, 1], [0, 2]]), ["[1]", "[0, 2]"])
        self.assertEqual(self.said(-2.75, 0.5, [[2, 1], [0, 2]]), ["[2, 1]", "[0, 2]"])


class SoupTest(unittest.TestCase):
    def test_equal_pairs_keep_their_product(self):
        a, b = torch.randn(4, 10), torch.randn(7, 4)
        first, second = mean_pair([(a, b), (2 * a, b / 2)])
        torch.testing.assert_close(second @ first, b @ a, atol=1e-4, rtol=1e-4)

    def test_the_mean_is_approximated_best(self):
        """Two pairs of rank 1 whose mean has singular values 2 and 1: rank 1 keeps the first."""
        e = torch.eye(3)
        one = (e[:1], 4 * e[:, :1])
        two = (e[1:2], 2 * e[:, 1:2])
        a, b = mean_pair([one, two])
        torch.testing.assert_close(b @ a, torch.diag(torch.tensor([2.0, 0.0, 0.0])), atol=1e-5, rtol=0)

    def test_adapters_of_other_settings_are_not_mixed(self):
        def config(**more) -> dict:
            return {"r": 4, "lora_alpha": 4, "base_model_name_or_path": "toy", "msa_config": {"doc_top_k": 2, **more}}
        first = config(refusal_bias=-1.0)
        self.assertEqual(common_config([first, config(refusal_bias=2.0), config()]), first)
        mixed = common_config([first, config(refusal_bias=2.0, reader_apart_margin=1.0), config(reader_apart_margin=3.0)])
        self.assertEqual(mixed["msa_config"], first["msa_config"] | {"reader_apart_margin": 1.0})    # how it is used, not what it is
        self.assertNotIn("reader_apart_margin", first["msa_config"])
        with self.assertRaisesRegex(ValueError, "differ in reader_question"):
            common_config([first, config(reader_question="twice")])
        with self.assertRaisesRegex(ValueError, "differ in lora_alpha"):
            common_config([first, config() | {"lora_alpha": 8}])


class SmallSetTest(unittest.TestCase):
    def test_unanswerable_questions_bring_their_paragraphs(self):
        corpus = [{"id": str(i)} for i in range(5)]
        asked = [{"question": "a", "answers": ["x"], "supporting_titles_or_ids": ["1"]}]
        refused = [{"question": "b", "answers": ["plausible"], "supporting_titles_or_ids": ["3"]}]
        documents, questions = with_unanswerable(corpus[1:3], asked, corpus, refused)
        self.assertEqual([d["id"] for d in documents], ["1", "2", "3"])
        self.assertEqual([q["answers"] for q in questions], [["x"], []])
        self.assertEqual(with_unanswerable(corpus[1:3], asked, corpus, []), (corpus[1:3], asked))


class ToyModelTest(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        toy.backbone(self.folder)
        self.tokenizer = toy.tokenizer(self.folder)

    def model(self, rank: int) -> MsaModel:
        model = MsaModel(str(self.folder), MsaConfig((1, 3), 4, 2, rank, rank))
        for stack in model.lora_b.values():
            torch.nn.init.normal_(stack, std=0.02)
        return model

    def test_a_larger_rank_starts_from_the_same_weights(self):
        small, large = self.model(4), self.model(8)
        save_adapter(small, str(self.folder / "adapter"), "toy", {})
        load_adapter(large, str(self.folder / "adapter"))
        load_adapter(small, str(self.folder / "adapter"))      # rounded to bf16 as the file is
        for a, b in zip(small.merged(), large.merged()):
            for use in a:
                for name in a[use]:
                    torch.testing.assert_close(a[use][name], b[use][name])

    def test_mined_order_is_that_of_scores_without_attention(self):
        model = self.model(4)
        with torch.no_grad():
            layers = model.merged()
            head, texts = frames.encode(self.tokenizer, frames.HEAD), toy.documents()
            prompts = [frames.routing_prompt(self.tokenizer, q) for q, _ in toy.questions()]
            keys = Keys(model, layers, self.tokenizer, texts, [1, 3], block_tokens=60)
            keys.by_layer = {l: k.float() for l, k in keys.by_layer.items()}
            found = best(model, layers, keys, prompts, head, 8)
            docs = batches.documents([frames.document_ids(self.tokenizer, i, t) for i, t in enumerate(texts)], 4)
            out = model.run(layers, docs, groups=(batches.queries(prompts, head, 2),), attend=False)
            mean = torch.stack(list(out.scores[0].values())).mean(0)
        for row, order in zip(mean, found):
            torch.testing.assert_close(row[order], row.sort(descending=True).values, atol=5e-3, rtol=0)

    def test_content_chunks_are_apart_from_the_keys(self):
        """Two chunks of 2 average to the chunk of 4; keys and scores do not change; a whole document's tokens stay apart at 1."""
        model = self.model(4)
        tokens = [frames.document_ids(self.tokenizer, i, t) for i, t in enumerate(toy.documents()[:3])]
        with torch.no_grad():
            layers = model.merged()
            four, two, one = (model.run(layers, batches.documents(tokens, 4, c)).memory for c in (None, 2, 1))
        self.assertIsNone(four.content)
        self.assertEqual(len(one.k[1]), sum(map(len, tokens)))
        torch.testing.assert_close(four.keys[3], two.keys[3])
        table, count = two.content
        for document, row in enumerate(four.table):
            whole = len(tokens[document]) // 4
            for place in range(whole):
                pair = two.k[1][table[document, 2 * place: 2 * place + 2]]
                torch.testing.assert_close(four.k[1][row[place]], pair.mean(0), atol=1e-5, rtol=1e-4)
            self.assertEqual(count[document], -(-len(tokens[document]) // 2))

    def test_a_growing_memory_routes_as_one_made_at_once(self):
        model = self.model(4)
        tokens = [np.asarray(frames.document_ids(self.tokenizer, i, t), dtype="<u2") for i, t in enumerate(toy.documents())]
        prompts = [frames.routing_prompt(self.tokenizer, q) for q, _ in toy.questions()[:3]]
        head = frames.encode(self.tokenizer, frames.HEAD)
        with torch.no_grad():
            layers, rows = model.merged(), batches.queries(prompts, head, 2)
            plain = model.run(layers, batches.documents(tokens, 4), groups=(rows,))
            bank = scale.Growing(model, layers, self.tokenizer, tokens, 10_000)
            for size in (60, 10_000):
                bank.grow(size, block_tokens=50)
            self.assertEqual(bank.count, len(tokens))
            model.score, model._gather = scale.score_in_blocks, scale.gather_from_host
            grown = model.run(layers, groups=(rows,), memory=bank.memory)
        for layer in (1, 3):
            torch.testing.assert_close(plain.scores[0][layer], grown.scores[0][layer], atol=1e-5, rtol=1e-5)
        self.assertEqual(bank.texts[2], toy.documents()[2])

    def test_texts_for_the_engine_are_those_of_the_corpus(self):
        """Nested files whose documents, as the engine joins title and text, have the corpus's tokens; the questions as they are."""
        corpus, out = self.folder / "corpus", self.folder / "texts"
        documents = [*((f"gold:{i}", t) for i, t in enumerate(toy.documents()[:2])), *(("", t) for t in toy.documents()[2:]), ("", "one line – é")]
        asked = [{"question": q, "answers": [a], "supporting_titles_or_ids": ["gold:0"]} for q, a in toy.questions()[:2]]
        names = {"bundle": "", "data": "", "tokenizer": str(self.folder / "tokenizer.json"), "processes": 2}
        with mock.patch.object(scale, "lay_out", return_value=(documents, asked)), contextlib.redirect_stdout(io.StringIO()):
            scale.prepare(argparse.Namespace(**names, tokens=10_000, preset=-1, out=str(corpus)))
            lengths = scale.load(str(corpus))[0]["lengths"]
            scale.texts(argparse.Namespace(**names, corpus=str(corpus), sizes=[10_000, sum(lengths[:3])], out=str(out)))
        files = sorted(out.glob("documents_*.jsonl"))
        self.assertEqual([f.name for f in files], [f"documents_{size:09d}.jsonl" for size in (sum(lengths[:3]), 10_000)])
        small, large = ([json.loads(line) for line in f.read_text().split("\n") if line] for f in files)
        self.assertEqual((len(small), len(large)), (3, len(documents) - 3))
        self.assertEqual([d["id"] for d in small], ["gold:0", "gold:1", "passage-2"])
        whole = [d["title"] + "\n" + d["text"] if "title" in d else d["text"] for d in small + large]
        self.assertEqual(whole, [text for _, text in documents])
        self.assertEqual(small[0]["title"], "Notes")
        self.assertEqual([json.loads(line) for line in (out / "questions.jsonl").read_text().split("\n") if line], asked)

    def test_both_continuations(self):
        """The margin tells which of them plain greedy decoding writes."""
        model = self.model(4)
        prompts = [frames.reader_prompt(q, [(1, t)]) for (q, _), t in zip(toy.questions(), toy.documents())]
        with torch.no_grad():
            layers = model.merged()
            said = say(model, layers, self.tokenizer, prompts, block_tokens=200)
            for prompt, s in zip(prompts, said):
                ids = torch.tensor(frames.encode(self.tokenizer, prompt))
                logits = model.logits(model.run(layers, reading=batches.pack([ids.tolist()])).reading[-1:])[0]
                token = first_token(self.tokenizer)
                others = logits.clone()
                others[token] = float("-inf")
                self.assertAlmostEqual(s.margin, (logits[token] - others.max()).item(), places=3)
                odds = logits.double().softmax(-1)[token]
                self.assertAlmostEqual(s.inclination(True), (odds / (1 - odds)).log().item(), places=3)
                self.assertEqual(s.inclination(False), s.margin)
                self.assertLess(s.inclination(True), s.margin)      # several tokens may follow


if __name__ == "__main__":
    unittest.main()
