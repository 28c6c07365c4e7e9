"""Random graphs with padding of every kind, in C under the sanitizers, against LiteRT's reference kernels."""

import numpy as np
import pytest
from host import compile_c, needs_gcc, run_c
from tiny_models import RandomNetwork, reference

pytestmark = needs_gcc
LAYERS = 4


def random_graph(seed: int) -> tuple[RandomNetwork, bytes]:
    """A graph of a few layers: windows of all shapes behind PAD or SAME, sums, products, branches."""
    random = np.random.default_rng(seed)
    net = RandomNetwork(seed, *random.integers(3, 13, 2).tolist(), int(random.choice([1, 2, 3, 4])))
    made = [net.pixels()]
    for _ in range(LAYERS):
        source = made[-1] if random.random() < 0.8 else made[int(random.integers(len(made)))]
        made.append(random_layer(net, source, random))
    alike = [(a, b) for a in made for b in made if a < b and net.shapes[a] == net.shapes[b]]
    output = made[-1]
    if alike:
        a, b = alike[int(random.integers(len(alike)))]
        joined = net.add(a, b, net.scales[a][0] * 1.4)
        output = joined if b == output else net.add(*widths(net, joined, output), net.scales[output][0] * 1.4)
    return net, net.content(output)


def widths(net: RandomNetwork, a: int, b: int) -> tuple[int, int]:
    """Two tensors as vectors of one width, so that they can be added."""
    return tuple(net.conv(net.mean(x, net.scales[x][0]), 5) for x in (a, b))


def random_layer(net: RandomNetwork, source: int, random: np.random.Generator) -> int:
    channels, kind = net.shapes[source][2], random.choice(["conv", "pointwise", "depthwise", "max", "average", "gate"])
    same, stride = bool(random.random() < 0.4), int(random.choice([1, 1, 2, 3]))
    kernel = tuple(random.integers(1, 5, 2).tolist()) if random.random() < 0.5 else int(random.choice([1, 3, 3, 5]))
    if kind == "pointwise":
        kernel, stride = 1, 1
    if kind == "gate":
        return net.mul(source, net.curve(net.mean(source, net.scales[source][0]), "LOGISTIC"), net.scales[source][0])
    rows, columns = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    if random.random() < 0.7:
        top, bottom, left, right = random.integers(0, 4, 4) * (random.random(4) < 0.6)
        unlike = int(random.integers(-128, 128)) if random.random() < 0.2 else None
        value = -128 if kind == "max" and random.random() < 0.7 else unlike
        source = net.pad(source, (int(top), int(bottom), int(left), int(right)), value)
    height, width, _ = net.shapes[source]
    same |= height < rows or width < columns
    if kind in ("max", "average"):
        return net.pool(source, f"{kind.upper()}_POOL_2D", kernel, stride, same)
    out_channels = channels if kind == "depthwise" else int(random.choice([1, 3, 4, 6, 7, 8, 16]))
    depthwise = kind == "depthwise"
    return net.conv(source, out_channels, kernel, stride, same, relu=bool(random.random() < 0.5), depthwise=depthwise)


@pytest.mark.parametrize(
    "seeds", [range(30), pytest.param(range(1000), marks=pytest.mark.slow)], ids=["30 graphs", "1,000 graphs"]
)
def test_random_graphs_equal_the_reference_kernels(seeds, folder):
    wrong = {}
    for seed in seeds:
        net, content = random_graph(seed)
        compile_c(content, folder)
        images = net.images(4)
        expected = reference(content, images).reshape(len(images), -1)
        if differing := np.mean(run_c(folder, images) != expected):
            wrong[seed] = differing
    assert not wrong, f"share of differing codes by seed, {len(wrong)} of {len(seeds)}: {wrong}"
