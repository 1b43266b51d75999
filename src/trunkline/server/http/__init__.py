"""HTTP of a node: pages, the upgrade, admission, tokens, the admin port."""
