"""Conformance suites that an adapter of one's own can be run against. Needs nothing beyond the package itself."""
