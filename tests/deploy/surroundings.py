"""What these tests need beside `msa`: kubectl, a few packages of PyPI, a file of names of their own."""
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.environ["MSA_SOURCE_DIR"], "tests", "integration"))

from environments import interpreter_of, make_environment

SKIPPED = 77
ENVIRONMENT = "python-deploy"
PYTHON = interpreter_of(ENVIRONMENT)
PACKAGES = ["grpcio", "kubernetes-validate", "pyyaml"]
HOSTS = "MSA_TEST_HOSTS"


def skip(why):
    print(f"skipped: {why}")
    sys.exit(SKIPPED)


def need_kubectl():
    """`kubectl kustomize` knows `patches` and folders among `resources` since kubectl 1.21."""
    if shutil.which("kubectl") is None:
        skip("there is no kubectl, which renders the manifests: install one of 1.21 or later")
    done = subprocess.run(["kubectl", "version", "--client", "--output=json"], capture_output=True,
                          text=True)
    minor = done.stdout.partition('"minor": "')[2].partition('"')[0].rstrip("+")
    if not minor.isdigit() or int(minor) < 21:
        skip(f"kubectl is 1.{minor or '?'}: install one of 1.21 or later")


def need_packages():
    """Goes on in an environment of the build folder that has PACKAGES, made once."""
    if sys.prefix == os.path.dirname(os.path.dirname(PYTHON)):
        return
    if not make_environment(ENVIRONMENT, PACKAGES, ["grpc", "kubernetes_validate", "yaml"]):
        skip(f"{', '.join(PACKAGES)} cannot be installed (no PyPI?)")
    os.execv(PYTHON, [PYTHON, *sys.argv])


def need_names():
    """Goes on where /etc/hosts is a file of this test."""
    if HOSTS in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="msa-test-names-")
    hosts = os.path.join(folder, "hosts")
    with open(hosts, "w", encoding="ascii") as file:
        file.write("127.0.0.1 localhost\n")
    script = 'mount --bind "$0" /etc/hosts && exec "$@"'
    apart = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, hosts]
    try:
        if subprocess.run([*apart, "true"], capture_output=True).returncode != 0:
            skip("no name space for mounts can be made here (unshare --map-root-user --mount)")
        done = subprocess.run([*apart, PYTHON, *sys.argv], env={**os.environ, HOSTS: hosts})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(done.returncode)
