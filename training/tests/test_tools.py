"""What a user gets wrong with any of the tools: one line that names it, no traceback; files that others can read."""
import contextlib
import importlib
import io
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save

from training import corpus, files, frames, soup, tool
from training.adapter_io import read_msa, save_adapter
from training.model import MsaConfig, MsaModel
from training.tests import test_training

MODEL = ("--base", "{no}", "--adapter", "{no}", "--bundle", "{no}", "--out", "{no}/out")
WRONG = {       # arguments that name what is not there
    "ablate": MODEL, "ask": MODEL, "calibrate": MODEL, "evaluate": MODEL, "label": MODEL, "pooled": MODEL,
    "check_splits": ("--data", "{no}", "--bundle", "{no}"),
    "gguf_pieces": ("join", "{no}", "{no}/out", "--files", "{no}"),
    "mine": ("--base", "{no}", "--adapter", "{no}", "--bundle", "{no}", "--made", "{no}"),
    "minilm": ("--model", "{no}", "--bundle", "{no}", "--out", "{no}/out"),
    "neighbours": ("--bundle", "{no}", "--out", "{no}/out"),
    "oracle": ("check", "--base", "{no}", "--adapter", "{no}", "--case", "{no}"),
    "plot": ("{no}", "{no}.png"),
    "prepare_data": ("--data", "{no}", "--out", "{no}/out"),
    "report": ("{no}",),
    "scale": ("run", "--base", "{no}", "--adapter", "{no}", "--corpus", "{no}", "--out", "{no}/out"),
    "teach": ("--base", "{no}", "--bundle", "{no}", "--made", "{no}", "--out", "{no}/out"),
    "weigh": ("--base", "{no}", "--adapter", "{no}", "--bundle", "{no}", "--made", "{no}"),
    "small_set": ("--bundle", "{no}", "--out", "{no}/out"),
    "soup": ("{no}", "{no}", "--out", "{no}/out"),
    "train": ("{no}",),
}


def outcome(name: str, *arguments: str):
    """What the program ends with: a line, or a number."""
    main = importlib.import_module("training." + name).main
    with mock.patch.object(sys, "argv", [f"training/{name}.py", *arguments]), contextlib.redirect_stdout(io.StringIO()):
        try:
            tool.run(main)
        except SystemExit as end:
            return end.code
    return 0


class GuardTest(unittest.TestCase):
    def test_every_program_is_guarded_and_has_a_case(self):
        programs = {p.stem: p.read_text() for p in Path(tool.__file__).parent.glob("*.py") if "def main(" in p.read_text()}
        self.assertEqual(sorted(programs), sorted(WRONG))
        for name, text in programs.items():
            self.assertTrue(text.endswith('if __name__ == "__main__":\n    tool.run(main)\n'), name)

    def test_what_is_not_there_is_said_in_one_line(self):
        for name, arguments in WRONG.items():
            with self.subTest(name), tempfile.TemporaryDirectory() as scratch:
                said = outcome(name, *(a.format(no=f"{scratch}/absent") for a in arguments))
                self.assertIsInstance(said, str)
                self.assertRegex(said, rf"^{name}: [^\n]*absent[^\n]*$")

    def test_a_program_ends_with_a_line_and_1(self):
        done = subprocess.run([sys.executable, "-m", "training.check_splits", "--data", "absent", "--bundle", "absent"],
                              capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr),
                         (1, "check_splits: absent/wiki/overlap_titles.json: No such file or directory; give a path that can be used\n"))

    def test_an_unknown_way_to_choose_documents_is_refused(self):
        with contextlib.redirect_stderr(io.StringIO()) as said:
            code = outcome("evaluate", *(a.format(no="absent") for a in MODEL), "--ways", "default")
        self.assertEqual(code, 2)       # it was passed over, and nothing was read
        self.assertIn("two_rounds_rule", said.getvalue())

    def test_an_interrupt_ends_with_130(self):
        def main():
            raise KeyboardInterrupt
        with contextlib.redirect_stderr(io.StringIO()) as said, self.assertRaises(SystemExit) as end, \
                mock.patch.object(sys, "argv", ["soup.py"]):
            tool.run(main)
        self.assertEqual((end.exception.code, said.getvalue()), (130, "soup: interrupted\n"))


class DataTest(unittest.TestCase):
    def test_shared_data_without_zstd_or_cut(self):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "corpus.jsonl.zst"
            path.write_bytes(b"no frame")
            with mock.patch.dict(os.environ, {"PATH": scratch}), self.assertRaisesRegex(ValueError, "zst: the program zstd.*apt-get install zstd"):
                corpus.read_zst(path)
            failed = subprocess.CalledProcessError(1, "zstd", stderr=b"unexpected end of file\n")
            with mock.patch.object(subprocess, "run", side_effect=failed), \
                    self.assertRaisesRegex(ValueError, r"jsonl\.zst: cannot be read \(unexpected end of file\)"):
                corpus.read_zst(path)

    def test_broken_json_tokenizers_and_scale_files_are_named(self):
        from training import scale
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "broken"
            path.write_text("{")
            for read in (files.read_json, frames.load_tokenizer, scale.load):
                with self.assertRaisesRegex(ValueError, f"^{path}: not "):
                    read(str(path))

    def test_an_empty_curve(self):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "curve.jsonl"
            path.write_text("")
            self.assertRegex(outcome("plot", str(path), "curve.png"), "curve.jsonl: holds no line")

    def test_a_report_has_every_set_but_not_the_seeds(self):
        from training import report
        with tempfile.TemporaryDirectory() as scratch:
            self.assertRegex(outcome("report", scratch), f"^report: {scratch}: holds neither eval")
            for name in ("squad", "strategy", "seed-1"):
                (Path(scratch) / f"eval-{name}.json").write_text(f'{{"{name}": {{}}, "device": "{name}"}}')
            self.assertEqual(sorted(report.merged(Path(scratch), "eval-*.json")), ["device", "squad", "strategy"])
            self.assertEqual(report.whole(Path(scratch))["device"], "squad")


class TensorTest(test_training.ToyCase):
    def adapter(self, folder: Path, layers: tuple[int, ...] = (2, 3), rank: int = 4) -> str:
        save_adapter(MsaModel(str(self.folder), MsaConfig(layers, 4, 2, rank, rank)), str(folder), "toy", {})
        return str(folder)

    def test_a_cut_file_is_named(self):
        with tempfile.TemporaryDirectory() as scratch:
            first = self.adapter(Path(scratch) / "a")
            path = Path(first) / "adapter.safetensors"
            path.write_bytes(path.read_bytes()[:-30])
            self.assertRegex(outcome("soup", first, "--out", f"{scratch}/b"), f"^soup: {path}: not a whole safetensors file")
            with tempfile.TemporaryDirectory() as base:
                for name in ("config.json", "tokenizer.json"):
                    (Path(base) / name).write_bytes((self.folder / name).read_bytes())
                (Path(base) / "model.safetensors").write_bytes(b"")
                with self.assertRaisesRegex(ValueError, r"model\.safetensors: not a whole safetensors file"):
                    MsaModel(base, MsaConfig((3,), 4, 2, 4, 4))

    def test_a_soup_of_unlike_tensors_names_the_adapter_and_the_tensor(self):
        with tempfile.TemporaryDirectory() as scratch:
            a, b = self.adapter(Path(scratch) / "a"), self.adapter(Path(scratch) / "b")
            path = Path(b) / "adapter.safetensors"
            tensors = files.read_tensors(path)
            name = sorted(tensors)[3]
            path.write_bytes(save({**tensors, name: tensors[name][:1].contiguous()}))
            self.assertRegex(outcome("soup", a, b, "--out", f"{scratch}/c"), f"^soup: {b}: 1 tensors unlike.*the first is {re.escape(name)}")
            del tensors[name]
            with self.assertRaisesRegex(ValueError, rf"^b: 1 tensors.*{re.escape(name)} \(missing"):
                soup.soup([("a", files.read_tensors(Path(a) / "adapter.safetensors")), ("b", tensors)])

    def test_an_adapter_that_is_named_twice_weighs_twice(self):
        with tempfile.TemporaryDirectory() as scratch:
            a, b = self.adapter(Path(scratch) / "a"), self.adapter(Path(scratch) / "b")
            path = Path(b) / "adapter.safetensors"
            path.write_bytes(save({n: v + ("router" in n) for n, v in files.read_tensors(path).items()}))
            self.assertEqual(outcome("soup", a, a, b, "--out", f"{scratch}/c"), 0)
            mean = lambda folder: torch.cat([v.float().flatten() for n, v in sorted(files.read_tensors(Path(folder) / "adapter.safetensors").items())
                                             if "router" in n]).mean().item()
            self.assertAlmostEqual(mean(f"{scratch}/c") - mean(a), 1 / 3, delta=0.01)

    def test_a_mean_of_a_rank_above_the_weights_own(self):
        """A key projection of the toy has 32 rows, and LoRA rank 40."""
        with tempfile.TemporaryDirectory() as scratch:
            model = MsaModel(str(self.folder), MsaConfig((2, 3), 4, 2, 40, 40))
            for value in model.lora_b.values():
                torch.nn.init.normal_(value, std=0.1)
            save_adapter(model, f"{scratch}/a", "toy", {})
            self.assertEqual(outcome("soup", f"{scratch}/a", f"{scratch}/a", "--out", f"{scratch}/b"), 0)
            one, two = (files.read_tensors(Path(scratch) / name / "adapter.safetensors") for name in "ab")
            a, b = (n for n in sorted(one) if "layers.1.self_attn.k_proj.lora_" in n)
            self.assertEqual((two[a].shape, two[b].shape), (one[a].shape, one[b].shape))
            torch.testing.assert_close(two[b].float() @ two[a].float(), one[b].float() @ one[a].float(), atol=3e-2, rtol=3e-2)

    def test_a_folder_that_is_no_msa_adapter(self):
        with tempfile.TemporaryDirectory() as scratch:
            (Path(scratch) / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 4, "base_model_name_or_path": ""}')
            with self.assertRaisesRegex(ValueError, "adapter_config.json: no msa_config"):
                read_msa(scratch)

    def test_others_may_read_an_adapter(self):
        old = os.umask(0o022)
        try:
            with tempfile.TemporaryDirectory() as scratch:
                self.adapter(Path(scratch))
                self.assertEqual((Path(scratch) / "adapter.safetensors").stat().st_mode & 0o777, 0o644)
        finally:
            os.umask(old)

    def test_a_link_stays_one(self):
        """A checkpoint that lies on another disk goes on lying there."""
        with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as disk:
            link, target = Path(scratch) / "checkpoint.pt", Path(disk) / "large.pt"
            target.write_bytes(b"old")
            link.symlink_to(target)
            files.replace_file(link, b"new")
            self.assertTrue(link.is_symlink())
            self.assertEqual((target.read_bytes(), os.listdir(scratch), os.listdir(disk)), (b"new", [link.name], [target.name]))

    def test_a_failed_write_leaves_what_was_there(self):
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "adapter.safetensors"
            files.write_tensors(path, {"a": torch.ones(2)})
            with mock.patch.object(os, "replace", side_effect=OSError(28, "No space left on device")), self.assertRaises(OSError):
                files.write_tensors(path, {"a": torch.zeros(2)})
            self.assertEqual(os.listdir(scratch), [path.name])
            self.assertEqual(files.read_tensors(path)["a"].tolist(), [1, 1])


if __name__ == "__main__":
    unittest.main()
