#!/usr/bin/env python3
"""Drives a real server through the client: MSA_SERVER=127.0.0.1:7070 python3 test_client.py

Works in a bank of its own and deletes it. Exits 77 (skipped) without MSA_SERVER, grpcio or stubs.
"""
import os
import sys
import unittest
import unittest.mock
import uuid

try:
    import grpc

    from msa.v1 import common_pb2, router_pb2
    from msa_client import Client, MsaError
except ImportError as error:
    print(f"skipped: {error}; pip install grpcio grpcio-tools, then clients/python/generate.sh")
    sys.exit(77)
if not os.environ.get("MSA_SERVER"):
    print("skipped: MSA_SERVER is not set")
    sys.exit(77)


class ClientTest(unittest.TestCase):

    def setUp(self):
        self.client = Client(bank=f"python-{uuid.uuid4().hex[:12]}")
        self.addCleanup(self.client.close)
        self.client.create_bank(self.client.bank)
        self.addCleanup(self.client.delete_bank, self.client.bank)

    def code_of(self, call):
        with self.assertRaises(MsaError) as caught:
            call()
        self.assertTrue(caught.exception.message)
        return caught.exception.code

    def test_documents_live_and_die(self):
        results = self.client.add([
            {"id": "b", "title": "Bridge", "text": "It opened in 1931.", "metadata": {"k": [1]}},
            {"id": "a", "text": "Zürich lies by a lake. 湖"}])
        self.assertEqual([r.id for r in results], ["b", "a"])
        self.assertEqual([r.revision for r in results], [1, 1])
        self.assertTrue(all(r.tokens > 0 and r.chunks > 0 for r in results))
        self.assertEqual([d.id for d in self.client.list(page_size=1)], ["a", "b"])
        found = self.client.get("b")
        self.assertEqual(found.text, "Bridge\nIt opened in 1931.")
        self.assertEqual(found.metadata, {"k": [1]})
        self.assertEqual(self.client.add([{"id": "b", "text": "new"}])[0].revision, 2)
        gone = self.client.delete(["b", "never"])
        self.assertIsNone(gone["b"])
        self.assertEqual(gone["never"].code, grpc.StatusCode.NOT_FOUND.value[0])
        self.assertEqual(list(self.client.delete("never")), ["never"])
        too_long = "x" + 300 * "é"
        refused = self.client.delete(i for i in [too_long])
        self.assertEqual(refused[too_long].code, grpc.StatusCode.INVALID_ARGUMENT.value[0])
        self.assertEqual(self.code_of(lambda: self.client.get("b")), grpc.StatusCode.NOT_FOUND)
        shards = self.client.stats().shards
        self.assertEqual(sum(s.stats.num_documents for s in shards), 1)

    def test_what_is_wrong_with_the_documents_is_raised_as_it_is(self):
        for wrong, kind, words in (
                ([{"text": "no id"}], TypeError, "id is to be a str, not None"),
                ([{"id": "a", "txet": "b"}], ValueError, "unknown fields in a document"),
                ({"id": "a", "text": "no list"}, TypeError, "a dict or .*, not str"),
                ([{"id": "a", "metadata": {"n": float("nan")}}], ValueError, "JSON"),
                ((1 / 0 for _ in "x"), ZeroDivisionError, "division")):
            with self.assertRaisesRegex(kind, words):
                self.client.add(wrong)

    def test_a_stream_is_of_one_bank(self):
        message = lambda id, bank: router_pb2.AddDocumentsRequest(
            bank=bank, document=common_pb2.Document(id=id, text=b"text"))
        own = self.client.bank
        stream = self.client.stub.AddDocuments(
            iter([message(b"a", own), message(b"b", ""), message(b"c", own), message(b"d", "other")]))
        added = []
        with self.assertRaises(grpc.RpcError) as caught:
            for reply in stream:
                added.append(reply.id)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertIn("'other'", caught.exception.details())
        self.assertEqual([d.id for d in self.client.list()], ["a", "b", "c"])

    def test_compressed_messages_are_refused(self):
        # A megabyte of them may be a gigabyte of memory before its size is known.
        with self.assertRaises(grpc.RpcError) as caught:
            self.client.stub.ListBanks(router_pb2.ListBanksRequest(),
                                       compression=grpc.Compression.Gzip)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_a_bank_keeps_the_precisions_it_was_made_with(self):
        name = f"{self.client.bank}-fp8"
        made = self.client.create_bank(name, routing_dtype=common_pb2.DTYPE_FLOAT8,
                                       content_dtype=common_pb2.DTYPE_INT8)
        self.addCleanup(self.client.delete_bank, name)
        self.assertIn(made, self.client.list_banks())
        self.assertEqual(made.model_fingerprint, self.client.get_model().fingerprint)
        self.assertEqual(made.routing_dtype, common_pb2.DTYPE_FLOAT8)
        self.assertEqual(made.content_dtype, common_pb2.DTYPE_INT8)

    def test_backups(self):
        self.client.add([{"id": "a", "text": "kept"}])
        name = f"backup-{uuid.uuid4().hex[:12]}"
        made = self.client.create_backup(name)
        self.assertEqual([b.name for b in made], [name])
        self.assertGreaterEqual(made[0].num_documents, 1)
        self.assertGreater(made[0].bytes, 0)
        self.assertIn(made[0].path, [b.path for b in self.client.list_backups()])
        self.assertEqual(self.code_of(lambda: self.client.create_backup(name)), grpc.StatusCode.ALREADY_EXISTS)
        self.assertEqual(self.code_of(lambda: self.client.create_backup("../a")), grpc.StatusCode.INVALID_ARGUMENT)
        self.client.delete_backup(name)
        self.assertEqual(self.code_of(lambda: self.client.delete_backup(name)), grpc.StatusCode.NOT_FOUND)

    def test_refusals_are_item_by_item(self):
        results = self.client.add([
            {"id": "ok", "text": "fine"},
            common_pb2.Document(id=b"bad", text=b"\xff"),
            {"id": "x" * 10240, "text": "fine"},
            {"id": "ok", "text": "again"},
            {"id": "nul", "text": "a\0b"}])
        self.assertEqual([r.error is None for r in results], [True, False, False, False, True])
        self.assertEqual([r.index for r in results], [0, 1, 2, 3, 4])
        self.assertIn("UTF-8", results[1].error.message)
        self.assertIn("512", results[2].error.message)

    def test_questions(self):
        self.client.add([{"id": f"d{i}", "text": f"The {w} tower is {i}00 m high."}
                         for i, w in enumerate(["Mira", "Orlan", "Teval", "Quist"])])
        reply = self.client.retrieve("How high is the Orlan tower?", limit=3)
        self.assertEqual(len(reply.documents), 3)
        self.assertEqual(len({d.document_id for d in reply.documents}), 3)
        events = list(self.client.generate("How high is the Orlan tower?", max_new_tokens=8))
        self.assertEqual(events[-1].WhichOneof("event"), "done")
        text = "".join(e.text.text for e in events
                       if e.WhichOneof("event") == "text" and not e.text.retrieval)
        self.assertEqual(text.strip(), events[-1].done.answer.strip())
        again = self.client.ask("How high is the Orlan tower?", max_new_tokens=8)
        self.assertEqual(again.text, events[-1].done.answer)

    def test_bad_questions(self):
        invalid = grpc.StatusCode.INVALID_ARGUMENT
        self.assertEqual(self.code_of(lambda: self.client.ask("")), invalid)
        self.assertEqual(self.code_of(lambda: self.client.ask("q" * (10 << 20))), invalid)
        self.assertEqual(self.code_of(lambda: self.client.ask("q", top_k=0)), invalid)
        self.assertEqual(self.code_of(lambda: self.client.retrieve("q", limit=-1)), invalid)

    def test_a_certificate_is_shown_over_tls_alone(self):
        with unittest.mock.patch.dict(os.environ, MSA_TLS_CA="", MSA_TLS_CERT="", MSA_TLS_KEY=""):
            for given in ({"tls_cert": __file__}, {"tls_key": __file__}):
                with self.assertRaisesRegex(ValueError, "give tls_ca"):
                    Client("127.0.0.1:7070", **given)

    def test_a_key_goes_to_its_server_alone(self):
        secret = "msa_" + 64 * "0"
        for key, server, words in ((secret, "192.0.2.1:7070", "in plain text"),
                                   (secret, "127.example.org:7070", "in plain text"),
                                   ("hunter2", "127.0.0.1:7070", "this is no API key")):
            with unittest.mock.patch.dict(os.environ, MSA_API_KEY=key, MSA_API_KEY_FILE="", MSA_TLS_CA="", MSA_TLS_CERT="", MSA_TLS_KEY=""):
                with self.assertRaisesRegex(ValueError, words):
                    Client(server)
        if os.environ.get("MSA_API_KEY_FILE"):
            for key in ("", secret):
                with unittest.mock.patch.dict(os.environ, MSA_API_KEY=key, MSA_API_KEY_FILE=""):
                    with Client(bank=self.client.bank) as stranger:
                        for call in (stranger.list_banks, lambda: stranger.add([]), lambda: stranger.ask("q")):
                            self.assertEqual(self.code_of(call), grpc.StatusCode.UNAUTHENTICATED)

    def test_unknown_bank(self):
        with Client(bank="there-is-none") as other:
            self.assertEqual(self.code_of(lambda: other.ask("q")), grpc.StatusCode.NOT_FOUND)
            self.assertEqual(self.code_of(lambda: other.add([])), grpc.StatusCode.NOT_FOUND)

    def test_unreachable_server(self):
        with Client("127.0.0.1:1", timeout_s=5) as nobody:
            self.assertEqual(self.code_of(nobody.list_banks), grpc.StatusCode.UNAVAILABLE)


if __name__ == "__main__":
    unittest.main(verbosity=2)
