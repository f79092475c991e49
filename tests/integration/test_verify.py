"""`msa verify` over cases that are not whole: told in words, and the others still run."""
import json
import os
import shutil
import subprocess
import tempfile
import unittest

from harness import GOLDEN, MSA, clean_environment


class Verify(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)

    def case(self, name):
        """A copy of a golden case that may be changed."""
        for needed in {name, "tokenizers", "qwen3_small"}:
            target = os.path.join(self.folder, needed)
            if not os.path.exists(target):
                shutil.copytree(os.path.join(GOLDEN, needed), target)
        return os.path.join(self.folder, name)

    def change(self, case, file, key, value):
        path = os.path.join(case, file)
        with open(path, encoding="utf-8") as source:
            content = json.load(source)
        content[key] = value
        with open(path, "w", encoding="utf-8") as target:
            json.dump(content, target)

    def verify(self, *cases, model=""):
        run = subprocess.run([MSA, "verify", "--json", "--threads", "1", "--model", model, *cases],
                             capture_output=True, text=True, timeout=120, env=clean_environment())
        return run.returncode, [json.loads(line) for line in run.stdout.splitlines()], run.stderr

    def test_cases_after_one_that_cannot_be_run_are_run(self):
        code, reports, error = self.verify(os.path.join(self.folder, "none"),
                                           os.path.join(GOLDEN, "qwen3_small"))
        self.assertEqual(3, code, error)
        self.assertEqual([False, True], [report["ok"] for report in reports])
        self.assertIn("none/input.json", reports[0]["error"])

    def test_a_tensor_that_nothing_is_compared_with_is_named(self):
        case = self.case("full_weights")
        self.change(case, "input.json", "questions", [])
        code, (report,), error = self.verify(case, model=os.path.join(case, "base"))
        self.assertEqual(0, code, error)
        self.assertIn("q0.doc_scores", report["skipped"][0])

    def test_whole_cases_leave_no_tensor(self):
        for name, model in (("qwen3_small", ""), ("interleave_scripted", ""),
                            ("full_weights", os.path.join(GOLDEN, "full_weights", "base"))):
            code, (report,), error = self.verify(os.path.join(GOLDEN, name), model=model)
            self.assertEqual((0, []), (code, report["skipped"]), error)

    def test_a_case_is_read_as_its_adapter_says(self):
        case = self.case("full_weights")
        path = os.path.join(case, "adapter", "adapter_config.json")
        with open(path, encoding="utf-8") as file:
            memory = json.load(file)["msa_config"]
        self.change(case, "adapter/adapter_config.json", "msa_config", {**memory, "reader_attention": "full"})
        code, (report,), error = self.verify(case, model=os.path.join(case, "base"))
        self.assertEqual(1, code, error)
        failed = {check["name"] for check in report["tensors"] + report["exact"] if not check["ok"]}
        logits = {check["name"] for check in report["tensors"] if check["name"].endswith(".reader.logits")}
        self.assertTrue(logits)
        self.assertEqual(logits, {name for name in failed if not name.endswith(".reader.answer_ids")})

    def test_what_does_not_fit_together_is_refused_in_words(self):
        for name, file, key, value, words in (
                ("full_weights", "expected.json", "questions", [], "out of range"),
                ("full_weights", "input.json", "reader_documents", -1, "reader_documents is -1"),
                ("full_weights", "input.json", "pooled_layers", [0], "no router layer"),
                ("qwen3_small", "input.json", "documents", [], "no documents")):
            with self.subTest(key=key, value=value):
                case = self.case(name)
                self.change(case, file, key, value)
                code, _, error = self.verify(case, model=os.path.join(case, "base"))
                self.assertEqual(5, code, error)
                self.assertIn(words, error)
                shutil.rmtree(case)


if __name__ == "__main__":
    unittest.main()
