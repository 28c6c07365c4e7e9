"""From image crops to a verified re-identification model on an edge device.

>>> import reidlab
>>> model = reidlab.load("runs/demo")  # or a checkpoint, an .onnx, a .tflite
>>> embeddings = model(["a.jpg", "b.jpg"])
>>> run = reidlab.Run.compose(["experiment=demo", "seed=1"])
>>> reidlab.evaluate(reidlab.train(run)).table()
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reidlab.data.synthetic.walk import film_people
    from reidlab.export.model import Model, load
    from reidlab.gallery import Gallery
    from reidlab.gallery.following import follow_video
    from reidlab.run import File, Row, Run, Task
    from reidlab.stages.compare import run as compare
    from reidlab.stages.enroll import run as enroll
    from reidlab.stages.evaluate import run as evaluate
    from reidlab.stages.forget import run as forget
    from reidlab.stages.identify import run as identify
    from reidlab.stages.predict import run as predict
    from reidlab.stages.quantize import run as quantize
    from reidlab.stages.report import run as report
    from reidlab.stages.search import run as search
    from reidlab.stages.train import run as train

__version__ = "0.1.0"
__all__ = [
    "File",
    "Gallery",
    "Model",
    "Row",
    "Run",
    "Task",
    "compare",
    "enroll",
    "evaluate",
    "film_people",
    "follow_video",
    "forget",
    "identify",
    "load",
    "predict",
    "quantize",
    "report",
    "search",
    "train",
]
_HOME = {"Gallery": "gallery", "Model": "export.model", "load": "export.model"}
_HOME |= {"film_people": "data.synthetic.walk", "follow_video": "gallery.following"}
_HOME |= dict.fromkeys(("File", "Row", "Run", "Task"), "run")


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import reidlab` takes no time."""
    if name not in __all__:
        raise AttributeError(f"module 'reidlab' has no attribute {name!r}")
    if name in _HOME:
        return getattr(import_module(f"reidlab.{_HOME[name]}"), name)
    return import_module(f"reidlab.stages.{name}").run
