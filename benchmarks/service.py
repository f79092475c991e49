"""What the benchmarks of the whole service share: a server of its own in a temporary folder, real text
to fill it with, questions. Not a benchmark."""
import json
import os
import shutil
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FACTBOOK = os.path.join(ROOT, "examples", "factbook", "documents.jsonl")
WIKI = "wiki/wiki_good_sample-00.jsonl.zst"

# Of the factbook's first 10,000 tokens; what is asked does not matter, how long it is does a little.
QUESTIONS = (
    "How many airports are there in Angola?",
    "What is the railway gauge of Djibouti?",
    "How many telephone lines does Ghana have?",
    "Which terrorist groups are active in Benin?",
    "How many refugees are in Chad?",
    "What is the civil aircraft registration country code prefix of Kenya?",
    "What share of the people of the Central African Republic have electricity?",
    "How many merchant ships does Algeria have?",
)


def clean_environment():
    """No MSA_… of the caller decides what is measured."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MSA_")}


class Processes:
    """Server verbs of `msa`, ended with the `with` block; `folder` is theirs."""

    def __init__(self, msa):
        self.msa_path = msa
        self.processes = []

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="msa-bench-")
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def start(self, name, *arguments):
        """Gives the address; the server listens when this returns."""
        port_file = self.path(name + ".port")
        with open(self.path(name + ".log"), "w", encoding="utf-8") as log:
            process = subprocess.Popen([self.msa_path, *arguments, "--port-file", port_file],
                                       stderr=log, env=clean_environment())
        self.processes.append(process)
        deadline = time.monotonic() + 300
        while not os.path.exists(port_file):
            if process.poll() is not None or time.monotonic() > deadline:
                with open(self.path(name + ".log"), encoding="utf-8") as log:
                    raise SystemExit(f"{name} did not start:\n{log.read()}")
            time.sleep(0.05)
        with open(port_file, encoding="utf-8") as file:
            return f"127.0.0.1:{int(file.read())}"

    def msa(self, address, *arguments, stdin=None):
        """A client verb with --json; gives the objects it printed. On a machine so busy that a connection
        takes more than gRPC waits (exit code 4), it is tried again."""
        for _ in range(3):
            done = subprocess.run([self.msa_path, *arguments, "--json", "--server", address],
                                  input=stdin, capture_output=True, text=True,
                                  env=clean_environment())
            if done.returncode != 4:
                break
        if done.returncode != 0:
            raise SystemExit(f"msa {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        # Not splitlines: texts may hold Unicode's line separators.
        return [json.loads(line) for line in done.stdout.split("\n") if line]

    def fill(self, address, bank, documents, tokens, held=0):
        """Adds documents to a bank of `held` tokens, made here when that is 0, until it holds so many; gives
        how many it holds."""
        if held == 0:
            self.msa(address, "bank", "create", bank)
        while held < tokens:
            some = []
            room = tokens - held
            while room > 0:
                some.append(next(documents))
                room -= max(1, len(some[-1]["text"]) // 4)
            lines = "".join(json.dumps(d) + "\n" for d in some)
            held += sum(line["tokens"] for line in
                        self.msa(address, "add", "--bank", bank, "-", stdin=lines))
        return held

    def questions_file(self, questions=QUESTIONS):
        path = self.path("questions.jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for i, question in enumerate(questions):
                file.write(json.dumps({"id": f"q{i}", "question": question, "answers": []}) + "\n")
        return path


def read_lines(path):
    if path.endswith(".zst"):
        stream = subprocess.Popen(["zstd", "-dcq", path], stdout=subprocess.PIPE)
        with stream.stdout as lines:
            yield from (json.loads(line) for line in lines)
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def real_text(corpora):
    """The factbook, then Wikipedia articles of `corpora` (a folder or None), else the factbook again under
    other ids; without end. The second value says which."""
    wiki = os.path.join(corpora, WIKI) if corpora else ""
    has_wiki = os.path.exists(wiki)

    def documents():
        yield from read_lines(FACTBOOK)
        if has_wiki:
            for article in read_lines(wiki):
                yield {"id": f"wiki/{article['id']}", "title": article["title"],
                       "text": article["text"]}
        for again in range(1, 1000):
            for document in read_lines(FACTBOOK):
                yield {**document, "id": f"{document['id']}#{again}"}

    return documents(), "factbook, Wikipedia" if has_wiki else "factbook, repeated"
