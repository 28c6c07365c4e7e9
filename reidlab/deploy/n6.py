"""Input of ST's re-identification application for the STM32N6: its header, the compiler's profile, the command."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidlab.deploy.raw_codes import embedding_tensor, quantization_of
from reidlab.deploy.tflite_graph import Graph, read_graph
from reidlab.errors import InputError
from reidlab.files import write_atomic

BOARD = "STM32N6570-DK"
PROFILE = f"user_neuralart_{BOARD}.json"
# Of the compiler of the NPU, as ST's applications call it
OPTIONS = (
    "--enable-epoch-controller -O3 --all-buffers-info --mvei --cache-maintenance --Oalt-sched --native-float "
    "--enable-virtual-mem-pools --Omax-ca-pipe 4 --Ocache-opt --Os"
)
WEIGHTS_AT = "0x72000000"  # in the external flash, behind the detector's
APP = {  # settings of the application, with its defaults
    "max_object_detect": 20,
    "max_object_tracking": 10,
    "lost_time_in_ms": 60_000,
    "start_tracking_conf_threshold": 0.9,
}


def write_application(model: Path, out: Path, threshold: float | None, app: Mapping[str, Any] | None = None) -> str:
    """Write `app_config.h`, the profile of the NPU's compiler and `generate.sh` beside a copy of the model.

    Returns a remark on what the application can't do with it; empty where there is none.

    Args:
        model: the int8 .tflite of an embedding.
        out: the folder.
        threshold: the calibrated cosine distance below which two images show the same identity; None for ST's 0.5.
        app: settings of the application beside `APP`'s, by the same names.
    """
    graph = read_graph(model)
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise InputError(f"{model}: has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, expected one each")
    (_, height, width, _), features = graph.tensors[graph.inputs[0]].shape, graph.tensors[graph.outputs[0]].shape[-1]
    settings = {**APP, **(app or {})}
    if unknown := sorted({*settings} - {*APP}):
        raise InputError(f"deploy.app.{unknown[0]}: unknown; there are {', '.join(APP)}")
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(model, out / "reid.tflite")
    known = f"cosine distance, {'calibrated on this int8 network' if threshold is not None else 'not calibrated'}"
    lines = {
        "NN_REID_WIDTH": width,
        "NN_REID_HEIGHT": height,
        "NN_REID_NB_FEATURES": features,
        "APP_MAX_OBJECT_DETECT": settings["max_object_detect"],
        "APP_MAX_OBJECT_TRACKING": settings["max_object_tracking"],
        "APP_SCORE_THRESHOLD": f"{0.5 if threshold is None else threshold:.6f}f",
        "APP_LOST_TIME_IN_MS": settings["lost_time_in_ms"],
        "APP_START_TRACKING_CONF_THRESHOLD": f"{settings['start_tracking_conf_threshold']:.6f}f",
    }
    write_atomic(out / "app_config.h", HEADER.format(
        defines="\n".join(f"#define {name:<34} ({value})" for name, value in lines.items()), known=known
    ))  # fmt: skip
    profile = {"memory_pool": f"./my_mpools/stm32n6-app2_{BOARD}.mpool", "options": OPTIONS}
    write_atomic(out / PROFILE, json.dumps({"Globals": {}, "Profiles": {"reid": profile}}, indent=4) + "\n")
    write_atomic(out / "generate.sh", GENERATE)
    return _remark(graph)


def _remark(graph: Graph) -> str:
    """Effect on this network of comparing raw output codes, zero point ignored."""
    try:
        _, zero = quantization_of(graph)
    except InputError as error:
        return f"ST's application reads codes: {error}"
    if zero > 0:
        return (
            f"ST's application compares raw uint8 codes and ignores their zero point, {zero} here: nearly all pairs "
            "would pass; choose a network whose embedding ends with a ReLU, as model.network.feat_dim=null"
        )
    is_coded = embedding_tensor(graph) == graph.outputs[0]
    return "" if is_coded else "ST's application reads codes: quantize.output=int8 leaves the last step to it"


HEADER = """/* SPDX-License-Identifier: Apache-2.0 */
#ifndef APP_CONFIG
#define APP_CONFIG

#include "arm_math.h"
#include "app_od.h"

#define USE_DCACHE
#define CAMERA_FLIP CMW_MIRRORFLIP_NONE

/* APP_SCORE_THRESHOLD: {known}. */
{defines}

#define WELCOME_MSG_1 "reid.tflite"
#define WELCOME_MSG_2 "Model Running in STM32 MCU internal memory"

#endif
"""
GENERATE = f"""#!/bin/sh
# Writes the C and the weights of reid.tflite for the STM32N6; takes STEdgeAI Core, and the folder my_mpools of ST's
# application beside it.
set -eu
cd "$(dirname "$0")"
stedgeai generate --name reid --no-outputs-allocation --model reid.tflite --target stm32n6 \\
    --st-neural-art reid@{PROFILE} --input-data-type uint8 --output-data-type uint8
mkdir -p {BOARD}
cp st_ai_output/reid.c st_ai_output/reid_ecblobs.h st_ai_output/stai_reid.c st_ai_output/stai_reid.h {BOARD}/
cp st_ai_output/reid_atonbuf.xSPI2.raw {BOARD}/reid_atonbuf.xSPI2.bin
arm-none-eabi-objcopy -I binary {BOARD}/reid_atonbuf.xSPI2.bin --change-addresses {WEIGHTS_AT} -O ihex \\
    {BOARD}/reid_data.hex
"""
