"""The study of pooled K and V on a toy memory."""
import contextlib
import io
import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from training import pooled
from training.adapter_io import load_adapter, read_config, save_adapter
from training.corpus import write_xz
from training.model import MsaConfig, MsaModel
from training.tests import toy
from training.tests.test_training import ToyCase


class PooledTest(ToyCase):
    def study(self, *more: str) -> dict:
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            save_adapter(MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 4, 4)), str(root / "adapter"), "toy", {})
            texts = [t.split("\n") for t in toy.documents()]
            write_xz(root / "docs.jsonl.xz", [{"s": "squad", "t": t, "x": x, "g": "Notes"} for t, x in texts])
            write_xz(root / "questions.jsonl.xz", [{"s": "squad", "q": q, "a": [a], "p": [i], "n": []} for i, (q, a) in enumerate(toy.questions())])
            write_xz(root / "eval_squad_corpus.jsonl.xz", [{"id": str(i), "title": t, "text": x} for i, (t, x) in enumerate(texts)])
            write_xz(root / "eval_squad_questions.jsonl.xz",
                     [{"question": q, "answers": [a], "supporting_titles_or_ids": [str(i)]} for i, (q, a) in enumerate(toy.questions())])
            (root / "made.0.jsonl").write_text("".join(json.dumps(m) + "\n" for m in (      # the second has no answer to learn
                {"q": toy.questions()[0][0], "a": [toy.questions()[0][1]], "p": [0], "n": [1], "r": 1},
                {"q": "What is the code of the wall?", "a": [], "p": [0], "n": [], "r": 1, "u": 1})))
            call = ["pooled", "--base", str(self.folder), "--adapter", str(root / "adapter"), "--bundle", scratch, "--out", str(root / "out.json"),
                    "--made", scratch, "--chunks", "1", "4", "--questions", "8", "--lr", "5e-3", *more]
            with mock.patch.object(sys, "argv", call), contextlib.redirect_stdout(io.StringIO()):
                pooled.main()
            return json.loads((root / "out.json").read_text())

    def test_a_chunk_starts_from_the_one_before_or_from_the_adapter(self):
        """What is read from text does not depend on the chunk, so it shows whose weights a copy has."""
        apart, after = self.study("--steps", "4"), self.study("--steps", "4", "--go-on")
        self.assertEqual(apart["4"]["before"]["text"], apart["1"]["before"]["text"])
        self.assertEqual(after["4"]["before"]["text"], after["1"]["after"]["text"])
        self.assertNotEqual(after["4"]["before"]["text"], after["1"]["before"]["text"])

    def test_memory_alone_teaches_the_answers(self):
        self.assertLess(self.study("--steps", "40")["1"]["after"]["gold"]["loss"], 6.5)

    def test_distilling_alone_follows_a_reader_that_knows_nothing(self):
        """The toy adapter's answers are random: its pupil's stay so, however long it is taught."""
        self.assertGreater(self.study("--steps", "40", "--distil", "1")["1"]["after"]["gold"]["loss"], 8.0)

    def test_a_copy_that_keeps_reading_reads_as_before(self):
        call = ("--steps", "40", "--distil", "0.1")
        moved = {keep: abs(out["1"]["after"]["text"]["loss"] - out["1"]["before"]["text"]["loss"])
                 for keep in ("0", "10") for out in [self.study(*call, "--keep", keep)]}
        self.assertLess(moved["10"], moved["0"] / 4)

    def test_the_last_copy_can_be_saved(self):
        with tempfile.TemporaryDirectory() as folder:
            self.study("--steps", "4", "--save", folder)
            copy = MsaModel(str(self.folder), read_config(folder))
            load_adapter(copy, folder)
            self.assertGreater(max(b.abs().max().item() for b in copy.lora_b.values()), 0)      # the adapter's own are 0

    def test_options_that_do_not_fit_are_refused(self):
        for odd in (("--keep", "1"), ("--seconds", "1", "2", "3")):
            with self.assertRaisesRegex(ValueError, odd[0]):
                self.study("--steps", "1", *odd)


if __name__ == "__main__":
    unittest.main()
