"""The attack: faults at every call, deliveries out of order, killed processes, and an audit after every single one."""
