"""Pictures with label maps: reading them, resizing them, handing them out one by one."""
