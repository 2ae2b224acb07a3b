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
        path = Path(arguments.pop(0))
        if not path.is_file():
            raise ValueError(f"expected a recipe, found no file {path}")
        recipe = yaml.safe_load(path.read_text()) or {}
        if not isinstance(recipe, dict):
            raise ValueError(f"expected `key: value` lines in {path}, found {type(recipe).__name__}")
    known = {field for kind in parser.dataclass_types for field in kind.__dataclass_fields__}
    if unknown := sorted(set(recipe) - known):
        raise ValueError(f"expected keys of {', '.join(k.__name__ for k in parser.dataclass_types)}, found {unknown}")
    # The recipe comes first and the command line last: of two values argparse takes the later.
    from_recipe = []
    for key, value in recipe.items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            from_recipe += [f"--{key}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
    return parser.parse_args_into_dataclasses(from_recipe + arguments)
