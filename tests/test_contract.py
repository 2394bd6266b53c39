"""The contract tests notice what they are there for: planted models, each with one defect."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from contract import (
    EVERY_SPACE,
    Candidate,
    check_capabilities,
    check_configuration,
    check_density,
    check_gradients,
    check_mass,
    check_relation,
    check_reload,
    check_samples,
    check_spaces,
    check_streams,
    kind_of,
)
from helpers_models import Declared, declared, names

from bench.errors import UserError
from bench.schema import Kind

GOOD = """
import math

import torch
from torch import nn

from models.base import GenerativeModel, HasLikelihood
from models.distributions import standard_normal


class Planted(GenerativeModel, HasLikelihood):
    family = "planted"
    relation = "exact"

    def __init__(self, shape, levels, width=100):
        super().__init__(shape, levels)
        if levels is not None:
            raise ValueError("for reals only")
        self.log_sigma = nn.Parameter(torch.zeros(self.shape))

    def log_weight(self, x, *, generator=None):
        z = x / self.log_sigma.exp()
        return -(0.5 * z.square() + self.log_sigma + 0.5 * math.log(2 * math.pi)).flatten(1).sum(1)

    def sample(self, n, *, temperature=1.0, generator=None):
        noise = standard_normal((n, *self.shape), self.log_sigma, generator)
        return temperature * self.log_sigma.detach().exp() * noise

    def training_step(self, batch, batch_idx):
        return -self.log_weight(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 1e-2)
"""


def numbers(space: str) -> bool:
    return kind_of(space) == Kind.NUMBERS


INTEGERS = ", ".join(space for space, (_, levels) in EVERY_SPACE.items() if levels is not None and numbers(space))
YAML = f"# A planted model\n_target_: PACKAGE.Planted\nwidth: 100\n# test: width=3\n# refuses: {INTEGERS}\n"


Plant = Callable[..., Candidate]


def changed(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Makes a package of a model, and a folder with its YAML."""
    planted = itertools.count()

    def make(code: str = GOOD, yaml: str = YAML) -> Candidate:
        package = f"{tmp_path.name}_{next(planted)}"  # another one each time: Python imports a name once
        (tmp_path / f"{package}.py").write_text(code)
        folder = tmp_path / f"conf_{package}"
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "planted.yaml").write_text(yaml.replace("PACKAGE", package))
        monkeypatch.syspath_prepend(tmp_path)
        return Candidate("planted", folder, (package,))

    return make


def test_a_good_model_passes_and_says_what_it_refuses(plant: Plant, tmp_path: Path) -> None:
    candidate = plant()
    check_configuration(candidate)
    assert candidate.configuration()["model"]["width"] == 3, "# test: made it small"
    assert check_spaces(candidate) == dict.fromkeys(INTEGERS.split(", "), "for reals only")
    check_capabilities(candidate)
    for check in (check_gradients, check_samples, check_streams, check_reload, check_relation, check_density):
        folder = tmp_path / check.__name__  # of its own: training would go on where the other's ended
        folder.mkdir()
        check(candidate, "two reals", folder)


def test_a_model_that_refuses_every_space_fails(plant: Plant) -> None:
    everything = changed(YAML, (INTEGERS, ", ".join(EVERY_SPACE)))
    candidate = plant(changed(GOOD, ("if levels is not None", "if True")), everything)
    with pytest.raises(AssertionError, match=r"planted refuses every kind of data: .*'reals': 'for reals only'"):
        check_spaces(candidate)


def test_an_undeclared_refusal_fails_and_the_line_to_write_is_shown(plant: Plant) -> None:
    for said in ("", "# refuses: colour, odd, binary, integers, two pixels, two integers"):
        candidate = plant(yaml=changed(YAML, (f"# refuses: {INTEGERS}", said)))
        with pytest.raises(AssertionError, match=re.escape(f"should say what is refused (# refuses: {INTEGERS})")):
            check_spaces(candidate)


def test_a_declared_refusal_that_is_none_fails(plant: Plant) -> None:
    with pytest.raises(AssertionError, match=r"\(# refuses: image, "):
        check_spaces(plant(yaml=changed(YAML, ("# refuses: ", "# refuses: two reals, "))))
    with pytest.raises(AssertionError, match=r"there are image, colour.*'pictures'"):
        check_spaces(plant(yaml=changed(YAML, ("# refuses: ", "# refuses: pictures, "))))


@pytest.mark.parametrize("error", ["RuntimeError('no')", "ValueError()", "KeyError('shape')"])
def test_a_constructor_that_breaks_is_no_refusal(error: str, plant: Plant) -> None:
    with pytest.raises(UserError, match="could not be made"):
        check_spaces(plant(changed(GOOD, ('ValueError("for reals only")', error))))


def test_a_capability_is_a_base_class(plant: Plant) -> None:
    plain = changed(GOOD, ("(GenerativeModel, HasLikelihood)", "(GenerativeModel)"))
    with pytest.raises(AssertionError, match=r"Planted has log_weight, relation; .* base class HasLikelihood"):
        check_capabilities(plant(plain))
    with pytest.raises(AssertionError):
        check_capabilities(plant(changed(GOOD, ('family = "planted"', 'family = ""'))))
    unsampled = ("def sample", 'cannot_sample = "no algorithm"\n\n    def sample')
    check_capabilities(plant(changed(GOOD, unsampled)))
    nameless = changed(plain, ("log_weight", "log_p"), ('    relation = "exact"\n', ""))
    check_capabilities(plant(nameless))
    with pytest.raises(AssertionError, match="nothing to measure"):
        check_capabilities(plant(changed(nameless, unsampled)))


@pytest.mark.parametrize(
    ("check", "pairs", "said"),
    [
        (check_density, [("return -(0.5", "return 0.1 - (0.5")], "the density integrates to 1"),
        (
            check_gradients,
            [("self.log_sigma = ", "self.idle = nn.Parameter(torch.ones(1)); self.log_sigma = ")],
            "idle",
        ),
        (check_samples, [("return temperature *", "return torch.rand(1) *")], "the same seed"),
        (check_samples, [("return temperature *", "return 0 *")], "another seed"),
        (check_samples, [("(n, *self.shape)", "(n + 1, *self.shape)")], "10, 2"),
        (check_samples, [("return temperature *", "return float('nan') *")], "isfinite"),
        (check_streams, [("noise = ", "torch.rand(1); noise = ")], "equal"),
        (check_relation, [('relation = "exact"', 'relation = "lower_bound"')], "lower_bound"),
        (check_relation, [(".flatten(1).sum(1)", ".flatten(1).sum(1, keepdim=True)")], "16, 1"),
        (
            check_reload,  # a random number that is no part of the state
            [
                ("z = x /", "z = x * self.factor /"),
                ("self.log_sigma = ", "self.factor = 1 + float(torch.rand(1)); self.log_sigma = "),
            ],
            "log_weights",
        ),
    ],
)
def test_each_check_fails_on_its_defect(
    check: Callable[[Candidate, str, Path], None],
    pairs: list[tuple[str, str]],
    said: str,
    plant: Plant,
    tmp_path: Path,
) -> None:
    candidate = plant(changed(GOOD, *pairs))
    with pytest.raises(AssertionError, match=said):
        check(candidate, "two reals", tmp_path)


def test_masses_that_do_not_sum_to_one_need_a_reason(plant: Plant, tmp_path: Path) -> None:
    """Each of the 16 examples has the mass 1/17."""
    code = changed(
        GOOD,
        ("levels is not None", "levels is None"),
        ("z = x / self.log_sigma.exp()", "return 0 * self.log_sigma.sum() - math.log(17) + torch.zeros(len(x))"),
    )
    yaml = changed(YAML, (INTEGERS, "reals, one real, two reals"))
    with pytest.raises(AssertionError, match=r"the masses sum to 0\.94"):
        check_mass(plant(code, yaml), "two integers", tmp_path)
    check_mass(plant(code, yaml + "# leaks: one part of 17 lies nowhere\n"), "two integers", tmp_path)


def test_the_mass_that_is_missing_is_the_share_of_samples_outside(plant: Plant, tmp_path: Path) -> None:
    """Each of the 16 examples has the mass 1/17, and the model says how many samples lie elsewhere."""
    outside = "torch.rand(n, generator=generator) < SHARE"
    code = changed(
        GOOD,
        ("import GenerativeModel,", "import ClipsSamples, GenerativeModel,"),
        ("(GenerativeModel, HasLikelihood)", "(GenerativeModel, HasLikelihood, ClipsSamples)"),
        ("levels is not None", "levels is None"),
        ("z = x / self.log_sigma.exp()", "return 0 * self.log_sigma.sum() - math.log(17) + torch.zeros(len(x))"),
        (
            "    def training_step",
            "    clips_samples = True\n\n    def outside(self, n, *, generator=None):\n"
            f"        return {outside}\n\n    def training_step",
        ),
    )
    yaml = changed(YAML, (INTEGERS, "reals, one real, two reals")) + "# leaks: one part of 17\n"
    check_mass(plant(changed(code, ("SHARE", "1 / 17")), yaml), "two integers", tmp_path)
    for number, wrong in enumerate(("0", "2 / 17")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(AssertionError, match="of the samples lie outside"):
            check_mass(plant(changed(code, ("SHARE", wrong)), yaml), "two integers", folder)


def test_a_variant_has_the_notes_of_its_base(tmp_path: Path) -> None:
    assert declared("realnvp_conditional") == declared("realnvp")
    assert declared("realnvp_vardeq").sizes == {**declared("realnvp").sizes, "hidden": "32"}
    assert declared("glow_conditional").leaks == declared("glow").leaks != ""
    assert declared("glow_small").leaks == "", "nothing takes a base's note back"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "theirs.yaml").write_text("# Theirs\ndefaults: [realnvp, _self_]\nblocks: 3\n# test: blocks=2\n")
    (folder / "plain.yaml").write_text("# Plain\n_target_: x.Y\n#test: a=1\n")
    assert declared("theirs", tmp_path).sizes == {"channels": "8", "blocks": "2"}
    assert declared("plain", tmp_path) == Declared()


def test_no_note_has_a_misspelt_name() -> None:
    for name in names("model"):
        for line in Candidate(name).file.read_text().splitlines():
            if re.match(r"#\s*(tests?|leaks?|refuses?|sizes?)\s*:", line):
                assert re.match(r"# (test|leaks|refuses): \S", line), f"{name}: {line}"
