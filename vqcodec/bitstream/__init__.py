# SPDX-License-Identifier: MIT
"""What docs/FORMAT.md specifies: container, tiles, codebooks, entropy coder, colour layer. No pictures, no models."""
