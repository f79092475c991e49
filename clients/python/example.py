#!/usr/bin/env python3
"""Adds two documents, asks a question, shows what it was answered from.

    clients/python/generate.sh && MSA_SERVER=127.0.0.1:7070 clients/python/example.py
"""
from msa_client import Client


def main():
    with Client() as memory:
        for result in memory.add([
                {"id": "tower", "title": "Mira tower", "text": "The Mira tower is 412 m high."},
                {"id": "bridge", "text": "The Orlan bridge opened in 1931."}]):
            print(result.id, "refused: " + result.error.message if result.error
                  else f"revision {result.revision}, {result.tokens} tokens")
        question = "How high is the Mira tower?"
        for event in memory.generate(question):
            kind = event.WhichOneof("event")
            if kind == "routing":
                for found in event.routing.documents:
                    print(f"round {event.routing.round}: {found.document_id.decode()} "
                          f"{found.score:.3f}")
            elif kind == "text" and not event.text.retrieval:
                print(event.text.text, end="", flush=True)
            elif kind == "done":
                print(f"\n{event.done.finish_reason}, {event.done.timings.total:.0f} ms, from:",
                      ", ".join(d.document_id.decode() for d in event.done.documents))


if __name__ == "__main__":
    main()
