"""Gets one call answered: by which engine, for how much money, and what to do when the engine fails."""
