"""Derived seeds: every component has its own stream of random numbers.

One base seed is enough to say which run this is. Each component hashes it with its own name, so adding a draw in
one place cannot move the numbers in another, and changing the model cannot change the data's order.
"""

import hashlib

__all__ = ["derive_seed"]


def derive_seed(base: int, *parts: str | int) -> int:
    r"""A seed for the component named by ``parts``.

    .. math:: \text{seed} = \text{SHA-256}(base / part_1 / part_2 / \dots) \bmod 2^{63}

    Arguments:
        base: The run's seed, any integer (0 is a seed).
        parts: Who asks, for example ``("evaluate", "samples")``. At least one.

    Returns:
        An integer in [0, 2^63), accepted by ``torch.Generator.manual_seed``.
    """
    if not parts:
        raise ValueError("derive_seed needs the name of the component that asks")
    # repr keeps 1 and "1" apart, and the separator keeps ("ab", "c") and ("a", "bc") apart.
    text = "/".join(repr(part) for part in (base, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
