#!/usr/bin/env python3
"""Runs every benchmark program of a folder and writes one dated JSON.

usage: bench.py --bin build/release/benchmarks --out benchmarks/results [--only NAME]

A benchmark is an executable called *_bench that prints JSON (one value, or one a line) on standard
output and may write for people on standard error. The result holds the machine, the commit, and
each program's command beside what it printed, so that a number can be made again.
"""
import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time


def machine():
    info = {"system": platform.platform(), "cores": os.cpu_count()}
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        text = file.read()
    model = re.search(r"model name\s*:\s*(.+)", text)
    flags = re.search(r"flags\s*:\s*(.+)", text)
    info["cpu"] = model.group(1) if model else platform.machine()
    if flags:
        wanted = ("sse4_2", "avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
        info["cpu_flags"] = [f for f in wanted if f in flags.group(1).split()]
    with open("/proc/meminfo", encoding="utf-8") as file:
        total = re.search(r"MemTotal:\s*(\d+) kB", file.read())
    info["memory_gb"] = round(int(total.group(1)) / 1e6, 1)
    return info


def commit():
    def git(*arguments):
        done = subprocess.run(["git", *arguments], capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""
    return {"id": git("rev-parse", "HEAD") or "unknown", "clean": git("status", "--short") == ""}


def parse(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    values = []
    for line in text.splitlines():
        try:
            values.append(json.loads(line))
        except json.JSONDecodeError:
            values.append({"text": line})
    return values


def run(program):
    print(f"== {os.path.basename(program)}", flush=True)
    started = time.monotonic()
    done = subprocess.run([program], stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    return {"program": os.path.basename(program), "command": program, "exit_code": done.returncode,
            "seconds": round(time.monotonic() - started, 1), "results": parse(done.stdout)}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="", help="run programs whose name holds this")
    options = parser.parse_args()
    programs = sorted(os.path.join(options.bin, name) for name in os.listdir(options.bin)
                      if name.endswith("_bench") and options.only in name)
    if not programs:
        sys.exit(f"no *_bench program in {options.bin}: build first")
    now = datetime.datetime.now(datetime.timezone.utc)
    report = {"date": now.isoformat(timespec="seconds"), "command": "make bench",
              "machine": machine(), "commit": commit(), "runs": [run(p) for p in programs]}
    os.makedirs(options.out, exist_ok=True)
    path = os.path.join(options.out, now.strftime("%Y-%m-%dT%H%M%SZ") + ".json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    print(f"written: {path}")
    sys.exit(max(abs(r["exit_code"]) for r in report["runs"]) and 1)


if __name__ == "__main__":
    main()
