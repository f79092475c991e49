"""clients/examples against a real server: they build from the protocol as it is, and get what they show.

A language whose tools are not installed is skipped by name.
"""
import os
import shutil
import subprocess
import unittest

from harness import SOURCE, ServerTest, clean_environment

EXAMPLES = os.path.join(SOURCE, "clients", "examples")
DEBIAN_GO = "/usr/share/gocode/src/github.com/golang/protobuf/proto/proto.go"    # of 1.5; 1.3 has no such file


class Clients(ServerTest):
    def build(self, script):
        out = self.path("out")
        done = subprocess.run([os.path.join(EXAMPLES, script), out], text=True, capture_output=True, timeout=600)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        return out

    def check(self, command):
        server = self.serve()
        self.add(server, [{"id": "bridge", "text": "It was here before."}])
        run = lambda address: subprocess.run(command, text=True, capture_output=True, timeout=120,
                                             env={**clean_environment(), "MSA_SERVER": address})
        done = run(server.address)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)
        first, second, *answer, sources, deleted = done.stdout.splitlines()
        self.assertEqual(["tower: revision 1", "bridge: revision 2"], [first, second])
        self.assertEqual("deleted 2", deleted)
        self.assertRegex(sources, r"^(stop|length|rounds|no_retrieval), from:")
        self.assertEqual([], self.msa(server, "ls"))
        server.stop()
        refused = run(server.address)
        self.assertNotEqual(0, refused.returncode)
        self.assertNotEqual("", refused.stderr)

    @unittest.skipUnless(shutil.which("grpc_cpp_plugin"), "no protobuf-compiler-grpc")
    def test_cpp(self):
        self.check([os.path.join(self.build("build_cpp.sh"), "example")])

    @unittest.skipUnless(shutil.which("go") and shutil.which("protoc-gen-go-grpc") and os.path.exists(DEBIAN_GO),
                         "no Go with Debian's gRPC (clients/examples/README.md)")
    def test_go(self):
        self.check([os.path.join(self.build("build_go.sh"), "example")])

    @unittest.skipUnless(shutil.which("ruby") and subprocess.run(["ruby", "-e", "require 'grpc'"], capture_output=True)
                         .returncode == 0, "no ruby-grpc")
    def test_ruby(self):
        out = self.build("generate_ruby.sh")
        self.check(["ruby", "-I", out, os.path.join(EXAMPLES, "example.rb")])


if __name__ == "__main__":
    unittest.main()
