"""How a request is read: its route, its query, its body, and the arguments of the route's function."""
