"""What a card says of a folder, checked offline: the Hub's own check needs the network and takes wrong numbers."""

import json
import math
import re
from pathlib import Path

import yaml
from huggingface_hub.utils import validate_repo_id

CARD = "README.md"
SPLITS = ("train", "validation", "test")

# What the Hub knows (https://huggingface.co/docs/hub/repositories-licenses) of the licences of models and of data;
# "other" needs `license_name`.
LICENSES = {
    *("apache-2.0", "mit", "afl-3.0", "artistic-2.0", "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause"),
    *(
        "bsd-3-clause-clear",
        "isc",
        "ecl-2.0",
        "mpl-2.0",
        "ms-pl",
        "ncsa",
        "osl-3.0",
        "postgresql",
        "zlib",
        "unlicense",
    ),
    *("wtfpl", "epl-1.0", "epl-2.0", "eupl-1.1", "eupl-1.2", "lppl-1.3c", "ofl-1.1", "agpl-3.0", "gpl", "gpl-2.0"),
    *("gpl-3.0", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "gfdl", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5"),
    *("cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
    *("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    *(
        "cdla-sharing-1.0",
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "c-uda",
        "pddl",
        "odc-by",
        "odbl",
        "etalab-2.0",
    ),
    *("openrail", "openrail++", "bigscience-openrail-m", "creativeml-openrail-m", "other"),
}


def read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: expected JSON, found {error}") from error


def is_hub_name(name) -> bool:
    """`user/name`; a folder that exists under that name is a local path."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or Path(name).exists():
        return False
    try:
        validate_repo_id(name)
    except ValueError:
        return False
    return True


def check_card(card: Path, content: str, kind: str) -> dict:
    """Metadata of a card.

    Raises:
        ValueError: a field is missing or not what the Hub expects.
    """

    def refuse(field, expected):
        raise ValueError(f"{card}: `{field}`: expected {expected}, found {data.get(field)!r}")

    match = re.match(r"\s*---\s*\n(.*?)\n---\s*(\n|$)", content, re.DOTALL)
    try:
        data = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError as error:
        raise ValueError(f"{card}: expected YAML between the lines `---`, found {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{card}: expected `key: value` lines between two lines `---` at its start, found none")
    licenses = data.get("license") if isinstance(data.get("license"), list) else [data.get("license")]
    if not all(isinstance(name, str) and name in LICENSES for name in licenses):
        refuse("license", "an identifier that the Hub knows, as apache-2.0")
    if "other" in licenses and not data.get("license_name"):
        refuse("license_name", "the name of the licence")
    tags = data.get("tags")
    if not isinstance(tags, list) or not tags or not all(isinstance(tag, str) for tag in tags):
        refuse("tags", "a list of words")
    library = {"model": "transformers", "adapter": "peft"}.get(kind)
    if library and data.get("library_name") != library:
        refuse("library_name", library)
    bases = data.get("base_model") if isinstance(data.get("base_model"), list) else [data.get("base_model")]
    needed = kind == "adapter" or bases != [None]
    if needed and not all(map(is_hub_name, bases)):
        refuse("base_model", "the Hub name user/name of the base, not a folder (--base_model USER/NAME sets it)")
    return data


def reported_metrics(card: Path, data: dict) -> list[tuple[str, str | None, float, set[str]]]:
    """(type, split, value, names of its data set) of every metric of a card's model-index.

    Raises:
        ValueError: it does not have the form that the Hub reads.
    """

    def text_at(value: dict, key: str, place: str):
        if not isinstance(value, dict) or not isinstance(value.get(key), str):
            raise ValueError(f"{card}: `{place}.{key}`: expected text, found {value!r}")
        return value[key]

    def list_at(value: dict, key: str, place: str):
        if not isinstance(value, dict) or not isinstance(value.get(key), list) or not value[key]:
            raise ValueError(f"{card}: `{place}{key}`: expected a list, found {value!r}")
        return value[key]

    found = []
    for entry in list_at(data, "model-index", "") if "model-index" in data else []:
        text_at(entry, "name", "model-index")
        for result in list_at(entry, "results", "model-index."):
            text_at(result.get("task"), "type", "task")
            for key in ("name", "type"):
                text_at(result.get("dataset"), key, "dataset")
            for metric in list_at(result, "metrics", "results."):
                name, value = text_at(metric, "type", "metrics"), metric.get("value")
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                    raise ValueError(f"{card}: metric `{name}`: expected a finite number, found {value!r}")
                dataset = result["dataset"]
                found.append((name, dataset.get("split"), value, {dataset["name"], dataset["type"]}))
    return found


def numbers(value, split: str | None, keys: tuple[str, ...] = ()) -> list[tuple[str, str | None, float, set[str]]]:
    """(name, split, value, keys above it) of every number of a JSON object; the split is the innermost key that is
    one."""
    if isinstance(value, dict):
        parts = [(part, key if key in SPLITS else split, (*keys, key)) for key, part in value.items()]
        return [found for part in parts for found in numbers(*part)]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return [(keys[-1], split, value, {*keys[:-1]})] if is_number and keys else []


def check_metrics(folder: Path, data: dict):
    """Every metric that a card reports is in a results file of its folder: same name, split and value, and where the
    file has several data sets by name, same data set.

    Raises:
        ValueError: one is not.
    """
    card = folder / CARD
    if not (reported := reported_metrics(card, data)):
        return
    files = sorted({*folder.glob("*results*.json"), *folder.glob("*metrics*.json")})
    known = [(*row, path.name) for path in files for row in numbers(read_json(path), path.stem.split("_")[0])]
    names = ", ".join(path.name for path in files) or "no results file"
    for metric, split, value, datasets in reported:
        measured = [row for row in known if row[0] == metric and split in (None, row[1])]
        measured = [row for row in measured if row[3] & datasets] or measured
        where = f"metric `{metric}`" + (f" of split `{split}`" if split else "")
        if not measured:
            raise ValueError(f"{card}: {where}: expected it in the folder's results, found none in {names}")
        if not any(math.isclose(value, row[2], rel_tol=1e-9, abs_tol=1e-12) for row in measured):
            _, _, number, _, file = measured[0]
            raise ValueError(f"{card}: {where}: expected {number} as in {file}, found {value}")
