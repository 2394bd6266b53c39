"""By which rules samples are molecules, and which of them are new: what all metrics of molecules share."""

from typing import Any

from bench.data.bytes.arrays import revision
from bench.data.formats.smiles import stated
from bench.subjects.examples import Examples

__all__ = ["about_molecules", "novel"]


def about_molecules(examples: Examples, features: str = "", digest: str = "") -> dict[str, Any]:
    """Return the fields of an ``Estimate`` that say by which rules samples are molecules.

    Numbers by different rules, or of another version of RDKit, are never ranked together: they differ by the hash.

    Arguments:
        features, digest: Name and hash of a network besides.
    """
    rules = stated(examples.chemistry.chemistry)
    return {
        "extractor": f"{features} of {rules}" if features else rules,
        "extractor_hash": revision(rules, ",".join(examples.chemistry.chemistry.atoms), digest),
    }


def novel(different: set[str], examples: Examples) -> int:
    """Return how many canonical SMILES are not in the training split."""
    return sum(not examples.chemistry.is_known(smiles) for smiles in different)
