"""Folders of models, adapters and data sets: checked offline, then sent to the Hub in one commit."""

import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError
from huggingface_hub.repocard import metadata_load
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_relative_import_files

from .card_checks_mmwfm import CARD, check_card, check_metrics, is_hub_name, read_json

SETTINGS_FILES = ("adapter_config.json", "run.json", "generation.json")
LEFT_OUT_FOLDERS = ("checkpoints", "checkpoint-*", "__pycache__")
LEFT_OUT_FILES = (".*", "*.tmp", "*.part", "*.partial", "*.incomplete", "*.lock", "*~")
# Formats that run code when they are opened, by name and by their first bytes.
EXECUTABLE_SUFFIXES = {
    *(".pkl", ".pickle", ".dill", ".joblib", ".pt", ".pth", ".ckpt", ".bin", ".h5", ".hdf5", ".keras"),
    *(".so", ".dll", ".dylib", ".exe", ".sh", ".bat", ".cmd", ".ps1", ".jar", ".js", ".pyc", ".whl"),
}
EXECUTABLE_BYTES = {
    rb"\x80[\x02-\x05]": "a pickle",
    rb"PK\x03\x04": "a zip archive, as `torch.save` writes",
    rb"\x1f\x8b": "a gzip archive",
    rb".{257}ustar": "a tar archive",
    rb"\x7fELF|MZ\x90\x00|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe": "a program",
    rb"#!": "a script",
}


@dataclass
class Publication:
    """A checked folder.

    Args:
        kind: "model", "adapter" or "dataset".
        files: path in the repository -> the file, or its content where the published copy differs.
    """

    kind: str
    files: dict[str, Path | bytes]

    @property
    def repo_type(self) -> str:
        return "dataset" if self.kind == "dataset" else "model"


def folder_kind(folder: Path) -> str:
    """ "model", "adapter" or "dataset".

    Raises:
        ValueError: none of them, or weights are missing.
    """
    has = {name: (folder / name).is_file() for name in ("adapter_config.json", "config.json", "model.safetensors")}
    if has["adapter_config.json"]:
        if not (folder / "adapter_model.safetensors").is_file():
            raise ValueError(f"{folder}: expected adapter_model.safetensors beside adapter_config.json, found none")
        if has["model.safetensors"]:
            raise ValueError(f"{folder}: expected an adapter or a model, found the weights of both")
        return "adapter"
    if has["config.json"]:
        index = folder / "model.safetensors.index.json"
        shards = set(read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
        if missing := sorted(name for name in shards if not (folder / name).is_file()):
            raise ValueError(f"{folder}: expected {', '.join(missing)} beside config.json, found none")
        return "model"
    if any(folder.rglob("*.parquet")):
        return "dataset"
    raise ValueError(
        f"{folder}: expected a model (config.json, model.safetensors), an adapter (adapter_config.json, "
        "adapter_model.safetensors) or a data set (*.parquet), found none of them"
    )


def find_files(folder: Path, kind: str) -> dict[str, Path]:
    """What is published: not checkpoints, temporary and hidden files, nor the data beside a model."""
    left_out = LEFT_OUT_FOLDERS if kind == "dataset" else (*LEFT_OUT_FOLDERS, "data")
    found = {}
    for path in sorted(folder.rglob("*")):
        *parents, name = path.relative_to(folder).parts
        hidden = any(part.startswith(".") or matches(part, left_out) for part in parents)
        if path.is_file() and not hidden and not matches(name, LEFT_OUT_FILES):
            found[path.relative_to(folder).as_posix()] = path
    return found


def matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(PurePosixPath(name).match(pattern) for pattern in patterns)


def code_files(folder: Path) -> set[Path]:
    """The Python files that the folder's `auto_map` and pipelines name, with their neighbours."""
    references = []
    for name in ("config.json", "processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            settings = read_json(folder / name)
            parts = [settings, *(value for value in settings.values() if isinstance(value, dict))]
            references += [value for part in parts for value in part.get("auto_map", {}).values()]
            references += [part["impl"] for part in settings.get("custom_pipelines", {}).values()]
    named = {folder / f"{name.split('.')[0]}.py" for name in references if isinstance(name, str) and "--" not in name}
    present = {path for path in named if path.is_file()}
    if (folder / "model.safetensors").is_file() and (missing := named - present):
        raise ValueError(f"{sorted(missing)[0]}: expected the code that `auto_map` names, found no such file")
    return present.union(*(map(Path, get_relative_import_files(path)) for path in present))


def check_file(path: Path):
    """
    Raises:
        ValueError: a format that can run code, whatever its name, or a file that is not what its name says.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".safetensors":
            with safe_open(path, "np") as file:
                file.keys()
            return
        if suffix == ".parquet":
            import pyarrow.parquet  # with the data sets' extras alone

            pyarrow.parquet.read_metadata(path)
            return
        if suffix in (".npz", ".npy"):
            arrays = np.load(path, allow_pickle=False)  # pickled objects are refused here
            if suffix == ".npz":
                for name in arrays.files:
                    arrays[name]
            return
    except (SafetensorError, ValueError, OSError, EOFError, KeyError) as error:
        raise ValueError(f"{path}: expected a whole {suffix[1:]} file without objects, found {error}") from error
    if suffix == ".json":
        read_json(path)
    with open(path, "rb") as file:
        head = file.read(512)
    found = [what for pattern, what in EXECUTABLE_BYTES.items() if re.match(pattern, head, re.DOTALL)]
    if found or suffix in EXECUTABLE_SUFFIXES:
        what = found[0] if found else f"a {suffix} file"
        raise ValueError(f"{path}: expected no format that can run code when it is opened, found {what}; remove it")


def check_rows(folder: Path):
    """
    Raises:
        ValueError: `load_dataset` would not read the Parquet files.
    """
    from datasets import load_dataset_builder

    try:
        builder = load_dataset_builder(str(folder))
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: expected a data set that `load_dataset` opens, found {error}") from error
    if builder.name != "parquet":
        raise ValueError(f"{folder}: expected `load_dataset` to read Parquet, found {builder.name}")


def published_copies(folder: Path, repo_id: str, base_model: str | None) -> dict[str, bytes]:
    """Content of the small files that name local folders, with Hub names or no folders in their place."""
    card = (folder / CARD).read_text(encoding="utf-8-sig")
    settings = {name: read_json(folder / name) for name in SETTINGS_FILES if (folder / name).is_file()}
    bases = set()
    if base_model is not None:
        try:
            bases.add((metadata_load(folder / CARD) or {}).get("base_model"))
        except (yaml.YAMLError, ValueError):
            pass  # `check_card` says what is wrong
        bases.add(settings.get("adapter_config.json", {}).get("base_model_name_or_path"))
    bases = {name for name in bases if isinstance(name, str)}

    def public(value):
        if isinstance(value, dict):
            return {key: public(part) for key, part in value.items()}
        if isinstance(value, list):
            return [public(part) for part in value]
        if not isinstance(value, str):
            return value
        # Where on whose disk something lay is nobody's business.
        return base_model if value in bases else Path(value).name if Path(value).is_absolute() else value

    for name in sorted(bases, key=len, reverse=True):
        card = re.sub(rf"(?<![\w./-]){re.escape(name)}(?![\w/-])", base_model, card)
    for name in {folder.resolve().name, *re.findall(r"^# (.+)$", card, re.MULTILINE)}:
        card = card.replace(f'"{name}"', f'"{repo_id}"')  # in the example of how to open it
    card = re.sub(r"(?<![\w:/.])(/[\w.-]+){2,}", lambda m: Path(m[0]).name if Path(m[0]).exists() else m[0], card)
    if base_model is not None and "adapter_config.json" in settings:
        settings["adapter_config.json"]["base_model_name_or_path"] = base_model
    return {CARD: card.encode()} | {name: json.dumps(public(s), indent=2).encode() for name, s in settings.items()}


def check_folder(folder: str | Path, repo_id: str, base_model: str | None = None) -> Publication:
    """What would be published of a folder; the folder stays as it is.

    Args:
        repo_id: name on the Hub, `user/name`.
        base_model: name on the Hub of an adapter's base, where the folder names a local one.

    Raises:
        ValueError: names the file and the field that stand against it.
    """
    folder = Path(folder)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise ValueError(f"`repo_id`: expected user/name, found {repo_id!r}")
    validate_repo_id(repo_id)
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder, found none")
    kind = folder_kind(folder)
    if base_model is not None and (kind == "dataset" or not is_hub_name(base_model)):
        raise ValueError(f"`base_model`: expected a Hub name user/name, and a model or adapter, found {base_model!r}")
    files = find_files(folder, kind)
    if CARD not in files:
        writer = f"; `python -m processing.dataset_card {folder} --output {folder}` writes that of a simulated set"
        raise ValueError(
            f"{folder / CARD}: expected the folder's card, found none{writer if kind == 'dataset' else ''}"
        )
    allowed = {path.resolve() for path in code_files(folder)}
    for path in files.values():
        if path.suffix == ".py" and path.resolve() not in allowed:
            raise ValueError(f"{path}: expected no Python file that the configuration does not name; remove it")
        check_file(path)
    copies = published_copies(folder, repo_id, base_model)
    data = check_card(folder / CARD, copies[CARD].decode(), kind)
    check_metrics(folder, data)
    if kind == "dataset":
        check_rows(folder)
    if kind == "adapter":
        base = json.loads(copies["adapter_config.json"]).get("base_model_name_or_path")
        if base not in (data["base_model"] if isinstance(data["base_model"], list) else [data["base_model"]]):
            raise ValueError(
                f"{folder / 'adapter_config.json'}: `base_model_name_or_path`: expected {data['base_model']} as "
                f"`base_model` of {CARD}, found {base!r} (--base_model USER/NAME sets both)"
            )
    return Publication(kind, files | copies)


def publish(
    folder: str | Path,
    repo_id: str,
    repo_type: str | None = None,
    private: bool = False,
    revision: str | None = None,
    tag: str | None = None,
    base_model: str | None = None,
    api: HfApi | None = None,
) -> str:
    """Check a folder and send it to the Hub in one commit; large files that are there already are not sent again.

    Args:
        repo_type: "model" or "dataset"; default: as the folder.
        private: whom a new repository is shown to.
        revision: branch; made if there is none.
        tag: a new one, of the commit.

    Returns:
        address of the commit.

    Raises:
        ValueError: the folder cannot be published (see `check_folder`), or the Hub refused.
    """
    publication = check_folder(folder, repo_id, base_model)
    if repo_type not in (None, publication.repo_type):
        raise ValueError(f"`repo_type`: expected {publication.repo_type} for {folder}, found {repo_type}")
    repository = {"repo_id": repo_id, "repo_type": publication.repo_type}
    api = api or HfApi()
    try:
        if publication.kind == "adapter":
            check_base_exists(api, json.loads(publication.files["adapter_config.json"])["base_model_name_or_path"])
        api.create_repo(**repository, private=private or None, exist_ok=True)
        if private and not api.repo_info(**repository).private:
            raise ValueError(f"`private`: expected a private repository, found {repo_id}, which is public")
        refs = api.list_repo_refs(**repository)
        if tag in {ref.name for ref in refs.tags}:
            raise ValueError(f"`tag`: expected a new tag, found {tag} in {repo_id}")
        if revision is not None and revision not in {ref.name for ref in refs.branches}:
            api.create_branch(**repository, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(name, content) for name, content in publication.files.items()]
        # Weights and rows of an earlier version would be read beside the new ones.
        operations += [
            CommitOperationDelete(name)
            for name in api.list_repo_files(**repository, revision=revision)
            if name not in publication.files and re.search(r"\.parquet$|\.safetensors(\.index\.json)?$", name)
        ]
        commit = api.create_commit(
            **repository, operations=operations, revision=revision, commit_message=f"Publish {publication.kind}"
        )
        if tag is not None:
            api.create_tag(**repository, tag=tag, revision=commit.oid)
    except (HTTPError, OSError, RuntimeError) as error:
        reason = f"{error} {error.__cause__ or ''}".strip()
        if getattr(getattr(error, "response", None), "status_code", None) in (401, 403):
            reason += "\nMay the token of `hf auth login` or HF_TOKEN write there?"
        raise ValueError(f"{repo_id}: {reason}\nNothing half is published; the same command goes on.") from error
    return commit.commit_url


def check_base_exists(api: HfApi, base_model: str):
    try:
        api.model_info(base_model)
    except RepositoryNotFoundError as error:
        raise ValueError(f"`base_model`: expected a model on the Hub, found none named {base_model}") from error
