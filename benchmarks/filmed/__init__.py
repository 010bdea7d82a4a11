"""The parts of benchmarks.real, a module each."""
