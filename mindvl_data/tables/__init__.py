"""What steps share, on disk and in memory: the samples table, the ledger, the token store, draws."""
