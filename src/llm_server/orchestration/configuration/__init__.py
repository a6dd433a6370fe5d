"""Reads the catalogue of profiles, roles and engines out of its files and checks it."""
