import stat
import textwrap

import pytest

from reidlab.deploy.stedgeai import find_tool, parse_report
from reidlab.errors import InputError

REPORT = """
 ST Edge AI Core v3.0.0-20426
 Exec/report summary (COMMAND)
 ---------------------------------------------------------------------------
 model file         :   MODEL
 type               :   tflite
 optimization       :   balanced
 params #           :   125,477 items (128.32 KiB)
 ---------------------------------------------------------------------------
 input 1/1          :   'image', uint8(1x224x224x3), 147.00 KBytes, activations
 macc               :   12,102,345
 weights (ro)       :   131,396 B (128.32 KiB) (1 segment) / -370,512(-73.8%) vs float model
 activations (rw)   :   160,800 B (157.03 KiB) (1 segment) *
 ram (total)        :   161,107 B (157.33 KiB) = 160,800 + 0 + 307
 ---------------------------------------------------------------------------
"""
ON_THE_BOARD = """
  duration           : 64.561 ms (average)
  CPU cycles         : 25,824,400
  cos=0.99987
"""


@pytest.fixture
def stedgeai(tmp_path, monkeypatch):
    """A fake executable: what it prints and how it ends."""

    def make(version="v3.0.0-20426", fails=False, report=REPORT):
        (tmp_path / "report").write_text(report)
        (tmp_path / "board").write_text(ON_THE_BOARD)
        program = tmp_path / "stedgeai"
        program.write_text(
            textwrap.dedent(f"""\
                #!/bin/sh
                here=$(dirname "$0")
                if [ "$1" = --version ]; then echo "ST Edge AI Core {version}"; exit 0; fi
                echo "$@" >> "$here/calls"
                if [ {int(fails)} = 1 ]; then echo "E010(InvalidModelError): error: unknown layer" >&2; exit 255; fi
                cat "$here/report"
                case "$*" in *"--mode target"*) cat "$here/board" ;; esac
                """)
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
        return tmp_path

    return make


def test_report_is_read(stedgeai):
    folder = stedgeai()
    tool = find_tool()
    assert tool.version == "3.0.0"
    report = tool.analyze(folder / "model.tflite", "stm32h7", folder / "out")
    assert report["macs"] == 12_102_345
    assert report["weights_kib"] == pytest.approx(128.32, abs=0.01)
    assert report["ram_kib"] == pytest.approx(157.33, abs=0.01) and "latency_ms" not in report
    assert (folder / "out" / "analyze.txt").read_text() == REPORT


def test_board_gives_a_latency(stedgeai):
    folder = stedgeai()
    report = find_tool().validate(folder / "model.tflite", "stm32h7", folder / "out", "serial:921600")
    assert report["latency_ms"] == 64.561 and report["cosine"] == 0.99987 and report["cycles"] == 25_824_400
    find_tool().generate(folder / "model.tflite", "stm32h7", folder / "out")
    calls = (folder / "calls").read_text().splitlines()
    assert calls[0].startswith("validate --model") and calls[0].endswith("--mode target --desc serial:921600")
    assert calls[1].startswith("generate --model") and "--target stm32h7" in calls[1]


def test_absent_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("STEDGEAI_CORE_DIR", raising=False)
    assert find_tool() is None


def test_found_below_its_folder(stedgeai, tmp_path_factory, monkeypatch):
    place = tmp_path_factory.mktemp("core") / "Utilities" / "linux"
    place.mkdir(parents=True)
    (stedgeai() / "stedgeai").rename(place / "stedgeai")
    monkeypatch.setenv("STEDGEAI_CORE_DIR", str(place.parents[1]))
    assert find_tool().program == place / "stedgeai"


@pytest.mark.parametrize("version", ["v1.0.0", "of no number"])
def test_wrong_version_is_refused(stedgeai, version):
    stedgeai(version)
    with pytest.raises(InputError, match=r"reports of major versions 2, 3, 4 are known"):
        find_tool()


def test_failure_says_what_the_tool_said(stedgeai):
    folder = stedgeai(fails=True)
    with pytest.raises(InputError, match=r"analyze ended with 255: E010\(InvalidModelError\)"):
        find_tool().analyze(folder / "model.tflite", "stm32h7", folder / "out")


def test_unknown_report_is_refused():
    with pytest.raises(InputError, match="no line of weights_kib, activations_kib"):
        parse_report(" macc : 1,000\n", "stedgeai analyze")
