"""Client of an MSA server: a memory for language models.

    from msa_client import Client
    with Client("127.0.0.1:7070") as memory:
        memory.add([{"id": "a", "text": "The tower is 412 m high."}])
        for event in memory.generate("How high is the tower?"):
            print(event)
"""
from msa_client.client import AddResult, Answer, Client, Document, ItemError, MsaError

__all__ = ["AddResult", "Answer", "Client", "Document", "ItemError", "MsaError"]
