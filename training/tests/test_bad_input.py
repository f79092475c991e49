"""What a user gets wrong, or a machine: a clear message, the last checkpoint whole, the run resumable."""
import contextlib
import gc
import io
import json
import os
import re
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
import yaml

from training import settings, tool, train
from training.adapter_io import save_adapter
from training.corpus import read_xz, write_xz
from training.data import TrainingSet
from training.files import read_tensors, write_tensors
from training.model import MsaConfig, MsaModel
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

    def run_main(self, config: dict | str, *more: str) -> str:
        """What the program says as it gives up."""
        path = Path(self.out) / "run.yaml"
        path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
        with mock.patch.object(sys, "argv", ["train", str(path), *more]), self.assertRaises(SystemExit) as end:
            tool.run(train.main)
        self.assertIsInstance(end.exception.code, str)
        return end.exception.code

    def end_of(self, config: dict, *more: str) -> tuple[int, str]:
        """Exit code, what is said on stderr."""
        path = Path(self.out) / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        code = 0
        with mock.patch.object(sys, "argv", ["train", str(path), *more]), contextlib.redirect_stderr(io.StringIO()) as said:
            try:
                tool.run(train.main)
            except SystemExit as end:
                code = end.code
        return code, said.getvalue()

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

    def test_neighbours_that_are_not_there_are_not_done_without(self):
        self.assertRegex(self.run_main(self.config(self.out), "neighbours=absent.npy"), "^train: absent.npy: No such file")
        self.assertRegex(self.run_main(self.config(self.out), f"neighbours={self.out}/run.yaml"), "^train: .*run.yaml: not ")

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

    def test_a_typo_is_refused_with_the_nearest_known_name(self):
        config = self.config(self.out)
        for override, said in (("a.b=3", "no 'a' there"), ("stages.5.steps=3", "'5' is none of the list's entries; give 0 to 0"),
                               ("stages.x.steps=3", "'x' is none"), ("seed.x=3", "nothing has a part 'x' there"),
                               ("oops", "'oops': give key.sub=value"), ("init=", "'init=': give key.sub=value"), ("seed=[1", "'seed=.1': not YAML"),
                               ("stages.0.stepz=3", r"stages\.0: unknown key 'stepz', perhaps steps; known: name"),
                               ("sede=3", "unknown key 'sede', perhaps seed"), ("stages.0.loss.rooting=3", r"loss: .*perhaps routing"),
                               ("stages.0.sizes.wike=3", r"sizes: .*perhaps wiki"), ("lr={lora: 1}", "lr: missing routers"),
                               ("adapter={pool: 4}", "adapter: missing router_layers, top_k, lora_rank, lora_alpha"), ("adapter=4", "adapter is to be a mapping"),
                               ("stages.0.mix={squid: 1}", r"mix: unknown key 'squid', perhaps squad; known: wiki, squad, pairs"),
                               ("stages.0.reading_mix={squat: 1}", r"reading_mix: unknown key 'squat', perhaps squad; known: squad, refused"),
                               ("msa_extra=3", "msa_extra is to be a mapping"), ("stages=3", "stages is to be a list"), ("stages=[3]", r"stages\.0 is to be a mapping"),
                               ("stages.0={name: a, attend: true, temperature: 1, mix: {}, sizes: {}, loss: {routing: 1}}", "would never end")):
            with self.subTest(override):
                self.assertRegex(self.run_main(config, override), f"^train: .*{said}")

    def test_what_is_no_number_is_refused_by_name(self):
        config = self.config(self.out)
        for override, said in (("stages.0.steps=abc", r"stages\.0: steps is to be a number, not 'abc'"), ("lr.lora=fast", "lr: lora is to be"),
                               ("seed=true", "seed is to be a number"), ("adapter.pool=[4]", "adapter: pool is to be"), ("until=.nan", "until is to be"),
                               ("stages.0.sizes.wiki=x", r"stages\.0\.sizes: wiki is to be"), ("stages.0.mix.wiki=x", r"\.mix: wiki is to be"),
                               ("log_every=0", "log_every is 0; give 1 or more"), ("stages.0.steps=null", "would never end"),
                               ("stages.0.loss.stop=0.3", "missing stop_level, which loss.stop needs"),
                               ("stages.0.loss.choice=0.3", "choice learns from contrasts"), ("stages.0.contrasts=3", "choice learns from contrasts"),
                               ("stages.0.contrasts=2.5", "contrasts is 2.5; give how many"), ("stages.0.unsure=-1", "unsure is -1"),
                               ("stages.0.unsure=3", "loss.refuse learns from"), ("stages.0.loss.refuse=0.3", "loss.refuse learns from"), ("stages.0.contrasts=-1", "contrasts is -1"), ("seed=null", "missing seed")):
            with self.subTest(override):
                self.assertRegex(self.run_main(config, override), f"^train: .*{said}")

    def test_null_is_not_given_and_1e_3_is_a_number(self):
        with contextlib.redirect_stdout(io.StringIO()):
            code = self.end_of(self.config(self.out), "stages.0.steps=null", "stages.0.seconds=1e-3", "lr.lora=1e-3", "until=null", "init=null")
        self.assertEqual(code, (0, ""))
        self.assertEqual([settings.parse("", t) for t in ("1e-3", "-2E+4", "3.e2", "1e-3x", "12", "1e")], [0.001, -2e4, 300.0, "1e-3x", 12, "1e"])

    def test_a_stage_of_no_steps_is_passed_over(self):
        self.assertEqual(self.end_of(self.config(self.out), "stages.0.steps=0"), (0, ""))
        self.assertTrue((Path(self.out) / "adapter" / "adapter.safetensors").exists())

    def test_a_file_that_is_no_configuration(self):
        for text, said in (("", "holds no configuration"), ("a: [1", "not YAML"), ("- 1", "holds no configuration")):
            self.assertRegex(self.run_main(text), said)

    def test_the_shipped_configurations_load_and_every_key_that_is_read_is_known(self):
        folder = Path(settings.__file__).parent
        for path in (folder / "configs").glob("*.yaml"):
            settings.load_config(str(path), ["stages.0.steps=3", "init=A", "made=B"])
        source = "".join((folder / f"{name}.py").read_text() for name in ("train", "data", "reading"))
        for pattern, known in ((r"stage(?:\.get\(|\[)\"(\w+)", settings.STAGE), (r"(?:config|\bc)(?:\.get\(|\[)\"(\w+)", settings.RUN),
                               (r"(?:\"sizes\"\]|\bsize)\[\"(\w+)", settings.SIZES), (r"weight(?:\.get\(|\[)\"(\w+)", settings.LOSS)):
            found = set(re.findall(pattern, source))
            self.assertTrue(found and found <= set(known[0] + known[1]), found - set(known[0] + known[1]))

    def test_a_start_of_a_larger_rank_or_another_backbone(self):
        config = self.config(self.out)
        start = Path(self.out) / "start"
        save_adapter(MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 8, 8)), str(start), "toy", {})
        self.assertRegex(self.run_main(config, f"init={start}"), r"start: its LoRA has rank 8, the model's 4; give adapter\.lora_rank=8")
        stored = read_tensors(start / "adapter.safetensors")
        name = next(n for n in stored if "router_" in n)
        write_tensors(start / "adapter.safetensors", {**stored, name: stored[name][:, :3].contiguous()})
        self.assertRegex(self.run_main(config, f"init={start}", "adapter.lora_rank=8"), rf"start: {re.escape(name)} is .*of this backbone")
        path = start / "adapter.safetensors"
        path.write_bytes(path.read_bytes()[:-9])
        self.assertRegex(self.run_main(config, f"init={start}"), r"adapter\.safetensors: not a whole safetensors file")

    def test_a_cut_checkpoint_names_the_weights_beside_it(self):
        Trainer(self.config(self.out)).save()
        path = Path(self.out) / "checkpoint.pt"
        for content in (path.read_bytes()[:-50], b"", b"PK"):
            path.write_bytes(content)
            self.assertRegex(self.run_main(self.config(self.out), "--resume"), rf"{path}: not a whole checkpoint; .* init={self.out}/adapter")

    def test_an_unknown_reader_prompt_is_refused(self):
        config = self.config(self.out)
        config["msa_extra"] = {"reader_question": "before"}
        self.assertIn("reader_question is 'before'; known: after, twice", self.run_main(config))
        config["msa_extra"] = {"reader_attention": "none"}
        self.assertIn("reader_attention is 'none'; known: causal, full", self.run_main(config))

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

    def test_a_resumed_curve_is_that_of_an_uninterrupted_run(self):
        """The checkpoint is older than the last logged line."""
        with tempfile.TemporaryDirectory() as whole:
            Trainer(self.config(whole)).run()
            expected = self.losses(whole)
        first = Trainer({**self.config(self.out), "save_seconds": 1e9})
        steps = iter((None, None, None, KeyboardInterrupt()))
        save = lambda: (self.raise_if(next(steps)), first.step == 1 and first.save())
        with mock.patch.object(Trainer, "average_gradients", side_effect=save), self.assertRaises(KeyboardInterrupt):
            first.run()
        self.assertEqual(self.losses(self.out), expected[:3])
        with contextlib.redirect_stdout(io.StringIO()):
            self.assertEqual(self.end_of(self.config(self.out), "--resume")[0], 0)
        self.assertEqual(self.losses(self.out), expected)

    def test_a_run_that_begins_anew_keeps_the_earlier_curve_apart(self):
        """Of a run without a checkpoint, or whose checkpoint was removed."""
        for more in ((), ("--resume",)):
            with self.subTest(more), tempfile.TemporaryDirectory() as out:
                (Path(out) / "curve.jsonl").write_text('{"earlier": 1}\n')
                with contextlib.redirect_stdout(io.StringIO()):
                    self.assertEqual(self.end_of(self.config(out), *more), (0, ""))
                self.assertEqual(len(self.losses(out)), 4)
                self.assertEqual((Path(out) / "curve.before.jsonl").read_text(), '{"earlier": 1}\n')

    def test_what_a_worker_of_the_loader_says_is_one_line_too(self):
        for error in (ValueError("docs.jsonl line 3: no field 'x'"), FileNotFoundError(2, "No such file or directory", "docs.jsonl")):
            with self.subTest(error), mock.patch.object(TrainingSet, "__getitem__", side_effect=error):
                self.assertEqual(self.run_main(self.config(self.out), "workers=1"), f"train: {error}")
                gc.collect()    # the loader, before the next forks

    def test_an_interrupt_says_where_the_checkpoint_is(self):
        for done, said in (((), "no checkpoint yet"), ((None, None), "the last checkpoint is of stage joint step 2; go on with --resume")):
            steps = iter((*done, KeyboardInterrupt()))
            with mock.patch.object(Trainer, "average_gradients", side_effect=lambda: self.raise_if(next(steps))):
                code, errors = self.end_of({**self.config(self.out), "save_seconds": -1})
            self.assertEqual(code, 130)
            self.assertRegex(errors, f"^train: interrupted; {said}[^\n]*\n$")

    def test_a_checkpoint_is_not_overwritten_by_a_new_run_and_a_finished_run_says_so(self):
        config = {**self.config(self.out), "stages": [{**self.config(self.out)["stages"][0], "steps": 1}]}
        self.assertEqual(self.end_of(config), (0, ""))
        self.assertRegex(self.run_main(config), f"^train: {self.out}: holds the checkpoint of an earlier run; give --resume")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            self.assertEqual(self.end_of(config, "--resume")[0], 0)
        self.assertRegex(said.getvalue(), f"^{self.out}: the run is finished[^\n]*\n$")
        self.assertEqual(len(self.losses(self.out)), 1)

    @staticmethod
    def raise_if(error) -> None:
        if error is not None:
            raise error


if __name__ == "__main__":
    unittest.main()
