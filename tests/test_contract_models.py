"""What every model in conf/model promises. A new YAML is tested without touching this file.

    python -m pytest tests/test_contract_models.py -k NAME
    python -m pytest tests/test_contract_models.py --searchpath FOLDER --trust PACKAGE

The second line tests the models of a package from outside instead of ours: FOLDER/model holds their YAMLs.
"""

from pathlib import Path

import pytest
from contract import (
    ENUMERABLE,
    QUADRATURE,
    SPACES,
    Candidate,
    check_capabilities,
    check_codes,
    check_configuration,
    check_covered,
    check_density,
    check_description,
    check_gradients,
    check_mass,
    check_relation,
    check_reload,
    check_samples,
    check_spaces,
    check_streams,
    data_of,
)
from helpers_models import OURS, names


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every model, and with each the spaces it takes; ``test_spaces`` sees to it that it takes some."""
    folder = metafunc.config.getoption("searchpath") or OURS
    trust = tuple(metafunc.config.getoption("trust"))
    candidates = [Candidate(name, folder, trust) for name in names("model", folder)]
    if not candidates:
        raise pytest.UsageError(f"--searchpath {folder}: there is no model/NAME.yaml")
    if "candidate" not in metafunc.fixturenames:
        return
    if "space" not in metafunc.fixturenames:
        metafunc.parametrize("candidate", candidates, ids=[candidate.name for candidate in candidates])
        return
    (mark,) = metafunc.definition.iter_markers("spaces")
    pairs = [(candidate, space) for candidate in candidates for space in mark.args[0] if candidate.accepts(space)]
    ids = [f"{candidate.name}-{space}" for candidate, space in pairs]
    metafunc.parametrize(("candidate", "space"), pairs, ids=ids)


def test_configuration_describes_itself_composes_and_passes_its_checks(candidate: Candidate) -> None:
    check_description(candidate.file)
    check_configuration(candidate)


def test_every_kind_of_data_is_taken_or_refused_with_a_reason(candidate: Candidate) -> None:
    check_spaces(candidate)


def test_what_it_can_do_is_said_by_its_base_classes(candidate: Candidate) -> None:
    check_capabilities(candidate)


@pytest.mark.spaces(SPACES)
def test_one_round_of_training_gives_every_parameter_a_finite_gradient(
    candidate: Candidate, space: str, tmp_path: Path
) -> None:
    check_gradients(candidate, space, tmp_path)


@pytest.mark.spaces(SPACES)
def test_samples_are_data(candidate: Candidate, space: str, tmp_path: Path) -> None:
    check_samples(candidate, space, tmp_path)


@pytest.mark.spaces({name: SPACES[name] for name in ("reals", "image", "graphs", "colourings")})
def test_sampling_leaves_the_global_generator_alone(candidate: Candidate, space: str, tmp_path: Path) -> None:
    check_streams(candidate, space, tmp_path)


@pytest.mark.spaces(SPACES)
def test_reloaded_weights_give_the_same_log_weights_on_another_batch(
    candidate: Candidate, space: str, tmp_path: Path
) -> None:
    check_reload(candidate, space, tmp_path)


@pytest.mark.spaces(SPACES)
def test_log_weight_is_deterministic_exactly_when_it_says_exact(
    candidate: Candidate, space: str, tmp_path: Path
) -> None:
    check_relation(candidate, space, tmp_path)


@pytest.mark.spaces(SPACES)
def test_codes_decode_to_data(candidate: Candidate, space: str, tmp_path: Path) -> None:
    check_codes(candidate, space, tmp_path)


@pytest.mark.spaces(ENUMERABLE)
def test_mass_over_an_enumerable_space_is_one(candidate: Candidate, space: str, tmp_path: Path) -> None:
    check_mass(candidate, space, tmp_path)


@pytest.mark.spaces(QUADRATURE)
def test_density_integrates_to_one(candidate: Candidate, space: str, tmp_path: Path) -> None:
    check_density(candidate, space, tmp_path)


def test_every_capability_is_covered(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("searchpath"):
        pytest.skip("a package from outside need not have a model of every kind")
    candidates = [Candidate(name) for name in names("model")]
    check_covered(
        candidate.new(data_of(space))
        for candidate in candidates
        for space in ("two reals", "two integers", "three nodes", "three colours")
        if candidate.accepts(space)
    )
