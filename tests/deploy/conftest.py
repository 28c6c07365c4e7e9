import re
import shutil

import pytest

from reidlab.deploy import emulator
from reidlab.plots import saving


@pytest.fixture
def blank_pictures(monkeypatch):
    """Pictures of a stage are files with nothing drawn in them."""
    monkeypatch.setattr(saving, "png", lambda figure, dpi: b"")


@pytest.fixture(scope="session", autouse=True)
def built_once(tmp_path_factory):
    """Firmware takes over what is the same for every model: kernels, start-up, input and output, counter."""
    kept, build_firmware = tmp_path_factory.mktemp("firmware"), emulator.build_firmware

    def build(sources, out, core, **variables):
        known = kept / re.sub(r"\W", "", f"{core}{variables.get('EXTRA', '')}")
        known.mkdir(exist_ok=True)
        for file in known.iterdir():
            shutil.copy(file, out)
        build_firmware(sources, out, core, **variables)
        for name in ("reid_kernels.o", "startup.o", "semihosting.o", "count.so"):
            if (out / name).exists():
                shutil.copy(out / name, known)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(emulator, "build_firmware", build)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all networks of a module, as the most of what is exported is the same for each."""
    return tmp_path_factory.mktemp("c")
