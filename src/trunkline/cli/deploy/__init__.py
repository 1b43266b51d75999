"""`trunkline deploy`: move a fleet's clients to new nodes, count them, and say in numbers that nobody lost anything.

Exit codes: 0 done and the verdict passes; 1 done and it fails; 2 bad usage or settings; 3 rolled back; 4 stuck;
5 another deploy or process holds the lease; 6 refused before anything was begun; 130 interrupted, the state is kept.
"""
