"""Zero padding of convolutions and poolings: on both sides alike, or as TensorFlow's `SAME`."""

from torch import nn

from reidlab.models.heads import one_of

PADDINGS = (
    "symmetric",  # torch's
    "tensorflow",  # of an odd sum one zero more on the right and below: what Keras's networks are trained with
)


def same(kernel: int, stride: int, padding: str) -> tuple[dict[str, nn.Module], int]:
    """A padding layer by its name, if one is needed, and the `padding` of the layer behind it.

    TensorFlow's depends on the size of the maps; this is the one of sizes that are multiples of the stride.

    Args:
        kernel: side of the layer behind it.
        stride: likewise.
        padding: one of `PADDINGS`.
    """
    one_of("padding", padding, PADDINGS)
    total = kernel - stride
    if padding == "symmetric" or total % 2 == 0:
        return {}, kernel // 2
    before, after = total // 2, total - total // 2
    return {"pad": nn.ZeroPad2d((before, after, before, after))}, 0
