"""The losses in the form that a framework asks for: one small module each, which imports that framework.

Nothing here is imported by the package itself, and no framework is a dependency of it. docs/frameworks.md shows the
lines for each.
"""
