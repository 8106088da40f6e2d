"""The images, tables and graphs that `WandbCallback` logs."""
