"""The exact text frames of a bundled MSA checkpoint, and how they become tokens.

A frame is always tokenised whole: `][` or `.[` merge into one token across a seam. No special tokens
are added by the tokenizer; the frame's own `<|im_start|>` and `<|im_end|>` are parsed as such.
"""
from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

HEAD = "<|im_start|>user\n"
ROUTE = ("\nPlease answer the question based on the above historical document information\n\n"
         "{question}\nPlease return all documents related to the question\n")
TAIL = ("<|im_end|>\n", "<|im_start|>")
REF_END = "<|object_ref_end|>"
READER_QUESTION = ("after", "twice")     # where the reader prompt has the question
READER_ATTENTION = ("causal", "full")
REFUSAL = "The memory has no answer to this question."


@dataclass
class Prompt:
    """Token ids of one routing prompt after the head, and which of them route."""
    ids: list[int]
    routing: list[bool]


def load_tokenizer(path: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(path)
    except Exception as error:      # the library has no narrower one
        raise ValueError(f"{path}: not a tokenizer ({error}); give the folder of a Hugging Face checkpoint") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def document_text(title: str, text: str) -> str:
    return f"{title}\n{text}" if title else text


def cut(tokenizer: Tokenizer, text: str, max_tokens: int) -> str:
    """`text` up to its first `max_tokens` tokens, cut where a token begins."""
    if len(text) <= max_tokens:
        return text
    encoding = tokenizer.encode(text, add_special_tokens=False)
    if len(encoding.ids) <= max_tokens:
        return text
    return text[: encoding.offsets[max_tokens][0]].rstrip()


def document_ids(tokenizer: Tokenizer, reference: int, text: str) -> list[int]:
    return encode(tokenizer, f"<|im_start|>[{reference}]. {text}[{reference}]<|im_end|>")


def routing_prompt(tokenizer: Tokenizer, question: str) -> Prompt:
    """Round 1: the whole question span routes, the tail does not."""
    span = encode(tokenizer, ROUTE.format(question=question))
    tail = [i for part in TAIL for i in encode(tokenizer, part)]
    return Prompt(span + tail, [True] * len(span) + [False] * len(tail))


def next_round_text(question: str, rounds: list[list[tuple[int, str]]]) -> str:
    """The query of the round after `rounds`; each round is its (reference, text) list, best first."""
    text = ROUTE.format(question=question) + "".join(TAIL)
    for taken in rounds:
        text += "".join(f"[{ref}]" for ref, _ in taken) + REF_END
        text += "".join(f"[{ref}]. {body}\n" for ref, body in sorted(taken)) + REF_END
    return text


def next_round_prompt(tokenizer: Tokenizer, question: str,
                      rounds: list[list[tuple[int, str]]]) -> Prompt:
    """A later round: the question up to `...related to the question` and the last round's texts route."""
    text = next_round_text(question, rounds)
    question_end = len(ROUTE.format(question=question)) - 1  # without the newline that round 1 includes
    marker = text.rfind("]" + REF_END + "[")
    texts_begin = marker + len("]" + REF_END)
    texts_end = text.find(REF_END, texts_begin)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    routing = [end <= question_end or (begin >= texts_begin and end <= texts_end)
               for begin, end in encoding.offsets]
    return Prompt(encoding.ids, routing)


def reader_prompt(question: str, documents: list[tuple[int, str]], place: str = "after") -> str:
    """Documents in ascending reference number, as the stored vectors have them.

    place, a checkpoint's `reader_question`: the question stands `after` the documents, or `twice`, before them too, so that a causal
    model reads them knowing what is asked."""
    body = "".join(f"[{ref}]. {text}\n" for ref, text in sorted(documents))
    before = f"{question}\n" if place == "twice" else ""
    return f"{HEAD}{before}{body}\n{question}<|im_end|>\n<|im_start|>assistant\n"


def asking_prompt(documents: list[str], unanswerable: bool = False) -> str:
    """Asks a model for an answer that stands in the texts, a newline, and the question it answers; or for a question only,
    one that the text seems to answer but does not."""
    both = "" if len(documents) == 1 else " that needs both texts"
    wish = "a question that the text does not answer" if unanswerable else f"an answer and its question{both}"
    return f"{HEAD}" + "\n\n".join(documents) + f"\n\nWrite {wish}.{TAIL[0]}" \
        "<|im_start|>assistant\n"
