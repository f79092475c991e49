"""Three memory nodes, a router and two compute nodes answer as one `msa serve` does."""
import json
import os
import shutil
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from harness import ServerTest, documents, reader_model

QUESTIONS = ["Which garden has a violin?", "Where is the copper tower 12?", "Number 370",
             "What is in the marble castle of the falcon?"]


class Cluster(ServerTest):
    def test_same_documents_same_order_same_answer_as_one_process(self):
        alone, cluster = self.serve(), self.start_cluster()
        docs = documents(40)
        self.assertEqual(self.add(alone, docs), self.add(cluster, docs))
        counts = [s["documents"] for s in self.msa(cluster, "stats")[0]["shards"]]
        self.assertEqual(40, sum(counts))
        self.assertTrue(all(counts), counts)

        self.compare(alone, cluster)
        for server in (alone, cluster):
            self.add(server, [{"id": "doc-007", "text": "a violin in the garden"}])
            self.msa(server, "rm", "doc-011", "doc-012")
        self.compare(alone, cluster)

    def test_every_connection_by_certificates(self):
        mine, others = self.certificate(), self.certificate("stranger")
        cluster = self.start_cluster(*mine)
        self.add(cluster, documents(8), *mine)
        self.assertEqual(8, len(self.retrieve(cluster, QUESTIONS[0], "--limit", "8", *mine)))
        self.ask(cluster, QUESTIONS[0], *mine)
        for flags in ((), others, mine[4:]):        # in plain text, a stranger, nobody known
            result = self.run_msa(["ls", "--timeout", "5", *flags], cluster)
            self.assertEqual(4, result.code, result.err)

    def compare(self, alone, cluster):
        listed = [self.msa(s, "ls") for s in (alone, cluster)]
        for document in listed[0] + listed[1]:
            document.pop("added_unix_micros")
        self.assertEqual(listed[0], listed[1])
        for question in QUESTIONS:
            self.assertEqual(self.retrieve(alone, question, "--limit", "40"),
                             self.retrieve(cluster, question, "--limit", "40"))
            for mode in ("router", "generative"):
                one = self.ask(alone, question, "--mode", mode)
                other = self.ask(cluster, question, "--mode", mode)
                self.assertEqual(one["answer"], other["answer"])
                self.assertEqual(one["documents"], other["documents"])

    def test_a_dead_shard_is_named_within_the_deadline(self):
        cluster = self.start_cluster()
        self.add(cluster, documents(40))
        self.shards["b"].kill()
        for verb in ("retrieve", "ask"):
            started = time.monotonic()
            result = self.run_msa([verb, "--timeout", "20", QUESTIONS[0]], cluster)
            self.assertLess(time.monotonic() - started, 25)
            self.assertEqual(4, result.code, result.err)
            self.assertIn("shard 'b'", result.err)
            self.assertNotIn("msa serve", result.err)

        partial = self.msa(cluster, "retrieve", "--allow-partial", "--limit", "40", QUESTIONS[0])[0]
        self.assertEqual(["b"], partial["missing_shards"])
        self.assertGreater(len(partial["documents"]), 0)
        done = self.msa(cluster, "ask", "--allow-partial", "--max-new-tokens", "4", QUESTIONS[0])[-1]
        self.assertEqual(["b"], done["missing_shards"])

        # It is found again by itself: connections are tried anew within a second.
        self.start(["memory-node", "--name", "b", "--data-dir", self.path("data-b"),
                    "--shard-map", self.map]).wait_ready()
        arguments = ["retrieve", "--json", "--limit", "40", QUESTIONS[0]]
        deadline = time.monotonic() + 60
        whole = self.run_msa(arguments, cluster)
        while whole.code == 4 and time.monotonic() < deadline:
            whole = self.run_msa(arguments, cluster)
        self.assertEqual(0, whole.code, whole.err)
        self.assertEqual([], whole.lines[0]["missing_shards"])
        self.assertEqual(40, len(whole.lines[0]["documents"]))

    def test_a_shard_with_an_older_copy_of_its_data_is_not_read_from_what_was_kept(self):
        # Its next document gets the number of one that the copy lacks, whose blocks are kept by
        # the compute node; the router that knew that number has restarted too.
        address = lambda name: f"unix:{self.path(name)}.sock"
        self.map = self.path("one.json")
        with open(self.map, "w", encoding="utf-8") as file:
            json.dump({"version": 1, "slots": 1024,
                       "shards": [{"name": "a", "address": address("a")}],
                       "compute_nodes": [{"name": "c", "address": address("c")}],
                       "router": address("router")}, file)
        placed = ["--shard-map", self.map]
        shard = ["memory-node", "--name", "a", "--data-dir", self.path("data"), "--threads", "1", *placed]
        compute = ["compute-node", "--name", "c", "--model", self.model, "--threads", "1", *placed]
        node, encoder = self.start(shard).wait_ready(), self.start(compute).wait_ready()
        router = self.start(["router", *placed]).wait_ready()
        self.add(router, documents(2))  # three are selected: all
        node.stop()
        shutil.copytree(self.path("data"), self.path("copy"))
        node = self.start(shard).wait_ready()
        self.add(router, [{"id": "lost", "text": "lantern orchard signal castle pepper marble"}])
        question = "Which garden has a violin?"
        self.ask(router, question)
        node.stop()
        router.stop()
        shutil.rmtree(self.path("data"))
        os.rename(self.path("copy"), self.path("data"))
        self.start(shard).wait_ready()
        router = self.start(["router", *placed]).wait_ready()
        self.add(router, [{"id": "new", "text": "a violin in the garden of the winter river"}])
        kept = self.retrieve(router, question)
        self.assertIn("new", [document["id"] for document in kept])
        encoder.stop()
        self.start(compute).wait_ready()
        self.assertEqual(self.retrieve(router, question), kept)

    def reversed_map(self):
        """The cluster's map with its shards in the other order."""
        with open(self.map, encoding="utf-8") as file:
            changed = json.load(file)
        changed["shards"].reverse()
        other = self.path("other.json")
        with open(other, "w", encoding="utf-8") as file:
            json.dump(changed, file)
        return other

    def test_a_filled_folder_is_not_served_at_another_place_of_the_map(self):
        cluster = self.start_cluster()
        self.add(cluster, documents(20))
        self.shards["a"].stop()
        other = self.reversed_map()
        node = ["memory-node", "--name", "a", "--data-dir", self.path("data-a"), "--shard-map"]
        refused = self.run_msa([*node, other])
        self.assertEqual(5, refused.code, refused.err)
        self.assertIn("shard 1 of 3", refused.err)
        alone = self.run_msa(["serve", "--data-dir", self.path("data-a"), "--model", self.model,
                              "--listen", "127.0.0.1:0"])
        self.assertEqual(5, alone.code, alone.err)
        self.start([*node, self.map]).wait_ready()

    def test_a_router_with_another_map_is_refused(self):
        cluster = self.start_cluster()
        self.add(cluster, documents(20))
        other = self.reversed_map()
        router = self.start(["router", "--shard-map", other,
                             "--listen", f"unix:{self.path('other')}.sock"]).wait_ready()
        # Under this map the first and the last shard have changed places.
        moved = next(d["id"] for d in documents(20)
                     if self.run_msa(["get", d["id"]], router).code != 0)
        for arguments in (["get", moved], ["rm", moved], ["ls"], ["bank", "ls"]):
            refused = self.run_msa(arguments, router)
            self.assertEqual(5, refused.code, (arguments, refused.err, refused.out))
            self.assertIn("shard 1 of 3", refused.err)
            self.assertIn("shard 3 of 3", refused.err)
        added = self.run_msa(["add", "-"], router, json.dumps({"id": moved, "text": "twice"}) + "\n")
        self.assertEqual(5, added.code, added.err)
        self.assertEqual(20, len(self.msa(cluster, "ls")))
        self.assertEqual(0, self.run_msa(["get", moved], cluster).code)

    def test_two_routers_add_to_one_bank_at_once(self):
        cluster = self.start_cluster()
        other = self.start(["router", "--shard-map", self.map,
                            "--listen", f"unix:{self.path('other')}.sock"]).wait_ready()
        docs = documents(80)
        with ThreadPoolExecutor(4) as pool:  # the bank is made by them, too
            added = list(pool.map(lambda i: self.add((cluster, other)[i % 2], docs[i::4]), range(4)))
        self.assertEqual(80, sum(map(len, added)))
        listed = [self.msa(router, "ls") for router in (cluster, other)]
        self.assertEqual(*listed)
        self.assertEqual([d["id"] for d in docs], [d["id"] for d in listed[0]])
        references = [part["reference"] for d in listed[0] for part in d["parts"]]
        self.assertEqual(len(references), len(set(references)), references)
        found = [self.retrieve(router, QUESTIONS[0], "--limit", "80") for router in (cluster, other)]
        self.assertEqual(*found)
        self.assertEqual({d["id"] for d in docs}, {d["id"] for d in found[0]})

    def test_a_compute_node_of_another_model_is_passed_over(self):
        cluster = self.start_cluster()
        self.add(cluster, documents(10))
        self.nodes[1].stop()
        self.start(["compute-node", "--name", "c1", "--model", reader_model(self.path("other")),
                    "--shard-map", self.map, "--threads", "1"]).wait_ready()
        self.add(cluster, documents(12))
        for question in QUESTIONS:
            self.assertEqual(12, len(self.retrieve(cluster, question, "--limit", "12")))
            self.ask(cluster, question)
        self.nodes[0].stop()
        self.start(["compute-node", "--name", "c0", "--model", reader_model(self.path("third"), router_rounds=3),
                    "--shard-map", self.map, "--threads", "1"]).wait_ready()
        for arguments in (["ask", QUESTIONS[0]], ["retrieve", QUESTIONS[0]], ["add", "-"]):
            refused = self.run_msa(arguments, cluster, json.dumps(documents(1)[0]) + "\n")
            self.assertEqual(5, refused.code, (arguments, refused.err))
            self.assertIn("compute node 'c0': bank 'default' was made by", refused.err)
            self.assertIn("compute node 'c1': bank 'default' was made by", refused.err)

    def test_a_router_has_no_threads_to_compute_with(self):
        refused = self.run_msa(["router", "--shard-map", "map.json", "--threads", "1"])
        self.assertEqual(2, refused.code, refused.err)
        self.assertIn("there is no flag --threads", refused.err)

    def test_one_dead_compute_node_does_not_matter(self):
        cluster = self.start_cluster()
        self.add(cluster, documents(10))
        self.nodes[0].kill()
        for question in QUESTIONS:
            self.assertEqual(10, len(self.retrieve(cluster, question, "--limit", "10")))


if __name__ == "__main__":
    unittest.main()
