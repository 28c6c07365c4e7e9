"""Published networks: a folder as model hubs take it, and its way to and from the Hugging Face Hub."""

import re
from pathlib import Path
from typing import Any

from reidlab.errors import InputError, one_line
from reidlab.export.metadata import SCHEMA
from reidlab.files import file_hash, read_json

WEIGHTS, ABOUT = "model.safetensors", "config.json"
HUB, LIBRARY = "hf:", "reidlab"
ABOUT_SCHEMA = SCHEMA | {"input_size": (None, [int]), "weights_file_hash": (None, str)}


def is_published(folder: Path) -> bool:
    """Whether a folder holds a published network."""
    has_its_files = all((folder / name).is_file() for name in (WEIGHTS, ABOUT))  # as other libraries' folders have
    return has_its_files and read_json(folder / ABOUT).get("library_name") == LIBRARY


def read_about(folder: Path) -> dict[str, Any]:
    """Description in a published network; InputError where its weights aren't those that were published."""
    about = read_json(folder / ABOUT, ABOUT_SCHEMA)
    if about.get("weights_file_hash") != file_hash(folder / WEIGHTS):
        raise InputError(f"{folder / WEIGHTS}: not the weights that {ABOUT} tells of; publish or download it again")
    return about


def hub_name(place: str) -> str | None:
    """`USER/NAME` of a place `hf:USER/NAME`; None for any other place."""
    if not place.startswith(HUB):
        return None
    name = place.removeprefix(HUB)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise InputError(f"{place}: write hf:USER/NAME, such as hf:myteam/warehouse")
    return name


def upload(folder: Path, name: str, public: bool) -> str:
    """Make a folder the content of a repository at the Hub, which is made where it is absent; returns its address."""
    hub = _client()
    try:
        api = hub.HfApi()
        address = str(api.create_repo(name, private=not public, exist_ok=True))
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message="reidlab publish")
    except Exception as error:  # each of its layers has exceptions of its own
        raise InputError(
            f"hf:{name}: not uploaded ({one_line(error)}); `hf auth login`, and look at the name"
        ) from error
    return address


def download(name: str) -> Path:
    """The folder of a repository at the Hub, from the cache of its client where it is there already."""
    hub = _client()
    try:
        return Path(hub.snapshot_download(name))
    except Exception as error:
        raise InputError(f"hf:{name}: not downloaded ({one_line(error)}); is it private? `hf auth login`") from error


def _client() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError("hf:USER/NAME needs the Hub's client: pip install 'reidlab[hub]'") from error
    return huggingface_hub
