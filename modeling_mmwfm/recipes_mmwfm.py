"""Command lines of the form `script.py [RECIPE.yaml] [--key value ...]`."""

import json
import sys
from pathlib import Path

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser


def run_script(main, *dataclasses):
    """Call `main` with the filled dataclasses; what the user got wrong ends in one line instead of a traceback."""
    try:
        main(*parse_recipe(HfArgumentParser(dataclasses)))
    except (ValueError, OSError, StrictDataclassError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


def parse_recipe(parser: HfArgumentParser, arguments: list[str] | None = None) -> tuple:
    """Fill the parser's dataclasses from a YAML recipe, each of whose keys the command line can override.

    Raises:
        ValueError: no such recipe, or keys that no dataclass has.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    recipe = {}
    if arguments and arguments[0].endswith((".yaml", ".yml")):
        recipe = read_recipe(arguments.pop(0))
    known = {field for kind in parser.dataclass_types for field in kind.__dataclass_fields__}
    if unknown := sorted(set(recipe) - known):
        raise ValueError(f"expected keys of {', '.join(k.__name__ for k in parser.dataclass_types)}, found {unknown}")
    # The recipe comes first and the command line last: of two values argparse takes the later.
    return parser.parse_args_into_dataclasses(as_line(recipe) + arguments)


def read_recipe(path: str | Path) -> dict:
    """
    Raises:
        ValueError: no such file, or other content than keys and values.
    """
    if not Path(path).is_file():
        raise ValueError(f"expected a recipe, found no file {path}")
    recipe = yaml.safe_load(Path(path).read_text()) or {}
    if not isinstance(recipe, dict):
        raise ValueError(f"expected `key: value` lines in {path}, found {type(recipe).__name__}")
    return recipe


def as_line(recipe: dict) -> list[str]:
    """Keys and values -> a command line; mappings become JSON, None is left out."""
    line = []
    for key, value in recipe.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            line += [f"--{key}", *(json.dumps(part) if isinstance(part, dict) else str(part) for part in values)]
    return line


def read_json(text: str, name: str) -> dict:
    """
    Raises:
        ValueError: no JSON, or not a mapping; `name` is that of the key.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"`{name}`: expected JSON, found {text!r}: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"`{name}`: expected a mapping, found {text}")
    return found
