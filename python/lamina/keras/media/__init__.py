"""Pictures, tables and graphs that `WandbCallback` logs."""
