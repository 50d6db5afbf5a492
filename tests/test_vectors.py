# SPDX-License-Identifier: MIT
"""Vectors of a learned codebook in the refinement: probabilities, choices, gradients, and what learns beside them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from vqcodec.errors import UsageError  # noqa: E402
from vqcodec.train import vectors  # noqa: E402
from vqcodec.train.config import ModelConfig  # noqa: E402
from vqcodec.train.lattice import lattice_bits  # noqa: E402
from vqcodec.train.vectors import VectorRefinement, box  # noqa: E402

SHAPES = ((1, 1, 3), (2, 1, 3), (4, 1, 1), (2, 2, 4))  # dimension, stages, reach
ZERO, ONE = torch.zeros(1), torch.ones(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def module(dim: int, stages: int = 1, reach: int = 3, moved: float = 0.0, **more: str) -> VectorRefinement:
    """A quantiser whose words and weights lie `moved` off their start."""
    c = ModelConfig(vector_dim=dim, vector_stages=stages, vector_reach=reach, **more)  # type: ignore[arg-type]
    made = VectorRefinement(c)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(moved * torch.randn_like(p))
    return made.eval()


def samples(spread: float = 1.5) -> tuple[Tensor, Tensor]:
    """Latents in steps, [4, 8, 12, 12], and log2 of their deviations."""
    scale = spread * torch.randn(4, 8, 12, 12)
    return torch.exp2(scale) * torch.randn_like(scale), scale


@pytest.mark.parametrize(("dim", "stages", "reach"), SHAPES)
def test_it_starts_as_the_integer_lattice(dim: int, stages: int, reach: int) -> None:
    y, scale = samples()
    value, rated, _ = module(dim, stages, reach).quantise(y, ZERO, ONE, False, None, scale)
    torch.testing.assert_close(value, y.round())
    bits = module(dim, stages, reach).bits(rated, scale, False)
    torch.testing.assert_close(bits, lattice_bits(y.round(), scale, "Z").sum((1, 2, 3)), rtol=1e-4, atol=0.1)


@pytest.mark.parametrize(("dim", "stages", "reach"), [shape for shape in SHAPES if shape[0] < 4])
@pytest.mark.parametrize("log2_scale", [-2.0, 0.0, 1.5])
def test_probabilities_sum_to_one(dim: int, stages: int, reach: int, log2_scale: float) -> None:
    """Over all words, and all lattice points outside of the box."""
    made = module(dim, stages, reach, moved=0.2)
    points = box(40 if dim == 1 else 22, dim)
    every = torch.cat([made.codebook()[0], points[points.abs().amax(1) > reach]])[:, :, None, None]
    scale = torch.full_like(every, log2_scale) + torch.linspace(0, 0.3, dim)[:, None, None]
    bits = made.bits(torch.stack([every, every]), scale, False)
    assert float(torch.exp2(-bits.detach().double()).sum()) == pytest.approx(1, abs=2e-4)


@pytest.mark.parametrize(("dim", "stages", "reach"), SHAPES)
@pytest.mark.parametrize("choice", ["nearest", "rate"])
def test_choices_against_brute_force(dim: int, stages: int, reach: int, choice: str) -> None:
    made = module(dim, stages, reach, moved=0.2, choice=choice)
    y, scale = samples()
    weight = torch.full_like(y, 2.0)
    value, rated, _ = made.quantise(y, ZERO, ONE, False, weight, scale)
    grid = box(reach + 1, dim)
    every = torch.cat([made.codebook()[0], grid[grid.abs().amax(1) > reach]])
    rows = slice(0, 1200)

    def flat(x: Tensor) -> Tensor:
        return x.view(4, 8 // dim, dim, 12, 12).movedim(2, -1).reshape(-1, dim)[rows]

    t, got, s = flat(y), flat(value), flat(scale)
    near = t.abs().amax(1) < reach - 0.5  # where a word is chosen, or the lattice's point there is none of the box
    cost = 2 * (t[:, None] - every).square().sum(-1)
    paid = 2 * (t - got).square().sum(-1)
    if choice == "rate":

        def bits(x: Tensor) -> Tensor:  # [N, dim] -> [N]
            shaped = x[:, :, None, None]
            return made.bits(torch.stack([shaped, shaped]), s[:, :, None, None], False)

        cost = cost + torch.stack([bits(word.expand_as(t)) for word in every], 1)
        paid = paid + bits(got)
    assert near.sum() > 30
    torch.testing.assert_close(paid[near], cost.min(1).values[near], atol=1e-2, rtol=1e-3)
    far = t.abs().amax(1) > reach + 2
    assert far.any()
    assert choice == "rate" or torch.equal(got[far], t[far].round())
    assert made.bits(rated, scale, False).isfinite().all()


def test_a_choice_by_rate_costs_fewer_bits_and_more_error() -> None:
    y, scale = samples()
    found = {}
    for choice in ("nearest", "rate"):
        made = module(2, choice=choice)
        value, rated, _ = made.quantise(y, ZERO, ONE, False, torch.full_like(y, 2.0), scale)
        found[choice] = float(made.bits(rated, scale, False).detach().sum()), float((value.detach() - y).square().sum())
    assert found["rate"][0] < 0.97 * found["nearest"][0]
    assert found["rate"][1] > 1.02 * found["nearest"][1]
    total = {name: bits + 2 * error for name, (bits, error) in found.items()}
    assert total["rate"] < total["nearest"]


@pytest.mark.parametrize("rate", ["dither", "straight-through"])
def test_gradients_reach_latents_means_scales_and_words(rate: str) -> None:
    y, scale = samples()
    y, scale = y.requires_grad_(), scale.detach().requires_grad_()
    mean, step = torch.zeros_like(y, requires_grad=True), torch.ones(4, 8, 1, 1, requires_grad=True)
    made = module(2, vector_rate=rate).train()
    made.begin()
    value, rated, _ = made.quantise(y, mean, step, True, None, scale)
    (gradient,) = torch.autograd.grad(value.sum(), y, retain_graph=True)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    bits = made.bits(rated, scale, True)
    if rate == "dither":  # what is told is the words' length all the same
        torch.testing.assert_close(bits, made.bits(rated, scale, False))
    (bits.sum() + value.square().sum()).backward()
    for tensor in (y, mean, step, scale, *made.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


def test_lloyd_lowers_what_the_same_vectors_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words go to the centres, weights to the frequencies: rate + distortion falls, and words need no gradient."""
    monkeypatch.setattr(vectors, "WARMUP", 0)
    made = module(2, choice="rate", vector_learning="lloyd").train()
    scale = torch.zeros(4, 8, 24, 24)
    y = torch.distributions.Laplace(0.0, 0.8).sample(scale.shape)
    weight = torch.full_like(y, 2.0)

    def cost() -> float:
        made.eval()
        value, rated, _ = made.quantise(y, ZERO, ONE, False, weight, scale)
        made.train()
        return float(made.bits(rated, scale, False).sum() + 2 * (value - y).square().sum())

    before = cost()
    for number in range(8 * vectors.LLOYD_EVERY):
        if number % vectors.LLOYD_EVERY in (0, vectors.LLOYD_EVERY - 1):
            made.quantise(y, ZERO, ONE, True, weight, scale)
        made.begin()
    assert cost() < 0.985 * before
    value, _, _ = made.quantise(y.requires_grad_(), ZERO, ONE, True, weight, scale)
    value.sum().backward()
    assert all(p.grad is None for p in made.parameters())


@pytest.mark.parametrize("stages", [1, 2])
def test_dead_words_are_restarted_where_vectors_are(stages: int) -> None:
    made = module(2, stages, 4 if stages == 2 else 3).train()
    with torch.no_grad():
        made.words[0][0] = 50.0
        made.words[-1][-1] = 50.0
    y, scale = samples()
    for _ in range(420):
        made.begin()
        made.quantise(y, ZERO, ONE, True, None, scale)
    assert float(made.words[0].detach().abs().max()) < made.reach + 1
    assert float(made.words[-1].detach().abs().max()) < made.reach + 1


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(UsageError, match="vectors of 4"):
        ModelConfig(latents=98, chunks=(8, 90), vector_dim=4)
    with pytest.raises(UsageError, match="has no lattice"):
        ModelConfig(vector_dim=2, lattice="Z")
    with pytest.raises(UsageError, match="vector_dim must be"):
        ModelConfig(vector_dim=3)
