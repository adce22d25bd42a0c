"""The published JSON-RPC schema against the table of contract facts: what oVirt's clients rely on."""

import copy
import json
from pathlib import Path

import pytest

from vdsm.api.catalogue import list_all_verbs
from vdsm.wire.dialects.events import describe_events
from vdsm.wire.dialects.ovirt import OvirtDialect

FACTS = json.loads((Path(__file__).parent / "ovirt_api.json").read_text())
OURS = OvirtDialect(list_all_verbs()).get_schema()
KINDS = {"int": "number", "uint": "number", "long": "number", "float": "number", "string": "text", "boolean": "boolean"}


def kind_of(types, declared):
    """What a declared type comes down to: a kind, and its definition where it has one."""
    while isinstance(declared, str) and types.get(declared, {}).get("kind") == "alias":
        declared = types[declared]["of"]
    if isinstance(declared, list):
        return "list", declared[0]
    if declared in types:
        return types[declared]["kind"], types[declared]
    return KINDS.get(declared, "open"), None


def faults(fact_types, fact, our_types, ours, where, seen=()):
    """Where our type says less or something else than the facts do."""
    if (str(fact), str(ours)) in seen:
        return
    seen = (*seen, (str(fact), str(ours)))
    wanted, fact_detail = kind_of(fact_types, fact)
    got, our_detail = kind_of(our_types, ours)
    if wanted in ("union", "open"):
        return
    if wanted == "enum":
        if got == "enum":
            lacking = {str(v) for v in fact_detail["values"]} - {str(v) for v in our_detail["values"]}
            if lacking:
                yield f"{where} lacks the values {sorted(lacking)}"
        elif got not in ("text", "number", "boolean"):
            yield f"{where} is {got}, not an enumeration"
    elif got != wanted and not (got == "enum" and wanted in ("text", "number")):
        yield f"{where} is {got}, not {wanted}"
    elif wanted == "list":
        yield from faults(fact_types, fact_detail, our_types, our_detail, f"{where}[]", seen)
    elif wanted == "map":
        yield from faults(fact_types, fact_detail["value"], our_types, our_detail["value"], f"{where}{{}}", seen)
    elif wanted == "object":
        known = {field["name"]: field["type"] for field in our_detail["fields"]}
        for field in fact_detail["fields"]:
            if field["name"] == "*":
                continue
            if field["name"] not in known:
                yield f"{where}.{field['name']} is missing"
            else:
                yield from faults(
                    fact_types, field["type"], our_types, known[field["name"]], f"{where}.{field['name']}", seen
                )


def verb_faults(name, ours):
    fact = FACTS["verbs"][name]
    got = ours["verbs"].get(name)
    if got is None:
        yield f"{name} is missing"
        return
    for place, wanted in enumerate(fact["params"]):
        if place >= len(got["params"]) or got["params"][place]["name"] != wanted["name"]:
            yield f"{name}: parameter {place + 1} is not {wanted['name']}"
            continue
        parameter = got["params"][place]
        if wanted.get("optional") and not parameter.get("optional"):
            yield f"{name}({wanted['name']}) is not optional"
        yield from faults(FACTS["types"], wanted["type"], ours["types"], parameter["type"], f"{name}({wanted['name']})")
    for extra in got["params"][len(fact["params"]) :]:
        if not extra.get("optional"):
            yield f"{name}({extra['name']}) is required, and no client knows it"
    if "returns" in fact:
        yield from faults(FACTS["types"], fact["returns"], ours["types"], got.get("returns", "nothing"), f"{name} ->")


@pytest.mark.parametrize("name", sorted(FACTS["verbs"]))
def test_verb_holds(name):
    assert list(verb_faults(name, OURS)) == []


def test_every_declared_verb_is_in_the_table():
    assert {verb.ovirt for verb in list_all_verbs()} == set(FACTS["verbs"])


def test_events_hold():
    ours = describe_events()["ovirt"]
    for name, fact in FACTS["events"].items():
        types = {**FACTS["types"], **FACTS["event_types"]}
        known = [got for got in ours["events"][name]["params"] if not got.get("optional")]
        for wanted, got in zip(fact["params"], known, strict=True):
            assert got["name"] == wanted["name"]
            assert list(faults(types, wanted["type"], ours["types"], got["type"], name)) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda s: s["verbs"].pop("VM.create"), "VM.create is missing"),
        (lambda s: s["verbs"]["VM.create"]["params"].reverse(), "parameter 1 is not vmID"),
        (lambda s: s["verbs"]["VM.create"]["params"].append({"name": "x", "type": "int"}), "no client knows it"),
        (lambda s: s["types"]["VmParameters"]["fields"].pop(), "is missing"),
        (lambda s: s["verbs"]["VM.create"].update(returns="int"), "is number, not object"),
    ],
)
def test_the_check_can_fail(change, fault):
    schema = copy.deepcopy(OURS)
    change(schema)
    assert any(fault in line for line in verb_faults("VM.create", schema))
