"""The numbers that TFLite's int8 kernels derive from scales: multipliers, shifts and limits."""

import math
from bisect import bisect_left

import numpy as np

MAX_RIGHT_SHIFT = 22
HALF = (1 << 30, 0)  # the multiplier and shift of 1/2
ACTIVATION_LIMITS = {
    "NONE": (-math.inf, math.inf),
    "RELU": (0, math.inf),
    "RELU6": (0, 6),
    "RELU_N1_TO_1": (-1, 1),
}


def fixed_point(real: float) -> tuple[int, int]:
    """Convert a positive real to (multiplier in [2^30, 2^31), shift): real = multiplier * 2^(-31 - shift)."""
    if real == 0:
        return 0, 1
    fraction, exponent = math.frexp(real)
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier, exponent = 1 << 30, exponent + 1
    return (0, 1) if exponent < -31 else (multiplier, -exponent)


def rescaled(value: int, multiplier: int, shift: int) -> int:
    """The reference's value * multiplier * 2^(-31 - shift): high half, rounded, then shifted with ties away from 0."""
    high = ((value << max(-shift, 0)) * multiplier + (1 << 30)) >> 31
    if shift <= 0:
        return high
    return (abs(high) + (1 << (shift - 1)) >> shift) * (1 if high >= 0 else -1)


def rescaling(real: float, largest: int) -> tuple[int, int] | None:
    """`fixed_point` for values of at most `largest` in magnitude, or None where a product needs more than 32 bits.

    A rescaling whose every result rounds to zero becomes (0, 1), which needs no wide shift.
    """
    multiplier, shift = fixed_point(real)
    high = (largest * multiplier << max(-shift, 0)) >> 31
    if shift > MAX_RIGHT_SHIFT and high + 1 < 1 << (shift - 1):
        return 0, 1
    fits = largest << (max(-shift, 0) + 1) < 1 << 31 and shift <= MAX_RIGHT_SHIFT
    return (multiplier, shift) if fits else None


def of_few_results(
    least: int, most: int, real: float, lowest: int, highest: int
) -> tuple[int, int, tuple[int, int]] | None:
    """(factor of a sum, 1 or 0; what to add; multiplier and shift) that give sums their one or two results exactly.

    Of a channel with a tiny scale and a huge bias. None where more results occur, or 32 bits can't hold it.

    Args:
        least: sum.
        most: likewise.
        real: what sums are multiplied by.
        lowest: result; what is beyond is clipped.
        highest: likewise.
    """

    def result(total: int) -> int:
        return min(max(rescaled(total, *fixed_point(real)), lowest), highest)

    low, high = result(least), result(most)
    if low == high:
        return 0, 2 * low, HALF
    bits = (most - least + 1).bit_length() + 1
    scale, sums = (1 << 30, bits - 1), range(-(1 << 30), 1 << 30)
    threshold = least + bisect_left(range(least, most + 1), high, key=result)
    step = sums[bisect_left(sums, high, key=lambda total: rescaled(total, *scale))]
    fits = high - low == 1 and bits - 1 <= MAX_RIGHT_SHIFT and abs(step) + most - least < 1 << 30
    return (1, step - threshold, scale) if fits else None


def mean_rescaling(in_scale: np.float32, out_scale: np.float32, count: int) -> tuple[int, int]:
    """Multiplier and shift of a mean, with the division by the number of elements inside the multiplier."""
    multiplier, shift = fixed_point(float(in_scale) / float(out_scale))
    bits = min(count.bit_length() - 1, 32, 31 - shift)
    return (multiplier << bits) // count, shift + bits


def add_rescalings(larger_scale: np.float32, scale: np.float32, out_scale: np.float32) -> list[tuple[int, int]]:
    """Multiplier and shift of ADD's input with the smaller scale, and of the sum; the other input's is exactly 1/2.

    The reference brings both inputs, times 2^20, to twice the larger scale.
    """
    twice = 2.0 * float(larger_scale)
    return [fixed_point(float(scale) / twice), fixed_point(twice / ((1 << 20) * float(out_scale)))]


def mul_rescaling(scale_a: np.float32, scale_b: np.float32, out_scale: np.float32) -> float:
    """The real multiplier of MUL, in the single precision that the reference uses."""
    return float(np.float32(scale_a) * np.float32(scale_b) / np.float32(out_scale))


def curve(real: float, integer_bits: int) -> dict[str, int]:
    """Rescaling of an input to fixed point with `integer_bits`, and the magnitude at which it saturates."""
    multiplier, shift = fixed_point(min(real * (1 << (31 - integer_bits)), (1 << 31) - 1.0))
    limit = math.floor(((1 << integer_bits) - 1) * (1 << (31 - integer_bits)) * 2.0**shift)
    return {"multiplier": multiplier, "shift": shift, "limit": limit}


def activation_range(activation: str, scale: np.float32, zero_point: int) -> tuple[int, int]:
    """Lowest and highest int8 code of a fused activation."""
    codes = [
        np.float32(np.floor(np.abs(np.float32(limit) / scale) + 0.5) * np.sign(limit)) + zero_point
        for limit in ACTIVATION_LIMITS[activation]
    ]
    low, high = np.clip(codes, -128, 127).astype(int).tolist()
    return low, high
