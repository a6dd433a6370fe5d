"""Checks of what a caller sends beside the prompt: images, function tools, and the results of function calls."""
