"""The folder for ST's application: its header compiles, with height and width where they belong."""

import json
import shutil
import subprocess

import pytest
from test_c_export import omni_scale_net

from reidlab.deploy.n6 import BOARD, write_application
from reidlab.errors import InputError


@pytest.fixture
def model(tmp_path):
    file = tmp_path / "model.tflite"
    file.write_bytes(omni_scale_net()[1])
    return file


def printed(folder, tmp_path, names):
    """The values of macros, by a host compiler that knows ST's headers by name alone."""
    for header in ("arm_math.h", "app_od.h"):
        (tmp_path / header).write_text("#define CMW_MIRRORFLIP_NONE 0\n" if header == "app_od.h" else "")
    lines = "\n".join(f'printf("%g\\n", (double) {name});' for name in names)
    (tmp_path / "main.c").write_text(
        f'#include <stdio.h>\n#include "app_config.h"\n#include "app_config.h"\nint main(void) {{\n{lines}\n'
        "printf(WELCOME_MSG_1); return CAMERA_FLIP; }\n"
    )
    flags = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-I{folder}", f"-I{tmp_path}"]
    subprocess.run(["cc", *flags, "-o", tmp_path / "main", tmp_path / "main.c"], check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.splitlines()[: len(names)]]


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_header_compiles_and_says_height_and_width(model, tmp_path):
    from reidlab.deploy.tflite_graph import read_graph

    graph = read_graph(model)
    _, height, width, _ = graph.tensors[graph.inputs[0]].shape
    features = graph.tensors[graph.outputs[0]].shape[-1]
    assert height != width
    write_application(model, tmp_path / "n6", 0.3125, {"max_object_tracking": 7})
    names = ["NN_REID_WIDTH", "NN_REID_HEIGHT", "NN_REID_NB_FEATURES", "APP_SCORE_THRESHOLD", "APP_MAX_OBJECT_TRACKING",
             "APP_MAX_OBJECT_DETECT", "APP_LOST_TIME_IN_MS", "APP_START_TRACKING_CONF_THRESHOLD"]  # fmt: skip
    found = printed(tmp_path / "n6", tmp_path, names)
    assert found[:7] == [width, height, features, 0.3125, 7, 20, 60000] and found[7] == pytest.approx(0.9)


def test_the_profile_and_the_command(model, tmp_path):
    write_application(model, tmp_path / "n6", None)
    profile = json.loads((tmp_path / "n6" / f"user_neuralart_{BOARD}.json").read_text())
    assert profile["Profiles"]["reid"]["memory_pool"].endswith(".mpool")
    command = (tmp_path / "n6" / "generate.sh").read_text()
    assert f"--st-neural-art reid@user_neuralart_{BOARD}.json" in command and "--model reid.tflite" in command
    assert subprocess.run(["sh", "-n", tmp_path / "n6" / "generate.sh"]).returncode == 0
    assert "APP_SCORE_THRESHOLD                (0.500000f)" in (tmp_path / "n6" / "app_config.h").read_text()
    with pytest.raises(InputError, match=r"deploy.app.color: unknown; there are max_object_detect"):
        write_application(model, tmp_path / "n6", None, {"color": 1})


def test_what_the_application_would_compare_wrongly_is_said(tmp_path):
    import torch

    from reidlab import models
    from reidlab.export import tflite
    from reidlab.export.folding import deployable
    from reidlab.export.ranges import Range
    from reidlab.export.steps import as_steps

    torch.manual_seed(0)
    for options, low, said in (
        ({"feat_dim": None}, 0.0, "quantize.output=int8"),
        ({"feat_dim": 16, "projection": "linear"}, -1.0, "zero point, 128 here"),
    ):
        steps = as_steps(deployable(models.osnet_x0_25(**options).eval(), (0, 0, 0), (1, 1, 1)), (64, 32))
        ranges = {name: Range(low, 1.0) for name in steps.shapes}
        (tmp_path / "a.tflite").write_bytes(tflite.integer_file(steps, ranges, {}))
        assert said in write_application(tmp_path / "a.tflite", tmp_path / "n6", None)
        (tmp_path / "a.tflite").write_bytes(tflite.integer_file(steps, ranges, {}, output="int8"))
        assert ("zero point" in write_application(tmp_path / "a.tflite", tmp_path / "n6", None)) == (low < 0)
