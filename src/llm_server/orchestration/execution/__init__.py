"""Carries out a claimed task in its mode: one answer, or a plan with steps, reviews and a synthesis."""
