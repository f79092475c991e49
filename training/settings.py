"""A run's configuration: YAML and overrides, refused by name where nothing would read them."""
from __future__ import annotations

import difflib
import math
import re
from pathlib import Path

import yaml

from training.data import KINDS
from training.reading import READING

# What is read, the required first.
RUN = (("base", "base_name", "bundle", "out", "seed", "lr", "adapter", "msa_extra", "stages"),
       ("neighbours", "made", "labels", "init", "tokenizer", "compile", "checkpointing", "workers", "log_every", "save_seconds", "decay", "dropout", "until"))
ADAPTER = (("router_layers", "pool", "top_k", "lora_rank", "lora_alpha"), ("similarity",))
RATES = (("lora", "routers"), ("full",))
STAGE = (("name", "attend", "temperature", "mix", "sizes", "loss"),
         ("seconds", "steps", "lr", "rise", "floor", "held_articles", "recent", "near", "cluster", "written_hops", "doc_tokens", "hop_tokens",
          "tokens", "reading", "reading_tokens", "read_tokens", "reading_mix", "reading_documents", "asking_mix", "no_gold",
          "no_gold_alone", "contrasts", "unsure", "ranked", "twisted", "trim", "refusal_weight", "stopping", "stop_level"))
SIMILARITY = ("cosine", "dot")
SIZES = ((), ("wiki", "questions", "articles", "hops", "later", "made", "ask"))
LOSS = (("routing",), ("later", "stop", "memory", "reading", "choice", "refuse"))
NO_NUMBERS = {"base", "base_name", "bundle", "out", "neighbours", "made", "labels", "init", "tokenizer", "compile", "checkpointing", "lr",
              "adapter", "msa_extra", "stages"}                                                 # of RUN
NO_NUMBERS_OF_STAGE = {"name", "attend", "mix", "sizes", "loss", "reading_mix", "reading_documents", "asking_mix"}


class Loader(yaml.SafeLoader):
    """1e-3 is a number too; YAML 1.1 wants 1.0e-3."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


def perhaps(key: str, known) -> str:
    near = difflib.get_close_matches(key, known, 1)
    return f", perhaps {near[0]}" if near else ""


def check_keys(place: str, given, required: tuple[str, ...], others: tuple[str, ...]) -> None:
    known = required + others
    if not isinstance(given, dict):
        raise ValueError(f"{place} is to be a mapping with {', '.join(known)}")
    for key in given:
        if key not in known:
            raise ValueError(f"{place}: unknown key '{key}'{perhaps(str(key), known)}; known: {', '.join(known)}")
    missing = [k for k in required if k not in given]
    if missing:
        raise ValueError(f"{place}: missing {', '.join(missing)}; give every one of them")


def check_numbers(place: str, given: dict, others: set[str] = frozenset()) -> None:
    for key, value in given.items():
        if key not in others and (isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value)):
            raise ValueError(f"{place}: {key} is to be a number, not '{value}'")


def check(path: str, config: dict) -> None:
    check_keys(path, config, *RUN)
    check_numbers(path, config, NO_NUMBERS)
    check_keys(f"{path}: adapter", config["adapter"], *ADAPTER)
    check_numbers(f"{path}: adapter", config["adapter"], {"router_layers", "similarity"})
    if config["adapter"].get("similarity", "cosine") not in SIMILARITY:
        raise ValueError(f"{path}: adapter: similarity is '{config['adapter']['similarity']}'; known: {', '.join(SIMILARITY)}")
    if not 0 <= config.get("dropout", 0.0) < 1:
        raise ValueError(f"{path}: dropout is {config['dropout']}; give a share of at least 0 and below 1")
    check_keys(f"{path}: lr", config["lr"], *RATES)
    check_numbers(f"{path}: lr", config["lr"])
    if config.get("log_every", 1) < 1:
        raise ValueError(f"{path}: log_every is {config['log_every']}; give 1 or more")
    if not isinstance(config["msa_extra"], dict):
        raise ValueError(f"{path}: msa_extra is to be a mapping; give {{}} for none")
    if not isinstance(config["stages"], list):
        raise ValueError(f"{path}: stages is to be a list")
    for number, stage in enumerate(config["stages"]):
        place = f"{path}: stages.{number}"
        check_keys(place, stage, *STAGE)
        check_numbers(place, stage, NO_NUMBERS_OF_STAGE)
        parts = {"mix": ((), KINDS), "sizes": SIZES, "loss": LOSS} | ({"reading_mix": ((), READING)} if stage.get("reading") else {})
        for part, known in parts.items():
            check_keys(f"{place}.{part}", stage.get(part), *known)
            check_numbers(f"{place}.{part}", stage[part])
        if stage["loss"].get("stop") and "stop_level" not in stage:
            raise ValueError(f"{place}: missing stop_level, which loss.stop needs")
        contrasts, unsure = counts = [stage.get(key, 0) for key in ("contrasts", "unsure")]
        for key, count in zip(("contrasts", "unsure"), counts):
            if count != int(count) or count < 0:
                raise ValueError(f"{place}: {key} is {count}; give how many, 0 for none")
        if bool(stage["loss"].get("choice")) != bool(contrasts) or (contrasts and not stage.get("reading")):
            raise ValueError(f"{place}: loss.choice learns from contrasts, which stand among reading samples; give all three or no choice and contrasts")
        if stage["loss"].get("refuse") and not contrasts + unsure or unsure and not (stage["loss"].get("refuse") and stage.get("reading")):
            raise ValueError(f"{place}: loss.refuse learns from contrasts and unsure ones among the reading samples, and is all that the unsure teach; give them together")
        if not {"steps", "seconds"} & set(stage) and "until" not in config:
            raise ValueError(f"{place}: would never end; give steps or seconds")


def parse(place: str, text: str):
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{place}: not YAML ({error})") from error


def child(item: str, node, part: str):
    """`part` as node's key or index."""
    if isinstance(node, list):
        if not part.isdigit() or int(part) >= len(node):
            raise ValueError(f"'{item}': '{part}' is none of the list's entries; give 0 to {len(node) - 1}")
        return int(part)
    if not isinstance(node, dict):
        raise ValueError(f"'{item}': nothing has a part '{part}' there; give a key of the configuration")
    return part


def override(config: dict, item: str) -> None:
    key, _, value = item.partition("=")
    if not key or not value:
        raise ValueError(f"'{item}': give key.sub=value (null for none)")
    node = config
    *parents, leaf = key.split(".")
    for part in parents:
        place = child(item, node, part)
        if isinstance(node, dict) and place not in node:
            known = [str(k) for k in node]
            raise ValueError(f"'{item}': no '{part}' there{perhaps(part, known)}; known: {', '.join(known)}")
        node = node[place]
    node[child(item, node, leaf)] = parse(f"'{item}'", value)


def without_null(node):
    """null is as if not given."""
    if isinstance(node, dict):
        return {k: without_null(v) for k, v in node.items() if v is not None}
    return [without_null(v) for v in node] if isinstance(node, list) else node


def load_config(path: str, overrides: list[str]) -> dict:
    config = parse(path, Path(path).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path}: holds no configuration; give a mapping as in training/configs")
    for item in overrides:
        override(config, item)
    config = without_null(config)
    check(path, config)
    return config
