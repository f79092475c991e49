"""What both peers share with benchmarks/model_bench.cc: the tokens, the repeats, the middle."""
import time

PREFILL_TOKENS, STEPS = 512, 32


def rate(tokens, work, runs):
    """Tokens a second over `runs` calls of `work` after one to warm up."""
    seconds = []
    for run in range(-1, runs):
        begin = time.perf_counter()
        work()
        if run >= 0:
            seconds.append(time.perf_counter() - begin)
    seconds.sort()
    median = seconds[int(0.5 * (len(seconds) - 1) + 0.5)]
    return {"tokens_per_s": tokens / median, "min": tokens / seconds[-1], "max": tokens / seconds[0]}


def some_tokens(count, vocabulary):
    return [100 + i * 7919 % (vocabulary - 200) for i in range(count)]
