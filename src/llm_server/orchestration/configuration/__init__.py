"""Reads the catalogue of profiles, roles and engines from its files and checks it."""
