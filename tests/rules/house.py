"""The house's numbers, table of imports, doors and named exceptions: change a rule here, with the reason."""

# --- who may import whom ---------------------------------------------------------------------------------------------

DOMAINS = frozenset({"virt", "storage", "network", "host", "tasks", "hooks", "policy", "guest"})

# A room is a folder of src/vdsm or a module beside them. Each may import itself and these.
ROOMS: dict[str, frozenset[str]] = {
    "core": frozenset(),
    "api": frozenset({"core"}),
    **{domain: frozenset({"core", "api"}) for domain in DOMAINS},
    "adapters": frozenset({"core"}),
    "settings": frozenset({"core"}),
    "logs": frozenset({"core", "settings"}),
    "pki": frozenset({"core", "settings"}),
    "wire": frozenset({"core", "api", "settings"}),
    "local": frozenset({"core", "settings", "wire"}),
    "client": frozenset({"core", "api", "wire", "local"}),
    "peers": frozenset({"core", "wire", "local"}),
    "cli": frozenset({"core", "api", "wire", "settings", "pki", "local", "client"}),
    "helper": frozenset(),
    "testing": frozenset({"core", "api", *DOMAINS}),
}
# Composition roots see everything that they join; nobody imports them.
ROOTS = frozenset({"vdsm.daemon", "vdsm.repository", "vdsm.cli.tool"})
# Importable names for scripts of 2011; `vdsm` itself (its version) may be imported by all but the helper.
SCRIPT_MODULES: dict[str, frozenset[str]] = {
    "vdscli": frozenset({"wire", "local"}),
    "storage": frozenset({"storage"}),
    "storage.sd": frozenset({"storage"}),
    "storage.volume": frozenset({"storage"}),
}
# Adapters fit ports by shape; they may speak the errors and values of a domain's `ports` module, and of these.
VALUES_FOR_ADAPTERS = {
    "vdsm.network.model": "what the network's ports carry is more than fits beside them",
    "vdsm.storage.health.checker": "the words of a process that the adapter drives",
}
# In storage/, which stands alone as a library, only this folder knows the API.
STORAGE_API_USERS = "vdsm.storage.services."
ALLOWED_IMPORTS = {
    ("vdsm.peers", "vdsm.virt.ports"): "it fits a port as adapters do, and speaks our own wire, which those do not see",
    ("vdsm.storage", "vdsm.repository"): "re-exported lazily, so that scripts write `from vdsm.storage import …`",
}

# --- sizes -----------------------------------------------------------------------------------------------------------

FILE_LINES = 700
FUNCTION_LINES = 60
CLASS_METHODS = 25
NESTING = 5
SOURCE_LINES = 34_700  # decisions 16, 18 and 20
LONG_FUNCTIONS: dict[str, str] = {}  # "src/vdsm/…:name": reason
LARGE_CLASSES: dict[str, str] = {}  # "src/vdsm/…:Name": reason

# --- names -----------------------------------------------------------------------------------------------------------

SHAPELESS_NAMES = frozenset({"utils", "util", "misc", "helpers", "manager", "managers", "common", "tools"})

# --- doors -----------------------------------------------------------------------------------------------------------

# The only files with `except Exception`: failures of anything behind them become a value and a line in the log.
BROAD_DOORS = {
    "src/vdsm/wire/dispatch.py": "transport",
    "src/vdsm/wire/jsonrpc.py": "transport",
    "src/vdsm/tasks/engine.py": "task runner",
    "src/vdsm/hooks/runner.py": "hook runner",
    "src/vdsm/core/periodic.py": "periodic loop",
    "src/vdsm/storage/lanes.py": "storage worker loop",
    "src/vdsm/storage/worker.py": "storage worker loop",
    "src/vdsm/helper/main.py": "helper loop",
}
PROCESS_DOORS = {
    "src/vdsm/adapters/run.py": "the one place that starts processes",
    "src/vdsm/helper/main.py": "imports nothing but itself and the standard library",
}
ANY_DOORS = {
    "src/vdsm/wire/": "values of every type pass through",
    "src/vdsm/adapters/libvirt/": "libvirt's binding is untyped",
    "src/vdsm/api/declare.py": "reads the signatures of all verbs",
}

# --- documents -------------------------------------------------------------------------------------------------------

REQUIREMENTS = ("requirements.txt", "requirements-dev.txt", "requirements-check.txt")
UNCHECKED_TEXT = ("LICENSE", "tests/golden/", "schema/", *REQUIREMENTS)
