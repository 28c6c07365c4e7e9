"""Specifications and folders of other tools."""
