"""Who may do what: principals, their rights, tokens and quotas, as plain values. `engine/access.py` keeps them."""
