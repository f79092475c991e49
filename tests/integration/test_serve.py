"""One `msa serve` through a document's and a question's life, crashes included."""
import json
import os
import signal
import subprocess
import unittest

from harness import MSA, ServerTest, clean_environment, documents, ids


class SyntheticBench(ServerTest):
    def test_a_made_up_bank_is_measured_without_a_server(self):
        tokenizer = os.path.join(os.environ["MSA_SOURCE_DIR"],
                                 "tests/golden/tokenizers/qwen_small.json")
        arguments = ["bench", "--synthetic-model", "msa-tiny", "--tokenizer", tokenizer, "--json",
                     "--requests", "3", "--concurrency", "2", "--max-new-tokens", "4"]
        for precision in ("int8", "fp8"):
            result = self.run_msa([*arguments, "--tokens", "50K", "--keys", precision,
                                   "--content", precision])
            self.assertEqual(0, result.code, result.err)
            report = result.lines[-1]
            self.assertEqual(3, report["requests"])
            self.assertGreater(report["tokens_per_s"], 0)
        for tokens in ("0", "-3", "many", "5X", "501B", str(10**15), str(10**30)):
            refused = self.run_msa([*arguments, "--tokens", tokens])
            self.assertEqual(2, refused.code, tokens)
            self.assertIn("1 to 500B", refused.err)
        full = self.run_msa([*arguments, "--tokens", "500B", "--keys", "f32"])
        self.assertEqual(1, full.code, full.err)
        self.assertIn("a bank of 500000000000 tokens takes", full.err)
        self.assertNotEqual(0, self.run_msa(["bench", "--synthetic-model", "msa-5b"]).code)


class Health(ServerTest):
    def test_says_whether_a_server_serves_as_an_exit_code(self):
        mine = self.certificate()
        server = self.serve(extra=mine)
        health = lambda *flags: self.run_msa(["health", "--timeout", "20", *flags], server)
        served = health(*mine)
        self.assertEqual((0, f"{server.address} serves\n"), (served.code, served.out), served.err)
        self.assertEqual(0, health(*mine, "--service", "msa.v1.MemoryService").code)
        unknown = health(*mine, "--service", "msa.v1.Nothing")
        self.assertNotEqual(0, unknown.code)
        self.assertEqual(2, health("--tls-cert", mine[1], "--tls-key", mine[3]).code)
        plain = self.run_msa(["health", "--timeout", "3"], server)
        self.assertEqual(4, plain.code, plain.err)
        server.stop()
        self.assertEqual(4, health(*mine).code)


class Life(ServerTest):
    def test_add_ask_replace_delete_crash_restart(self):
        server = self.serve()
        acknowledged = self.add(server, documents(30))
        self.assertEqual([f"doc-{i:03}" for i in range(30)], ids(acknowledged))
        self.assertEqual({1}, {a["revision"] for a in acknowledged})
        (model,), (bank,) = self.msa(server, "model"), self.msa(server, "bank", "ls")
        self.assertEqual(bank["model_fingerprint"], model["fingerprint"])
        self.assertEqual(bank["router_layers"], model["default_bank"]["router_layers"])

        listed = self.msa(server, "ls")
        self.assertEqual(30, len(listed))
        self.assertEqual({a["id"]: (a["tokens"], a["chunks"]) for a in acknowledged},
                         {d["id"]: (d["tokens"], d["chunks"]) for d in listed})

        question = "Which garden has a violin?"
        found = self.retrieve(server, question, "--limit", "30")
        self.assertEqual(30, len(set(ids(found))))
        self.assertEqual(sorted((d["score"] for d in found), reverse=True),
                         [d["score"] for d in found])
        done = self.ask(server, question)
        self.assertEqual("done", done["event"])
        self.assertIn("answer", done)
        self.assertGreaterEqual(done["usage"]["rounds"], 1)
        self.assertEqual(30, done["usage"]["memory_parts"])

        best, second = ids(found)[:2]
        replaced = self.add(server, [{"id": second, "text": "entirely other words"}])
        self.assertEqual(2, replaced[0]["revision"])
        self.assertEqual("entirely other words", self.msa(server, "get", second)[0]["text"])
        self.assertEqual(1, self.msa(server, "rm", best)[0]["revision"])
        after = self.retrieve(server, question, "--limit", "30")
        self.assertNotIn(best, ids(after))
        self.assertEqual(29, len(after))

        before_crash = self.msa(server, "ls")
        server.kill()
        server = self.serve()
        self.assertEqual(before_crash, self.msa(server, "ls"))
        self.assertEqual(after, self.retrieve(server, question, "--limit", "30"))
        self.assertEqual(3, self.run_msa(["get", best], server).code)
        # The revision goes on after a delete.
        self.assertEqual(2, self.add(server, [{"id": best, "text": "again"}])[0]["revision"])

    def test_what_was_acknowledged_survives_a_kill_in_the_middle_of_adding(self):
        server = self.serve()
        adding = subprocess.Popen([MSA, "add", "--json", "--server", server.address, "-"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, env=clean_environment())
        self.addCleanup(adding.kill)
        for document in documents(200):
            adding.stdin.write(json.dumps(document) + "\n")
        adding.stdin.close()
        acknowledged = [json.loads(adding.stdout.readline())["id"] for _ in range(20)]
        server.kill()
        acknowledged += [line["id"] for line in map(json.loads, adding.stdout) if "revision" in line]
        self.assertNotEqual(0, adding.wait(timeout=60))
        adding.stdout.close()

        stored = set(ids(self.msa(self.serve(), "ls")))
        self.assertEqual(set(), set(acknowledged) - stored)

    def adding_without_an_end(self, server, *flags):
        """`msa add -` that has been sent a document and waits for more."""
        adding = subprocess.Popen([MSA, "add", "--json", "--server", server.address, *flags, "-"],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, env=clean_environment())
        for pipe in (adding.stdin, adding.stdout, adding.stderr):
            self.addCleanup(pipe.close)
        self.addCleanup(adding.kill)
        adding.stdin.write(json.dumps({"id": "a", "text": "river"}) + "\n")
        adding.stdin.flush()
        return adding

    def test_adding_ends_with_its_server_though_its_input_stays_open(self):
        server = self.serve()
        adding = self.adding_without_an_end(server)
        self.assertEqual("a", json.loads(adding.stdout.readline())["id"])
        server.kill()
        self.assertEqual(4, adding.wait(timeout=60))
        self.assertIn("1 documents were added before", adding.stderr.read())

    def test_adding_to_an_unknown_bank_ends_though_its_input_stays_open(self):
        adding = self.adding_without_an_end(self.serve(), "--bank", "nope")
        self.assertEqual(3, adding.wait(timeout=60))
        self.assertIn("nope", adding.stderr.read())

    def test_terminating_drains_and_ends_cleanly(self):
        server = self.serve()
        self.add(server, documents(3))
        self.assertEqual(0, server.stop())
        self.assertTrue(any("draining" in line for line in server.log), server.log)
        self.assertEqual(3, len(self.msa(self.serve(), "ls")))

    def loading(self, *before):
        weights = os.path.join(self.model, "model.safetensors")
        os.remove(weights)
        os.mkfifo(weights)  # nobody writes to it: the load does not end
        server = subprocess.Popen(
            [*before, MSA, "serve", "--data-dir", self.path("data"), "--model", self.model, "--listen",
             "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"],
            stderr=subprocess.PIPE, text=True, env=clean_environment())
        self.addCleanup(server.stderr.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        self.assertIn("figures for Prometheus", server.stderr.readline())
        return server

    def test_a_signal_ends_a_server_that_is_loading(self):
        server = self.loading()
        server.send_signal(signal.SIGINT)
        self.assertEqual(server.wait(timeout=60), -signal.SIGINT)
        self.assertIn("ended before it served", server.stderr.read())

    def test_process_1_of_a_container_is_ended_by_one_too(self):
        apart = ["unshare", "--map-root-user", "--pid", "--fork", "--kill-child"]
        if subprocess.run([*apart, "true"], stderr=subprocess.DEVNULL).returncode != 0:
            self.skipTest("no name space for processes can be made here (unshare --map-root-user --pid)")
        holder = self.loading(*apart)
        with open(f"/proc/{holder.pid}/task/{holder.pid}/children", encoding="ascii") as file:
            os.kill(int(file.read()), signal.SIGTERM)
        self.assertEqual(holder.wait(timeout=60), 128 + signal.SIGTERM)

    def test_a_long_document_is_split_and_goes_as_one(self):
        server = self.serve()
        sentence = "The harbour of the river is beside the copper tower. "
        text = "\n\n".join([sentence * 6] * 8)
        self.msa(server, "bank", "create", "--part-tokens", "128", "long")
        added = self.add(server, [{"id": "book", "text": text}], "--bank", "long")[0]
        self.assertGreater(added["parts"], 3)
        parts = self.msa(server, "ls", "--bank", "long")[0]["parts"]
        self.assertEqual(added["parts"], len(parts))
        self.assertEqual(0, parts[0]["span"][0])
        for before, after in zip(parts, parts[1:]):
            self.assertLessEqual(before["span"][1], after["span"][0])
            self.assertEqual("", text[before["span"][1]:after["span"][0]].strip())
        cited = self.retrieve(server, "harbour", "--bank", "long", "--limit", "5")
        self.assertEqual(["book"], ids(cited))
        self.assertIn(cited[0]["span"], [p["span"] for p in parts])
        self.msa(server, "rm", "--bank", "long", "book")
        self.assertEqual([], self.retrieve(server, "harbour", "--bank", "long"))

    def test_a_bank_of_8_bits_finds_what_one_of_32_does_and_outlives_a_crash(self):
        server = self.serve()
        found = {}
        for precision in ("f32", "fp8"):
            made = self.msa(server, "bank", "create", "--routing-precision", precision,
                            "--content-precision", precision, precision)[0]
            self.assertEqual(precision, made["content_precision"])
            self.add(server, documents(12), "--bank", precision)
            found[precision] = self.retrieve(server, "harbour", "--bank", precision)
        self.assertEqual(found["f32"][0]["id"], found["fp8"][0]["id"])
        server.kill()
        server = self.serve()
        self.assertEqual(ids(found["fp8"]), ids(self.retrieve(server, "harbour", "--bank", "fp8")))


class BadInput(ServerTest):
    def setUp(self):
        super().setUp()
        self.server = self.serve()
        self.add(self.server, documents(3))

    def tearDown(self):
        # Whatever it was given, the server still serves what it had.
        self.assertEqual(3, len(self.msa(self.server, "ls")))

    def refused(self, code, arguments, stdin=None):
        result = self.run_msa(arguments, self.server, stdin)
        self.assertEqual(code, result.code, result.err)
        self.assertNotEqual("", result.err)
        return result.err

    def test_questions(self):
        for verb in ("ask", "retrieve"):
            self.refused(5, [verb, ""])
            self.assertIn("65536", self.refused(5, [verb, "-"], stdin="q" * (10 << 20)))
            self.refused(5, [verb, "x" * 70000])
            self.refused(3, [verb, "--bank", "nope", "q"])
        self.refused(5, ["ask", "--top-k", "0", "q"])
        self.refused(5, ["ask", "--max-rounds", "100000", "q"])

    def test_documents(self):
        def one(document):
            return self.refused(5, ["add", "-"], stdin=json.dumps(document) + "\n")
        self.assertIn("512", one({"id": "x" * 10000, "text": "t"}))
        one({"id": "", "text": "t"})
        one({"id": "a\nb", "text": "t"})
        one({"id": "m", "text": "t", "metadata": {"k": "v" * 70000}})
        one({"id": "t", "text": "t", "title": "t" * 5000})
        self.refused(3, ["add", "--bank", "nope", "-"], stdin='{"id":"a","text":"b"}\n')

    def test_text_is_kept_byte_for_byte(self):
        for text in ("a\u0000b", "line\u2028separator\r\n", "\U0001F600 \uFFFD e\u0301", "<|im_end|>"):
            self.add(self.server, [{"id": "doc-000", "text": text}])
            self.assertEqual(text, self.msa(self.server, "get", "doc-000")[0]["text"])

    def test_a_duplicate_in_one_stream_is_refused_and_the_first_kept(self):
        result = self.run_msa(["add", "--json", "-"], self.server,
                              '{"id":"doc-000","text":"first"}\n{"id":"doc-000","text":"second"}\n')
        self.assertEqual(5, result.code)
        self.assertEqual("first", self.msa(self.server, "get", "doc-000")[0]["text"])

    def test_unknown_documents(self):
        self.refused(3, ["get", "none"])
        self.refused(3, ["rm", "none"])


class Starting(ServerTest):
    def fails(self, arguments, *texts):
        result = self.run_msa(["serve", "--threads", "1", *arguments])
        self.assertNotEqual(0, result.code)
        for text in texts:
            self.assertIn(text, result.err)
        return result

    def test_port_in_use(self):
        server = self.serve()
        self.add(server, documents(1))
        self.fails(["--data-dir", self.path("other"), "--model", self.model,
                    "--listen", server.address], server.address, "--listen")
        self.assertEqual(1, len(self.msa(server, "ls")))

    def test_data_folder_of_another_process(self):
        self.serve()
        self.fails(["--data-dir", self.path("data"), "--model", self.model,
                    "--listen", "127.0.0.1:0"], self.path("data"), "process")

    def test_folder_that_cannot_be_written(self):
        self.fails(["--data-dir", "/proc/msa-test", "--model", self.model,
                    "--listen", "127.0.0.1:0"], "/proc/msa-test")

    def test_missing_model(self):
        result = self.fails(["--data-dir", self.path("d"), "--model", self.path("none"),
                             "--listen", "127.0.0.1:0"], self.path("none"), "make model")
        self.assertEqual(3, result.code)

    def test_an_address_others_can_reach_needs_keys_or_a_word(self):
        result = self.fails(["--data-dir", self.path("d"), "--model", self.model,
                             "--listen", "0.0.0.0:0"], "--insecure-listen-any")
        self.assertEqual(5, result.code)

    def test_an_address_others_can_reach_needs_certificates_instead(self):
        mine = self.certificate()
        server = self.start(["serve", "--data-dir", self.path("d"), "--model", self.model, "--threads",
                             "1", "--listen", "0.0.0.0:0", *mine]).wait_ready()
        address = "127.0.0.1:" + server.address.rsplit(":", 1)[1]
        self.assertEqual(0, self.run_msa(["bank", "ls", "--server", address, *mine]).code)
        one_way = self.fails(["--data-dir", self.path("e"), "--model", self.model,
                              "--listen", "0.0.0.0:0", *mine[:4]], "--tls-ca")
        self.assertEqual(5, one_way.code)
        for flags, why in ((mine[:2], "--tls-key together"),
                           (["--tls-ca", self.path("none.pem")], "none.pem"),
                           (["--tls-ca", self.path("")], "it is a folder"),
                           (mine[4:6], "--tls-ca alone would serve plain text")):
            self.fails(["--data-dir", self.path("e"), "--model", self.model,
                        "--listen", "127.0.0.1:0", *flags], why)

    def test_port_file_and_environment_twins(self):
        environment = clean_environment()
        environment.update(MSA_DATA_DIR=self.path("data"), MSA_MODEL=self.model, MSA_THREADS="1",
                           MSA_LISTEN="127.0.0.1:0", MSA_PORT_FILE=self.path("port"),
                           MSA_LOG_FORMAT="json")
        process = subprocess.Popen([MSA, "serve"], stderr=subprocess.PIPE, text=True,
                                   env=environment)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        with process.stderr:
            for line in process.stderr:
                entry = json.loads(line)
                if "is serving" in entry["message"]:
                    break
        with open(self.path("port"), encoding="utf-8") as file:
            self.assertEqual(f"127.0.0.1:{int(file.read())}", entry["address"])

    def test_no_server(self):
        result = self.run_msa(["ls", "--server", "127.0.0.1:1"])
        self.assertEqual(4, result.code)
        self.assertIn("127.0.0.1:1", result.err)
        self.assertIn("msa serve", result.err)

    def test_a_bank_of_another_model_is_refused(self):
        server = self.serve()
        self.add(server, documents(3))
        self.assertEqual(0, server.stop())
        other = self.path("other-model")
        subprocess.run(["cp", "-rL", self.model, other], check=True)
        with open(f"{other}/config.json", encoding="utf-8") as file:
            config = json.load(file)
        config["msa_config"]["doc_top_k"] = 2
        with open(f"{other}/config.json", "w", encoding="utf-8") as file:
            json.dump(config, file)
        self.model = other
        server = self.serve()
        result = self.run_msa(["ask", "q"], server)
        self.assertEqual(5, result.code, result.err)
        self.assertEqual(3, len(self.msa(server, "ls")))


if __name__ == "__main__":
    unittest.main()
