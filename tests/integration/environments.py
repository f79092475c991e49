"""Virtual environments of the build folder with packages of PyPI, each made once."""
import os
import subprocess
import sys


def interpreter_of(name):
    return os.path.join(os.environ["MSA_BINARY_DIR"], name, "bin", "python")


def make_environment(name, packages, modules):
    """Whether `interpreter_of(name)` can import `modules` now; `packages` are installed if it could not."""
    python = interpreter_of(name)
    have = [python, "-c", f"import {', '.join(modules)}"]
    if os.path.exists(python) and subprocess.run(have, capture_output=True).returncode == 0:
        return True
    folder = os.path.join(os.environ["MSA_BINARY_DIR"], name)
    for command in ([sys.executable, "-m", "venv", "--clear", folder],
                    [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
                     *packages]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            print(done.stderr, file=sys.stderr)
            return False
    return True
