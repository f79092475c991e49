"""A thin layer over the generated stubs: str instead of bytes, iterators, errors with words.

Everything the protocol has is reachable through `Client.stub`, `Client.backup_stub` and the messages in `msa.v1`.
"""
import dataclasses
import json
import os
import re
import secrets
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Union

import grpc

from msa.v1 import backup_pb2, backup_pb2_grpc, common_pb2, compute_node_pb2, router_pb2, router_pb2_grpc

MAX_MESSAGE_BYTES = 64 << 20
DEFAULT_TIMEOUT_S = 60.0


class MsaError(Exception):
    """A call that failed: `code` is a grpc.StatusCode, the text says what to do."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message


@dataclasses.dataclass
class ItemError:
    """Why one document was refused while others went on. `code` is a gRPC status number."""

    code: int
    message: str


@dataclasses.dataclass
class AddResult:
    """One a document, in the order they were sent."""

    index: int  # from 0
    id: str
    error: Optional[ItemError]  # None: durable, and routed to from now on
    revision: int = 0  # 1 for the first, one more a replacement
    tokens: int = 0
    chunks: int = 0
    parts: int = 0


@dataclasses.dataclass
class Document:
    """A stored document; `text` is "" where only the listing was asked for."""

    id: str
    title: str
    metadata: Dict
    revision: int
    tokens: int
    chunks: int
    text: str = ""


@dataclasses.dataclass
class Answer:
    text: str
    documents: List[compute_node_pb2.RoutedDocument]  # what it was read from, best first
    done: compute_node_pb2.DoneEvent


def _message(document: Union[Dict, common_pb2.Document]) -> common_pb2.Document:
    if isinstance(document, common_pb2.Document):
        return document
    if not isinstance(document, dict):
        raise TypeError(f"a document is a dict or a common_pb2.Document, not "
                        f"{type(document).__name__}; give a list or another iterable of them")
    unknown = set(document) - {"id", "title", "text", "metadata"}
    if unknown:
        raise ValueError(f"unknown fields in a document: {sorted(unknown)}")
    texts = {"id": document.get("id"), "title": document.get("title", ""),
             "text": document.get("text", "")}
    for field, value in texts.items():
        if not isinstance(value, str):
            raise TypeError(f"a document's {field} is to be a str, not {value!r:.80}")
    metadata = document.get("metadata")
    return common_pb2.Document(
        **{field: value.encode() for field, value in texts.items()},
        metadata=json.dumps(metadata, allow_nan=False).encode() if metadata else b"")


def _document(info: common_pb2.DocumentInfo, text: bytes = b"") -> Document:
    return Document(
        id=info.id.decode(), title=info.title.decode(),
        metadata=json.loads(info.metadata) if info.metadata else {}, revision=info.revision,
        tokens=sum(p.num_tokens for p in info.parts),
        chunks=sum(p.routing_chunks for p in info.parts), text=text.decode())


def _error(status: common_pb2.ItemStatus) -> Optional[ItemError]:
    return ItemError(status.code, status.message) if status.code else None


def _read(path: Optional[str]) -> Optional[bytes]:
    if not path:
        return None
    with open(path, "rb") as file:
        return file.read()


class _WithMetadata(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor,
                    grpc.StreamStreamClientInterceptor):
    """Sends the key, if there is one, and an id of its own, which the server's log has, with every call."""

    def __init__(self, key: Optional[str]):
        self._key = [("authorization", "Bearer " + key)] if key else []

    def _intercept(self, continuation, details, request):
        metadata = [*(details.metadata or ()), *self._key]
        if all(name != "x-request-id" for name, _ in metadata):
            metadata.append(("x-request-id", secrets.token_hex(8)))
        return continuation(_Details(details.method, details.timeout, metadata, details.credentials,
                                     details.wait_for_ready, details.compression), request)

    intercept_unary_unary = intercept_unary_stream = intercept_stream_stream = _intercept


class _Details(NamedTuple("_Details", [(name, Any) for name in (
        "method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")]),
               grpc.ClientCallDetails):
    pass


def _api_key(path: Optional[str]) -> Optional[str]:
    path = path or os.environ.get("MSA_API_KEY_FILE")
    key = _read(path).decode() if path else os.environ.get("MSA_API_KEY", "")
    key = key.strip()
    if key and not re.fullmatch("msa_[0-9a-f]{64}", key):
        raise ValueError(f"{path or 'MSA_API_KEY'}: this is no API key: one is msa_ and 64 hexadecimal "
                         "digits, as msa key create printed it")
    return key or None


def _is_loopback(server: str) -> bool:
    """Whether only this machine can reach it; a name that begins with 127. may lead anywhere."""
    host = server.rpartition(":")[0].strip("[]")
    return (server.startswith("unix:") or host in ("localhost", "::1")
            or re.fullmatch(r"127\.[0-9.]+", host) is not None)


class Client:
    """Thread-safe. `server`: host:port, else MSA_SERVER, else 127.0.0.1:7070.

    `api_key_file`: a file that holds an API key for a server that wants one, else MSA_API_KEY_FILE,
    else the key in MSA_API_KEY. It is sent over TLS or within this machine only (ValueError).

    TLS where `tls_ca` names a file of certificates to trust (PEM), with `tls_cert` and `tls_key` for
    a server that wants a certificate; else MSA_TLS_CA, MSA_TLS_CERT and MSA_TLS_KEY."""

    def __init__(self, server: Optional[str] = None, bank: str = "default",
                 timeout_s: float = DEFAULT_TIMEOUT_S, tls_ca: Optional[str] = None,
                 tls_cert: Optional[str] = None, tls_key: Optional[str] = None,
                 api_key_file: Optional[str] = None):
        self.bank = bank
        self.timeout_s = timeout_s
        server = server or os.environ.get("MSA_SERVER") or "127.0.0.1:7070"
        options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                   ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                   ("grpc.enable_http_proxy", 0)]
        ca, cert, key = (_read(given or os.environ.get(name)) for given, name in
                         ((tls_ca, "MSA_TLS_CA"), (tls_cert, "MSA_TLS_CERT"), (tls_key, "MSA_TLS_KEY")))
        if (cert or key) and not ca:
            raise ValueError("tls_cert and tls_key without tls_ca would be spoken in plain text: give tls_ca, the "
                             "certificates that the server's is checked with")
        secret = _api_key(api_key_file)
        if secret and not ca and not _is_loopback(server):
            raise ValueError(f"the API key is not sent to {server} in plain text, which others can "
                             "read: give tls_ca to speak TLS")
        if ca:
            self._channel = grpc.secure_channel(
                server, grpc.ssl_channel_credentials(ca, key, cert), options=options)
        else:
            self._channel = grpc.insecure_channel(server, options=options)
        channel = grpc.intercept_channel(self._channel, _WithMetadata(secret))
        self.stub = router_pb2_grpc.MemoryServiceStub(channel)
        self.backup_stub = backup_pb2_grpc.BackupServiceStub(channel)

    def close(self):
        self._channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.close()

    def _call(self, method, request, timeout_s=None):
        try:
            return method(request, timeout=timeout_s or self.timeout_s)
        except grpc.RpcError as error:
            raise MsaError(error.code(), error.details()) from None

    def create_bank(self, name: str, **options) -> common_pb2.BankSpec:
        """`options`: fields of msa.v1.BankOptions, as routing_dtype=common_pb2.DTYPE_FLOAT8."""
        request = router_pb2.CreateBankRequest(name=name,
                                               options=router_pb2.BankOptions(**options))
        return self._call(self.stub.CreateBank, request).spec

    def delete_bank(self, name: str):
        self._call(self.stub.DeleteBank, router_pb2.DeleteBankRequest(name=name))

    def get_model(self) -> compute_node_pb2.InfoReply:
        """What a bank made now would be encoded by."""
        return self._call(self.stub.GetModel, router_pb2.GetModelRequest()).model

    def list_banks(self) -> List[common_pb2.BankSpec]:
        return list(self._call(self.stub.ListBanks, router_pb2.ListBanksRequest()).banks)

    def set_coarse(self, **state) -> common_pb2.CoarseState:
        """Of the client's bank; `state`: fields of msa.v1.CoarseState, none to give codes up."""
        request = router_pb2.SetCoarseRequest(bank=self.bank,
                                              state=common_pb2.CoarseState(**state))
        return self._call(self.stub.SetCoarse, request).state

    def add_stream(self, documents: Iterable[Union[Dict, common_pb2.Document]],
                   timeout_s: Optional[float] = None) -> Iterator[AddResult]:
        """Results as documents become durable, in the order sent. `documents` may be a generator:
        it is read from another thread, as the server has room; what it raises, or what is wrong
        with a document here, is raised here and ends the stream. No timeout unless given."""
        failed = []

        def requests():
            try:
                yield router_pb2.AddDocumentsRequest(bank=self.bank)
                for document in documents:
                    yield router_pb2.AddDocumentsRequest(document=_message(document))
            except Exception as error:  # gRPC would say no more than that there was one
                failed.append(error)
                raise

        try:
            for reply in self.stub.AddDocuments(requests(), timeout=timeout_s):
                yield AddResult(reply.index, reply.id.decode(errors="replace"),
                                _error(reply.status), reply.result.revision,
                                reply.result.num_tokens, reply.result.num_chunks,
                                reply.result.num_parts)
        except grpc.RpcError as error:
            if failed:
                raise failed[0] from None
            raise MsaError(error.code(), error.details()) from None

    def add(self, documents, timeout_s: Optional[float] = None) -> List[AddResult]:
        return list(self.add_stream(documents, timeout_s))

    def delete(self, ids: Iterable[str]) -> Dict[str, Optional[ItemError]]:
        """By id: None where it was deleted, else why not."""
        ids = [ids] if isinstance(ids, str) else list(ids)
        request = router_pb2.DeleteDocumentsRequest(bank=self.bank, ids=[i.encode() for i in ids])
        reply = self._call(self.stub.DeleteDocuments, request)
        return {i: _error(r.status) for i, r in zip(ids, reply.results)}

    def get(self, document_id: str) -> Document:
        """`text` is the full text: title, newline, text."""
        request = router_pb2.GetDocumentRequest(bank=self.bank, id=document_id.encode())
        found = self._call(self.stub.GetDocument, request).document
        return _document(found.info, found.full_text)

    def list(self, page_size: int = 0) -> Iterator[Document]:
        """All documents, ids ascending bytewise, a page a call."""
        request = router_pb2.ListDocumentsRequest(bank=self.bank, page_size=page_size)
        while True:
            page = self._call(self.stub.ListDocuments, request)
            for info in page.documents:
                yield _document(info)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def stats(self) -> router_pb2.StatsReply:
        return self._call(self.stub.Stats, router_pb2.StatsRequest(bank=self.bank))

    def create_backup(self, name: str, timeout_s: Optional[float] = None) -> List[backup_pb2.Backup]:
        """Of all banks, on the server's machine, while it serves; one a shard through a router."""
        request = backup_pb2.CreateBackupRequest(name=name)
        return list(self._call(self.backup_stub.CreateBackup, request,
                               timeout_s or 10 * self.timeout_s).backups)

    def list_backups(self) -> List[backup_pb2.Backup]:
        return list(self._call(self.backup_stub.ListBackups, backup_pb2.ListBackupsRequest()).backups)

    def delete_backup(self, name: str):
        self._call(self.backup_stub.DeleteBackup, backup_pb2.DeleteBackupRequest(name=name))

    def retrieve(self, question: str, limit: int = 10,
                 **options) -> compute_node_pb2.RetrieveReply:
        """`options`: other fields of msa.v1.RetrieveRequest."""
        request = compute_node_pb2.RetrieveRequest(bank=self.bank, question=question.encode(),
                                                   limit=limit, **options)
        return self._call(self.stub.Retrieve, request)

    def generate(self, question: str, timeout_s: Optional[float] = None,
                 **options) -> Iterator[compute_node_pb2.GenerateEvent]:
        """Events as they come; the last has `done`. `options`: other fields of
        msa.v1.GenerateRequest. Leaving the loop early stops the server's work."""
        request = compute_node_pb2.GenerateRequest(bank=self.bank, question=question.encode(),
                                                   **options)
        call = self.stub.Generate(request, timeout=timeout_s or 10 * self.timeout_s)
        try:
            yield from call
        except grpc.RpcError as error:
            raise MsaError(error.code(), error.details()) from None
        finally:
            call.cancel()

    def ask(self, question: str, **options) -> Answer:
        done = None
        for event in self.generate(question, **options):
            if event.WhichOneof("event") == "done":
                done = event.done
        if done is None:
            raise MsaError(grpc.StatusCode.INTERNAL, "the answer ended without its last event")
        return Answer(done.answer, list(done.documents), done)
