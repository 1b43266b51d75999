"""What `trunkline up` runs on one machine: plan, parts, restarts, view."""
