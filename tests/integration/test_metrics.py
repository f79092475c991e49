"""--metrics-listen of every role: what is told equals `msa stats` and the calls that were made, and Prometheus takes it."""
import json
import os
import re
import shutil
import socket
import subprocess
import time
import unittest
import urllib.parse
import urllib.request

from harness import ServerTest, documents

LISTEN = ("--metrics-listen", "127.0.0.1:0")
STATS = {"documents": "documents", "parts": "parts", "tokens": "tokens", "chunks": "chunks", "segments": "segments",
         "routing_key_bytes": "resident_key_bytes", "dead_parts": "dead_parts"}


def prometheus(program):
    """Where a program of Prometheus is: installed, or unpacked by scripts/unpack_prometheus.sh."""
    unpacked = os.path.join(os.environ["MSA_BINARY_DIR"], "..", "prometheus", "usr", "bin", program)
    return shutil.which(program) or (unpacked if os.access(unpacked, os.X_OK) else None)


def metrics_address(process):
    return next(re.search(r"address=(\S+)", line).group(1) for line in process.log if "figures for Prometheus" in line)


def get(address, path):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=60) as reply:
        return reply.read().decode()


def figures(process):
    """{name{labels}: value}"""
    lines = get(metrics_address(process), "/metrics").splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def call(name, method, service="MemoryService", code=None):
    code = f'grpc_code="{code}",' if code else ""
    return f'{name}{{{code}grpc_method="{method}",grpc_service="msa.v1.{service}"}}'


def deployed(name):
    return os.path.join(os.path.dirname(__file__), "..", "..", "deploy", "prometheus", name)


def dashboard_queries():
    """Of every panel, with Grafana's variables put in."""
    with open(deployed("dashboard.json"), encoding="utf-8") as file:
        panels = json.load(file)["panels"]
    return [target["expr"].replace("$__rate_interval", "5m").replace("$instance", ".*")
            for panel in panels for target in panel["targets"]]


class Metrics(ServerTest):
    def test_one_process_tells_its_banks_and_its_calls(self):
        server = self.serve(extra=LISTEN)
        self.assertEqual(1, figures(server)['msa_build_info{role="msa",version="0.1.0"}'])
        self.add(server, documents(12))
        self.msa(server, "rm", "doc-001", "doc-002")
        self.assertTrue(self.retrieve(server, "Which garden?"))
        self.assertNotEqual(0, self.run_msa(["stats", "--bank", "none"], server).code)
        (shard,) = self.msa(server, "stats")[0]["shards"]
        found = figures(server)
        self.assertEqual({n: shard[key] for n, key in STATS.items()},
                         {n: found[f'msa_{n}{{bank="default"}}'] for n in STATS})
        self.assertEqual(10, found['msa_documents{bank="default"}'])
        self.assertLess(0, found['rocksdb_cur_size_all_mem_tables_bytes{column_family="content"}'])
        self.assertEqual(0, found["rocksdb_is_write_stopped"])
        self.assertEqual(1, found["msa_serving"])
        for method, code, count in (("AddDocuments", "OK", 1), ("Retrieve", "OK", 1), ("Stats", "OK", 1), ("Stats", "NotFound", 1)):
            self.assertEqual(count, found[call("grpc_server_handled_total", method, code=code)])
        self.assertEqual(2, found[call("grpc_server_handling_seconds_count", "Stats")])
        self.assertEqual(0, found["msa_questions_running"])
        self.assertEqual(0, server.stop())

    def test_answers_and_documents_are_counted_as_their_clients_hear(self):
        server = self.serve(extra=LISTEN)
        self.add(server, documents(12))
        answers = [self.ask(server, question) for question in ("Which garden?", "Which tower?")]
        self.assertTrue(self.retrieve(server, "Which garden?"))
        found = figures(server)
        for figure, of_answer in (("prompt", "prompt_tokens"), ("generation", "generated_tokens")):
            self.assertEqual(sum(a["usage"][of_answer] for a in answers), found[f"msa_{figure}_tokens_total"])
        for reason in ("stop", "length", "rounds", "no_retrieval", "abort", "error"):
            self.assertEqual(sum(a["finish_reason"] == reason for a in answers),
                             found[f'msa_questions_total{{finish_reason="{reason}"}}'])
        for stage in ("total", "queue", "route", "fetch", "prefill", "decode", "first_token"):
            name = {"total": "msa_e2e_question_latency", "first_token": "msa_time_to_first_token"}.get(
                stage, f"msa_question_{stage}_time")
            labels = "" if stage in ("decode", "first_token") else '{method="Generate"}'
            times = [a["timings_ms"][stage] / 1e3 for a in answers if stage != "first_token" or a["timings_ms"][stage]]
            self.assertEqual(len(times), found[f"{name}_seconds_count{labels}"])
            self.assertAlmostEqual(sum(times), found[f"{name}_seconds_sum{labels}"], places=5)
        self.assertEqual(1, found['msa_e2e_question_latency_seconds_count{method="Retrieve"}'])
        self.assertEqual(12, found["msa_document_encode_time_seconds_count"])
        self.assertEqual(found['msa_tokens{bank="default"}'], found["msa_encoded_tokens_total"])

    def test_each_role_of_a_cluster_tells_its_own(self):
        router = self.start_cluster(*LISTEN)
        self.add(router, documents(40))
        self.assertTrue(self.retrieve(router, "Which garden?"))
        of_shards = [figures(shard) for shard in self.shards.values()]
        self.assertEqual(40, sum(f['msa_documents{bank="default"}'] for f in of_shards))
        for found in of_shards:
            self.assertEqual(1, found['msa_build_info{role="memory node",version="0.1.0"}'])
            self.assertLess(0, found[call("grpc_server_handled_total", "PutDocument", "ShardService", "OK")])
            self.assertEqual(0, found["rocksdb_background_errors_total"])
            self.assertNotIn("msa_questions_running", found)
            self.assertNotIn("msa_encoded_tokens_total", found)
        of_nodes = [figures(node) for node in self.nodes]
        self.assertLess(0, sum(f['msa_content_cache_lookups_total{result="miss"}'] for f in of_nodes))
        self.assertEqual(40, sum(f["msa_document_encode_time_seconds_count"] for f in of_nodes))
        self.assertEqual(1, sum(f['msa_e2e_question_latency_seconds_count{method="Retrieve"}'] for f in of_nodes))
        of_router = figures(router)
        self.assertEqual(1, of_router['msa_build_info{role="router",version="0.1.0"}'])
        self.assertFalse([n for n in of_router if n.startswith(("msa_documents", "msa_questions", "rocksdb"))])
        self.assertEqual(40, of_router['msa_document_adds_total{code="OK"}'])
        for name in self.shards:
            asked = of_router[f'msa_shard_requests_total{{code="OK",shard="{name}"}}']
            self.assertLess(0, asked)
            self.assertEqual(asked, of_router[f'msa_shard_request_seconds_count{{shard="{name}"}}'])
        self.shards["b"].kill()
        self.assertEqual(4, self.run_msa(["retrieve", "Which garden?"], router).code)
        self.assertLess(0, figures(router)['msa_shard_requests_total{code="Unavailable",shard="b"}'])

    def test_what_cannot_be_listened_on_is_refused(self):
        server = self.serve(extra=LISTEN)
        for address, code, words in ((metrics_address(server), 4, "for metrics: another program uses the port"),
                                     ("unix:" + self.path("m.sock"), 2, "give HOST:PORT"), ("9464", 2, "--metrics-listen is '9464'")):
            result = self.run_msa(["serve", "--data-dir", self.path("other"), "--model", self.model,
                                   "--listen", "127.0.0.1:0", "--metrics-listen", address])
            self.assertEqual(code, result.code, result.err)
            self.assertIn(words, result.err)

    def test_an_address_others_can_reach_needs_a_word(self):
        anywhere = ["serve", "--data-dir", self.path("any"), "--model", self.model, "--threads", "1",
                    "--listen", "127.0.0.1:0", "--metrics-listen", "0.0.0.0:0"]
        for certificates in ([], self.certificate()):       # TLS is not spoken there
            result = self.run_msa([*anywhere, *certificates])
            self.assertEqual(5, result.code, result.err)
            self.assertIn("refusing to answer Prometheus at 0.0.0.0:0", result.err)
            self.assertIn("--insecure-metrics-any", result.err)
        server = self.start([*anywhere, "--insecure-metrics-any"]).wait_ready()
        self.assertEqual(1, figures(server)["msa_serving"])

    @unittest.skipUnless(prometheus("prometheus") and prometheus("promtool"), "no Prometheus: scripts/unpack_prometheus.sh")
    def test_prometheus_asks_and_understands(self):
        server = self.serve(extra=LISTEN)
        self.add(server, documents(12))
        text = get(metrics_address(server), "/metrics")
        checked = subprocess.run([prometheus("promtool"), "check", "metrics"], input=text, capture_output=True, text=True)
        self.assertEqual((0, ""), (checked.returncode, checked.stdout + checked.stderr))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        config = self.path("prometheus.json")       # JSON is YAML
        with open(config, "w", encoding="utf-8") as file:
            json.dump({"global": {"scrape_interval": "1s"},
                       "scrape_configs": [{"job_name": "msa", "static_configs": [{"targets": [metrics_address(server)]}]}]}, file)
        asking = subprocess.Popen([prometheus("prometheus"), "--config.file", config, "--storage.tsdb.path", self.path("tsdb"),
                                   "--web.listen-address", address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(asking.wait)
        self.addCleanup(asking.kill)
        query = "/api/v1/query?" + urllib.parse.urlencode({"query": 'msa_documents{bank="default"} and on(instance) up == 1 '
                                                           'and on(instance) msa_document_encode_time_seconds_count == 12'})
        end, value = time.monotonic() + 60, None
        while value is None and time.monotonic() < end:
            try:
                (value,) = [float(r["value"][1]) for r in json.loads(get(address, query))["data"]["result"]]
            except (OSError, ValueError):       # it does not listen yet, or has not asked yet
                value = None
        self.assertEqual(12, value)
        for expression in dashboard_queries():
            answer = json.loads(get(address, "/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
            self.assertEqual("success", answer["status"], expression)

    @unittest.skipUnless(prometheus("promtool"), "no Prometheus: scripts/unpack_prometheus.sh")
    def test_alerts_ring_when_they_should(self):
        for arguments in (["check", "rules", deployed("alerts.yaml")], ["test", "rules", deployed("alerts_test.yaml")]):
            checked = subprocess.run([prometheus("promtool"), *arguments], capture_output=True, text=True)
            self.assertEqual(0, checked.returncode, checked.stdout + checked.stderr)

    def test_alerts_and_dashboard_ask_for_what_is_told(self):
        server = self.serve(extra=LISTEN)
        self.add(server, documents(12))
        told = {re.split(r"[{ ]", line)[0] for line in figures(server)}
        with open(deployed("alerts.yaml"), encoding="utf-8") as file:
            asked = dashboard_queries() + [file.read()]
        names = {name for text in asked for name in re.findall(r"\b(?:msa|grpc_server|rocksdb)_[a-z0-9_]+", text)}
        self.assertEqual(set(), names - told)
        self.assertLess(15, len(names))


if __name__ == "__main__":
    unittest.main()
