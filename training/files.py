"""JSON and tensors from files, whose errors name the file; files that are whole or not there."""
from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save


def read_json(path: str | Path) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); copy or make it again") from error


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    open(path, "rb").close()    # why it cannot be opened, said better
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path}: not a whole safetensors file ({error}); copy or make it again") from error


def replace_file(path: str | Path, content) -> None:
    """Under a temporary name, then renamed: who reads meanwhile finds a whole file; a failure leaves what was there. A link
    stays one: what it leads to is replaced."""
    path = Path(os.path.realpath(path))
    part = path.with_suffix(".tmp")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: dict) -> None:
    replace_file(path, (json.dumps(value, indent=1) + "\n").encode())


def write_tensors(path: str | Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """With the mode that files usually have; safetensors' own writer keeps others from reading."""
    replace_file(path, save(tensors, metadata))
