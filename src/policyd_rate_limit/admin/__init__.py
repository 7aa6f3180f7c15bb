"""What administrators see and do beside the running daemons.

For whatever shows it: this knows of no command line, no page and no exit status, and prints nothing. What a window
holds, and which limits are in force, is what the daemons say. A *key* is the name of a counter, such as ``user:alice``.
"""
