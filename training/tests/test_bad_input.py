"""What a user gets wrong, or a machine: a clear message, the last checkpoint whole, the run resumable."""
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
import yaml

from training import tool, train
from training.corpus import read_xz, write_xz
from training.tests import test_training
from training.train import Trainer

torch.set_num_threads(1)


class BadInputTest(test_training.ToyCase):
    config, bundle = test_training.RunTest.config, test_training.RunTest.bundle
    losses = test_training.RunTest.losses

    def setUp(self):
        self.bundle()
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.out = scratch.name

    def run_main(self, config: dict, *more: str) -> str:
        """What the program says as it gives up."""
        path = Path(self.out) / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        with mock.patch.object(sys, "argv", ["train", str(path), *more]), self.assertRaises(SystemExit) as end:
            tool.run(train.main)
        self.assertIsInstance(end.exception.code, str)
        return end.exception.code

    def test_unknown_family_names_the_family_and_those_known(self):
        config = self.config(self.out)
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "config.json").write_text(json.dumps({"model_type": "mamba"}))
            config["base"] = folder
            said = self.run_main(config)
        self.assertIn("'mamba' is not one of llama, qwen2, qwen3", said)

    def test_missing_fields_are_named_with_file_and_line(self):
        config = self.config(self.out)
        docs = Path(config["bundle"]) / "docs.jsonl.xz"
        records = read_xz(docs)
        del records[2]["x"]
        write_xz(docs, records)
        self.assertRegex(self.run_main(config), r"docs\.jsonl\.xz line 3: no field 'x'")

    def test_a_cut_data_file_is_named(self):
        config = self.config(self.out)
        docs = Path(config["bundle"]) / "docs.jsonl.xz"
        docs.write_bytes(docs.read_bytes()[:-40])
        self.assertRegex(self.run_main(config), r"docs\.jsonl\.xz: cannot be read")

    def test_written_questions_without_an_answer_field_are_refused(self):
        config = self.config(self.out)
        made = Path(self.out) / "made"
        made.mkdir()
        (made / "made.0.jsonl").write_text('{"q": "Which?", "p": [0], "n": [], "r": 1}\n')
        config["made"] = str(made)
        self.assertRegex(self.run_main(config), r"made\.0\.jsonl line 1: no field 'a'")

    def test_a_configuration_without_a_key_is_refused(self):
        config = self.config(self.out)
        del config["stages"]
        self.assertIn("missing stages", self.run_main(config))

    def test_an_unknown_reader_prompt_is_refused(self):
        config = self.config(self.out)
        config["msa_extra"] = {"reader_question": "before"}
        self.assertIn("reader_question is 'before'; known: after, twice", self.run_main(config))

    def test_a_checkpoint_of_another_configuration_is_refused_and_kept(self):
        Trainer(self.config(self.out)).save()
        before = (Path(self.out) / "checkpoint.pt").read_bytes()
        config = self.config(self.out)
        config["adapter"]["router_layers"] = [3]
        self.assertIn("router_layers", self.run_main(config, "--resume"))
        self.assertEqual((Path(self.out) / "checkpoint.pt").read_bytes(), before)

    def test_a_full_disk_keeps_the_last_checkpoint(self):
        trainer = Trainer(self.config(self.out))
        trainer.save()
        before = (Path(self.out) / "checkpoint.pt").read_bytes()
        os.symlink("/dev/full", Path(self.out) / "checkpoint.tmp")
        trainer.step = 1
        with self.assertRaisesRegex(SystemExit, "No space left.*the last checkpoint is kept"):
            trainer.save()
        self.assertEqual((Path(self.out) / "checkpoint.pt").read_bytes(), before)
        self.assertFalse(os.path.lexists(Path(self.out) / "checkpoint.tmp"))
        again = Trainer(self.config(self.out))
        again.resume()
        self.assertEqual(again.step, 0)

    def test_an_interrupt_in_mid_step_resumes_to_the_same_curve(self):
        """Stopped between backward and the optimizer's step, with a checkpoint half written besides."""
        with tempfile.TemporaryDirectory() as whole:
            Trainer(self.config(whole)).run()
            expected = self.losses(whole)
        first = Trainer({**self.config(self.out), "save_seconds": -1})
        steps = iter((None, None, KeyboardInterrupt()))
        with mock.patch.object(Trainer, "average_gradients", side_effect=lambda: self.raise_if(next(steps))), \
                self.assertRaises(KeyboardInterrupt):
            first.run()
        (Path(self.out) / "checkpoint.tmp").write_bytes(b"half")
        seen = self.losses(self.out)
        self.assertEqual(seen, expected[:2])
        second = Trainer(self.config(self.out))
        second.resume()
        self.assertEqual(second.step, 2)
        second.run()
        self.assertEqual(self.losses(self.out), expected)

    @staticmethod
    def raise_if(error) -> None:
        if error is not None:
            raise error


if __name__ == "__main__":
    unittest.main()
