"""How every program here ends: what a user can mend is one line `PROGRAM: what; what to do`, without a traceback."""
from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from safetensors import SafetensorError

MENDABLE = (ValueError, OSError, EOFError, SafetensorError, yaml.YAMLError)


def said(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        wrong = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        return f"{wrong}; give a path that can be used" if error.filename else wrong
    text = str(error)
    if text.startswith("Caught ") and "\nOriginal Traceback" in text:    # of a worker of torch's DataLoader
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return " ".join(text.split()) or type(error).__name__


def run(main: Callable[[], None]) -> None:
    program = Path(sys.argv[0]).stem
    try:
        main()
    except KeyboardInterrupt as stop:
        print(f"{program}: {str(stop) or 'interrupted'}", file=sys.stderr)
        raise SystemExit(130) from None
    except ModuleNotFoundError as error:
        raise SystemExit(f"{program}: needs the Python package {error.name}; install it with pip") from error
    except MENDABLE as error:
        raise SystemExit(f"{program}: {said(error)}") from error
