"""What the service must not lose, in one database: a module for each table."""
