"""Carries out one claimed task: its mode, its plan, its steps and their reviews, and how the claim ends."""
