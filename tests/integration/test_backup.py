"""msa backup: folders copied while documents come and go, and served from then on."""
import json
import os
import shutil
import subprocess
import threading
import unittest

from harness import CALL_TIMEOUT_S, MSA, Result, ServerTest, clean_environment, documents, ids

QUESTIONS = ["Which garden has a violin?", "Where is the copper tower 12?", "Number 370"]


def lines_of(docs):
    return "".join(json.dumps(d) + "\n" for d in docs)


class Backup(ServerTest):
    def backup(self, server, name):
        made = self.msa(server, "backup", "create", name)
        self.assertEqual(1, len(made))
        return made[0]

    def listed(self, server):
        return {d["id"]: d for d in self.msa(server, "ls")}

    def answers(self, server):
        return [(self.retrieve(server, q, "--limit", "40"), self.ask(server, q)["answer"],
                 self.ask(server, q, "--mode", "router")["documents"]) for q in QUESTIONS]

    def test_a_copy_has_what_was_acknowledged_and_answers_the_same(self):
        server = self.serve()
        docs = documents(30)
        self.add(server, docs[:20])
        self.msa(server, "rm", "doc-000", "doc-001")
        before = self.answers(server)
        quiet = self.backup(server, "quiet")
        self.assertEqual(18, quiet["documents"])
        self.assertEqual(self.path("data/backups/quiet"), quiet["path"])

        going = [d["id"] for d in docs[2:12]]       # deleted one by one, while others are added
        deleted, stop = [], threading.Event()
        def delete():
            for one in going:
                deleted.append(self.msa(server, "rm", one)[0]["id"])
        def add():
            for number in range(1000):
                if stop.is_set():
                    break
                self.add(server, [{**docs[20 + number % 10], "id": f"more-{number}"}])
                added.append(f"more-{number}")
        added = []
        threads = [threading.Thread(target=work) for work in (add, delete)]
        for thread in threads:
            thread.start()
        moments = []
        while len(deleted) < len(going):
            was = set(added), set(deleted)
            made = self.backup(server, f"busy-{len(moments)}")
            moments.append((made, *was, set(added), set(deleted)))
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(set(going), set(deleted))
        self.assertEqual(0, len(set(going) & set(self.listed(server))), "it served on")

        origin = self.listed(server)
        for made, added_before, deleted_before, added_after, deleted_after in (moments[0], moments[-1]):
            copy = self.serve(os.path.relpath(made["path"], self.folder))
            found = self.listed(copy)
            self.assertEqual(made["documents"], len(found))
            self.assertLessEqual(added_before, set(found))
            self.assertEqual(set(), deleted_before & set(found))
            late = {i for i in found if i.startswith("more-")} - added_after
            self.assertLessEqual(len(late), 1, "no more than what was under way")
            gone = set(going) - set(found) - deleted_after
            self.assertLessEqual(len(gone), 1, "no more than what was under way")
            for one in set(found) & set(origin):
                self.assertEqual(origin[one], found[one])
            copy.stop()

        shutil.copytree(quiet["path"], self.path("elsewhere"))
        self.assertEqual(0, server.stop())
        for data in ("data/backups/quiet", "elsewhere"):
            copy = self.serve(data)
            self.assertEqual(before, self.answers(copy))
            self.assertEqual({d["id"] for d in docs[2:20]}, set(self.listed(copy)))
            self.add(copy, docs[:1])
            copy.stop()
        again = self.serve()
        self.assertEqual(origin, {i: d for i, d in self.listed(again).items() if i in origin})
        self.assertIn("quiet", [b["name"] for b in self.msa(again, "backup", "ls")])
        self.msa(again, "backup", "rm", "quiet")
        self.assertFalse(os.path.exists(quiet["path"]))

    def test_names_are_no_paths_and_are_given_once(self):
        server = self.serve()
        for name in ("../a", "a/b", "/tmp/a", ".a", "a b", "x" * 129):
            refused = self.run_msa(["backup", "create", name], server)
            self.assertEqual(5, refused.code, refused.err)
            self.assertIn("INVALID_ARGUMENT: a backup's name is", refused.err)
            self.assertEqual(1, refused.err.count("\n"), refused.err)
        self.assertFalse(os.path.exists(self.path("data/backups")))
        self.backup(server, "a")
        again = self.run_msa(["backup", "create", "a"], server)
        self.assertEqual(5, again.code, again.err)
        self.assertIn("ALREADY_EXISTS: there is a backup 'a'", again.err)
        missing = self.run_msa(["backup", "rm", "b"], server)
        self.assertEqual(3, missing.code, missing.err)

    def test_one_that_is_cut_short_by_a_kill_is_none(self):
        server = self.serve()
        self.add(server, documents(10))
        for attempt in range(5):
            with subprocess.Popen([MSA, "backup", "create", f"b-{attempt}"], stderr=subprocess.PIPE,
                                  stdout=subprocess.DEVNULL,
                                  env={**clean_environment(), "MSA_SERVER": server.address}) as asking:
                while asking.poll() is None and not os.path.exists(self.path("data/backups")):
                    pass
                server.kill()
                asking.communicate(timeout=CALL_TIMEOUT_S)
            server = self.serve()
            listed = [b["name"] for b in self.msa(server, "backup", "ls")]
            there = os.listdir(self.path("data/backups")) if os.path.exists(self.path("data/backups")) else []
            self.assertEqual(sorted(listed), sorted(there))
            for name in listed:
                copy = self.serve("data/backups/" + name)
                self.assertEqual(10, len(self.listed(copy)))
                copy.stop()
                self.msa(server, "backup", "rm", name)
            shutil.rmtree(self.path("data/backups"), ignore_errors=True)

    def test_a_cluster_is_copied_shard_by_shard_under_one_name(self):
        router = self.start_cluster()
        self.add(router, documents(40))
        self.msa(router, "rm", "doc-003", "doc-004")
        before = self.retrieve(router, QUESTIONS[0], "--limit", "40")
        made = self.msa(router, "backup", "create", "nightly")
        self.assertEqual(list("abc"), [b["shard"] for b in made])
        self.assertEqual(38, sum(b["documents"] for b in made))
        self.assertTrue(all(b["documents"] for b in made))
        again = self.run_msa(["backup", "create", "nightly"], router)
        self.assertEqual(5, again.code, again.err)
        self.assertIn("shard '", again.err)
        node = self.shards["b"]
        self.assertEqual([self.path("data-b/backups/nightly")],
                         [b["path"] for b in self.msa(node, "backup", "ls")], "a memory node is asked as well")

        self.msa(router, "rm", "doc-005")
        for name, shard in self.shards.items():
            shard.stop()
            self.start(["memory-node", "--name", name, "--data-dir", self.path(f"data-{name}/backups/nightly"),
                        "--shard-map", self.map, "--threads", "1"]).wait_ready()
        self.assertEqual(before, self.retrieve(router, QUESTIONS[0], "--limit", "40"))
        self.assertIn("doc-005", ids(before))
        moved = self.run_msa(["memory-node", "--name", "a", "--data-dir", self.path("data-b/backups/nightly"),
                              "--shard-map", self.map, "--listen", "127.0.0.1:0"])
        self.assertEqual(5, moved.code, moved.err)

    def test_a_shard_that_is_down_keeps_the_others_from_having_one(self):
        router = self.start_cluster()
        self.add(router, documents(10))
        self.shards["c"].kill()
        down = self.run_msa(["backup", "create", "nightly"], router)
        self.assertEqual(4, down.code, down.err)
        self.assertIn("shard 'c'", down.err)
        for name in "ab":
            self.assertEqual([], os.listdir(self.path(f"data-{name}/backups")))

    def test_only_who_may_do_everything_may_copy(self):
        keys = self.path("keys.json")
        def key(name, *rights):
            made = self.run_msa(["key", "create", "--api-keys", keys, *rights, name])
            self.assertEqual(0, made.code, made.err)
            return made.out.strip()
        owner, others = key("owner", "--admin", "*"), [key("all", "--write", "*"), key("one", "--admin", "default")]
        server = self.serve(extra=("--api-keys", keys))
        def run_as(user, *arguments):
            environment = {**clean_environment(), "MSA_SERVER": server.address, "MSA_API_KEY": user}
            return Result(subprocess.run([MSA, "backup", *arguments], capture_output=True, text=True,
                                         env=environment, timeout=CALL_TIMEOUT_S))
        self.assertEqual(0, run_as(owner, "create", "kept").code)
        for other in others:
            for arguments in (["create", "mine"], ["ls"], ["rm", "kept"]):
                denied = run_as(other, *arguments)
                self.assertEqual(1, denied.code, denied.err)
                self.assertIn("PERMISSION_DENIED", denied.err)
        self.assertEqual(["kept"], os.listdir(self.path("data/backups")))


if __name__ == "__main__":
    unittest.main()
