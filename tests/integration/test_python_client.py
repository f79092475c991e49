"""clients/python against a real server: the contract holds for another language.

Makes a virtual environment in the build folder once (needs PyPI); exit 77 means skipped.
"""
import os
import subprocess
import sys
import unittest

from harness import SOURCE, ServerTest, clean_environment

CLIENT = os.path.join(SOURCE, "clients", "python")
VENV = os.path.join(os.environ["MSA_BINARY_DIR"], "python-client")
PYTHON = os.path.join(VENV, "bin", "python")


def environment_with_grpc():
    """The interpreter that has grpcio and grpcio-tools; None when they cannot be had."""
    have = [PYTHON, "-c", "import grpc, grpc_tools.protoc"]
    if os.path.exists(PYTHON) and subprocess.run(have, capture_output=True).returncode == 0:
        return PYTHON
    for command in ([sys.executable, "-m", "venv", "--clear", VENV],
                    [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                     "grpcio", "grpcio-tools"]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            return None
    return PYTHON


class PythonClient(ServerTest):
    def test_the_client_drives_a_real_server(self):
        stubs = self.path("stubs")
        subprocess.run([os.path.join(CLIENT, "generate.sh"), stubs], check=True,
                       env={**clean_environment(), "PYTHON": PYTHON})
        server = self.serve()
        environment = clean_environment()
        environment.update(MSA_SERVER=server.address, PYTHONPATH=f"{stubs}:{CLIENT}")
        done = subprocess.run([PYTHON, os.path.join(CLIENT, "test_client.py")], text=True,
                              capture_output=True, env=environment, timeout=300)
        self.assertEqual(0, done.returncode, done.stdout + done.stderr)


if __name__ == "__main__":
    if environment_with_grpc() is None:
        print("skipped: grpcio and grpcio-tools cannot be installed (no PyPI?)")
        sys.exit(77)
    unittest.main()
