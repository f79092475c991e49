"""How an answer is read: what a checkpoint says of rounds, refusing, texts read apart and the prompt's mask."""
import json
import os
import re
import unittest

from harness import ServerTest, documents, ids, reader_model


class CalibratedThresholds(ServerTest):
    """What a checkpoint says about stopping and refusing; models/smollm2-135m-instruct-msa/README.md."""

    def answer(self, name, **memory):
        self.model = reader_model(self.path(name), **memory)
        server = self.serve(data="data-" + name)
        self.add(server, documents(12))
        question = "Which garden has a violin?"
        one = ids(self.retrieve(server, question, "--limit", "12", "--max-rounds", "1"))
        return (self.ask(server, question), ids(self.retrieve(server, question, "--limit", "12")), one)

    def test_a_round_adds_what_scores_enough(self):
        done, ranked, one = self.answer("any")
        self.assertEqual(6, len(done["documents"]))
        self.assertEqual(one[:3], ranked[:3])
        self.assertEqual(12, len(set(ranked)))
        never, stopped, one_again = self.answer("never", round_min_score=2.0)   # above any cosine
        self.assertEqual(one, one_again)
        self.assertEqual(set(one[:3]), set(ids(never["documents"])))
        self.assertEqual(one, stopped)
        always, ranked_again, _ = self.answer("always", round_min_score=-2.0)
        self.assertEqual(ids(done["documents"]), ids(always["documents"]))
        self.assertEqual(ranked, ranked_again)

    def test_the_bias_decides_whether_an_answer_begins_as_the_refusal(self):
        refusal = "The memory has no answer to this question."
        plain = self.answer("plain", refusal=refusal)[0]["answer"]
        refuses = self.answer("more", refusal=refusal, refusal_bias=1e6)[0]["answer"]
        answers = self.answer("less", refusal=refusal, refusal_bias=-1e6)[0]["answer"]
        self.assertTrue(refuses.startswith("T"), refuses)
        self.assertFalse(answers.startswith("T"), answers)
        self.assertIn(plain, (refuses, answers))

    def test_an_answer_that_is_the_refusal_says_so(self):
        plain = self.answer("says", refusal="something else")[0]
        self.assertFalse(plain["no_answer"])
        self.assertTrue(plain["answer"])
        same = self.answer("same", refusal=f" {plain['answer']}\n")[0]
        self.assertEqual(plain["answer"], same["answer"])
        self.assertTrue(same["no_answer"])


class ReaderTest(ServerTest):
    QUESTION = "Which garden has a violin?"

    def started(self, name, **memory):
        self.model = reader_model(self.path(name), refusal="The memory has no answer to this question.", **memory)
        server = self.serve(data="data-" + name)
        self.add(server, documents(12))
        return server


class TextsReadApart(ReaderTest):
    """reader_apart_margin; which reading is least refused: decoding_test and the released adapter's golden case."""

    def test_an_answer_is_read_from_one_text_or_from_all(self):
        plain = self.ask(self.started("plain"), self.QUESTION, "--max-rounds", "1")
        together = self.ask(self.started("together", reader_apart_margin=-1e6), self.QUESTION, "--max-rounds", "1")
        self.assertEqual((plain["answer"], plain["answered_from"]), (together["answer"], together["answered_from"]))
        server = self.started("apart", reader_apart_margin=1e6)
        apart = self.ask(server, self.QUESTION, "--max-rounds", "1")
        self.assertEqual(ids(plain["documents"]), ids(apart["documents"]))
        asked_so = self.ask(server, self.QUESTION, "--max-rounds", "1", "--read-together")
        self.assertEqual((plain["answer"], plain["answered_from"]), (asked_so["answer"], asked_so["answered_from"]))
        self.assertGreater(apart["usage"]["prompt_tokens"], plain["usage"]["prompt_tokens"])
        self.assertEqual(sorted(d["reference"] for d in plain["documents"]), plain["answered_from"])
        alone = {}
        for read in ids(apart["documents"]):    # the text keeps its reference number when the others leave
            bank = "only-" + read
            self.msa(server, "bank", "create", bank)
            self.add(server, documents(12), "--bank", bank)
            self.msa(server, "rm", "--bank", bank, *(d["id"] for d in documents(12) if d["id"] != read))
            alone[read] = self.ask(server, self.QUESTION, "--bank", bank)["answer"]
        self.assertEqual(3, len(set(alone.values())))
        self.assertNotIn(plain["answer"], alone.values())
        by_reference = {d["reference"]: d["id"] for d in apart["documents"]}
        (answered_from,) = (by_reference[r] for r in apart["answered_from"])
        self.assertEqual(alone[answered_from], apart["answer"])
        shown = self.run_msa(["ask", "--max-new-tokens", "16", "--max-rounds", "1", self.QUESTION], server).out
        self.assertEqual([answered_from], re.findall(r"^  from (\S+)", shown, re.M))
        self.assertEqual({d for d in alone if d != answered_from}, set(re.findall(r"^  also read (\S+)", shown, re.M)))

    def test_texts_of_two_rounds_and_more_than_the_checkpoints_are_read_together(self):
        plain = self.ask(self.started("plain"), self.QUESTION)
        server = self.started("apart", reader_apart_margin=1e6)
        for flags in ((), ("--max-rounds", "1", "--reader-documents", "6")):
            apart = self.ask(server, self.QUESTION, *flags)
            self.assertEqual(6, len(apart["documents"]))
            self.assertEqual(sorted(d["reference"] for d in apart["documents"]), apart["answered_from"])
            if not flags:
                self.assertEqual(plain["answer"], apart["answer"])

    def test_a_second_round_that_adds_nothing_leaves_one_rounds_texts(self):
        apart = self.ask(self.started("stops", reader_apart_margin=1e6, round_min_score=2.0), self.QUESTION)
        self.assertEqual(2, apart["usage"]["rounds"])
        self.assertEqual(3, len(apart["documents"]))
        self.assertEqual(1, len(apart["answered_from"]))


class ReaderAttention(ReaderTest):
    """reader_attention; what a prompt whose tokens all see each other gives: decoding_test."""

    CHAT = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
            "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")

    def serve(self, **where):
        with open(os.path.join(self.model, "chat_template.jinja"), "w", encoding="utf-8") as file:
            file.write(self.CHAT)
        return super().serve(**where)

    def test_full_is_of_reader_prompts_alone(self):
        found = {}
        for name, memory in (("absent", {}), ("causal", {"reader_attention": "causal"}),
                             ("full", {"reader_attention": "full"})):
            server = self.started(name, **memory)
            found[name] = (self.ask(server, self.QUESTION), self.ask(server, self.QUESTION, "--no-memory"))
            self.assertTrue(found[name][1]["answer"])
        answers = {name: [done["answer"] for done in of_name] for name, of_name in found.items()}
        self.assertEqual(answers["absent"], answers["causal"])
        self.assertNotEqual(answers["causal"][0], answers["full"][0])
        self.assertEqual(answers["causal"][1], answers["full"][1])
        # Routing is as ever, to the score: the second round's, too, which has the first's texts.
        self.assertEqual(found["causal"][0]["documents"], found["full"][0]["documents"])
        self.assertEqual(6, len(found["full"][0]["documents"]))

    def test_texts_read_apart_are_read_so_too(self):
        server = self.started("plain", reader_attention="full")
        plain = self.ask(server, self.QUESTION, "--max-rounds", "1")
        together = self.ask(self.started("together", reader_attention="full", reader_apart_margin=-1e6),
                            self.QUESTION, "--max-rounds", "1")
        self.assertEqual(plain["answer"], together["answer"])
        apart = self.ask(self.started("apart", reader_attention="full", reader_apart_margin=1e6),
                         self.QUESTION, "--max-rounds", "1")
        (taken,) = (d["id"] for d in apart["documents"] if d["reference"] in apart["answered_from"])
        others = [d["id"] for d in documents(12) if d["id"] != taken]
        self.msa(server, "rm", *others)
        self.assertEqual(self.ask(server, self.QUESTION, "--max-rounds", "1")["answer"], apart["answer"])
        causal = self.started("causal")
        self.msa(causal, "rm", *others)
        self.assertNotEqual(self.ask(causal, self.QUESTION, "--max-rounds", "1")["answer"], apart["answer"])


class ShortModel(ServerTest):
    """A model with fewer positions than two rounds' texts take: max_position_embeddings."""
    QUESTION = "Which garden has a violin?"

    def started(self, positions, **memory):
        self.model = reader_model(self.path(f"model-{positions}"), **memory)
        path = os.path.join(self.model, "config.json")
        with open(path, encoding="utf-8") as file:
            config = json.load(file) | {"max_position_embeddings": positions}
        with open(path, "w", encoding="utf-8") as file:
            json.dump(config, file)
        return self.serve(data=f"data-{positions}")

    def prompt_tokens(self, server):
        return self.ask(server, self.QUESTION, "--max-rounds", "1")["usage"]["prompt_tokens"]

    def test_a_later_round_that_does_not_fit_is_not_made(self):
        server = self.started(4096)
        self.msa(server, "bank", "create", "default")
        question = self.prompt_tokens(server)               # of an empty bank nothing is read
        self.add(server, documents(12))
        reading = self.prompt_tokens(server) - question
        self.assertEqual(6, len(self.ask(server, self.QUESTION)["documents"]))
        server = self.started(reading + 8)      # the second round's prompt has the same three texts in a longer frame
        self.add(server, documents(12))
        one = self.ask(server, self.QUESTION, "--max-rounds", "1")
        both = self.ask(server, self.QUESTION)
        self.assertEqual((one["answer"], one["documents"]), (both["answer"], both["documents"]))
        self.assertEqual(3, len(both["documents"]))
        self.assertEqual(ids(self.retrieve(server, self.QUESTION, "--limit", "12", "--max-rounds", "1")),
                         ids(self.retrieve(server, self.QUESTION, "--limit", "12")))

    def test_an_answer_is_not_written_past_the_last_position(self):
        """What a round writes and the final question after it, too (generative mode)."""
        server = self.started(4096, retrieval_mode="generative")
        self.add(server, documents(1))
        asked = self.ask(server, self.QUESTION, "--top-k", "4", "--max-rounds", "1")["usage"]
        self.assertEqual(1, asked["rounds"])
        positions = 3 + 16 + asked["prompt_tokens"] - 2     # the first position; the question is longer than two tokens
        server = self.started(positions, retrieval_mode="generative")
        self.add(server, documents(1))
        refused = self.run_msa(["ask", "--max-new-tokens", "16", "--max-rounds", "1", self.QUESTION], server)
        self.assertEqual(5, refused.code, refused.out + refused.err)
        self.assertIn(f"this model holds {positions}", refused.err)


if __name__ == "__main__":
    unittest.main()
