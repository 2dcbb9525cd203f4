"""Keys, the ledger and prices: what is kept in a database. Knows no Flask."""
