"""Programs that write parts of the documentation: `make docs`."""
