"""The attack: faults at every call, messages out of order, killed processes, and an audit after each of them."""
