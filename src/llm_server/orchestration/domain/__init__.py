"""Records, their transitions, ports and errors, which every other room uses; adapters import only this room."""
