"""Runs pods of rendered manifests as processes of this machine, as a kubelet would: their command lines
and environments, an address of their own at each start, volumes that stay, probes, grace periods.
Replaced are the folders of mounts and the address that is listened on: loopback has one for each pod."""
import os
import signal
import subprocess
import time

import grpc

from harness import MSA

HEALTH = "/grpc.health.v1.Health/Check"
SERVING = b"\x08\x01"
NOBODY = "127.77.255.1"  # refuses connections
PATIENCE_S = 120  # of a probe's own, which is for real models


class RunningPod:
    def __init__(self, cluster, pod, address):
        self.cluster, self.pod, self.address = cluster, pod, address
        self.folders = {m["mountPath"]: cluster.folder_of(pod, m["name"])
                        for c in [*pod.spec.get("initContainers", []), pod.container]
                        for m in c["volumeMounts"]}
        for container in pod.spec.get("initContainers", []):
            self.init = self._start(container)
        self.process = None if pod.spec.get("initContainers") else self._start(pod.container)

    def _local(self, text):
        for path, folder in self.folders.items():
            text = text.replace(path, folder)
        return text.replace("0.0.0.0:", f"{self.address}:").replace("localhost:", f"{self.address}:")

    def _environment(self, container):
        environment = {**self.pod.environment(container), **self.cluster.settings}
        return {"PATH": "/usr/bin:/bin", **{k: self._local(v) for k, v in environment.items()}}

    def _words(self, words):
        words = [self._local(word) for word in words]
        return [MSA if words[0] == "msa" else words[0], *words[1:]]

    def _start(self, container):
        self.log = self.cluster.path(f"log-{self.pod.name}-{self.address}")
        with open(self.log, "a", encoding="utf-8") as log:
            return subprocess.Popen(self._words(self.pod.command_line(container)), stderr=log,
                                    env=self._environment(container))

    def finish_init(self):
        """The init container has ended well; the pod's own starts."""
        assert self.init.wait(timeout=PATIENCE_S) == 0, self.words()
        self.process = self._start(self.pod.container)

    def words(self):
        with open(self.log, encoding="utf-8") as log:
            return f"{self.pod.name}:\n{log.read()}"

    def probe(self, name):
        probe = self.pod.container[name]
        if "exec" in probe:
            return subprocess.run(self._words(probe["exec"]["command"]), capture_output=True,
                                  timeout=probe["timeoutSeconds"] + PATIENCE_S,
                                  env=self._environment(self.pod.container)).returncode == 0
        service = probe["grpc"].get("service", "").encode()
        request = b"\x0a" + bytes([len(service)]) + service if service else b""
        target = f"{self.address}:{probe['grpc']['port']}"
        with grpc.insecure_channel(target, [("grpc.enable_http_proxy", 0)]) as channel:
            check = channel.unary_unary(HEALTH, lambda b: b, lambda b: b)
            try:
                return check(request, timeout=probe["timeoutSeconds"]) == SERVING
            except grpc.RpcError:
                return False

    def wait_ready(self):
        deadline = time.monotonic() + PATIENCE_S
        while not self.probe("startupProbe"):
            assert self.process.poll() is None, "it ended: " + self.words()
            assert time.monotonic() < deadline, "it did not start: " + self.words()
        assert self.probe("readinessProbe") and self.probe("livenessProbe"), self.words()
        return self

    def delete(self):
        """As `kubectl delete pod`: SIGTERM, and the exit code within the grace period."""
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self):
        code = self.process.wait(timeout=self.pod.grace)
        self.cluster.forget(self)
        return code

    def kill(self):
        for process in (self.process, getattr(self, "init", None)):
            if process is not None:
                process.kill()
                process.wait()


class LocalCluster:
    """Pods and their names, which stand in /etc/hosts (see surroundings.need_names)."""

    def __init__(self, manifests, folder, hosts, settings):
        """`settings`: environment variables in place of the manifests'."""
        self.manifests, self.folder, self.hosts, self.settings = manifests, folder, hosts, settings
        self.running = {}  # name → RunningPod
        self._addresses = 0
        shard_map = manifests.shard_map()
        entries = shard_map["shards"] + shard_map["compute_nodes"]
        self.names = [address.rpartition(":")[0]
                      for address in [*(e["address"] for e in entries), shard_map["router"]]]
        for config in manifests.of("ConfigMap"):
            at = self.path(config["metadata"]["name"])
            os.makedirs(at)
            for name, text in config["data"].items():
                with open(os.path.join(at, name), "w", encoding="utf-8") as file:
                    file.write(text)

    def path(self, name):
        return os.path.join(self.folder, name)

    def folder_of(self, pod, volume):
        named = {v["name"]: v[kind][key] for v in pod.spec.get("volumes", [])
                 for kind, key in (("configMap", "name"), ("secret", "secretName")) if kind in v}
        at = self.path({**named, **pod.claims()}[volume])
        os.makedirs(at, exist_ok=True)
        return at

    def start(self, pod):
        self._addresses += 1
        self.running[pod.name] = RunningPod(self, pod, f"127.77.0.{self._addresses}")
        self._write_names()
        return self.running[pod.name]

    def forget(self, running):
        del self.running[running.pod.name]
        self._write_names()

    def kill(self):
        for running in self.running.values():
            running.kill()

    def _write_names(self):
        """The map's names, and what answers there: a service is one of its pods, as long as that runs."""
        lines = ["127.0.0.1 localhost"]
        for host in self.names:
            pods = [self.running[p.name] for p in self.manifests.resolve(host)
                    if p.name in self.running]
            lines.append(f"{pods[0].address if pods else NOBODY} {host}")
        with open(self.hosts, "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")
