# SPDX-License-Identifier: MIT
"""The whole way, both directions: picture -> .vqc -> picture, and what lies between: search, target, tokens."""
