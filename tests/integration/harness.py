"""Real `msa` processes on free ports, ended with the test. Nothing here sleeps: a server is ready
when its log says so."""
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import unittest

MSA = os.environ["MSA_BIN"]
SOURCE = os.environ["MSA_SOURCE_DIR"]
GOLDEN = os.path.join(SOURCE, "tests", "golden")
START_TIMEOUT_S = 120
CALL_TIMEOUT_S = 120


def clean_environment():
    """No MSA_… of the caller decides what a test does."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MSA_")}


def tiny_model(folder, case="qwen3_small"):
    """One of the published engine's tiny random checkpoints as a folder of Hugging Face files."""
    os.makedirs(folder)
    case = os.path.join(GOLDEN, case)
    os.symlink(os.path.join(case, "config.json"), os.path.join(folder, "config.json"))
    os.symlink(os.path.join(case, "model.safetensors"), os.path.join(folder, "model.safetensors"))
    os.symlink(os.path.join(GOLDEN, "tokenizers", "qwen_small.json"),
               os.path.join(folder, "tokenizer.json"))
    return folder


def reader_model(folder, **memory):
    """The tiny checkpoint as one that reads texts (router mode, two rounds), with more of msa_config in `memory`."""
    tiny_model(folder)
    path = os.path.join(folder, "config.json")
    with open(path) as file:
        config = json.load(file)
    os.remove(path)
    config["msa_config"].update({"retrieval_mode": "router", "router_rounds": 2,
                                 "reader_documents": 3, **memory})
    with open(path, "w") as file:
        json.dump(config, file)
    return folder


def ids(found):
    return [d["id"] for d in found]


def documents(count):
    """Short texts with words of their own, numbered."""
    words = ("river tower garden winter copper violin harbour engine meadow lantern orchard signal "
             "castle pepper marble falcon").split()
    return [{"id": f"doc-{i:03}", "title": f"{words[i % 16]} {i}",
             "text": " ".join(words[(i * 7 + j * (i % 5 + 1)) % 16] for j in range(8 + i % 40))
             + f". Number {i * 37}."} for i in range(count)]


class Process:
    """A server verb, ready when made; `address` is what clients call."""

    def __init__(self, arguments):
        self.log = []
        self._ready = threading.Event()
        self.address = None
        self.process = subprocess.Popen([MSA] + arguments, stderr=subprocess.PIPE, text=True,
                                        env=clean_environment())
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        with self.process.stderr:
            for line in self.process.stderr:
                self.log.append(line.rstrip("\n"))
                found = re.search(r"is serving .*address=(\S+)", line)
                if found:
                    self.address = found.group(1)
                    self._ready.set()
        self._ready.set()

    def wait_ready(self):
        if not self._ready.wait(START_TIMEOUT_S) or self.address is None:
            raise AssertionError("the server did not start:\n" + "\n".join(self.log))
        return self

    def kill(self):
        """kill -9, as a power cut would."""
        self.process.kill()
        self.process.wait()
        self._reader.join()

    def stop(self):
        """SIGTERM; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self._reader.join()
        return code


class Result:
    def __init__(self, completed):
        self.code = completed.returncode
        self.out = completed.stdout
        self.err = completed.stderr

    @property
    def lines(self):
        return [json.loads(line) for line in self.out.splitlines()]


class ServerTest(unittest.TestCase):
    maxDiff = None
    model_case = "qwen3_small"

    def setUp(self):
        self.folder = tempfile.mkdtemp(prefix="msa-test-")
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.model = tiny_model(self.path("model"), self.model_case)

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, arguments):
        process = Process(arguments)
        self.addCleanup(process.kill)
        return process

    def serve(self, data="data", extra=()):
        return self.start(["serve", "--data-dir", self.path(data), "--model", self.model,
                           "--listen", "127.0.0.1:0", "--threads", "1", *extra]).wait_ready()

    def start_cluster(self, *flags, of_router=(), of_nodes=()):
        """Three memory nodes, two compute nodes and the router that is returned; flags: of all, of_nodes: of the compute nodes."""
        # Sockets in a folder instead of ports: every address is known before anything starts.
        address = lambda name: f"unix:{self.path(name)}.sock"
        self.map = self.path("map.json")
        with open(self.map, "w", encoding="utf-8") as file:
            json.dump({"version": 1, "slots": 1024,
                       "shards": [{"name": n, "address": address(n)} for n in "abc"],
                       "compute_nodes": [{"name": n, "address": address(n)} for n in ("c0", "c1")],
                       "router": address("router")}, file)
        placed = ["--shard-map", self.map, *flags]
        common = ["--threads", "1", *placed]
        self.shards = {n: self.start(["memory-node", "--name", n, "--data-dir", self.path("data-" + n),
                                      *common]) for n in "abc"}
        nodes = [self.start(["compute-node", "--name", n, "--model", self.model, *of_nodes, *common])
                 for n in ("c0", "c1")]
        for process in [*self.shards.values(), *nodes]:
            process.wait_ready()
        self.nodes = nodes
        return self.start(["router", "--shard-timeout", "5", *of_router, *placed]).wait_ready()

    def certificate(self, name="node"):
        """Flags of a certificate for this machine, and of the one that signed it (its own)."""
        files = self.certificate_files(name, "DNS:localhost,IP:127.0.0.1")
        return [word for pair in files.items() for word in pair]

    def certificate_files(self, name, hosts):
        """A certificate's for `hosts`, by the flag that takes each."""
        files = {"--tls-cert": self.path(name + ".pem"), "--tls-key": self.path(name + ".key"),
                 "--tls-ca": self.path(name + ".pem")}
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt",
                        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=" + name,
                        "-addext", "subjectAltName=" + hosts,
                        "-keyout", files["--tls-key"], "-out", files["--tls-cert"]],
                       check=True, capture_output=True)
        return files

    def run_msa(self, arguments, server=None, stdin=None):
        environment = clean_environment()
        if server is not None:
            environment["MSA_SERVER"] = server.address
        return Result(subprocess.run([MSA] + arguments, input=stdin, capture_output=True, text=True,
                                     env=environment, timeout=CALL_TIMEOUT_S))

    def msa(self, server, *arguments, stdin=None):
        """Must succeed; gives the JSON lines."""
        result = self.run_msa([*arguments, "--json"], server, stdin)
        self.assertEqual(0, result.code, result.err + result.out)
        return result.lines

    def add(self, server, docs, *flags):
        stdin = "".join(json.dumps(d) + "\n" for d in docs)
        return self.msa(server, "add", *flags, "-", stdin=stdin)

    def retrieve(self, server, question, *flags):
        return self.msa(server, "retrieve", *flags, question)[0]["documents"]

    def ask(self, server, question, *flags):
        return self.msa(server, "ask", "--max-new-tokens", "16", *flags, question)[-1]
