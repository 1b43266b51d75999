"""Moving clients away: which ones, when each is asked, who may order it, and what became of them."""
