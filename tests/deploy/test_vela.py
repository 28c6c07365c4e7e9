import textwrap

import pytest

from reidlab.deploy import vela
from reidlab.deploy.choose import _by_vela
from reidlab.errors import InputError

SUMMARY = """\
experiment,network,inference_time,sram_memory_used,on_chip_flash_memory_used,off_chip_flash_memory_used
default,model,0.0091,292.5,0.0,160.25
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A fake Vela: the summary that it writes, and how it ends."""

    def make(summary=SUMMARY, status=0):
        (tmp_path / "summary").write_text(summary)
        file = tmp_path / "vela"
        file.write_text(
            textwrap.dedent(f"""\
                #!/bin/sh
                [ {status} = 0 ] || {{ echo "Error: Invalid tflite file"; exit {status}; }}
                [ "$2 $3 $4" = "--accelerator-config ethos-u55-128 --output-dir" ] || exit 3
                cat "{tmp_path}/summary" > "$5/model_summary_Any.csv"
                """)
        )
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return tmp_path / "model.tflite"

    return make


def test_summary_is_read(program):
    assert vela.report(program()) == {"ram_kib": 292.5, "flash_kib": 160.25, "latency_ms": pytest.approx(9.1)}


def test_failure_and_another_summary_are_said(program):
    with pytest.raises(InputError, match="vela ended with 1: Error: Invalid tflite file"):
        vela.report(program(status=1))
    with pytest.raises(InputError, match="no figure 'sram_memory_used' in its summary"):
        vela.report(program("experiment,network\ndefault,model\n"))
    assert "no figure" in _by_vela(program("a,b\n1,2\n"))["note"]


def test_absent_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vela.report(tmp_path / "model.tflite") is None
    assert _by_vela(tmp_path / "model.tflite") == {"note": f"needs Vela: {vela.INSTALL}"}
