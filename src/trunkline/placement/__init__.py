"""Who gets a connection: the fleet as it is believed to be, and the choice among it. Pure."""
