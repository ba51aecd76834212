"""How numbers are multiplied in, the sizes of the kernels' tiles out, and the arithmetic behind them. Knows no kernel's code and no pair.

A tile's sums live in registers, of which a thread has at most 255 and a core 65536; its operands pass through shared memory, of which a program
has 227 KiB on an H100, 163 on an A100 and 99 on smaller cards. What a product reads for each sum falls as its tile grows.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

# Keys: "half" for bfloat16 and float16, or the precision that float32 is multiplied in. Comments: shared memory of one stage of loads in flight,
# and the registers that ptxas gives each of 256 threads for sm_90 (sm_80 is like it).

# `weigh`: rows, columns, depth. Two programs of 128 registers share a core: the pair function, some 40 instructions a pair, keeps the arithmetic
# units about as long as the product keeps the tensor cores, and one program computes it while the other multiplies.
WEIGH_TILES = {
    "half": (128, 128, 64),  # 32 KiB; 207 registers if it had them: 47 numbers wait in memory during the pair function
    "tf32": (128, 128, 32),  # 32 KiB; 225, and 21 numbers
    "tf32x3": (128, 64, 32),  # 24 KiB; 130, so one program: its operands are split into two numbers each
    "ieee": (64, 64, 32),  # 16 KiB; 128, in 128 threads
}
# `gather`: rows as in `weigh`, features, depth. A product and nothing else: the largest tile whose sums fit.
GATHER_TILES = {
    "half": (128, 256, 64),  # 48 KiB; 174 registers, 128 of them sums
    "tf32": (128, 128, 32),  # 32 KiB; 127
    "tf32x3": (128, 128, 32),  # 32 KiB; 212
    "ieee": (64, 64, 32),  # 16 KiB; 96, in 128 threads
}
# `weigh_and_gather`: rows, columns, depth, and the features whose sums it holds beside a tile of pairs.
FUSED_TILES = {
    "half": (64, 64, 64, 256),  # 16 KiB; 195 registers, 64 of them sums and 16 of them pairs
    "tf32": (64, 64, 32, 128),  # 16 KiB; 158
    "tf32x3": (64, 32, 32, 128),  # 12 KiB; 168
    "ieee": (32, 32, 32, 128),  # 8 KiB; 128, in 128 threads
}
# Up to here one tile of features is all of them, and no inner product is formed twice.
FUSED_WIDTH = {"half": 256, "tf32": 128, "tf32x3": 128, "ieee": 128}


def fit(most: int, size: int) -> int:
    """The power of two that holds `size`, between 16, the least that a product takes, and `most`."""
    return min(most, max(16, 1 << (size - 1).bit_length()))


def occupancy(numbers: Tensor, kind: str, sums: int, operands: int, programs: int = 1) -> dict[str, int]:
    """Launch options: warps for a tile of so many sums, stages of loads in flight, registers such that so many programs share a core.

    Args:
        numbers: what is multiplied.
        kind: the key of the tables.
        sums: of a tile.
        operands: numbers that one stage holds.
        programs: that should share a core where the tile is whole and shared memory allows.
    """
    warps = 8 if sums >= 128 * 64 else 4
    shared, hopper = _limits(numbers.device)
    buffers = shared // (operands * numbers.element_size())
    if buffers < 2 * programs or warps < 8 or kind == "tf32x3" or torch.version.hip:
        programs = 1
    # Since Hopper each stage has a buffer; before, the stage that is being multiplied has none.
    stages = buffers // programs + (0 if hopper else 1)
    options = {"num_warps": warps, "num_stages": max(2, min(3, stages))}
    if programs > 1:
        options["maxnreg"] = 65536 // (programs * warps * 32)
    return options


@functools.cache
def _limits(device: torch.device) -> tuple[int, bool]:
    """Bytes of shared memory that a program may have, and whether it is a core of Hopper's kind or later."""
    if device.type != "cuda":
        return 0, False
    from triton.runtime import driver

    shared = int(driver.active.utils.get_device_properties(device.index or 0)["max_shared_mem"])
    return shared, torch.version.hip is None and torch.cuda.get_device_capability(device)[0] >= 9
