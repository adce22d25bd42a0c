"""Fakes that are products, shipped for tests of this package and of others that use it."""
