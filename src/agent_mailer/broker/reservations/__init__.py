"""Which files of a project somebody has to himself: leases that end by the database's clock."""
