"""Who may do what on an admin port: scopes of routes, holders of tokens, and where a token of this machine is kept.

Begin with `tokens.py`.
"""
