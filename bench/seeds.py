"""Derived seeds, which give every component its own stream of random numbers.

A run has one base seed. Each component hashes it with its own name. So an additional draw in one component does not
change the numbers in another, and changing the model does not change the order of the data.
"""

import hashlib

__all__ = ["derive_seed", "sampling_seed_of"]


def derive_seed(base: int, *parts: str | int) -> int:
    r"""Return a seed for the component named by ``parts``.

    .. math:: \text{seed} = \text{SHA-256}(base / part_1 / part_2 / \dots) \bmod 2^{63}

    Arguments:
        base: The run's seed, any integer (0 is a seed).
        parts: Name of the component, for example ``("evaluate", "samples")``. At least one part.

    Returns:
        An integer in [0, 2^63), accepted by ``torch.Generator.manual_seed``.

    Raises:
        ValueError: There are no parts.
    """
    if not parts:
        raise ValueError("derive_seed needs the name of the component that asks")
    # repr keeps 1 and "1" apart, and the separator keeps ("ab", "c") and ("a", "bc") apart.
    text = "/".join(repr(part) for part in (base, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def sampling_seed_of(run: int, sampling_seed: int) -> int:
    """Return the base of what a run draws when it is measured: the run's own seed for 0, else the same for all runs."""
    return run if sampling_seed == 0 else derive_seed(sampling_seed, "sampling")
