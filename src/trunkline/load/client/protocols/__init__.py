"""How clients talk: echo, feed, steps of the scenario, or a flow in Python."""
