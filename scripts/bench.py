#!/usr/bin/env python3
"""Runs every benchmark and writes one dated JSON.

usage: bench.py --bin build/release/benchmarks --out benchmarks/results [--only NAME] [--limit SECONDS]

A benchmark is an executable called *_bench in --bin, or a script benchmarks/*_bench.py, which is given
--bin and takes the place of an executable of its name. It prints JSON (one value, or one a line) on
standard output and may write for people on standard error. The result holds the machine, its load, the
commit, and each benchmark's command beside what it printed, so that a number can be made again. One that
runs longer than --limit is ended, with all that it started, and the others go on.
"""
import argparse
import datetime
import glob
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time

SCRIPTS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "benchmarks")


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


def benchmarks(folder, only):
    """{name: command}, by name."""
    commands = {name: [os.path.join(folder, name)] for name in os.listdir(folder)
                if name.endswith("_bench")}
    for path in glob.glob(os.path.join(SCRIPTS, "*_bench.py")):
        name = os.path.basename(path).removesuffix(".py")
        commands[name] = [sys.executable, os.path.relpath(path), "--bin", folder]
    return {name: commands[name] for name in sorted(commands) if only in name}


def run(name, command, limit_seconds):
    print(f"== {name}", flush=True)
    load = os.getloadavg()[0]
    started = time.monotonic()
    # A session of its own: servers that a script started end with it.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    late = False
    try:
        output = process.communicate(timeout=limit_seconds)[0]
    except subprocess.TimeoutExpired:
        late = True
        os.killpg(process.pid, signal.SIGKILL)
        output = process.communicate()[0]
        print(f"{name} did not end within {limit_seconds} s: is the machine busy?", file=sys.stderr)
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    print(output, flush=True)
    shown = ["python3", *command[1:]] if command[0] == sys.executable else command
    return {"program": name, "command": " ".join(shown), "exit_code": process.returncode,
            "load_before": round(load, 2), "seconds": round(time.monotonic() - started, 1),
            "ended_by_limit": late, "results": parse(output)}


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--only", default="", help="run those whose name holds this")
    parser.add_argument("--limit", type=int, default=600, help="seconds one may run")
    options = parser.parse_args()
    commands = benchmarks(options.bin, options.only)
    if not commands:
        sys.exit(f"no benchmark is called *{options.only}*_bench in {options.bin}: build first")
    if os.getloadavg()[0] > 0.5:
        print(f"warning: the load is {os.getloadavg()[0]:.1f}: other programs run, and ratios to peers "
              "whose idle threads spin mean nothing", file=sys.stderr)
    now = datetime.datetime.now(datetime.timezone.utc)
    report = {"date": now.isoformat(timespec="seconds"), "command": "make bench",
              "machine": machine(), "commit": commit(), "runs": []}
    os.makedirs(options.out, exist_ok=True)
    path = os.path.join(options.out, now.strftime("%Y-%m-%dT%H%M%SZ") + ".json")
    for name, command in commands.items():
        report["runs"].append(run(name, command, options.limit))
        with open(path, "w", encoding="utf-8") as file:  # after each: an end by hand keeps the others
            json.dump(report, file, indent=1)
            file.write("\n")
    print(f"written: {path}")
    sys.exit(max(abs(r["exit_code"]) for r in report["runs"]) and 1)


if __name__ == "__main__":
    main()
