"""clients/python against a real server: the contract holds for another language.

Makes a virtual environment in the build folder once (needs PyPI); exit 77 means skipped.
"""
import os
import subprocess
import sys
import unittest

from environments import interpreter_of, make_environment
from harness import SOURCE, ServerTest, clean_environment

CLIENT = os.path.join(SOURCE, "clients", "python")
ENVIRONMENT = "python-client"
PYTHON = interpreter_of(ENVIRONMENT)
PACKAGES = ["grpcio", "grpcio-tools"]


class PythonClient(ServerTest):
    def test_the_client_drives_a_real_server(self):
        stubs = self.path("stubs")
        subprocess.run([os.path.join(CLIENT, "generate.sh"), stubs], check=True,
                       env={**clean_environment(), "PYTHON": PYTHON})
        mine = self.certificate()
        twins = {flag[2:].upper().replace("-", "_"): file for flag, file in zip(mine[::2], mine[1::2])}
        keys = self.path("keys.json")
        with open(self.path("key"), "w", encoding="utf-8") as file:
            file.write(self.run_msa(["key", "create", "--api-keys", keys, "--admin", "*", "python"]).out)
        for data, flags in (("plain", []), ("tls", mine), ("keys", ["--api-keys", keys])):
            server = self.serve(data, flags)
            environment = clean_environment()
            if "--api-keys" in flags:
                environment["MSA_API_KEY_FILE"] = self.path("key")
                flags = []
            environment.update(MSA_SERVER=server.address, PYTHONPATH=f"{stubs}:{CLIENT}")
            if flags:
                environment.update({"MSA_" + name: file for name, file in twins.items()})
            done = subprocess.run([PYTHON, os.path.join(CLIENT, "test_client.py")], text=True,
                                  capture_output=True, env=environment, timeout=300)
            self.assertEqual(0, done.returncode, done.stdout + done.stderr)
            server.stop()
            made = [line for line in server.log if "made a backup" in line]
            self.assertRegex(made[0] if made else "", r"request_id=[0-9a-f]{16}\b")


if __name__ == "__main__":
    if not make_environment(ENVIRONMENT, PACKAGES, ["grpc", "grpc_tools.protoc"]):
        print(f"skipped: {' and '.join(PACKAGES)} cannot be installed (no PyPI?)")
        sys.exit(77)
    unittest.main()
