"""Publish a model, an adapter or a data set with its card.

    python training_scripts/push_to_hub.py runs/small --repo_id USER/small
    python training_scripts/push_to_hub.py runs/rfp-lora --repo_id USER/rfp-lora --base_model USER/small --tag v1
    python training_scripts/push_to_hub.py data/rfp --repo_id USER/rfp --private

Folder and card are checked before anything is sent; `--check_only` stops there. It goes in one commit: an interrupted
upload leaves the repository as it was, and the same command goes on. Needs a token (`hf auth login` or HF_TOKEN).
"""

import sys
from dataclasses import dataclass, field

from modeling_mmwfm.publishing_mmwfm import check_folder, publish
from modeling_mmwfm.recipes_mmwfm import run_script


@dataclass
class PublishingArguments:
    folder: str = field(metadata={"help": "what is published; may also come first, without `--folder`"})
    repo_id: str = field(metadata={"help": "name on the Hub, user/name"})
    repo_type: str | None = field(
        default=None, metadata={"choices": ["model", "dataset"], "help": "default: as the folder"}
    )
    private: bool = field(default=False, metadata={"help": "make a new repository private"})
    revision: str | None = field(default=None, metadata={"help": "branch, made if there is none; default: main"})
    tag: str | None = field(default=None, metadata={"help": "name of this version"})
    base_model: str | None = field(
        default=None, metadata={"help": "an adapter's base on the Hub, where the folder names a local one"}
    )
    check_only: bool = field(default=False, metadata={"help": "say what would be sent, and send nothing"})


def main(arguments: PublishingArguments):
    if arguments.check_only:
        publication = check_folder(arguments.folder, arguments.repo_id, arguments.base_model)
        print(f"{publication.kind}: {', '.join(publication.files)}")
        return
    print(publish(**{key: value for key, value in vars(arguments).items() if key != "check_only"}))


if __name__ == "__main__":
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-") and not sys.argv[1].endswith((".yaml", ".yml")):
        sys.argv.insert(1, "--folder")
    run_script(main, PublishingArguments)
