"""The HTTP contract: routes, what comes in and goes out, errors, who may call."""
