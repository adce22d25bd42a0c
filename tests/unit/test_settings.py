"""Settings: what may be written, what is said about the rest, and that what is printed can be read again."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdsm.core.paths import Paths
from vdsm.settings import (
    InvalidSetting,
    Settings,
    format_settings,
    list_settings,
    load_settings,
    parse_settings,
    settings_schema,
)

# Defaults of facts §7.4, typed in from there.
FACTS = {
    ("addresses", "management_ip"): "::",
    ("addresses", "management_port"): 54321,
    ("addresses", "request_queues"): ("jms.topic.vdsm_requests", "jms.topic.vdsm_irs_requests"),
    ("addresses", "event_queue"): "jms.queue.events",
    ("vars", "ssl"): True,
    ("vars", "vm_sample_interval"): 15,
    ("vars", "host_sample_stats_interval"): 15,
    ("vars", "vm_command_timeout"): 60,
    ("vars", "sys_shutdown_timeout"): 120,
    ("vars", "user_shutdown_timeout"): 30,
    ("vars", "qemu_drive_cache"): "none",
    ("vars", "fake_kvm_support"): False,
    ("vars", "host_mem_reserve"): 256,
    ("vars", "extra_mem_reserve"): 65,
    ("vars", "guest_ram_overhead"): 65,
    ("irs", "thread_pool_size"): 10,
    ("irs", "max_tasks"): 500,
}


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_without_a_file_all_is_as_the_facts_tell(paths: Paths) -> None:
    loaded = load_settings(paths)
    assert loaded.warnings == ()
    assert loaded.settings == Settings()
    for (section, key), value in FACTS.items():
        assert getattr(getattr(loaded.settings, section), key) == value


def test_values_are_read_by_their_type(paths: Paths) -> None:
    write(
        paths.config_file,
        "[addresses]\nmanagement_port=54322\nrequest_queues = a , b,\n[vars]\nssl = False\nvm_sample_interval: 2.5\n"
        "qemu_drive_cache = /a%(b)s/50%\n[virt]\naccelerator = tcg\n",
    )
    settings = load_settings(paths).settings
    assert settings.addresses.management_port == 54322
    assert settings.addresses.request_queues == ("a", "b")
    assert (settings.vars.ssl, settings.vars.vm_sample_interval) == (False, 2.5)
    assert settings.virt.accelerator == "tcg"
    assert settings.vars.qemu_drive_cache == "/a%(b)s/50%"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[addresses]\nmanagement_port = 70000", "an integer from 0 to 65535"),
        ("[addresses]\nmanagement_port = many", "an integer from 0 to 65535"),
        ("[addresses]\nmanagement_port =", "an integer from 0 to 65535"),
        ("[vars]\nssl = perhaps", "true or false"),
        ("[vars]\nssl =", "true or false"),
        ("[vars]\nvm_sample_interval = nan", "a number from 0.1"),
        ("[vars]\nvm_sample_interval = inf", "a number from 0.1"),
        ("[virt]\naccelerator = xen", "one of auto, kvm, tcg"),
    ],
)
def test_a_wrong_value_names_file_section_key_and_what_was_expected(paths: Paths, line: str, expected: str) -> None:
    file = write(paths.config_file, line + "\n")
    with pytest.raises(InvalidSetting) as refusal:
        load_settings(paths)
    section, key = line.split("\n")
    assert str(refusal.value).startswith(f"{file}: {section} {key.split(' =')[0]}: expected {expected}, found ")


@pytest.mark.parametrize("text", ["no section = 1\n", "[vars]\nssl\n", "[vars]\nssl = true\nssl = false\n", "[vars\n"])
def test_a_file_that_is_no_ini_file_is_refused_by_name(paths: Paths, text: str) -> None:
    file = write(paths.config_file, text)
    with pytest.raises(InvalidSetting, match=str(file)):
        load_settings(paths)


def test_bytes_that_are_no_text_are_refused(paths: Paths) -> None:
    write(paths.config_file, "").write_bytes(b"[vars]\n\xff\xfe\n")
    with pytest.raises(InvalidSetting):
        load_settings(paths)


def test_what_is_not_known_is_told_and_ignored() -> None:
    text = "[DEFAULT]\nssl = false\n[vars]\nsll = false\n[nonsense]\nx = 1\n"
    loaded = parse_settings([("my.conf", text)])
    assert loaded.settings == Settings()
    assert loaded.warnings == (
        "my.conf: [DEFAULT] ssl is not known here and is ignored",
        "my.conf: [vars] sll is not known here and is ignored (did you mean [vars] ssl?)",
        "my.conf: [nonsense] x is not known here and is ignored",
    )


def test_later_files_win_by_name_whatever_their_folder(paths: Paths, tmp_path: Path) -> None:
    write(paths.config_file, "[vars]\nhost_mem_reserve = 1\nextra_mem_reserve = 1\nguest_ram_overhead = 1\n")
    write(tmp_path / "etc/vdsm/vdsm.conf.d/10-a.conf", "[vars]\nhost_mem_reserve = 2\nextra_mem_reserve = 2\n")
    write(tmp_path / "usr/lib/vdsm/vdsm.conf.d/20-b.conf", "[vars]\nhost_mem_reserve = 3\n")
    write(tmp_path / "run/vdsm/vdsm.conf.d/30.txt", "[vars]\nhost_mem_reserve = 4\n")
    group = load_settings(paths).settings.vars
    assert (group.host_mem_reserve, group.extra_mem_reserve, group.guest_ram_overhead) == (3, 2, 1)


def test_a_given_file_is_the_only_one_and_must_exist(paths: Paths, tmp_path: Path) -> None:
    write(paths.config_file, "[vars]\nssl = false\n")
    given = write(tmp_path / "given.conf", "[vars]\nfake_kvm_support = true\n")
    group = load_settings(paths, given).settings.vars
    assert (group.ssl, group.fake_kvm_support) == (True, True)
    with pytest.raises(InvalidSetting):
        load_settings(paths, tmp_path / "absent.conf")


def test_what_is_printed_can_be_read_again() -> None:
    settings = Settings()
    changed = replace(
        settings,
        vars=replace(settings.vars, ssl=False, vm_sample_interval=0.5),
        log=replace(settings.log, levels=("a=DEBUG", "b=INFO"), to="file"),
    )
    for each in (settings, changed):
        loaded = parse_settings([("printed", format_settings(each))])
        assert (loaded.settings, loaded.warnings) == (each, ())


def test_every_setting_is_printed_and_published_with_its_reason() -> None:
    printed = format_settings(Settings())
    sections = settings_schema()["sections"]
    assert isinstance(sections, dict)
    for declared in list_settings():
        assert f"# {declared.reason}" in printed
        assert sections[declared.section][declared.key]["reason"] == declared.reason


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    try:
        parse_settings([("x", text)])
    except InvalidSetting as refusal:
        assert str(refusal).startswith("x: ")
