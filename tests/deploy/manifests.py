"""The rendered manifests, read as Kubernetes reads them: pods, names, ports, environments, policies."""
import json
import math
import os
import re
import subprocess

import yaml

SOURCE = os.environ["MSA_SOURCE_DIR"]
DEPLOY = os.path.join(SOURCE, "deploy")


def dockerfile(instruction):
    """What the last such line of the image says."""
    with open(os.path.join(DEPLOY, "Dockerfile"), encoding="utf-8") as file:
        return re.findall(rf"^{instruction} (.*)$", file.read(), re.MULTILINE)[-1]


def quantity(text):
    """"250m" is 0.25, "2Gi" is 2 · 2^30."""
    number, unit = re.fullmatch(r"([0-9.]+)(m|[KMGT]i)?", str(text)).groups()
    scale = {None: 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]
    return float(number) * scale


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


class Pod:
    def __init__(self, workload, ordinal):
        self.workload = workload
        template = workload["spec"]["template"]
        self.name = f"{workload['metadata']['name']}-{ordinal}"
        self.labels = template["metadata"]["labels"]
        self.spec = template["spec"]
        self.grace = self.spec["terminationGracePeriodSeconds"]
        (self.container,) = self.spec["containers"]

    def port(self, wanted):
        """The number of a container's port, by its number or name."""
        (port,) = [p["containerPort"] for p in self.container["ports"]
                   if wanted in (p["containerPort"], p.get("name"))]
        return port

    def environment(self, container):
        values = {}
        for variable in container.get("env", []):
            if "value" in variable:
                value = variable["value"]
            elif "fieldRef" in variable["valueFrom"]:
                assert variable["valueFrom"]["fieldRef"] == {"fieldPath": "metadata.name"}
                value = self.name
            else:
                kind, what = variable["valueFrom"]["resourceFieldRef"]["resource"].split(".")
                value = str(math.ceil(quantity(container["resources"][kind][what])))
            values[variable["name"]] = value
        return values

    def command_line(self, container):
        """With the image's entry point where the manifest has no command, variables filled in."""
        words = container.get("command") or json.loads(dockerfile("ENTRYPOINT"))
        environment = self.environment(container)
        return [re.sub(r"\$\((\w+)\)", lambda m: environment[m.group(1)], word)
                for word in [*words, *container.get("args", [])]]

    def flag(self, name):
        line = self.command_line(self.container)
        return line[line.index(name) + 1]

    def claims(self):
        """Volume name → name of its claim; a StatefulSet's templates give one a pod."""
        claims = {v["name"]: v["persistentVolumeClaim"]["claimName"]
                  for v in self.spec.get("volumes", []) if "persistentVolumeClaim" in v}
        for template in self.workload["spec"].get("volumeClaimTemplates", []):
            claims[template["metadata"]["name"]] = f"{template['metadata']['name']}-{self.name}"
        return claims


class Manifests:
    def __init__(self, kustomization):
        folder = os.path.join(DEPLOY, "kubernetes", kustomization)
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "deprecated" not in done.stderr, done.stderr
        self.objects = list(yaml.safe_load_all(done.stdout))
        self.pods = [Pod(workload, i) for workload in self.of("StatefulSet") + self.of("Deployment")
                     for i in range(workload["spec"]["replicas"])]

    def of(self, kind):
        return [o for o in self.objects if o["kind"] == kind]

    def get(self, kind, name):
        (found,) = [o for o in self.of(kind) if o["metadata"]["name"] == name]
        return found

    def pods_of(self, component):
        return [p for p in self.pods if p.labels["app.kubernetes.io/component"] == component]

    def shard_map(self):
        """As the pods have it; that it is one map is checked on the way."""
        names = {v["configMap"]["name"] for p in self.pods for v in p.spec["volumes"]
                 if "configMap" in v}
        (name,) = names
        (text,) = self.get("ConfigMap", name)["data"].values()
        return json.loads(text)

    def resolve(self, host):
        """The pods that a name leads to in the cluster: a service's, or one of a StatefulSet."""
        pod, _, service_name = host.rpartition(".")
        service = self.get("Service", service_name)["spec"]
        found = [p for p in self.pods if selects(service["selector"], p.labels)]
        if not pod:
            return found
        assert service["clusterIP"] == "None", f"{service_name} is not headless"
        return [p for p in found
                if p.name == pod and p.workload["spec"].get("serviceName") == service_name]

    def target(self, host, port):
        """Pods, and the port of theirs, behind host:port."""
        pods = self.resolve(host)
        if "." in host:
            return pods, port
        (entry,) = [e for e in self.get("Service", host)["spec"]["ports"] if e["port"] == port]
        (number,) = {p.port(entry["targetPort"]) for p in pods}
        return pods, number

    def lets_in(self, labels, pod, port):
        """Whether a pod with `labels` may call `port` of `pod`."""
        policies = [p["spec"] for p in self.of("NetworkPolicy")
                    if selects(p["spec"]["podSelector"]["matchLabels"], pod.labels)]
        return not policies or any(
            {"protocol": "TCP", "port": port} in rule["ports"]
            and any(selects(peer["podSelector"]["matchLabels"], labels) for peer in rule["from"])
            for policy in policies for rule in policy["ingress"])
