"""The records, their transitions, the ports and the errors that every other room uses. Adapters see only this."""
