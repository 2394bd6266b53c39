"""Sets and sums: exact numbers, uniform draws, and what models of categories say of them."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers_data import check_data, of_bytes
from helpers_metrics import FakeSubject
from helpers_models import new_model
from numpy.random import RandomState
from scipy.stats import chisquare
from torch import Generator, Tensor
from torch.nn.functional import logsigmoid, one_hot
from torch.utils._python_dispatch import TorchDispatchMode

from bench.data.sets import Permutations, Sums, counts_of_sums, set_shuffling, set_summation
from bench.errors import UnavailableError, UserError
from bench.evaluation.measure import known_density
from bench.features.pixels import Pixels
from bench.metrics.optimum import Optimum
from bench.metrics.parzen import Parzen
from bench.metrics.validity import distinct_and_new
from bench.schema import Kind, Relation
from bench.subjects.examples import Examples
from models.base import HasLikelihood


def every(n: int, levels: int) -> Tensor:
    return torch.tensor(list(itertools.product(range(levels), repeat=n)), dtype=torch.uint8)


def test_the_published_optima_in_bits_a_variable() -> None:
    for n, bits in ((3, 0.8617), (4, 1.1462), (8, 1.9124), (16, 2.7656)):
        assert Permutations(n).log_number / (n * math.log(2)) == pytest.approx(bits, abs=5e-5)
    assert counts_of_sums(16, 16, 42)[16][42] == 63_379_974_736
    assert counts_of_sums(8, 8, 20)[8][20] == 47_748
    for n, levels, total, bits in ((16, 16, 42, 2.2427), (8, 8, 20, 1.9429), (6, 6, 15, 1.7837), (4, 4, 10, 1.3649)):
        assert Sums(n, levels, total).log_number / (n * math.log(2)) == pytest.approx(bits, abs=5e-5)


def test_counts_are_those_of_an_enumeration() -> None:
    numbers = every(4, 3).long() + 1
    counts = counts_of_sums(4, 3, 12)[4]
    assert counts == [int((numbers.sum(1) == s).sum()) for s in range(13)]


@pytest.mark.parametrize("sequences", [Permutations(4), Sums(4, 4, 10), Sums(3, 5, 3), Sums(2, 3, 6)])
def test_draws_are_uniform_over_all_that_satisfy_the_constraint(sequences: Permutations | Sums) -> None:
    x = every(sequences.n, sequences.levels)
    allowed = x[sequences.valid(x)]
    assert len(allowed) == round(math.exp(sequences.log_number))
    assert sequences.log_density(x).exp().sum().item() == pytest.approx(1, abs=1e-12)
    drawn = sequences.draw(20_000, RandomState(0))
    assert sequences.valid(torch.from_numpy(drawn)).all()
    place = {tuple(row): k for k, row in enumerate(allowed.tolist())}
    counts = np.bincount([place[tuple(row)] for row in drawn.tolist()], minlength=len(allowed))
    assert len(allowed) == 1 or chisquare(counts).pvalue > 1e-3


def test_the_data_are_categories_and_the_same_again() -> None:
    for data in (set_shuffling(5, 50, 10, 20), set_summation(4, 3, 7, 50, 10, 20)):
        assert data.spec.kind == Kind.CATEGORIES
        assert data.valid is not None
        assert data.log_density is not None
        for split in (data.train, data.val, data.test):
            assert split.x.dtype == torch.uint8
            assert data.valid(split.x).all()
            assert torch.isfinite(data.log_density(split.x)).all()
    for data in (set_shuffling(16, 200, 100, 100), set_summation(16, 16, 42, 200, 100, 100)):
        check_data(data, data.spec.name)  # splits share no example: each has a stream of its own
    # The bytes, fixed for good: another number here needs another _VERSION.
    assert of_bytes(set_shuffling(8, 50, 20, 30)) == ("fd63bbc32fc7f4b3", "766357d5df502505")
    assert of_bytes(set_summation(8, 8, 20, 50, 20, 30)) == ("847ed815bbd6adeb", "4eae1383a660681a")
    assert torch.equal(set_shuffling(5, 50, 10, 20).test.x, set_shuffling(5, 50, 10, 20).test.x)
    assert set_shuffling(5, 50, 10, 20).spec.revision != set_shuffling(6, 50, 10, 20).spec.revision
    left = torch.tensor([[0, 0, 1, 2, 3]], dtype=torch.uint8)
    assert set_shuffling(5, 50, 10, 20).log_density(left).item() == -math.inf  # type: ignore[misc]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: set_shuffling(1), "data.n=1"),
        (lambda: set_shuffling(257), "data.n=257"),
        (lambda: set_summation(4, 4, 17), "data.total=17"),
        (lambda: set_summation(4, 1, 4), "data.values=1"),
        (lambda: set_summation(1000, 256, 200_000), "total=200000"),
        (lambda: set_shuffling(4, n_test=0), "data.n_test=0"),
    ],
)
def test_what_is_out_of_range_is_named(make: object, key: str) -> None:
    with pytest.raises(UserError, match=key):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("model", ["realnvp", "vae", "gan", "made", "gaussian"])
def test_models_of_numbers_refuse_categories_in_one_line(model: str) -> None:
    with pytest.raises(
        UserError, match=r"is for numbers; the entries of set_shuffling_4 are categories: .*data\.as_numbers"
    ) as error:
        new_model(model, set_shuffling(4, 10, 5, 5).spec)
    assert "\n" not in str(error.value)
    as_numbers = set_shuffling(4, 10, 5, 5, as_numbers=True)
    new_model(model, as_numbers.spec)
    assert torch.equal(as_numbers.train.x, set_shuffling(4, 10, 5, 5).train.x)
    assert as_numbers.spec.revision == set_shuffling(4, 10, 5, 5).spec.revision


def test_distances_between_categories_do_not_depend_on_their_names() -> None:
    data = set_shuffling(4, 10, 5, 5)
    extractor = Pixels().extractor(data)
    assert extractor.name == Pixels().name(data.spec) == "one-hot"
    x = torch.tensor([[0, 1, 2, 3], [3, 1, 2, 0], [1, 1, 2, 0]], dtype=torch.uint8)
    features = extractor.features(x).double()
    assert features.shape == (3, 16)
    assert torch.cdist(features, features).square()[0].tolist() == pytest.approx([0, 4, 4])


def test_indicators_take_no_more_memory_than_they_fill() -> None:
    data = set_shuffling(16, 100, 5, 5)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            made = func(*args, **(kwargs or {}))
            largest = max(largest, made.numel() * made.element_size() if isinstance(made, Tensor) else 0)
            return made

    with Watch():
        features = Pixels().extractor(data).features(data.train.x)
    assert features.sum(1).tolist() == [16] * 100
    assert largest == features.numel() * features.element_size() == 100 * 16 * 16


def test_the_density_is_one_line_of_a_table_whatever_its_entries_are_called() -> None:
    found = []
    for as_numbers in (False, True):
        node = {"_target_": "bench.data.sets.set_shuffling", "n": 4, "as_numbers": as_numbers}
        subject = known_density("set_shuffling", node, set_shuffling(4, 10, 5, 5, as_numbers=as_numbers))
        assert subject is not None
        found.append(subject.origin.group)
    assert found[0] == found[1]
    assert known_density("set_shuffling", {"n": 5}, set_shuffling(5, 10, 5, 5)).origin.group != found[0]  # type: ignore[union-attr]


def test_parzen_windows_are_not_for_categories() -> None:
    data = set_shuffling(4, 10, 5, 5)
    subject = known_density("set_shuffling", {}, data)
    assert subject is not None
    with pytest.raises(UnavailableError, match="categories, whose differences mean nothing"):
        Parzen(0.2, 10).compute(Examples(subject, data, seed=0))


def test_different_and_new_are_counted_once() -> None:
    x = torch.tensor([[0, 1], [0, 1], [1, 0], [1, 1]], dtype=torch.uint8)
    assert distinct_and_new(x, x[:1]) == (3, 2)
    assert distinct_and_new(x[:0], x) == (0, 0)


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_each_entry_depends_on_those_before_it_alone_and_samples_are_of_the_density(name: str) -> None:
    data = set_shuffling(3, 64, 8, 8)
    model = new_model(name, data.spec, seed=3)
    for parameter in model.parameters():  # outputs that start at zero would say nothing
        torch.nn.init.normal_(parameter, std=0.5, generator=Generator().manual_seed(parameter.numel()))
    model.eval()
    assert isinstance(model, HasLikelihood)
    x = every(3, 3)
    with torch.no_grad():
        outputs = model.outputs(model.seen(x), None)  # (27, 3, 3)
        log_prob = model.log_weight(x).double()
        drawn = model.sample(20_000, generator=Generator().manual_seed(0)).long()
    for i in range(3):
        for prefix in outputs[..., i].unflatten(0, (3**i, -1)):
            torch.testing.assert_close(prefix, prefix[:1].expand_as(prefix))
    assert log_prob.exp().sum().item() == pytest.approx(1, abs=1e-5)
    counts = torch.bincount(drawn @ torch.tensor([9, 3, 1]), minlength=27)
    assert chisquare(counts.numpy(), 20_000 * (log_prob.exp() / log_prob.exp().sum()).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("encoding", ["mixture", "linear_flows", "variational"])
def test_the_categorical_flow_does_not_tell_the_places_of_a_set_apart(encoding: str) -> None:
    data = set_shuffling(6, 64, 8, 8)
    model = new_model("categorical_flow", data.spec, f"model.encoding={encoding}").double().eval()
    z = torch.randn(5, 2, 6, 1, dtype=torch.float64, generator=Generator().manual_seed(0))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        (moved, log_det), (permuted, same) = model.flow(z), model.flow(z[:, :, order])
        logits, shuffled = model.encoding.logits(z), model.encoding.logits(z[:, :, order])
    torch.testing.assert_close(permuted, moved[:, :, order])
    torch.testing.assert_close(log_det, same)
    torch.testing.assert_close(shuffled, logits[:, :, order])
    ordered = new_model("categorical_flow", data.spec, "model.places=true").double().eval()
    with torch.no_grad():
        assert not torch.allclose(ordered.flow(z[:, :, order])[0], ordered.flow(z)[0][:, :, order])


def test_sets_of_another_size_have_a_name_of_their_own() -> None:
    assert set_shuffling(16, 9, 3, 3).spec.name == "set_shuffling"
    assert set_shuffling(4, 9, 3, 3).spec.name == "set_shuffling_4"
    assert set_summation(n_train=9, n_val=3, n_test=3).spec.name == "set_summation"
    assert set_summation(8, 8, 20, 9, 3, 3).spec.name == "set_summation_8_8_20"


@pytest.mark.parametrize("encoding", ["mixture", "linear_flows"])
def test_encodings_are_densities_and_draw_from_them(encoding: str) -> None:
    """log q that goes with a draw is the density there, and the logits are log q up to the prior and a constant."""
    model = new_model("categorical_flow", set_shuffling(3, 9, 3, 3).spec, f"model.encoding={encoding}").double().eval()
    x = every(3, 3).long()
    with torch.no_grad():
        z, log_q = model.encoding.encode(x, Generator().manual_seed(0))
        each = model.encoding.log_densities(z.squeeze(3).mT.flatten(0, 1)).unflatten(0, (27, 3))  # (27, 3, L)
        torch.testing.assert_close(each.gather(2, x[..., None]).squeeze(2).sum(1), log_q)
        grid = torch.linspace(-30, 30, 1201, dtype=torch.float64)
        points = torch.cartesian_prod(grid, grid)
        mass = model.encoding.log_densities(points).exp().sum(0) * (grid[1] - grid[0]) ** 2
    assert mass.tolist() == pytest.approx([1] * 3, abs=2e-3)


def test_samples_of_the_categorical_flow_have_the_likelihood_it_reports() -> None:
    model = new_model("categorical_flow", set_shuffling(2, 9, 3, 3).spec).eval()
    x = every(2, 2)
    with torch.no_grad():
        draws = torch.stack([model.log_weight(x, generator=Generator().manual_seed(seed)) for seed in range(4000)])
        drawn = model.sample(20_000, generator=Generator().manual_seed(0)).long()
    mass = draws.double().exp()
    counts = torch.bincount(drawn @ torch.tensor([2, 1]), minlength=4) / 20_000
    error = (mass.var(0) / 4000 + counts * (1 - counts) / 20_000).sqrt()
    assert ((mass.mean(0) - counts).abs() < 4 * error).all()


def test_the_tails_of_linear_flows_are_those_of_a_logistic() -> None:
    """Linear in log q: those of a normal, quadratic, are thinner than p's may be, and weights p / q then explode."""
    spec = set_shuffling(3, 9, 3, 3).spec
    model = new_model("categorical_flow", spec, "model.encoding=linear_flows").double().eval()
    far = torch.tensor([1e4, 2e4, 3e4], dtype=torch.float64)[:, None] * torch.tensor([0.6, 0.8], dtype=torch.float64)
    with torch.no_grad():
        log_q = model.encoding.log_densities(far)  # (3, L)
    torch.testing.assert_close(log_q[2] - log_q[1], log_q[1] - log_q[0], rtol=1e-2, atol=0)


def test_the_variational_encoding_is_a_density_of_logistic_noise() -> None:
    spec = set_shuffling(3, 9, 3, 3).spec
    model = new_model("categorical_flow", spec, "model.encoding=variational").double().eval()
    x = every(3, 3).long()
    context = one_hot(x, 3).double().mT.unsqueeze(3)
    with torch.no_grad():
        z, log_q = model.encoding.encode(x, Generator().manual_seed(0))
        noise, log_det = model.encoding.flow.inverse(z - model.encoding.means[x].mT.unsqueeze(3), context=context)
    density = (logsigmoid(noise) + logsigmoid(-noise)).flatten(1).sum(1) + log_det
    torch.testing.assert_close(log_q, density)


@pytest.mark.parametrize("name", ["dequantized_flow", "dequantized_flow_vardeq"])
def test_dequantized_categories_come_back_and_each_number_is_the_logit_of_its_category_and_noise(name: str) -> None:
    model = new_model(name, set_shuffling(5, 9, 3, 3).spec).eval()
    x = every(3, 5).long().repeat(1, 2)[:, :5]
    with torch.no_grad():
        z, log_q = model.encoding.encode(x, Generator().manual_seed(0))
        assert torch.equal(model.encoding.decode(z, 1.0, Generator().manual_seed(0)), x)
    assert z.shape == (125, 1, 5, 1)
    noise = 5 * z.double().sigmoid()[:, 0, :, 0] - x
    assert ((noise > 0) & (noise < 1)).all()
    if name == "dequantized_flow":  # q(z|x) = L sigmoid'(z) for each entry
        slope = (logsigmoid(z) + logsigmoid(-z)).double().flatten(1).sum(1)
        torch.testing.assert_close(log_q.double(), 5 * math.log(5) + slope, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("encoding", "dim", "reason"),
    [
        ("mixture", 1, "encoding_dim must be at least 2, not 1"),
        ("uniform_dequantization", 2, "encoding_dim must be 1 where the encoding is uniform_dequantization, not 2"),
        ("one_hot", 2, "encoding must be one of mixture, .*, not 'one_hot'"),
    ],
)
def test_an_encoding_that_cannot_be_is_named(encoding: str, dim: int, reason: str) -> None:
    spec = set_shuffling(3, 9, 3, 3).spec
    with pytest.raises(UserError, match=reason):
        new_model("categorical_flow", spec, f"model.encoding={encoding}", f"model.encoding_dim={dim}")


def test_what_a_model_needs_above_the_optimum_is_the_difference_at_the_same_examples() -> None:
    data = set_shuffling(4, 9, 3, 50)
    subject = known_density("set_shuffling", {"n": 4}, data)
    assert subject is not None
    (one,) = Optimum(1).compute(Examples(subject, data, seed=0))
    assert (one.value, one.stderr) == (0, 0)
    log_w = torch.full((16, 50), -4 * math.log(4)) + torch.randn(16, 50, generator=Generator().manual_seed(0))
    (one,) = Optimum(16).compute(Examples(FakeSubject({"log_weights": log_w, "relation": "lower_bound"}), data, seed=0))
    bound = -(log_w.double().logsumexp(0) - math.log(16)) / (4 * math.log(2))
    assert one.value == pytest.approx(bound.mean().item() - math.log2(24) / 4)
    assert one.relation is Relation.UPPER_BOUND
    assert one.stderr == pytest.approx(bound.std().item() / math.sqrt(50))
    with pytest.raises(UnavailableError, match="no known optimum"):
        Optimum(1).compute(Examples(FakeSubject({"log_weights": log_w}), replace(data, log_density=None), seed=0))
