"""The surface: every verb, type, error and event of the node, declared once; how they travel is left to `wire`."""
