"""What the shell offers after TAB, once `eval "$(register-python-argcomplete reidlab)"` has run in it."""

from reidlab.config import CONF, ROOT, choices, compose, keys


def overrides(prefix: str, **_) -> list[str]:
    """Config groups; the choices of one, or the runs there are, after its `=`; keys once a dot is typed."""
    key, given, _value = prefix.partition("=")
    if given:
        return [f"{key}={choice}" for choice in (runs() if key == "run.name" else choices(key))]
    if "." in key:
        return [f"{known}=" for known in keys(compose())]
    return ["run.name=", *(f"{folder.name}=" for folder in sorted(CONF.iterdir()) if folder.is_dir())]


def runs(**_) -> list[str]:
    """Names of run folders."""
    return sorted(folder.name for folder in (ROOT / "runs").glob("[!.]*/") if (folder / "config.yaml").exists())


def notebooks(**_) -> list[str]:
    """Names of notebooks."""
    return sorted(file.stem for file in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


COMPLETERS = {"overrides": overrides, "runs": runs, "against": runs, "only": notebooks}  # by an argument's name
