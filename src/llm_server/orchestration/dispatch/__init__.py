"""Engine calls: choosing an engine, reserving money for the call, making it, and failing over to another engine."""
