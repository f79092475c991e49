"""Loss and accuracy curves of a run as a picture: `python -m training.plot curve.jsonl curve.png`."""
from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402  (the backend is chosen first)

from training import tool  # noqa: E402
from training.corpus import read_lines  # noqa: E402

PANELS = (("routing loss", "aux_"), ("in-batch accuracy of the best document", "top1_"), ("loss", ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("curve", type=Path, help="curve.jsonl of a run")
    parser.add_argument("picture", help="to write, .png or .svg")
    args = parser.parse_args()
    lines = read_lines(args.curve, ("stage", "step"))
    if not lines:
        raise ValueError(f"{args.curve}: holds no line; a run writes one every log_every steps")
    start, places, marks, stage = 0, [], [], None
    for line in lines:
        if line["stage"] != stage:
            start, stage = (places[-1] if places else 0), line["stage"]
            marks.append((start, stage))
        places.append(start + line["step"])
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(15, 4))
    for axis, (title, prefix) in zip(axes, PANELS):
        names = sorted({k for line in lines for k in line if (f".{prefix}" in k if prefix else k in ("loss", "reading"))})
        for name in names:
            points = [(p, line[name]) for p, line in zip(places, lines) if name in line]
            axis.plot(*zip(*points), label=name, linewidth=1)
        for place, stage in marks:
            axis.axvline(place, color="grey", linewidth=0.5)
            axis.text(place, axis.get_ylim()[1], f" {stage}", va="top", fontsize=8)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(args.picture, dpi=90)


if __name__ == "__main__":
    tool.run(main)
