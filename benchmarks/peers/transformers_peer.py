"""The work of model_bench by transformers on PyTorch: float32, on the CPU. Prints one JSON object.

usage: transformers_peer.py MODEL_DIR THREADS RUNS

Same token counts, same steps, same median of RUNS after one to warm up as benchmarks/model_bench.cc.
"""
import json
import sys

import torch
import transformers

from peer_rate import PREFILL_TOKENS, STEPS, rate, some_tokens

DOCUMENTS, DOCUMENT_TOKENS = 6, 170


def main():
    model_dir, threads, runs = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    model.eval()
    vocabulary = model.config.vocab_size
    prompt = torch.tensor([some_tokens(PREFILL_TOKENS, vocabulary)])
    documents = torch.tensor([some_tokens(DOCUMENT_TOKENS, vocabulary)] * DOCUMENTS)

    def encode():
        model.model(documents, use_cache=False)

    def prefill():
        model(prompt, use_cache=True, logits_to_keep=1)

    def decode(batch):
        cache = transformers.DynamicCache()
        step = torch.full((batch, 1), 500)
        for _ in range(STEPS):
            model(step, past_key_values=cache, use_cache=True)

    with torch.inference_mode():
        result = {
            "version": f"transformers {transformers.__version__}, torch {torch.__version__}",
            "encode": rate(DOCUMENTS * DOCUMENT_TOKENS, encode, runs),
            "prefill_512": rate(PREFILL_TOKENS, prefill, runs),
            "decode_batch_1": rate(STEPS, lambda: decode(1), runs),
            "decode_batch_8": rate(STEPS * 8, lambda: decode(8), runs),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
