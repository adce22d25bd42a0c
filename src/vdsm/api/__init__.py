"""The surface: every verb, type, error and event that the node offers, declared once; how they travel is left to `wire`."""
