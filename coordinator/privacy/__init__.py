"""What private runs spend: the accountant, the ledger of a run on disk, and the budget that ends it."""
