"""A run's configuration: YAML and overrides, refused by name where nothing would read them."""
from __future__ import annotations

import difflib
from pathlib import Path

import yaml

from training.data import KINDS
from training.reading import READING

# What is read, the required first.
RUN = (("base", "base_name", "bundle", "out", "seed", "lr", "adapter", "msa_extra", "stages"),
       ("neighbours", "made", "labels", "init", "tokenizer", "compile", "checkpointing", "workers", "log_every", "save_seconds", "decay", "until"))
ADAPTER = (("router_layers", "pool", "top_k", "lora_rank", "lora_alpha"), ())
RATES = (("lora", "routers"), ("full",))
STAGE = (("name", "attend", "temperature", "mix", "sizes", "loss"),
         ("seconds", "steps", "lr", "rise", "floor", "held_articles", "recent", "near", "cluster", "written_hops", "doc_tokens", "hop_tokens",
          "tokens", "reading", "reading_tokens", "read_tokens", "reading_mix", "reading_documents", "asking_mix", "no_gold", "ranked",
          "twisted", "trim", "refusal_weight", "stopping", "stop_level"))
SIZES = ((), ("wiki", "questions", "articles", "hops", "later", "made", "ask"))
LOSS = (("routing",), ("later", "stop", "memory", "reading"))


def check_keys(place: str, given, required: tuple[str, ...], others: tuple[str, ...]) -> None:
    known = required + others
    if not isinstance(given, dict):
        raise ValueError(f"{place} is to be a mapping with {', '.join(known)}")
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise ValueError(f"{place}: unknown key '{key}'{f', perhaps {near[0]}' if near else ''}; known: {', '.join(known)}")
    missing = [k for k in required if k not in given]
    if missing:
        raise ValueError(f"{place}: missing {', '.join(missing)}; give every one of them")


def check(path: str, config: dict) -> None:
    check_keys(path, config, *RUN)
    check_keys(f"{path}: adapter", config["adapter"], *ADAPTER)
    check_keys(f"{path}: lr", config["lr"], *RATES)
    if not isinstance(config["msa_extra"], dict):
        raise ValueError(f"{path}: msa_extra is to be a mapping; give {{}} for none")
    if not isinstance(config["stages"], list):
        raise ValueError(f"{path}: stages is to be a list")
    for number, stage in enumerate(config["stages"]):
        place = f"{path}: stages.{number}"
        check_keys(place, stage, *STAGE)
        check_keys(f"{place}.mix", stage["mix"], (), KINDS)
        check_keys(f"{place}.sizes", stage["sizes"], *SIZES)
        check_keys(f"{place}.loss", stage["loss"], *LOSS)
        if stage.get("reading"):
            check_keys(f"{place}.reading_mix", stage.get("reading_mix"), (), READING)
        if not {"steps", "seconds"} & set(stage) and "until" not in config:
            raise ValueError(f"{place}: would never end; give steps or seconds")


def parse(place: str, text: str):
    try:
        return yaml.safe_load(text)
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
            near = difflib.get_close_matches(part, map(str, node), 1)
            raise ValueError(f"'{item}': no '{part}' there{f', perhaps {near[0]}' if near else ''}; known: {', '.join(map(str, node))}")
        node = node[place]
    node[child(item, node, leaf)] = parse(f"'{item}'", value)


def load_config(path: str, overrides: list[str]) -> dict:
    config = parse(path, Path(path).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError(f"{path}: holds no configuration; give a mapping as in training/configs")
    for item in overrides:
        override(config, item)
    check(path, config)
    return config
