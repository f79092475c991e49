"""--api-keys of `serve` and `router`: who is let in, to which banks; keys made, changed and taken back while it serves."""
import json
import os
import subprocess
import time
import unittest

from harness import MSA, CALL_TIMEOUT_S, Result, ServerTest, clean_environment, documents

DENIED, REFUSED = "PERMISSION_DENIED", "UNAUTHENTICATED"


class ApiKeys(ServerTest):
    def setUp(self):
        super().setUp()
        self.keys = self.path("keys.json")

    def make_key(self, name, *rights):
        """The key itself; rights as flags."""
        result = self.run_msa(["key", "create", "--api-keys", self.keys, *rights, name])
        self.assertEqual(0, result.code, result.err)
        return result.out.strip()

    def as_user(self, key, server, *arguments, stdin=None):
        environment = {**clean_environment(), "MSA_SERVER": server.address}
        if key:
            environment["MSA_API_KEY"] = key
        return Result(subprocess.run([MSA, *arguments], input=stdin, capture_output=True, text=True, env=environment,
                                     timeout=CALL_TIMEOUT_S))

    def succeeds(self, key, server, *arguments, stdin=None):
        result = self.as_user(key, server, *arguments, "--json", stdin=stdin)
        self.assertEqual(0, result.code, result.err + result.out)
        return result.lines

    def fails(self, code, key, server, *arguments, stdin=None):
        result = self.as_user(key, server, *arguments, stdin=stdin)
        self.assertNotEqual(0, result.code, result.out)
        self.assertIn(code, result.err)
        return result.err

    def until(self, done):
        end = time.monotonic() + 60
        while not done():
            self.assertLess(time.monotonic(), end)

    def start_fails(self, code, arguments, *words):
        result = self.run_msa(arguments)
        self.assertEqual(code, result.code, result.err)
        for word in words:
            self.assertIn(word, result.err)

    def test_each_may_do_what_its_key_says(self):
        owner = self.make_key("owner", "--admin", "*")
        writer = self.make_key("writer", "--write", "team-a", "--read", "shared")
        server = self.serve(extra=("--api-keys", self.keys))
        lines = "".join(json.dumps(d) + "\n" for d in documents(6))
        for bank in ("team-a", "team-b", "shared"):
            self.succeeds(owner, server, "bank", "create", bank)
            self.succeeds(owner, server, "add", "--bank", bank, "-", stdin=lines)

        self.assertEqual(["shared", "team-a"], [b["name"] for b in self.succeeds(writer, server, "bank", "ls")])
        self.assertEqual(6, len(self.succeeds(writer, server, "ls", "--bank", "shared")))
        self.succeeds(writer, server, "add", "--bank", "team-a", "-", stdin=lines)
        self.assertTrue(self.succeeds(writer, server, "retrieve", "--bank", "team-a", "Which garden?")[0]["documents"])
        self.succeeds(writer, server, "ask", "--bank", "team-a", "--max-new-tokens", "4", "Which garden?")
        for arguments in (["add", "--bank", "shared", "-"], ["rm", "--bank", "shared", "doc-001"],
                          ["bank", "rm", "team-a"], ["bank", "create", "team-c"]):
            self.fails(DENIED, writer, server, *arguments, stdin=lines)
        self.assertEqual(6, len(self.succeeds(owner, server, "ls", "--bank", "shared")))

        for arguments in (["ls"], ["stats"], ["get", "doc-001"], ["ask", "q"], ["retrieve", "q"], ["rm", "doc-001"]):
            there, absent = (self.fails(DENIED, writer, server, *arguments[:1], "--bank", bank, *arguments[1:])
                             for bank in ("team-b", "team-x"))
            self.assertEqual(absent, there.replace("team-b", "team-x"))
        for key in (None, "msa_" + "0" * 64):
            self.fails(REFUSED, key, server, "bank", "ls")
        with open(self.keys, encoding="utf-8") as file:
            kept = file.read()
        for key in (owner, writer):
            self.assertNotIn(key[4:], kept)
            self.assertNotIn(key[4:], "\n".join(server.log))
        self.assertEqual(0, server.stop())

    def test_keys_change_while_it_serves(self):
        first = self.make_key("first", "--admin", "*")
        server = self.serve(extra=("--api-keys", self.keys))
        second = self.make_key("second", "--admin", "*")
        self.until(lambda: self.as_user(second, server, "bank", "ls").code == 0)
        self.run_msa(["key", "rm", "--api-keys", self.keys, "first"])
        self.until(lambda: REFUSED in self.as_user(first, server, "bank", "ls").err)
        with open(self.keys, "w", encoding="utf-8") as file:
            file.write("{")
        self.until(lambda: any("API keys are not in order" in line for line in server.log))
        self.succeeds(second, server, "bank", "ls")

    def test_what_is_no_file_of_keys_is_refused_at_start(self):
        serve = ["serve", "--data-dir", self.path("data"), "--model", self.model, "--listen", "127.0.0.1:0",
                 "--api-keys", self.keys]
        self.start_fails(3, serve, self.keys, "msa key create")
        self.make_key("owner", "--admin", "*")
        os.chmod(self.keys, 0o666)
        self.start_fails(5, serve, self.keys, "chmod go-w")
        os.chmod(self.keys, 0o600)
        with open(self.keys, "w", encoding="utf-8") as file:
            json.dump({"version": 1, "keys": [], "owner": "me"}, file)
        self.start_fails(5, serve, self.keys, 'unknown field "owner"')

    def test_others_reach_it_only_over_tls(self):
        owner = self.make_key("owner", "--admin", "*")
        mine = self.certificate()
        serve = ["serve", "--data-dir", self.path("data"), "--model", self.model, "--threads", "1", "--listen",
                 "0.0.0.0:0", "--api-keys", self.keys]
        self.start_fails(5, serve, "in plain text", "--tls-cert")
        self.start_fails(5, [*serve, "--insecure-listen-any"], "in plain text")
        server = self.start([*serve, *mine[:4]]).wait_ready()    # no --tls-ca: clients need no certificate
        server.address = "localhost:" + server.address.rsplit(":", 1)[1]
        self.succeeds(owner, server, "bank", "ls", *mine[4:])
        self.fails(REFUSED, None, server, "bank", "ls", *mine[4:])
        away = server.address.replace("localhost", "192.0.2.1")
        refused = self.as_user(owner, server, "bank", "ls", "--server", away)
        self.assertEqual(5, refused.code)
        self.assertIn("in plain text", refused.err)

    def test_a_cluster_lets_its_compute_nodes_in_by_a_key_of_theirs(self):
        owner = self.make_key("owner", "--admin", "*")
        nodes = self.make_key("compute nodes", "--read", "*")
        one_bank = self.make_key("one bank", "--admin", "default")
        with open(self.path("nodes.key"), "w", encoding="utf-8") as file:
            file.write(nodes + "\n")
        router = self.start_cluster(of_router=("--api-keys", self.keys),
                                    of_nodes=("--api-key-file", self.path("nodes.key")))
        lines = "".join(json.dumps(d) + "\n" for d in documents(12))
        self.succeeds(one_bank, router, "add", "-", stdin=lines)
        self.assertTrue(self.succeeds(one_bank, router, "retrieve", "Which garden?")[0]["documents"])
        self.succeeds(owner, router, "ask", "--max-new-tokens", "4", "Which garden?")
        self.fails(REFUSED, None, router, "ls")

    def test_a_compute_node_without_a_key_is_told_of(self):
        owner = self.make_key("owner", "--admin", "*")
        router = self.start_cluster(of_router=("--api-keys", self.keys))
        self.succeeds(owner, router, "add", "-", stdin=json.dumps(documents(1)[0]))
        said = self.fails("FAILED_PRECONDITION", owner, router, "ask", "Which garden?")
        self.assertIn("the router", said)
        self.assertIn("does not let this process in", said)


if __name__ == "__main__":
    unittest.main()
