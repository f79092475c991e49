"""Reading the question sets and articles, and the split rules that keep evaluation apart from training."""
from __future__ import annotations

import json
import lzma
import re
import subprocess
from pathlib import Path

from training.files import replace_file

HELD_OUT_ARTICLES = 8       # the last articles of SQuAD dev: evaluation only
SHINGLE_WORDS = 12          # a training passage may not share this many words in a row with an evaluation gold
NON_COMMERCIAL = ("scifact",)


def read_zst(path: Path) -> list[dict]:
    """JSON lines; split on newlines only (other Unicode separators occur inside the texts)."""
    path.open("rb").close()     # why it cannot be opened, said better
    try:
        done = subprocess.run(["zstd", "-dc", str(path)], capture_output=True, check=True)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: the program zstd is not here to read it; apt-get install zstd") from error
    except subprocess.CalledProcessError as error:
        raise ValueError(f"{path}: cannot be read ({error.stderr.decode().strip()}); copy it again") from error
    return parse_lines(done.stdout.decode(), str(path), ())


def read_xz(path: Path, fields: tuple[str, ...] = ()) -> list[dict]:
    """Objects that all have `fields`; a file that does not is refused with the line it goes wrong in."""
    try:
        with lzma.open(path, "rt", encoding="utf-8", newline="\n") as file:
            return parse_lines(file.read(), str(path), fields)
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error


def read_lines(path: Path, fields: tuple[str, ...] = ()) -> list[dict]:
    return parse_lines(path.read_text(encoding="utf-8"), str(path), fields)


def read_parts(folder: Path, pattern: str, fields: tuple[str, ...] = ()) -> list[dict]:
    """The lines of all files of a folder whose name fits, in the names' order."""
    return [record for path in sorted(folder.glob(pattern)) for record in read_lines(path, fields)]


def parse_lines(text: str, name: str, fields: tuple[str, ...]) -> list[dict]:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} line {number}: not JSON ({error.msg})") from error
        missing = [f for f in fields if f not in records[-1]] if isinstance(records[-1], dict) else list(fields)
        if missing:
            raise ValueError(f"{name} line {number}: no field {', '.join(repr(f) for f in missing)}")
    return records


def write_whole(path: Path, records: list[dict]) -> None:
    """JSON lines under a temporary name, then renamed: who waits for the file finds it whole."""
    replace_file(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())


def calibration_articles(docs: list[dict], count: int) -> set[str]:
    """The last of the training articles of SQuAD, kept back to choose thresholds on; docs of the bundle."""
    return set(sorted({d["g"] for d in docs if d["s"] == "squad"})[-count:]) if count else set()


def write_xz(path: Path, records: list[dict]) -> None:
    text = "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in records)
    path.write_bytes(lzma.compress(text.encode(), preset=6))


def normal(title: str) -> str:
    """A title without its parenthesis, case and punctuation, for overlap checks."""
    return re.sub(r"\W+", " ", re.sub(r"\s*\([^)]*\)", "", title).lower()).strip()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def shingles(text: str) -> set[int]:
    w = words(text)
    return {hash(tuple(w[i:i + SHINGLE_WORDS])) for i in range(len(w) - SHINGLE_WORDS + 1)}


class Sets:
    """The evaluation sets: corpora and questions, never trained on."""

    def __init__(self, root: Path):
        qa = root / "qa"
        squad = read_zst(qa / "squad_dev/corpus.jsonl.zst")
        articles = list(dict.fromkeys(d["title"] for d in squad))
        self.held_out = set(articles[-HELD_OUT_ARTICLES:])
        held_ids = {d["id"] for d in squad if d["title"] in self.held_out}
        self.squad_corpus = squad
        asked = read_zst(qa / "squad_dev/questions.jsonl.zst")
        refused = read_zst(qa / "squad_dev/questions_unanswerable_v2.jsonl.zst")
        split = lambda qs, held: [q for q in qs if (q["supporting_titles_or_ids"][0] in held_ids) == held]
        self.squad_eval, self.squad_train = split(asked, True), split(asked, False)
        self.refused_eval, self.refused_train = split(refused, True), split(refused, False)
        self.two_corpus = read_zst(qa / "2wiki_ctx/corpus.jsonl.zst")
        self.two_eval = read_zst(qa / "2wiki_ctx/questions_dev.jsonl.zst")
        self.hotpot_corpus = read_zst(qa / "hotpotqa/corpus.jsonl.zst")
        self.hotpot_eval = read_zst(qa / "hotpotqa/questions_covered.jsonl.zst")
        self.strategy_corpus = read_zst(qa / "strategyqa/corpus.jsonl.zst")
        known = {d["id"] for d in self.strategy_corpus}
        self.strategy_eval = [q for q in read_zst(qa / "strategyqa/questions.jsonl.zst")
                              if q["supporting_titles_or_ids"] and set(q["supporting_titles_or_ids"]) <= known]

    def evaluation_golds(self) -> list[dict]:
        """Every document that an evaluation question is judged on."""
        wanted = {i for qs in (self.squad_eval, self.two_eval, self.hotpot_eval)
                  for q in qs for i in q["supporting_titles_or_ids"]}
        wanted |= {d["id"] for d in self.squad_corpus if d["title"] in self.held_out}
        return [d for c in (self.squad_corpus, self.two_corpus, self.hotpot_corpus) for d in c if d["id"] in wanted]
