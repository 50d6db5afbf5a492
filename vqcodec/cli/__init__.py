# SPDX-License-Identifier: MIT
"""What a person types: commands, options, file names, processes, messages."""
