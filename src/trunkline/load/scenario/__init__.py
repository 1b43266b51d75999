"""When connections come and go, and what they say."""
