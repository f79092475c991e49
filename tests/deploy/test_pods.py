"""The pods of the manifests, run as processes: they find each other, answer as one `msa serve`, and come
back from deletion with another address and what they had."""
import json
import os
import shutil
import signal
import subprocess
import time
import unittest
from types import SimpleNamespace

import surroundings

if __name__ == "__main__":
    surroundings.need_kubectl()
    surroundings.need_packages()
    surroundings.need_names()

from harness import MSA, ServerTest, clean_environment, documents, tiny_model
from local_pods import LocalCluster
from manifests import Manifests

QUESTIONS = ["Which garden has a violin?", "Number 370"]
# A pod that came back is looked up anew within seconds (rpc/channel_args.cc); gRPC's own pace is 30 s.
FOUND_AGAIN_S = 20


class Pods(ServerTest):
    def start_cluster(self, kustomization):
        manifests = Manifests(kustomization)
        cluster = LocalCluster(manifests, self.path("cluster"), os.environ[surroundings.HOSTS],
                               {"MSA_MODEL": "/models/tiny"})
        self.addCleanup(cluster.kill)
        self.client = self.make_secrets(cluster) if kustomization == "overlays/secure" else []
        for pod in manifests.pods:
            cluster.start(pod)
        compute = [cluster.running[p.name] for p in manifests.pods_of("compute")]
        # Nothing of a model that is only half there: the init container waits to be told.
        models = compute[0].folders["/models"]
        tiny_model(os.path.join(models, "tiny"))
        for pod in compute:
            self.assertIsNone(pod.init.poll(), pod.words())
        with open(os.path.join(models, "ready"), "w", encoding="ascii"):
            pass
        for pod in compute:
            pod.finish_init()
        for pod in cluster.running.values():
            pod.wait_ready()
        self.service = SimpleNamespace(address=manifests.shard_map()["router"])
        return cluster

    def make_secrets(self, cluster):
        """As deploy/README.md has them made; gives a client's flags."""
        names = [*cluster.names, "localhost"]
        names = [f"DNS:{n}" for n in names] + [f"IP:127.77.0.{i}" for i in range(1, 30)]
        folders = {n: cluster.path(n) for n in ("msa-tls", "msa-client-ca", "msa-api-keys", "msa-compute-key")}
        for folder in folders.values():
            os.makedirs(folder)
        nodes, mine = self.certificate_files("msa", ",".join(names)), self.certificate_files("me", "DNS:me")
        for flag, name in (("--tls-cert", "tls.crt"), ("--tls-key", "tls.key"), ("--tls-ca", "ca.crt")):
            shutil.copy(nodes[flag], os.path.join(folders["msa-tls"], name))
        with open(os.path.join(folders["msa-client-ca"], "ca.crt"), "w", encoding="ascii") as both:
            for file in (nodes["--tls-ca"], mine["--tls-ca"]):
                with open(file, encoding="ascii") as one:
                    both.write(one.read())
        keys = os.path.join(folders["msa-api-keys"], "api-keys.json")
        for name, rights, file in (("compute", ["--read", "*"], os.path.join(folders["msa-compute-key"], "key")),
                                   ("me", ["--admin", "*"], self.path("my-key"))):
            made = self.run_msa(["key", "create", "--api-keys", keys, *rights, name])
            self.assertEqual(0, made.code, made.err)
            with open(file, "w", encoding="ascii") as out:
                out.write(made.out)
        return ["--tls-ca", nodes["--tls-ca"], "--tls-cert", mine["--tls-cert"], "--tls-key", mine["--tls-key"]]

    def start_adding(self):
        """`msa add -` that waits for lines."""
        process = subprocess.Popen(
            [MSA, "add", "--json", "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
            env={**clean_environment(), "MSA_SERVER": self.service.address})
        self.addCleanup(process.kill)
        return process

    def answers(self, server):
        found = []
        for question in QUESTIONS:
            answer = self.ask(server, question)
            found.append((self.retrieve(server, question, "--limit", "30"), answer["answer"],
                          answer["documents"]))
        return found

    def found_again(self):
        """Waits until a question is answered."""
        started = time.monotonic()
        while self.run_msa(["ask", "--max-new-tokens", "1", QUESTIONS[0]], self.service).code == 4:
            self.assertLess(time.monotonic() - started, FOUND_AGAIN_S)

    def again(self, cluster, name):
        """Deletes a pod and starts it as its owner would: same name and volumes, another address."""
        pod = cluster.running[name].pod
        self.assertEqual(0, cluster.running[name].delete())
        if pod.labels["app.kubernetes.io/component"] == "memory":
            refused = self.run_msa(["ask", "--timeout", "20", QUESTIONS[0]], self.service)
            self.assertEqual(4, refused.code, refused.err)
            self.assertIn(f"shard '{name}'", refused.err)
        running = cluster.start(pod)
        if running.process is None:
            running.finish_init()
        running.wait_ready()
        self.found_again()

    def test_a_cluster_answers_as_one_process_and_outlives_its_pods(self):
        cluster = self.start_cluster("base")
        alone = self.serve()
        docs = documents(30)
        self.assertEqual(self.add(alone, docs), self.add(self.service, docs))
        shards = self.msa(self.service, "stats")[0]["shards"]
        self.assertEqual(2, len(shards))
        self.assertTrue(all(s["documents"] for s in shards), shards)
        expected = self.answers(alone)
        self.assertEqual(expected, self.answers(self.service))
        for name in ("msa-memory-1", "msa-memory-0", "msa-compute-0", "msa-router-0"):
            with self.subTest(name):
                self.again(cluster, name)
                self.assertEqual(expected, self.answers(self.service))
        self.add(alone, [{"id": "doc-007", "text": "a violin in the garden"}])
        self.add(self.service, [{"id": "doc-007", "text": "a violin in the garden"}])
        self.assertEqual(self.answers(alone), self.answers(self.service))

    def test_a_pod_that_drains_is_not_ready_and_lets_a_running_add_finish(self):
        cluster = self.start_cluster("overlays/small")
        router = cluster.running["msa-router-0"]
        adding = self.start_adding()
        first, second = documents(2)
        adding.stdin.write(json.dumps(first) + "\n")
        adding.stdin.flush()
        self.assertIn(first["id"], adding.stdout.readline())  # the call runs
        router.process.terminate()
        deadline = time.monotonic() + router.pod.grace
        while router.probe("readinessProbe"):
            self.assertLess(time.monotonic(), deadline)
        self.assertIsNone(router.process.poll())
        out, err = adding.communicate(json.dumps(second) + "\n", timeout=router.pod.grace)
        self.assertEqual(0, adding.returncode, err)
        self.assertIn(second["id"], out)
        self.assertEqual(0, router.ended())
        cluster.start(router.pod).wait_ready()
        self.assertEqual(2, len(self.msa(self.service, "ls")))

    def test_a_secure_cluster_answers_those_with_a_certificate_and_a_key(self):
        cluster = self.start_cluster("overlays/secure")
        key = ["--api-key-file", self.path("my-key")]
        docs = documents(6)
        self.add(self.service, docs, *self.client, *key)
        self.ask(self.service, QUESTIONS[0], *self.client, *key)
        found = self.retrieve(self.service, QUESTIONS[0], *self.client, *key)
        self.assertEqual({d["id"] for d in docs}, {d["id"] for d in found})
        refused = self.run_msa(["ls", *self.client], self.service)
        self.assertEqual(1, refused.code, refused.err)
        self.assertIn("UNAUTHENTICATED", refused.err)
        for flags in (self.client[:2], []):     # no certificate; plain text
            strange = self.run_msa(["ls", "--timeout", "5", *flags], self.service)
            self.assertEqual(4, strange.code, strange.err)
        # Nor does a client's certificate open a memory or compute node, which ask for no key.
        for name, port in (("msa-memory-0", 7071), ("msa-compute-0", 7072)):
            node = f"{cluster.running[name].address}:{port}"
            self.assertEqual(4, self.run_msa(["health", "--server", node, *self.client]).code, name)
        router = cluster.running["msa-router-0"]
        self.assertEqual(0, self.run_msa(["health", "--server", f"{router.address}:7070", *self.client]).code)
        router.process.send_signal(signal.SIGSTOP)  # a probe gives up on who hangs
        self.assertFalse(router.probe("livenessProbe"))
        router.process.send_signal(signal.SIGCONT)
        self.assertTrue(router.probe("livenessProbe"))


if __name__ == "__main__":
    unittest.main()
