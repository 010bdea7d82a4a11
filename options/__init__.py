"""Flags: parsed, given defaults, and seen to fit together. Only scripts and run/ see the namespace."""
