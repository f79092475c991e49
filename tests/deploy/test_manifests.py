"""The manifests fit Kubernetes' schema, the shard map, the image and the programs' flags."""
import os
import re
import subprocess
import unittest

import surroundings

if __name__ == "__main__":
    surroundings.need_kubectl()
    surroundings.need_packages()

import kubernetes_validate

from manifests import Manifests, dockerfile, quantity, selects

MSA = os.environ["MSA_BIN"]
OLDEST = "1.27"  # gRPC probes are in every cluster since then


def split(address):
    host, _, port = address.rpartition(":")
    return host, int(port)


class Checks:
    """Of one kustomization; what follows runs them for each."""
    kustomization = None

    @classmethod
    def setUpClass(cls):
        cls.manifests = Manifests(cls.kustomization)

    def test_fits_the_schema(self):
        for manifest in self.manifests.objects:
            for version in (OLDEST, kubernetes_validate.latest_version()):
                kubernetes_validate.validate(manifest, version, strict=True)

    def test_the_map_names_the_pods_and_each_name_leads_to_its_pod(self):
        shard_map = self.manifests.shard_map()
        memory, compute = self.manifests.pods_of("memory"), self.manifests.pods_of("compute")
        self.assertEqual([p.name for p in memory], [s["name"] for s in shard_map["shards"]])
        named = [n["name"] for n in shard_map["compute_nodes"]]
        self.assertEqual([p.name for p in compute], named[:len(compute)])
        for entry in shard_map["shards"] + shard_map["compute_nodes"][:len(compute)]:
            pods, port = self.manifests.target(*split(entry["address"]))
            self.assertEqual([entry["name"]], [p.name for p in pods])
            self.assertEqual(entry["name"], pods[0].flag("--name"))
            self.assertEqual(f"0.0.0.0:{port}", pods[0].flag("--listen"))
        # What is started later by `kubectl scale` has the next name and the same port.
        for i, entry in enumerate(shard_map["compute_nodes"]):
            self.assertEqual(f"msa-compute-{i}", entry["name"])
            self.assertEqual(f"msa-compute-{i}.msa-compute:7072", entry["address"])
        routers, port = self.manifests.target(*split(shard_map["router"]))
        self.assertEqual(self.manifests.pods_of("router"), routers)
        self.assertEqual(f"0.0.0.0:{port}", routers[0].flag("--listen"))

    def test_selectors_select_their_own_pods_alone(self):
        for kind in ("StatefulSet", "Deployment", "PodDisruptionBudget"):
            for owner in self.manifests.of(kind):
                selector = owner["spec"]["selector"]["matchLabels"]
                selected = {p.workload["metadata"]["name"] for p in self.manifests.pods
                            if selects(selector, p.labels)}
                self.assertEqual({owner["metadata"]["name"]}, selected)
        budgets = {b["metadata"]["name"] for b in self.manifests.of("PodDisruptionBudget")}
        self.assertEqual({p.workload["metadata"]["name"] for p in self.manifests.pods}, budgets)

    def test_only_who_must_reaches_a_port(self):
        client = {"msa-client": "true", "app.kubernetes.io/name": "theirs"}
        stranger = {"app.kubernetes.io/name": "theirs"}
        may_call = {"memory": {"router", "compute"}, "compute": {"router"},
                    "router": {"compute", "client"}}
        callers = {p.labels["app.kubernetes.io/component"]: p.labels for p in self.manifests.pods}
        callers |= {"client": client, "stranger": stranger}
        for pod in self.manifests.pods:
            port = pod.port("grpc")
            let_in = {name for name, labels in callers.items()
                      if self.manifests.lets_in(labels, pod, port)}
            self.assertEqual(may_call[pod.labels["app.kubernetes.io/component"]], let_in)

    def test_only_prometheus_reaches_the_figures(self):
        prometheus, client = {"app.kubernetes.io/name": "prometheus"}, {"msa-client": "true"}
        for pod in self.manifests.pods:
            port = pod.port("metrics")
            self.assertEqual(f"0.0.0.0:{port}", pod.flag("--metrics-listen"))
            self.assertIn("--insecure-metrics-any", pod.container["args"])
            annotations = pod.workload["spec"]["template"]["metadata"]["annotations"]
            self.assertEqual(str(port), annotations["prometheus.io/port"])
            self.assertTrue(self.manifests.lets_in(prometheus, pod, port))
            self.assertFalse(self.manifests.lets_in(client, pod, port))
            self.assertFalse(self.manifests.lets_in(prometheus, pod, pod.port("grpc")))

    def test_probes_ask_the_port_that_is_listened_on(self):
        for pod in self.manifests.pods:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = pod.container[probe]
                command = asked.get("exec", {}).get("command", [])
                self.assertEqual(1, ("grpc" in asked) + bool(command))
                if command:
                    self.assertEqual(["msa", "health", "--server", f"localhost:{pod.port('grpc')}"], command)
                    self.assertGreaterEqual(asked["timeoutSeconds"], 5, "msa health waits as long")
                else:
                    self.assertEqual(pod.port("grpc"), asked["grpc"]["port"])

    def test_the_grace_period_is_longer_than_what_ends_a_pod_may_take(self):
        for pod in self.manifests.pods:
            help_text = self.help_of(pod)
            drain = float(re.search(r"--drain FLOAT=(\d+)", help_text).group(1))
            stop = pod.container.get("lifecycle", {}).get("preStop")
            before = float(stop["exec"]["command"][1]) if stop else 0
            self.assertGreaterEqual(pod.grace, before + drain + 10)

    def help_of(self, pod):
        verb = pod.command_line(pod.container)[1]
        done = subprocess.run([MSA, verb, "--help"], capture_output=True, text=True)
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout

    def test_flags_and_variables_are_the_programs(self):
        for pod in self.manifests.pods:
            help_text = self.help_of(pod)
            flags = [w for w in pod.command_line(pod.container) if w.startswith("--")]
            variables = [v for v in pod.environment(pod.container) if v.startswith("MSA_")]
            for flag in flags:
                self.assertRegex(help_text, rf"\s{flag}[ ,]")
            for variable in variables:
                self.assertIn(f"(Env:{variable})", help_text)
            self.assertFalse({f"MSA_{f[2:].upper().replace('-', '_')}" for f in flags}
                             & set(variables), "a flag hides its variable")

    def test_containers_may_do_nothing_they_need_not(self):
        user, group = map(int, dockerfile("USER").split(":"))
        for pod in self.manifests.pods:
            security = pod.spec["securityContext"]
            self.assertTrue(security["runAsNonRoot"])
            self.assertEqual((user, group), (security["runAsUser"], security["runAsGroup"]))
            self.assertEqual({"type": "RuntimeDefault"}, security["seccompProfile"])
            self.assertFalse(pod.spec["automountServiceAccountToken"])
            for container in pod.spec["containers"] + pod.spec.get("initContainers", []):
                self.assertEqual({"allowPrivilegeEscalation": False,
                                  "readOnlyRootFilesystem": True,
                                  "capabilities": {"drop": ["ALL"]}},
                                 container["securityContext"])
                self.assertEqual(container["resources"]["requests"]["memory"],
                                 container["resources"]["limits"]["memory"])
            if pod.claims():
                self.assertEqual(group, security["fsGroup"])

    def test_data_and_model_lie_on_volumes(self):
        for component, path in (("memory", lambda p: p.flag("--data-dir")),
                                ("compute", lambda p: p.environment(p.container)["MSA_MODEL"])):
            for pod in self.manifests.pods_of(component):
                mounts = [m["name"] for m in pod.container["volumeMounts"]
                          if path(pod).startswith(m["mountPath"] + "/")]
                self.assertEqual(1, len(set(mounts) & set(pod.claims())), mounts)

    def test_keys_are_refused_before_memory_is_out(self):
        for pod in self.manifests.pods_of("memory"):
            environment = pod.environment(pod.container)
            limit = quantity(pod.container["resources"]["limits"]["memory"])
            bound = "MSA_HOST_MEMORY" if environment.get("MSA_BACKEND") == "cuda" else \
                "MSA_MAX_KEY_MB"
            self.assertGreater(int(environment[bound]), 0)
            self.assertLess(int(environment[bound]) * 2**20, 0.8 * limit)


class Base(Checks, unittest.TestCase):
    kustomization = "base"

    def test_needs_no_gpu(self):
        for pod in self.manifests.pods:
            self.assertNotIn("nvidia.com/gpu", pod.container["resources"]["limits"])


class Small(Checks, unittest.TestCase):
    kustomization = "overlays/small"

    def test_is_one_of_each_with_volumes_of_any_storage_class(self):
        self.assertEqual({"msa-memory-0", "msa-compute-0", "msa-router-0"},
                         {p.name for p in self.manifests.pods})
        models = self.manifests.get("PersistentVolumeClaim", "msa-models")["spec"]
        self.assertEqual(["ReadWriteOnce"], models["accessModes"])


class Gpu(Checks, unittest.TestCase):
    kustomization = "overlays/gpu"

    def test_each_process_that_computes_has_a_gpu_and_uses_it(self):
        for pod in self.manifests.pods:
            cuda = pod.environment(pod.container).get("MSA_BACKEND") == "cuda"
            self.assertEqual(pod not in self.manifests.pods_of("router"), cuda)
            self.assertEqual(1 if cuda else None,
                             pod.container["resources"]["limits"].get("nvidia.com/gpu"))


class Secure(Checks, unittest.TestCase):
    kustomization = "overlays/secure"

    def test_every_role_speaks_mutual_tls_and_routers_want_keys(self):
        for pod in self.manifests.pods:
            environment = pod.environment(pod.container)
            mounts = {m["mountPath"]: m["name"] for m in pod.container["volumeMounts"]}
            secrets = {v["name"]: v["secret"] for v in pod.spec["volumes"] if "secret" in v}
            files = {name: environment.get("MSA_" + name)
                     for name in ("TLS_CERT", "TLS_KEY", "TLS_CA", "API_KEYS", "API_KEY_FILE")}
            router = pod in self.manifests.pods_of("router")
            wanted = {"TLS_CERT": "msa-tls", "TLS_KEY": "msa-tls",
                      "TLS_CA": "msa-client-ca" if router else "msa-tls",     # clients reach routers alone
                      "API_KEYS": "msa-api-keys" if router else None,
                      "API_KEY_FILE": "msa-compute-key" if pod in self.manifests.pods_of("compute") else None}
            found = {name: secrets[mounts[os.path.dirname(file)]]["secretName"] if file else None
                     for name, file in files.items()}
            self.assertEqual(wanted, found)
            self.assertNotIn("--insecure-listen-any", pod.container["args"], "without certificates it does not start")
            for secret in secrets.values():
                self.assertEqual(0o440, secret["defaultMode"])
            self.assertEqual(pod.spec["securityContext"]["runAsGroup"], pod.spec["securityContext"]["fsGroup"])
        (port,) = self.manifests.get("Service", "msa")["spec"]["ports"]
        self.assertNotIn("appProtocol", port)


if __name__ == "__main__":
    unittest.main()
