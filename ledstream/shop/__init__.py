"""The demo's shop: what the simulated shoppers look at, to be seen and clicked. Served by `ledstream demo` alone."""
