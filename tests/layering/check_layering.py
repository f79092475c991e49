#!/usr/bin/env python3
"""Checks what the compiler does not: who may include whom, folder READMEs, sizes, stray paths.

usage: check_layering.py ROOT    prints a line a violation, exit code 1 when there is one
"""
import os
import re
import subprocess
import sys

SOURCE = (".cc", ".h", ".cu", ".cuh")
INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)

# The folders of the product, and the folders each may use.
ALLOWED = {
    "common": {"common"},
    "auth": {"auth", "common"},
    "kernels": {"kernels", "common"},
    "rpc": {"rpc", "auth", "common"},
    "monitoring": {"monitoring", "rpc", "common"},
    "memory_node": {"memory_node", "kernels", "rpc", "common"},
    "router": {"router", "rpc", "common"},
    "compute_node": {"compute_node", "kernels", "rpc", "common"},
    "cli": {"cli", "monitoring", "compute_node", "router", "memory_node", "kernels", "rpc", "auth", "common"},
}
WIRE = re.compile(r"^(grpc|grpcpp|google/protobuf)/|\.pb\.h$")
CUDA = re.compile(r"^(cuda|cublas|cub/|nccl)")
MAX_LINES = {".h": 200, ".cuh": 500, ".cc": 500, ".cu": 500}
README_LINES = 40
# Written in pieces, so that this file does not find itself.
MACHINE_PATHS = re.compile("/" + "(work|farm|root|home/[a-z]+)/" + "[A-Za-z]|/tmp/" + "bash_jobs")
LEFT_OVER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def tracked_files(root):
    """Paths relative to root: git's when it is a repository, else all but build folders."""
    git = subprocess.run(["git", "-C", root, "ls-files", "-z"], capture_output=True)
    if git.returncode == 0 and git.stdout:
        names = [n for n in git.stdout.decode().split("\0") if n]
        return [n for n in names if os.path.isfile(os.path.join(root, n))]
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [f for f in folders if f not in ("build", ".git", ".venv", "models")]
        found += [os.path.relpath(os.path.join(folder, f), root) for f in files]
    return found


def read(root, name):
    with open(os.path.join(root, name), encoding="utf-8", errors="replace") as file:
        return file.read()


class Checker:
    def __init__(self, root):
        self.root = root
        self.files = sorted(tracked_files(root))
        self.sources = {n: read(root, n) for n in self.files if n.endswith(SOURCE)}
        self.includes = {n: INCLUDE.findall(text) for n, text in self.sources.items()}
        self.violations = []

    def report(self, name, text):
        self.violations.append(f"{name}: {text}")

    def check_folders(self):
        for name, included in self.includes.items():
            folder = name.split("/")[0]
            for header in included:
                other = header.split("/")[0]
                if folder in ALLOWED and other in ALLOWED and other not in ALLOWED[folder]:
                    self.report(name, f"{folder}/ must not include {header}")

    def check_one_user(self):
        for library in ("rocksdb/", "prometheus/", "httplib.h", "spdlog/"):
            users = [n for n, included in self.includes.items()
                     if any(h.startswith(library) for h in included)
                     and n.split("/")[0] not in ("tests", "benchmarks")]
            for name in users:
                if name.endswith(".h"):
                    self.report(name, f"a header must not include {library} headers")
            if len(users) > 1:
                self.report(users[1], f"only one file may include {library} headers: {', '.join(users)}")

    def wire_headers(self):
        """Our own headers that bring gRPC or protobuf with them, directly or not."""
        found = set()
        while True:
            more = {n for n, included in self.includes.items() if n.endswith(".h")
                    and any(WIRE.search(h) or h in found for h in included)}
            if more <= found:
                return found
            found |= more

    def check_wire(self):
        bring = self.wire_headers()
        for name, included in self.includes.items():
            if name.startswith(("rpc/", "tests/", "benchmarks/", "clients/")):     # clients: programs of users
                continue
            for header in included:
                if WIRE.search(header):
                    self.report(name, f"gRPC and protobuf stay in rpc/: {header}")
                elif header in bring:
                    self.report(name, f"{header} brings gRPC with it: it stays in rpc/")

    def check_cuda(self):
        for name, included in self.includes.items():
            if name.startswith(("kernels/cuda/", "tests/gpu/", "benchmarks/cuda/")):
                continue
            for header in included:
                if CUDA.search(header):
                    self.report(name, f"CUDA headers stay in kernels/cuda/: {header}")

    def check_router_links(self):
        for name in self.files:
            if not re.match(r"(router|rpc|common)/.*CMakeLists.txt$|(router|rpc|common)/CMake", name):
                continue
            for word in ("RocksDB", "rocksdb", "CUDA", "msa_memory_node", "msa_kernels"):
                if word in read(self.root, name):
                    self.report(name, f"the router must not link {word}")

    def check_readmes(self):
        folders = {os.path.dirname(n) for n in self.files
                   if n.endswith(SOURCE + (".py", ".proto", ".sh"))}
        for folder in sorted(folders - {""}):
            if folder.startswith("."):
                continue
            readme = f"{folder}/README.md"
            if readme not in self.files:
                self.report(folder, "has code and no README.md")
            elif read(self.root, readme).count("\n") > README_LINES:
                self.report(readme, f"is over {README_LINES} lines")

    def check_sizes(self):
        for name, text in self.sources.items():
            # Highway's -inl.h are compiled once a target: sources in all but name.
            limit = MAX_LINES[".cc" if name.endswith("-inl.h") else os.path.splitext(name)[1]]
            if text.count("\n") > limit:
                self.report(name, f"is over {limit} lines: split it by what its parts are for")

    def check_texts(self):
        for name in self.files:
            if name.startswith(("tests/golden/", "examples/", ".ci/")) or name.endswith(".json"):
                continue
            for number, line in enumerate(read(self.root, name).splitlines(), 1):
                if MACHINE_PATHS.search(line):
                    self.report(f"{name}:{number}", "names a path of one machine")
                if name.endswith(SOURCE + (".py", ".proto")) and LEFT_OVER.search(line):
                    self.report(f"{name}:{number}", "leaves something for later")

    def run(self):
        for check in (self.check_folders, self.check_one_user, self.check_wire, self.check_cuda,
                      self.check_router_links, self.check_readmes, self.check_sizes,
                      self.check_texts):
            check()
        return self.violations


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    violations = Checker(sys.argv[1]).run()
    print("\n".join(violations) if violations else "the layers hold")
    sys.exit(1 if violations else 0)
