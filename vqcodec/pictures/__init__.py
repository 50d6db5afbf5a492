# SPDX-License-Identifier: MIT
"""Pictures in and out: files, PIL images and arrays to `Picture`, and back. Nothing here knows of .vqc files."""
