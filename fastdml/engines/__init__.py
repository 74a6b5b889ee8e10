"""The streaming engines: each lays out one family of losses and hides the backends behind one call."""
