# SPDX-License-Identifier: MIT
"""The two quantisers of training."""

from __future__ import annotations

import torch

from vqcodec.train.losses import gaussian_bits
from vqcodec.train.quantise import Quantisation, VectorQuantiser, nearest, scalar_quantise


def test_scalar_quantiser_values_and_gradients() -> None:
    y = torch.tensor([[0.2, 0.9, -2.6]], requires_grad=True)
    mean, step = torch.tensor([[0.1, 0.1, 0.1]]), torch.tensor([[0.5]], requires_grad=True)
    value, noisy, index = scalar_quantise(y, mean, step)
    assert index.tolist() == [[0, 2, -5]]
    torch.testing.assert_close(value, mean + 0.5 * index)
    assert (noisy - (y - mean) / step).abs().max() <= 0.5
    value.sum().backward()
    assert y.grad is not None
    torch.testing.assert_close(y.grad, torch.ones_like(y))
    assert step.grad is not None
    error = (index - (y - mean) / step).sum()
    torch.testing.assert_close(step.grad, error.detach().reshape(1, 1))


def test_vector_quantiser_learns_clusters_and_restarts_dead_words() -> None:
    torch.manual_seed(0)
    centres = torch.randn(8, 4) * 3
    quantiser = VectorQuantiser(16, 4, decay=0.9)
    quantiser.start(centres[torch.randint(8, (400,))] + 0.05 * torch.randn(400, 4))
    quantiser.codebook[8:] = 100.0
    quantiser.sums.copy_(quantiser.codebook * quantiser.counts[:, None])
    for _ in range(500):
        z = (centres[torch.randint(8, (64,))] + 0.05 * torch.randn(64, 4)).view(1, 8, 8, 4).permute(0, 3, 1, 2)
        code, index, _, _ = quantiser(z)
    assert float((code - z).square().mean()) < 0.01
    assert int((quantiser.codebook.abs().max(1).values < 50).sum()) == 16, "dead codewords were not restarted"
    torch.testing.assert_close(quantiser.codebook[index[0, 0, 0]], code[0, :, 0, 0])
    assert nearest(quantiser.codebook, quantiser.codebook).tolist() == list(range(16))


def test_tuning_takes_the_encoders_choice() -> None:
    """Of the nearest index and the next one towards zero the one that costs less; a dear error leaves the nearest."""
    generator = torch.Generator().manual_seed(5)
    t = 3 * torch.randn(4, 6, 9, 9, generator=generator)
    log2_scale = 2 * torch.rand(t.shape, generator=generator) - 1
    zero, step = torch.zeros(()), torch.ones(4, 6, 1, 1)

    def chosen(weight: float) -> torch.Tensor:
        return scalar_quantise(t, zero, step, Quantisation.CHOICE, weight * step, log2_scale)[2]

    nearest, index = t.round(), chosen(4.0)
    below = nearest - nearest.sign()

    def cost(k: torch.Tensor) -> torch.Tensor:
        return gaussian_bits(k, log2_scale) + 4.0 * (t - k).square()

    assert torch.equal(index, torch.where(cost(below) < cost(nearest), below, nearest))
    moved = (index != nearest).float().mean()
    assert 0.02 < moved < 0.5
    assert torch.equal(chosen(1e6), nearest)
    assert (chosen(0.5) != nearest).float().mean() > moved
