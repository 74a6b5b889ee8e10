"""The streaming engines: each lays out the work of one family of losses and hides the backends behind one call."""
