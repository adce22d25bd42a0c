"""The host's networks: today what there is; how they are changed comes later."""
