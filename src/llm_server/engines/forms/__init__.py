"""Messages, images, function tools and their calls in the form of each engine's API."""
