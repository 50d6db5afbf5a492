# SPDX-License-Identifier: MIT
"""Models and what runs them: weights, transforms, integer priors, gradient graph, noise."""
