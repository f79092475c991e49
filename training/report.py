"""Tables and pictures from what the evaluation wrote: `python -m training.report FOLDER [--pictures docs/quality]`.

FOLDER holds eval-*.json and eval-*.raw.json of evaluate.py (eval-seed-*: further seeds), scale.json, pooled.json, reference.json,
ablate.json; what is missing is left out. Prints Markdown tables; draws refusing against answering, the scale curve and pooled content.
"""
from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)

from training import tool  # noqa: E402
from training.evaluate import CUTS, at_bias  # noqa: E402
from training.files import read_json  # noqa: E402

SETS = {"squad": "SQuAD", "2wiki": "2Wiki", "hotpot": "Hotpot", "strategy": "StrategyQA"}
STUDIES = ("scale.json", "pooled.json", "reference.json", "ablate.json")
RANKINGS = ("one_round", "two_rounds", "two_rounds_rule", "bm25", "minilm")


def load(folder: Path, name: str) -> dict:
    path = folder / name
    return read_json(path) if path.exists() else {}


def table(head: list, rows: list[list]) -> None:
    print("| " + " | ".join(map(str, head)) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print()


def merged(folder: Path, pattern: str, suffix: str = ".json") -> dict:
    out = {}
    for path in sorted(folder.glob(pattern)):
        if not path.name.startswith("eval-seed-") and path.name.endswith(".raw.json") == (suffix == ".raw.json"):
            out |= read_json(path)
    return out


def whole(folder: Path) -> dict:
    """Of every set; thresholds and device are those of SQuAD's run."""
    if not any(folder.glob("eval-*.json")) and not any((folder / name).exists() for name in STUDIES):
        raise ValueError(f"{folder}: holds neither eval-*.json nor {', '.join(STUDIES)}; give the folder that evaluate.py wrote to")
    return merged(folder, "eval-*.json") | merged(folder, "eval-squad*.json")


def retrieval(report: dict) -> None:
    rows = []
    for name, label in SETS.items():
        for way in RANKINGS:
            r = report.get(name, {}).get(way)
            if r:
                rows.append([label, way] + [f"{r[f'recall@{k}']} / {r[f'all@{k}']}" for k in CUTS])
    table(["set", "", *(f"@{k}" for k in CUTS)], rows)


def reading(report: dict) -> None:
    ways = list(dict.fromkeys(w for s in SETS for w in report.get(s, {}).get("reading", {})))
    show = lambda r: "–" if r is None else f"{r['em']} / {r['f1']}, {r['refused']}" if "em" in r else f"refused {r['refused']}"
    present = [s for s in SETS if "reading" in report.get(s, {})]
    table(["read", *(SETS[s] for s in present)], [[w, *(show(report[s]["reading"].get(w)) for s in present)] for w in ways])


def seeds(folder: Path) -> None:
    """Mean and standard deviation over the seeds of every figure that all have."""
    runs = [read_json(p) for p in sorted(folder.glob("eval-seed-*.json")) if not p.name.endswith(".raw.json")]
    rows = []
    for name, label in SETS.items():
        for kind in (*RANKINGS, "reading"):
            parts = [r[name][kind] for r in runs if kind in r.get(name, {})]
            if len(parts) < max(2, len(runs)) or kind in ("bm25", "minilm"):
                continue
            flat = [{f"{w} {k}": v for w, some in p.items() for k, v in some.items()} if kind == "reading" else p for p in parts]
            for key in flat[0]:
                if key.split()[-1] not in ("questions", "added") and all(key in f for f in flat):
                    values = [f[key] for f in flat]
                    rows.append([label, kind, key, f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}",
                                 ", ".join(map(str, values))])
    table(["set", "", "figure", "mean ± standard deviation", f"the {len(runs)} seeds"], rows)


def operating_points(raw: dict, chosen: float, picture: Path | None) -> None:
    squad = raw.get("squad", {})
    if not {"gold", "unanswerable_own"} <= set(squad):
        return
    ways = [w for w in ("gold", "retrieved_3", "unanswerable_own", "unanswerable_3", "gold_removed_3") if w in squad]
    rows = []
    for bias in sorted({-4.0, -3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, chosen}):
        at = {w: at_bias(squad[w], bias) for w in ways}
        rows.append([f"**{bias}**" if bias == chosen else bias] +
                    [at[w]["refused"] if w not in ("gold", "retrieved_3") else f"{at[w]['em']} / {at[w]['f1']}, {at[w]['refused']}" for w in ways])
    table(["refusal_bias", *ways], rows)
    if picture:
        figure, axis = pyplot.subplots(figsize=(6, 4))
        steps = [x / 10 for x in range(-80, 81)]
        for way in ways[2:]:
            axis.plot([at_bias(squad["gold"], b)["refused"] for b in steps], [at_bias(squad[way], b)["refused"] for b in steps], label=way)
        point = at_bias(squad["gold"], chosen)["refused"]
        axis.axvline(point, color="grey", linewidth=0.8)
        axis.plot([10], [70], "x", color="black", label="aim")
        axis.set(xlabel="answerable refused over their own paragraph, %", ylabel="unanswerable refused, %", xlim=(0, 50), ylim=(0, 100))
        axis.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(picture / "refusing.png", dpi=90)


def scale(report: dict, picture: Path | None) -> None:
    sizes = [k for k in report if k.isdigit()]
    if not sizes:
        return
    rows = []
    for size in sizes:
        r, read = report[size]["one_round"], report[size].get("reading", {}).get("retrieved_3", {})
        rows.append([f"{report[size]['tokens']:,}", f"{report[size]['documents']:,}", *(r[f"recall@{k}"] for k in CUTS[:3]),
                     f"{read.get('em')} / {read.get('f1')}, {read.get('refused')}"])
    table(["tokens", "documents", *(f"recall@{k}" for k in CUTS[:3]), "best 3 read, EM / F1, refused"], rows)
    if picture:
        figure, axis = pyplot.subplots(figsize=(6, 4))
        tokens = [report[s]["tokens"] for s in sizes]
        for k in CUTS[:3]:
            axis.semilogx(tokens, [report[s]["one_round"][f"recall@{k}"] for s in sizes], marker="o", label=f"recall@{k}")
        axis.semilogx(tokens, [report[s]["reading"]["retrieved_3"]["f1"] for s in sizes], marker="s", label="F1, best 3 read")
        axis.set(xlabel="tokens in memory", ylabel="%", ylim=(0, 100))
        axis.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(picture / "scale.png", dpi=90)


def pooled(report: dict, layers: int, width: int, picture: Path | None) -> None:
    chunks = sorted((k for k in report if k.isdigit()), key=int)
    if not chunks:
        return
    names = [n for n in ("nothing", "routed", "gold", "text", "router_recall@1", "closed_routed", "closed_gold")
             if n in report[chunks[0]]["after"]]
    show = lambda v: f"{v['loss']}, {v['exact']} %" if isinstance(v, dict) else v
    bytes_of = lambda c: round(2 * 2 * width * layers / int(c))
    table(["content chunk", "K,V bytes a token (bf16)", "", *names],
          [[c, bytes_of(c), when, *(show(report[c][when][n]) for n in names)] for c in chunks for when in ("before", "after")])
    if picture and "text" in report[chunks[0]]["after"]:
        figure, axis = pyplot.subplots(figsize=(6, 4))
        for name in ("nothing", "routed", "gold", "text"):
            axis.semilogx([bytes_of(c) for c in chunks], [report[c]["after"][name]["loss"] for c in chunks], marker="o", label=name)
        axis.set(xlabel="K,V bytes a token", ylabel="loss of the answer, nats a token")
        axis.legend(fontsize=8)
        figure.tight_layout()
        figure.savefig(picture / "pooled.png", dpi=90)


def ablations(report: dict) -> None:
    if report:
        keys = list(report["as trained"])
        show = lambda r: " / ".join(str(r[f"recall@{k}"]) for k in CUTS[:3]) if r else "–"
        sets = [k for k in keys if "," not in k]
        rows = [[name, *(show(r.get(s)) for s in sets)] for name, r in report.items()]
        rows += [[k.split(", ")[1], *(show(report["as trained"].get(f"{s}, {k.split(', ')[1]}")) for s in sets)]
                 for k in keys if k.startswith(sets[0] + ",")]
        table(["recall@1 / 5 / 16", *sets], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--layers", type=int, default=8, help="that store K and V")
    parser.add_argument("--width", type=int, default=192, help="Hkv * D")
    args = parser.parse_args()
    report = whole(args.folder)
    raw = merged(args.folder, "eval-squad*.json", ".raw.json")
    print(json.dumps(report.get("calibration", {})), "\n")
    retrieval(report)
    reading(report)
    seeds(args.folder)
    operating_points(raw, report.get("calibration", {}).get("refusal_bias", 0.0), args.pictures)
    scale(load(args.folder, "scale.json"), args.pictures)
    pooled(load(args.folder, "pooled.json"), args.layers, args.width, args.pictures)
    pooled(load(args.folder, "reference.json"), args.layers, args.width, None)
    ablations(load(args.folder, "ablate.json"))


if __name__ == "__main__":
    tool.run(main)
