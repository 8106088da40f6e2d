"""What stands elsewhere comes to this machine: in parallel, as far as it is needed, verified."""
