"""The image repository: domains, pools, images and volumes on shared or local storage, usable without the daemon.

Joining it with the outside (processes, privileges) is left to `vdsm.repository`.
"""
