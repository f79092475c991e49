"""Coarse scans through `msa serve` and through three memory nodes: calibrated, chosen, kept."""
import json
import unittest

from harness import ServerTest, documents

WORDS = "river tower garden winter copper violin harbour engine meadow lantern".split()
QUESTIONS = [f"Where is the {WORDS[i % 10]} of {WORDS[i // 10 % 10]} number {i}?"
             for i in range(520)]  # two router layers each: over 1,000 selections


class Coarse(ServerTest):
    model_case = "gqa_p64"  # keys of 64 numbers

    def write_questions(self, questions=QUESTIONS):
        path = self.path("questions.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for i, question in enumerate(questions):
                file.write(json.dumps({"id": str(i), "question": question}) + "\n")
        return path

    def calibrate(self, server, *flags):
        return self.msa(server, "bank", "calibrate", "default", *flags)[0]

    def coarse_selections(self, server):
        return [s["coarse_selections"] for s in self.msa(server, "stats")[0]["shards"]]

    def test_one_shard_and_three_are_calibrated_and_answer_alike(self):
        alone, cluster = self.serve(), self.start_cluster()
        questions = self.write_questions()
        for server in (alone, cluster):
            self.add(server, documents(120))
            refused = self.run_msa(["retrieve", "--scan", "coarse", QUESTIONS[0]], server)
            self.assertEqual(5, refused.code, refused.out)
            self.assertIn("msa bank calibrate", refused.err)

            report = self.calibrate(server, "--questions", questions, "--candidates", "16,120",
                                    "--concurrency", "2")
            few, all_of_them = report["curve"]
            self.assertEqual(2 * len(QUESTIONS), all_of_them["selections"])
            self.assertEqual(all_of_them["selections"], all_of_them["same"])
            self.assertLess(few["same"], few["selections"])
            self.assertTrue(report["coarse"]["on"])
            self.assertEqual(120, report["coarse"]["candidates"])

        for question in QUESTIONS[:8]:
            exact = self.retrieve(alone, question, "--limit", "20", "--scan", "exact")
            for server in (alone, cluster):
                for scan in ("default", "coarse", "exact"):
                    found = self.retrieve(server, question, "--limit", "20", "--scan", scan)
                    self.assertEqual(exact, found, scan)
        answers = [self.ask(server, QUESTIONS[0], "--scan", scan)["answer"]
                   for server in (alone, cluster) for scan in ("coarse", "exact")]
        self.assertEqual(1, len(set(answers)), answers)
        for server in (alone, cluster):
            self.assertTrue(all(self.coarse_selections(server)))

    def test_a_calibration_outlives_a_crash_and_ends_with_half_of_the_bank_new(self):
        server = self.serve()
        self.add(server, documents(60))
        self.calibrate(server, "--questions", self.write_questions(), "--candidates", "120")
        server.kill()
        server = self.serve()

        def makes_coarse_selections():
            before = self.coarse_selections(server)
            self.retrieve(server, QUESTIONS[0])
            return self.coarse_selections(server) > before

        self.assertTrue(makes_coarse_selections())
        self.add(server, documents(120)[60:])
        self.assertTrue(makes_coarse_selections())
        self.add(server, [{"id": "one more", "text": "than half"}])
        self.assertFalse(makes_coarse_selections())
        text = self.run_msa(["stats"], server).out
        self.assertIn("coarse scans are on, 120 candidates", text)
        self.assertIn("% of the parts were added since", text)
        self.msa(server, "bank", "calibrate", "default", "--off")
        self.assertEqual(0, self.msa(server, "stats")[0]["shards"][0]["code_bytes"])

    def test_too_few_questions_leave_it_off(self):
        server = self.serve()
        self.add(server, documents(60))
        result = self.run_msa(["bank", "calibrate", "default", "--questions",
                               self.write_questions(QUESTIONS[:10])], server)
        self.assertEqual(5, result.code, result.out)
        self.assertIn("of 1000 or more", result.err)
        self.assertEqual(0, self.msa(server, "stats")[0]["shards"][0]["code_bytes"])


class NarrowKeys(ServerTest):
    def test_a_bank_whose_keys_cannot_have_codes_says_so(self):
        server = self.serve()
        self.add(server, documents(3))
        result = self.run_msa(["bank", "calibrate", "default", "--codes"], server)
        self.assertEqual(5, result.code, result.out)
        self.assertIn("multiple of 64", result.err)


if __name__ == "__main__":
    unittest.main()
