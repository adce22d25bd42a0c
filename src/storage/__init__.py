"""Constants that scripts of 2011 import by this name; nothing of the node uses them, and no work is done here."""
