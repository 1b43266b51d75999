"""What the tests of deploys share."""
