# SPDX-License-Identifier: MIT
"""The quantisers that are compared: lattices against brute force and constants, codebooks against their papers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from vqcodec.errors import UsageError  # noqa: E402
from vqcodec.train.base import FactorisedDensity, Residual, ScalarHyper, SimVQ, base_quantiser  # noqa: E402
from vqcodec.train.config import ModelConfig  # noqa: E402
from vqcodec.train.data import linear_basis  # noqa: E402
from vqcodec.train.lattice import (  # noqa: E402
    DIMENSIONS,
    SECOND_MOMENT,
    UNIT,
    closest,
    dither,
    lattice_bits,
    lattice_quantise,
)
from vqcodec.train.losses import gaussian_bits  # noqa: E402
from vqcodec.train.quantise import VectorQuantiser, nearest, rotated, straight_through  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: threads would wait for each other longer than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def points(lattice: str, reach: int = 2) -> Tensor:
    """[N, n] every point of the lattice with coordinates up to `reach`, from its definition."""
    n = DIMENSIONS[lattice]
    whole = torch.tensor(list(itertools.product(range(-reach, reach + 1), repeat=n)), dtype=torch.float32)
    if lattice == "Z":
        return whole
    even = whole[whole.sum(1) % 2 == 0]
    if lattice == "D4":
        return even * UNIT["D4"]
    halves = torch.tensor(list(itertools.product((-1.5, -0.5, 0.5, 1.5), repeat=n)))
    return torch.cat([even, halves[halves.sum(1) % 2 == 0]])


@pytest.mark.parametrize("lattice", DIMENSIONS)
def test_closest_point_against_brute_force(lattice: str) -> None:
    torch.manual_seed(0)
    every = points(lattice, 1 if lattice == "E8" else 3)
    x = (torch.rand(400, DIMENSIONS[lattice]) - 0.5) * (1.0 if lattice == "E8" else 3.0)
    got = closest(x, lattice)
    assert (torch.cdist(got, every).min(1).values < 1e-5).all(), "not a point of the lattice"
    best = torch.cdist(x, every).min(1).values
    torch.testing.assert_close((x - got).norm(dim=1), best, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("lattice", "moment"), [("Z", 0.08333), ("D4", 0.07660), ("E8", 0.07168)])
def test_second_moment_of_the_cell(lattice: str, moment: float) -> None:
    """The dither is uniform over a cell of unit volume: its mean square per dimension is the lattice's constant."""
    torch.manual_seed(0)
    n = DIMENSIONS[lattice]
    u = dither(torch.empty(400_000, n), lattice)
    assert float(u.square().mean()) == pytest.approx(moment, rel=0.004)
    assert SECOND_MOMENT[lattice] == pytest.approx(moment, abs=1e-5)
    assert not closest(u * 0.9999, lattice).any(), "outside of the cell around zero"
    errors = (lambda x: x - closest(x, lattice))(100 * torch.randn(400_000, n))
    assert float(errors.square().mean()) == pytest.approx(moment, rel=0.004), "the cells' volume is not one"


@pytest.mark.parametrize(("lattice", "spread"), [("Z", 0.2), ("Z", 0.6), ("D4", 0.3), ("D4", 0.55), ("E8", 0.32)])
def test_lattice_probabilities_sum_to_one(lattice: str, spread: float) -> None:
    """Over the whole lattice, and over the lattice moved by a dither."""
    n = DIMENSIONS[lattice]
    every = points(lattice, 2 if lattice == "E8" else 4)
    torch.manual_seed(1)
    for shift in (torch.zeros(1, n), dither(torch.empty(1, n), lattice)):
        x = every + shift
        scale = torch.full_like(x, math.log2(spread)) + torch.linspace(-0.3, 0.1, n)
        bits = lattice_bits(x[:, :, None, None], scale[:, :, None, None], lattice)
        assert bits.shape == (len(x), 1, 1, 1)
        assert float(bits.min()) > -1e-4
        assert float(torch.exp2(-bits.double()).sum()) == pytest.approx(1, abs=2e-3)


def test_a_scale_means_what_it_means_to_the_integrated_gaussian() -> None:
    """Else a comparison would be one of how far the scales have been learned."""
    for scale in (0.1, 0.2, 0.5, 1.0, 5.0):
        index = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
        scales = torch.full_like(index, math.log2(scale))
        got, want = lattice_bits(index, scales, "Z"), gaussian_bits(index, scales)
        torch.testing.assert_close(got, want, rtol=0.12, atol=0.05)


def test_rate_of_loud_vectors_is_the_differential_entropy() -> None:
    """Far above the step every lattice of unit cells costs log2(sigma sqrt(2 pi e)) bits a dimension."""
    torch.manual_seed(0)
    for sigma in (3.0, 40.0):
        want = math.log2(sigma * math.sqrt(2 * math.pi * math.e))
        y = sigma * torch.randn(16, 16, 24, 24)
        scale = torch.full_like(y, math.log2(sigma))
        for lattice, n in DIMENSIONS.items():
            _, dithered, point = lattice_quantise(y, torch.zeros(1), torch.ones(1), lattice)
            for value in (dithered, point):
                got = float(lattice_bits(value, scale, lattice).mean()) / n
                assert got == pytest.approx(want, abs=0.02), (lattice, sigma)
        assert float(gaussian_bits(y.round(), scale).mean()) == pytest.approx(want, abs=0.02)


def test_silent_vectors_cost_nothing_and_gradients_stay_finite() -> None:
    torch.manual_seed(0)
    for lattice in DIMENSIONS:
        y = (0.0005 * torch.randn(2, 8, 6, 6)).requires_grad_()
        scale = torch.full_like(y, -7.0, requires_grad=True)
        _, dithered, _ = lattice_quantise(y, torch.zeros(1), torch.ones(1), lattice)
        bits = lattice_bits(dithered, scale, lattice)
        assert float(bits.detach().mean()) / DIMENSIONS[lattice] < 0.05
        far = lattice_bits(torch.randn(2, 8, 6, 6).mul(1e4).requires_grad_(), scale, lattice)
        (bits.sum() + 1e-9 * far.sum()).backward()
        assert y.grad is not None
        assert scale.grad is not None
        assert torch.isfinite(y.grad).all()
        assert torch.isfinite(scale.grad).all()


def test_lattice_quantiser_values_and_gradients() -> None:
    torch.manual_seed(0)
    y = torch.randn(2, 16, 3, 5, requires_grad=True)
    mean, step = 0.3 * torch.randn(2, 16, 3, 5), torch.rand(2, 16, 1, 1) + 0.3
    for lattice, n in DIMENSIONS.items():
        value, rated, point = lattice_quantise(y, mean, step, lattice, noise=False)
        torch.testing.assert_close(value, mean + step * point)
        assert torch.equal(rated, point)
        vector = ((y - mean) / step)[1, n : 2 * n, 2, 3]  # neighbouring channels of one place
        torch.testing.assert_close(closest(vector, lattice), point[1, n : 2 * n, 2, 3])
        (gradient,) = torch.autograd.grad(value.sum(), y)
        torch.testing.assert_close(gradient, torch.ones_like(y))


def test_the_rotation_trick_keeps_angle_and_scales_with_the_norms() -> None:
    """A gradient at the codeword comes back with the same angle to the vector, |code| / |z| times as long."""
    torch.manual_seed(0)
    z = torch.randn(4, 16, 3, 3, requires_grad=True)
    code, upstream = torch.randn(4, 16, 3, 3) * 2, torch.randn(4, 16, 3, 3)
    out = rotated(z, code)
    torch.testing.assert_close(out, code)
    (gradient,) = torch.autograd.grad((out * upstream).sum(), z)
    cosine = torch.nn.functional.cosine_similarity
    torch.testing.assert_close(cosine(gradient, z, 1), cosine(upstream, code, 1), atol=1e-4, rtol=1e-4)
    ratio = code.norm(dim=1) / z.norm(dim=1)
    torch.testing.assert_close(gradient.norm(dim=1), upstream.norm(dim=1) * ratio, atol=1e-3, rtol=1e-4)
    plain = straight_through(z, code)
    (gradient,) = torch.autograd.grad((plain * upstream).sum(), z)
    torch.testing.assert_close(gradient, upstream)
    zero = torch.zeros(1, 4, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(rotated(zero, torch.ones(1, 4, 1, 1)).sum(), zero)
    assert torch.isfinite(gradient).all()


def correlated(count: int, dim: int = 8) -> Tensor:
    """Vectors with a few strong directions, as the base layer's are."""
    generator = torch.Generator().manual_seed(3)
    mixing = torch.randn(dim, dim, generator=generator) * torch.linspace(2, 0.1, dim)
    return torch.randn(count, dim, generator=generator) @ mixing.T + 0.5


def test_simvq_learns_one_map_and_uses_its_codebook() -> None:
    torch.manual_seed(0)
    quantiser = SimVQ(64, 8)
    z = correlated(4096)
    quantiser.start(z)
    optimiser = torch.optim.Adam(quantiser.parameters(), 1e-2)
    frozen, errors = quantiser.frozen.clone(), []
    for step in range(200):
        part = z[(step * 256) % 4096 :][:256].view(1, 16, 16, 8).permute(0, 3, 1, 2)
        coded = quantiser(part)
        errors.append(float((coded.code - part).square().sum(1).mean()))
        optimiser.zero_grad()
        coded.loss.backward()
        optimiser.step()
    assert torch.equal(quantiser.frozen, frozen)
    assert sum(errors[-20:]) < 0.93 * sum(errors[:20])
    used = nearest(z, quantiser.codebook.detach()).unique().numel()
    assert used > 48, "the codebook collapsed"
    quantiser.learns = False
    assert not quantiser(part).loss.requires_grad


def test_a_second_stage_codes_what_the_first_one_left() -> None:
    torch.manual_seed(0)
    z = correlated(4096)
    one, two = VectorQuantiser(32, 8), Residual([VectorQuantiser(32, 8), VectorQuantiser(32, 8)], "straight-through")
    for quantiser in (one, two):
        quantiser.start(z)
        quantiser.eval()
    grid = z.view(4, 32, 32, 8).permute(0, 3, 1, 2).clone().requires_grad_()
    coded = two(grid)
    assert coded.indices.shape == (4, 2, 32, 32)
    words = [stage.codebook[coded.indices[:, k]] for k, stage in enumerate(two.stages)]
    torch.testing.assert_close(coded.code, sum(words).permute(0, 3, 1, 2))
    assert coded.bits.tolist() == [2 * 5 * 32 * 32] * 4
    errors = [(quantiser(grid).code - grid).detach().square().mean() for quantiser in (one, two)]
    assert float(errors[1]) < 0.6 * float(errors[0])
    (gradient,) = torch.autograd.grad(coded.code.sum(), grid)
    torch.testing.assert_close(gradient, torch.ones_like(gradient))
    two.learns = False
    assert not any(stage.learns for stage in two.stages)


def test_the_factorised_density_sums_to_one_and_fits() -> None:
    torch.manual_seed(0)
    density = FactorisedDensity(2)
    grid = torch.arange(-300.0, 301.0).view(1, 1, 1, -1).expand(1, 2, 1, -1)
    data = (torch.randn(8, 2, 32, 32) * torch.tensor([0.4, 5.0]).view(1, 2, 1, 1)).round()
    optimiser = torch.optim.Adam(density.parameters(), 2e-2)
    for _ in range(400):
        optimiser.zero_grad()
        density(data + torch.rand_like(data) - 0.5).mean().backward()
        optimiser.step()
    with torch.no_grad():
        torch.testing.assert_close(torch.exp2(-density(grid)).sum((0, 2, 3)), torch.ones(2), atol=0.01, rtol=0)
        for channel in range(2):
            counts = torch.unique(data[:, channel], return_counts=True)[1].double()
            entropy = float(-(counts / counts.sum() * (counts / counts.sum()).log2()).sum())
            bits = float(density(data)[:, channel].mean())
            assert entropy - 0.01 < bits < entropy + 0.12


def test_scalar_hyper_latents_have_half_the_resolution() -> None:
    torch.manual_seed(0)
    hyper = ScalarHyper(8, 4)
    hyper.start(correlated(4096))
    z = correlated(2 * 7 * 6).view(2, 7, 6, 8).permute(0, 3, 1, 2).clone().requires_grad_()
    coded = hyper(z)
    assert coded.code.shape == z.shape
    assert coded.indices.shape == (2, 4, 4, 3)
    assert coded.indices.abs().max() > 0
    still = hyper(z, noise=False)
    torch.testing.assert_close(still.bits, hyper.density(still.indices.float()).sum((1, 2, 3)))
    (coded.bits.sum() + coded.code.square().sum()).backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


def test_which_quantiser_a_configuration_gets() -> None:
    assert isinstance(base_quantiser(ModelConfig()), VectorQuantiser)
    assert isinstance(base_quantiser(ModelConfig(base_learning="simvq")), SimVQ)
    assert isinstance(base_quantiser(ModelConfig(base_stages=2)), Residual)
    assert isinstance(base_quantiser(ModelConfig(base="scalar")), ScalarHyper)
    assert ModelConfig().exportable()
    for other in ({"base": "scalar"}, {"base_stages": 2}, {"base_learning": "simvq"}, {"lattice": "E8"}):
        assert not ModelConfig(**other).exportable()
    for more in ({"vector_dim": 2}, {"shortcut": False}, {"prior_mean": "base"}, {"gains": False}):
        assert not ModelConfig(**more).exportable()
    with pytest.raises(UsageError, match="vectors of 8"):
        ModelConfig(latents=100, chunks=(36, 64), lattice="E8")
    with pytest.raises(UsageError, match="base_gradient must be"):
        ModelConfig(base_gradient="gumbel")


def test_the_random_front_end_is_an_orthonormal_basis() -> None:
    covariance = torch.diag(torch.linspace(1, 0.01, 768, dtype=torch.float64))
    basis, sigma, _ = linear_basis("random", 320, covariance, torch.zeros(768, dtype=torch.float64))
    torch.testing.assert_close(basis @ basis.T, torch.eye(320), atol=1e-4, rtol=0)
    best = linear_basis("klt", 320, covariance, torch.zeros(768, dtype=torch.float64))[1]
    assert float(sigma.square().sum()) < 0.9 * float(best.square().sum())
    again = linear_basis("random", 320, covariance, torch.zeros(768, dtype=torch.float64))[0]
    assert torch.equal(basis, again)
