"""CPU tests: `python -m unittest discover -s training/tests -t .` (under a minute on one core)."""
import contextlib
import io
import json
import random
import re
import tempfile
import unittest
from pathlib import Path

import torch
import torch.distributed as dist

from training import batches, frames, losses, oracle, synth
from training.adapter_io import load_adapter, read_config, save_adapter
from training.data import Batch, Group
from training.decode import complete
from training.exchange import Exchange, Others, Recent
from training.files import read_json, read_tensors
from training.model import MsaConfig, MsaModel
from training.reading import ReadingSamples
from training.tests import toy
from training.corpus import write_xz
from training.train import Trainer, step_loss, with_others

torch.set_num_threads(1)
STAGE = {"attend": True, "temperature": 0.05, "loss": {"routing": 1.0, "memory": 1.0, "reading": 1.0}}


class ToyCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.scratch.name)
        toy.backbone(cls.folder)
        cls.tokenizer = toy.tokenizer(cls.folder)
        cls.head = frames.encode(cls.tokenizer, frames.HEAD)

    @classmethod
    def tearDownClass(cls):
        cls.scratch.cleanup()

    def batch(self, pool: int, top_k: int = 2, full: bool = False) -> Batch:
        texts, asked = toy.documents(), toy.questions()
        docs = batches.documents([frames.document_ids(self.tokenizer, i, t) for i, t in enumerate(texts)], pool)
        prompts = [frames.routing_prompt(self.tokenizer, q) for q, _ in asked]
        said = [frames.encode(self.tokenizer, f"assistant\n{a}<|im_end|>") for _, a in asked]
        rows = batches.queries(prompts, self.head, top_k, None, said)
        positive = torch.eye(len(texts), dtype=torch.bool)
        read = [(frames.encode(self.tokenizer, frames.reader_prompt(q, [(i, texts[i])])),
                 frames.encode(self.tokenizer, f"{a}<|im_end|>")) for i, (q, a) in enumerate(asked)]
        return Batch("toy", docs, [Group(rows, positive, torch.zeros_like(positive))], batches.reading(read, full), 0)


class RoutingTest(ToyCase):
    def test_together_equals_apart(self):
        """Documents, texts and queries in one pass compute what they compute alone."""
        model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4))
        batch = self.batch(pool=4)
        with torch.no_grad():
            layers, rows = model.merged(), batch.groups[0].queries
            whole = model.run(layers, batch.docs, batch.reading[0], (rows,))
            memory = model.run(layers, batch.docs).memory
            alone = model.run(layers, groups=(rows,), memory=memory)
            torch.testing.assert_close(whole.hidden[0], alone.hidden[0], atol=1e-4, rtol=1e-4)
            read = model.run(layers, reading=batch.reading[0]).reading
            torch.testing.assert_close(whole.reading, read, atol=1e-4, rtol=1e-4)

    def test_padding_and_neighbours_do_not_leak(self):
        """A query alone scores as it does in a batch; a document's chunks do not depend on the others."""
        model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4))
        tokens = [frames.document_ids(self.tokenizer, i, t * (i + 1)) for i, t in enumerate(toy.documents()[:3])]
        prompts = [frames.routing_prompt(self.tokenizer, q) for q in ("Which?", "What is the code of the red fox?")]
        with torch.no_grad():
            layers = model.merged()
            docs = batches.documents(tokens, 4)
            both = model.run(layers, docs, groups=(batches.queries(prompts, self.head, 2),))
            one = model.run(layers, docs, groups=(batches.queries(prompts[:1], self.head, 2),))
            torch.testing.assert_close(both.scores[0][3][:1], one.scores[0][3], atol=1e-5, rtol=1e-5)
            last = model.run(layers, batches.documents(tokens[2:], 4)).memory
            count = len(last.keys[2])
            torch.testing.assert_close(both.memory.keys[2][-count:], last.keys[2], atol=1e-5, rtol=1e-5)

    def test_excluded_documents_are_not_selected(self):
        model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 8, 4, 4))
        excluded = torch.zeros(8, 8, dtype=torch.bool)
        excluded[:, 3] = True
        batch = self.batch(pool=4, top_k=8)
        batch.groups[0].queries.excluded = excluded
        with torch.no_grad():
            out = model.run(model.merged(), batch.docs, groups=(batch.groups[0].queries,))
        self.assertFalse((out.selected[0][2] == 3).any())

    def test_dot_products_by_hand(self):
        model = MsaModel(str(self.folder), MsaConfig((3,), pool=4, top_k=2, lora_rank=4, cosine=False))
        batch = self.batch(pool=4)
        with torch.no_grad():
            out = model.run(model.merged(), batch.docs, groups=(batch.groups[0].queries,))
            self.assertFalse(torch.allclose(out.memory.keys[3].view(-1, 2, 16).norm(dim=-1), torch.ones(1)))    # as pooled
            h = torch.randn(5, 64)
            q = (h @ model.routers["3/q"].T).view(5, 4, 16)         # two query heads a key head, four in all, D 16
            by_hand = torch.stack([q[:, :2].sum(1), q[:, 2:].sum(1)], 1).flatten(1) / 4 / 16 ** 0.5
            torch.testing.assert_close(model.folded_queries(h, {"q": model.routers["3/q"]}), by_hand)

    def test_families(self):
        for family in ("qwen2", "qwen3"):
            with tempfile.TemporaryDirectory() as scratch:
                toy.backbone(Path(scratch), family)
                model = MsaModel(scratch, MsaConfig((3,), 4, 2, 4, 4))
                loss, _ = step_loss(model, self.batch(pool=4), STAGE)
                self.assertTrue(torch.isfinite(loss))


class DecodeTest(ToyCase):
    def test_kept_keys_change_nothing(self):
        """Greedy text over kept keys and values is that of reading the whole sequence again for every token."""
        model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4))
        prompts = [frames.encode(self.tokenizer, q) for q, _ in toy.questions()[:2]] + [[5, 6, 7]]
        with torch.no_grad():
            layers = model.merged()
            expected = []
            for prompt in prompts:
                said = list(prompt)
                for _ in range(20):
                    out = model.run(layers, reading=batches.pack([said])).reading
                    said.append(model.logits(out[-1:]).argmax().item())
                expected.append(said[len(prompt):])
        stop = expected[2][9]
        cut = [e[: e.index(stop)] if stop in e else e for e in expected]
        self.assertEqual(complete(model, layers, prompts, stop, 20), cut)

    def test_a_prompt_that_is_read_in_full(self):
        """Packed beside documents and queries, and kept for decoding, its tokens see each other, as the oracle's mask has it; nothing else does."""
        batch, samples = self.batch(pool=4), [([5, 9, 200, 31, 7], [11, 12, 13]), ([40, 41], [6, 2]), ([8, 77, 78, 79, 80, 81, 82], [3])]
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4, reader_attention="full"))
            for b in model.lora_b.values():
                b.normal_(std=0.1)
            save_adapter(model, scratch, "toy", {"reader_attention": "full"})
            self.assertTrue(read_config(scratch).reads_full)
            by_hand = oracle.Oracle(str(self.folder), scratch)
            load_adapter(model, scratch)        # rounded as the oracle reads it
            layers = model.merged()
            read = lambda full: model.run(layers, batch.docs, batches.reading(samples, full)[0], (batch.groups[0].queries,))
            whole, causal = read(True), read(False)
            for full, out in ((True, whole), (False, causal)):
                expected = torch.cat([by_hand.sequence(p + a, full=len(p) * full) for p, a in samples])
                torch.testing.assert_close(out.reading, expected, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(whole.hidden[0], causal.hidden[0], atol=0, rtol=0)
            self.assertGreater((whole.reading - causal.reading).abs().max(), 0.1)
            written = complete(model, layers, [p for p, _ in samples], -1, 6, full=True)
            self.assertEqual(written, [by_hand.generate(p, 6, -1)[1] for p, _ in samples])


class ExchangeTest(ToyCase):
    """Two processes: each scores the other's documents, and the averaged gradients are those of one process."""

    def batches(self, names) -> list[Batch]:
        whole, out = self.batch(pool=4), []
        for rank in range(2):
            texts = toy.documents()[4 * rank:4 * rank + 4 + rank]
            docs = batches.documents([frames.document_ids(self.tokenizer, i, t * (1 + rank))
                                      for i, t in enumerate(texts)], 4)
            asked = [frames.routing_prompt(self.tokenizer, q) for q, _ in toy.questions()[4 * rank:4 * rank + 3]]
            positive = torch.eye(4, dtype=torch.bool)[:3, : len(texts)]
            rows = batches.queries(asked, self.head, 2)
            out.append(Batch("toy", docs, [Group(rows, positive, torch.zeros_like(positive))], whole.reading, 0,
                             torch.tensor(names[rank][: len(texts)])))
        return out

    def test_gradients_are_those_of_one_process(self):
        given = self.batches([[1, 2, 3, 4], [5, 6, 7, 3, 8]])   # document 3 is in both
        stage = {"attend": True, "temperature": 0.05, "loss": {"routing": 1.0, "reading": 1.0}}
        model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4))
        with torch.no_grad():
            for stack in model.lora_b.values():
                torch.nn.init.normal_(stack, std=0.02)

        class Both:  # the other's documents, computed here
            def __init__(self, other):
                self.other = other

            def documents(self, keys, table, names):
                memory = model.run(model.merged(), self.other.docs).memory
                return Others(memory.keys, memory.table, self.other.names)
        for i in range(2):
            loss, _ = step_loss(model, given[i], stage, Both(given[1 - i]))
            (loss / 2).backward()
        alone = step_loss(model, given[0], stage)[0].item()
        self.assertNotAlmostEqual(alone, step_loss(model, given[0], stage, Both(given[1]))[0].item())
        with tempfile.TemporaryDirectory() as scratch:
            torch.save((given, stage, str(self.folder), model.state_dict()), f"{scratch}/job")
            torch.multiprocessing.spawn(exchanged, (scratch,), nprocs=2)
            for rank in range(2):
                for name, gradient in torch.load(f"{scratch}/grad.{rank}").items():
                    torch.testing.assert_close(gradient, dict(model.named_parameters())[name].grad, atol=1e-6,
                                               rtol=1e-4)


class RecentTest(ToyCase):
    """Documents of earlier batches as further negatives."""

    def test_scores_gradient_and_what_counts(self):
        model, batch = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4)), self.batch(pool=4)
        longer = batches.documents([frames.document_ids(self.tokenizer, 9, t * 3) for t in toy.documents()[:3]], 4)
        stage = {"attend": True, "temperature": 0.05, "loss": {"routing": 1.0, "reading": 1.0}}
        first = Batch("toy", longer, [], None, 0, torch.tensor([1, 20, 21]))
        batch.names, recent = torch.arange(8), Recent(1)
        with torch.no_grad():
            memory = model.run(model.merged(), longer).memory
        alone = step_loss(model, batch, stage)[0]
        self.assertIsNone(recent.documents(memory.keys, memory.table, first.names))
        wide = step_loss(model, batch, stage, recent)[0]
        self.assertGreater(wide.item(), alone.item() - 1e-6)
        self.assertEqual(len(recent.parts), 1)
        self.assertTrue(torch.equal(recent.parts[0].names, batch.names))    # the oldest went
        # All of them together score as each memory alone does; the document of the same name counts for nothing.
        both, out = Recent(2), model.run(model.merged(), batch.docs, groups=(batch.groups[0].queries,))
        both.documents(memory.keys, memory.table, first.names)
        ((group, scores),) = with_others(model, batch, out, both)
        self.assertEqual(scores[3].shape, (8, 11))
        self.assertTrue(group.ignored[:, 8].all() and not group.ignored[:, 9:].any() and not group.positive[:, 8:].any())
        again = model.score(out.folded[0][3], memory.keys[3], memory.table, batch.groups[0].queries)
        torch.testing.assert_close(scores[3][:, 8:], again)
        # Only this batch's keys and queries have a gradient.
        self.assertFalse(any(k.requires_grad for part in both.parts for k in part.keys.values()))
        wide.backward()
        self.assertGreater(model.routers["3/q"].grad.abs().max().item(), 0)


def exchanged(rank: int, scratch: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{scratch}/meet", rank=rank, world_size=2)
    given, stage, folder, weights = torch.load(f"{scratch}/job", weights_only=False)
    model = MsaModel(folder, MsaConfig((2, 3), 4, 2, 4, 4))
    model.load_state_dict(weights)
    step_loss(model, given[rank], stage, Exchange())[0].backward()
    gradients = {}
    for name, parameter in model.named_parameters():
        dist.all_reduce(parameter.grad)
        gradients[name] = parameter.grad / 2
    torch.save(gradients, f"{scratch}/grad.{rank}")
    dist.destroy_process_group()


class FrameTest(ToyCase):
    def test_the_reader_is_asked_after_the_texts_or_twice(self):
        texts = [(7, "two"), (4, "one")]
        self.assertEqual(frames.reader_prompt("Why?", texts), "<|im_start|>user\n[4]. one\n[7]. two\n\nWhy?<|im_end|>\n<|im_start|>assistant\n")
        self.assertEqual(frames.reader_prompt("Why?", texts, "twice"),
                         "<|im_start|>user\nWhy?\n[4]. one\n[7]. two\n\nWhy?<|im_end|>\n<|im_start|>assistant\n")

    def test_later_round_routes_question_and_last_texts(self):
        prompt = frames.next_round_prompt(self.tokenizer, "Why?", [[(7, "first text")], [(9, "second text")]])
        routed = self.tokenizer.decode([i for i, r in zip(prompt.ids, prompt.routing) if r])
        self.assertIn("Why?", routed)
        self.assertIn("[9]. second text", routed)
        self.assertNotIn("first text", routed)


class RunTest(ToyCase):
    """The whole program on a bundle of a few documents."""

    def config(self, out: str) -> dict:
        stage = {"name": "joint", "steps": 4, "attend": True, "temperature": 0.05, "mix": {"wiki": 0.5, "squad": 0.5},
                 "sizes": {"wiki": 6, "questions": 4, "articles": 2, "hops": 2, "later": 2}, "reading": 2,
                 "reading_mix": {"squad": 1, "wiki": 1}, "loss": {"routing": 1.0, "later": 0.3, "reading": 1.0}, "rise": 2}
        return {"base": str(self.folder), "base_name": "toy", "bundle": str(self.folder / "bundle"), "out": out,
                "seed": 3, "lr": {"lora": 1e-3, "routers": 1e-3}, "stages": [stage], "log_every": 1, "msa_extra": {},
                "adapter": {"router_layers": [2, 3], "pool": 4, "top_k": 2, "lora_rank": 4, "lora_alpha": 4}}

    def bundle(self) -> None:
        folder = self.folder / "bundle"
        folder.mkdir(exist_ok=True)
        docs, questions = [], []
        for number, (name, code) in enumerate(toy.FACTS):
            docs.append({"s": "wiki", "t": name.title(), "g": str(number // 2),
                         "x": f"{name.title()} is a small thing of the north. Its code was {code} in 1900."})
            docs.append({"s": "squad", "t": "Notes", "g": str(number % 2), "x": toy.documents()[number]})
            questions.append({"s": "squad", "q": f"What is the code of the {name}?", "a": [code],
                              "p": [2 * number + 1], "n": [1 if number else 3]})
        for name, records in (("docs", docs), ("questions", questions), ("links", []), ("triples", [])):
            write_xz(folder / f"{name}.jsonl.xz", records)

    def losses(self, out: str) -> list[float]:
        return [json.loads(line)["loss"] for line in (Path(out) / "curve.jsonl").read_text().splitlines()]

    def test_an_interrupted_run_resumes_to_the_same_curve(self):
        self.bundle()
        with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as halves:
            Trainer(self.config(whole)).run()
            first = Trainer(self.config(halves))
            for _ in range(2):
                first.train_step(next(iter(first.loader(first.config["stages"][0], None))),
                                 first.config["stages"][0])
                first.step += 1
            first.save()
            second = Trainer(self.config(halves))
            second.resume()
            second.run()
            self.assertEqual(self.losses(whole)[2:], self.losses(halves))
            self.assertTrue((Path(halves) / "adapter" / "adapter.safetensors").exists())

    def test_a_checkpoint_of_another_shape_is_refused(self):
        self.bundle()
        with tempfile.TemporaryDirectory() as out:
            Trainer(self.config(out)).save()
            config = self.config(out)
            config["adapter"]["lora_rank"] = 8
            with self.assertRaisesRegex(SystemExit, "lora_rank"):
                Trainer(config).resume()


class DietTest(unittest.TestCase):
    """Questions and texts made to have no answer."""

    def test_a_sentence_is_taken_out(self):
        text = "The bell is old. It was cast by Ann Lee in 1803 in the town. " + "Nobody knows who paid for it at the time. " * 4
        self.assertNotIn("Lee", synth.without(text, ["Ann Lee"]))
        self.assertIsNone(synth.without(text, ["Nobody"]))      # in several sentences
        self.assertIsNone(synth.without("It was Ann Lee. So it was.", ["Ann Lee"]))

    def test_what_recurs_is_asked_for_by_another_sentence(self):
        text = "The old bell was cast by Ann Lee. It hung in the tower for years. Later Ann Lee moved to the far coast. " \
            "Nobody knows who paid for all of it at the time."
        for seed in range(30):
            question, answer, rest = synth.recurring(random.Random(seed), text, ["The town paid Ann Lee well for the old bell."])
            self.assertEqual(answer, "Ann Lee")
            self.assertNotIn("Ann", question)
            self.assertIn("Ann Lee", rest)
            self.assertNotIn(" ".join(question.rstrip("?").split()[-3:]), rest)     # its sentence is gone, or never was there
        self.assertIsNone(synth.recurring(random.Random(1), text.replace("Later Ann Lee", "Later she"), []))

    def test_a_word_becomes_its_opposite(self):
        rng = random.Random(1)
        self.assertEqual(synth.twisted(rng, "Who was the first mayor?", "The first mayor was Ann."), ("Who was the last mayor?", "last"))
        for _ in range(20):     # the opposite stands in the text: only a negation is left
            made = synth.twisted(rng, "Who was the first mayor?", "The first and the last mayor.")
            self.assertTrue(made is None or "not" in made[1] or "n't" in made[1])


class FileTest(ToyCase):
    def test_adapter_round_trip_and_refusals(self):
        model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4))
        with tempfile.TemporaryDirectory() as scratch:
            save_adapter(model, scratch, "toy", {"retrieval_mode": "router"})
            self.assertEqual(read_config(scratch).reader_question, "after")
            save_adapter(model, scratch, "toy", {"retrieval_mode": "router", "reader_question": "twice"})
            self.assertEqual(read_config(scratch).reader_question, "twice")
            self.assertTrue(read_config(scratch).cosine)
            save_adapter(MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4, cosine=False)), scratch, "toy", {})
            self.assertFalse(read_config(scratch).cosine)
            save_adapter(model, scratch, "toy", {"retrieval_mode": "router"})
            written = read_json(Path(scratch) / "adapter_config.json")
            del written["msa_config"]["aux_loss_method"]    # the engine takes none for dot products
            with tempfile.TemporaryDirectory() as odd:
                (Path(odd) / "adapter_config.json").write_text(json.dumps(written))
                self.assertFalse(read_config(odd).cosine)
            again = MsaModel(str(self.folder), read_config(scratch))
            with tempfile.TemporaryDirectory() as odd:
                save_adapter(model, odd, "toy", {"reader_question": "before"})
                with self.assertRaisesRegex(ValueError, "reader_question is 'before'; known: after, twice"):
                    read_config(odd)    # it was read as "after"
            load_adapter(again, scratch)
            self.assertTrue(torch.equal(again.lora_a["q_proj"], model.lora_a["q_proj"].bfloat16().float()))
            other = MsaModel(str(self.folder), MsaConfig((1,), 4, 2, 4, 4))
            with self.assertRaisesRegex(ValueError, "do not match"):
                load_adapter(other, scratch)

    def test_an_adapter_of_all_weights_computes_what_the_stored_case_says(self):
        """tests/golden/full_weights, which the engine runs too; made by make_toy_cases.py."""
        case = Path(__file__).parents[2] / "tests" / "golden" / "full_weights"
        base, adapter = str(case / "base"), str(case / "adapter")
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertTrue(oracle.check(case, base, adapter))
        model = MsaModel(base, read_config(adapter))
        self.assertEqual(model.msa.lora_rank, 0)
        load_adapter(model, adapter)
        spec = read_json(case / "input.json")
        docs = batches.documents([d["token_ids"] for d in spec["documents"]], model.msa.pool)
        prompts = [frames.Prompt(q["prompt_ids"], [bool(x) for x in q["routing_mask"]]) for q in spec["questions"]]
        rows = batches.queries(prompts, spec["template_head_ids"], model.msa.top_k)
        with torch.no_grad():
            scores = model.run(model.merged(), docs, groups=(rows,)).scores[0]
        stored = read_tensors(case / "expected.safetensors")
        for i in range(len(prompts)):
            torch.testing.assert_close(torch.stack([s[i] for s in scores.values()]), stored[f"q{i}.doc_scores"], atol=5e-6, rtol=0)

    def test_all_weights_are_written_but_those_that_nothing_uses(self):
        weights = read_tensors(self.folder / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()     # in files of tied models too
        weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 0, 0), weights=weights)
        with tempfile.TemporaryDirectory() as scratch:
            save_adapter(model, scratch, "toy", {})
            stored = read_tensors(Path(scratch) / "adapter.safetensors")
            routers = {f"model.layers.{l}.self_attn.router_{w}_proj.0.weight" for l in (2, 3) for w in "qk"}
            self.assertEqual(set(stored), set(read_tensors(self.folder / "model.safetensors")) | routers)
            with self.assertRaisesRegex(ValueError, "do not match"):
                load_adapter(MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4)), scratch)

    def test_a_full_reader_says_what_the_stored_case_says(self):
        """tests/golden/full_reader, which the engine runs too."""
        golden = Path(__file__).parents[2] / "tests" / "golden"
        base, adapter = str(golden / "full_weights" / "base"), str(golden / "full_reader" / "adapter")
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertTrue(oracle.check(golden / "full_reader", base, adapter))
        model = MsaModel(base, read_config(adapter))
        load_adapter(model, adapter)
        readers = [q["reader"] for q in read_json(golden / "full_reader" / "expected.json")["questions"]]
        with torch.no_grad():
            say = lambda full: complete(model, model.merged(), [r["prompt_ids"] for r in readers], 2, 8, full=full)
            said, causal = say(model.msa.reads_full), say(False)
        self.assertEqual(said, [[i for i in r["answer_ids"] if i != 2] for r in readers])
        self.assertNotEqual(said, causal)

    def test_families_compute_what_transformers_does(self):
        """Logits of tests/golden/families, which the engine runs too: rotary scaling was left out without a word."""
        families = Path(__file__).parents[2] / "tests" / "golden" / "families"
        for name in ("llama3_rope", "llama_linear_rope", "qwen2", "qwen3"):
            folder = families / name
            model, stored = MsaModel(str(folder), MsaConfig((2,), 4, 2, 4, 4)), read_tensors(folder / "vectors.safetensors")
            text = batches.reading([(stored["input_ids"].tolist(), [0])])[0]
            with torch.no_grad():
                logits = model.logits(model.run(model.merged(), reading=text).reading)
            torch.testing.assert_close(logits[: len(stored["logits"])], stored["logits"], atol=2e-4, rtol=0, msg=lambda m: f"{name}: {m}")
        with self.assertRaisesRegex(ValueError, "attention_bias and mlp_bias"):
            MsaModel(str(families / "llama_bias"), MsaConfig((2,), 4, 2, 4, 4))
        with tempfile.TemporaryDirectory() as scratch:
            config = read_json(self.folder / "config.json") | {"rope_scaling": {"type": "yarn", "factor": 2.0}}
            (Path(scratch) / "config.json").write_text(json.dumps(config))
            with self.assertRaisesRegex(ValueError, "type 'yarn'; known: default, linear, llama3"):
                MsaModel(scratch, MsaConfig((2,), 4, 2, 4, 4))

    def test_unknown_family_is_refused(self):
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "config.json").write_text(json.dumps({"model_type": "mamba"}))
            with self.assertRaisesRegex(ValueError, "mamba"):
                MsaModel(scratch, MsaConfig((0,)))


class ReadingSampleTest(ToyCase):
    def refused(self, **more) -> list[tuple[bool, int]]:
        """Whether a sample is to be refused, and its texts, of forty whose question has an answer."""
        class Samples(ReadingSamples):
            stage, by_source = {"reading_mix": {"squad": 1.0}, **more}, {"wiki": []}
            tokenizer, reader_question = self.tokenizer, "after"

            def _read_squad(self, rng):
                return "Where?", "Oslo", [("A", "It is in Oslo.")], [("B", "It is red."), ("C", "It is old.")]
        samples, rng = Samples(), random.Random(1)
        drawn = [samples._reading_sample(rng) for _ in range(40)]
        prompts = [self.tokenizer.decode(prompt, skip_special_tokens=False) for prompt, *_ in drawn]
        refusal = frames.encode(self.tokenizer, frames.REFUSAL)[:48]
        return [(answer[:-1] == refusal, len(re.findall(r"\[\d+\]\. [ABC]", prompt))) for prompt, (_, answer, *_) in zip(prompts, drawn)]

    def test_a_text_that_is_read_alone_is_another_as_often_as_the_run_says(self):
        alone = {"reading_documents": [1], "no_gold": 0.0}
        self.assertEqual(set(self.refused(**alone)), {(False, 1)})
        self.assertEqual(set(self.refused(no_gold_alone=1.0, **alone)), {(True, 1)})
        self.assertEqual({r for r, _ in self.refused(no_gold_alone=0.5, **alone)}, {True, False})
        self.assertEqual(set(self.refused(no_gold_alone=1.0, **alone | {"reading_documents": [3]})), {(False, 3)})


if __name__ == "__main__":
    unittest.main()
