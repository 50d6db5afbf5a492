# SPDX-License-Identifier: MIT
"""Training: the only part of vqcodec that imports torch (extra `train`). Nothing outside this folder imports it."""
