"""The configuration: every key's type and range, where values come from, and what a wrong one says."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent_mailer.config import DOCS, ENV_PREFIX, SECRET_KEYS, Config, MailboxKind, Source, expand, keys
from agent_mailer.config_tables import SandboxKeys
from agent_mailer.config_values import check_value, load, parse_value
from agent_mailer.disk import Disk
from agent_mailer.errors import ConfigFault, UsageFault
from agent_mailer.setup.config_file import ConfigFile, shown, visible

KEY = "amk_0123456789abcdef"
TEXTS = ["agent_id", "agent_name", "address", "broker_url", "api_key", "maildir_root", "project_dir", "claude_command"]
SWITCHES = [key for key in keys() if isinstance(getattr(Config(), key), bool)]
NUMBERS = [key for key in keys() if isinstance(getattr(Config(), key), int) and key not in SWITCHES]
AT_LEAST_ONE = [
    "poll_interval_idle",
    "poll_interval_active",
    "max_starts",
    "max_parallel_turns",
    "session_max_age_days",
    "session_max_turns",
    "turn_timeout",
    "live_wait",
    "live_time",
]
CHOICES = {
    "runtime": "claude",
    "permission_mode": "plan",
    "mailbox": "maildir",
    "auto_reply": "never",
    "command_output": "jsonl",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def from_file(path: Path, text: str) -> Config:
    path.write_text(text)
    return load(path, {}, {}).config


def refused(path: Path, text: str) -> ConfigFault:
    with pytest.raises(ConfigFault) as caught:
        from_file(path, text)
    assert caught.value.exit_code == 78
    assert KEY not in caught.value.message + caught.value.fix
    return caught.value


def test_every_key_is_explained_and_no_other() -> None:
    assert set(DOCS) == set(keys())


def test_an_absent_and_an_empty_file_are_the_defaults(path: Path) -> None:
    assert load(path, {}, {}).config == Config()
    assert from_file(path, "") == Config()


WRONG: list[tuple[str, str]] = [
    *((key, value) for key in TEXTS for value in ("1", "true", "['x']", "{ a = 1 }", "2020-01-01")),
    *((key, value) for key in NUMBERS for value in ("-1", "true", "1.0", "'3'", "[3]", "inf", "10000000000")),
    *((key, value) for key in SWITCHES for value in ("1", "'true'", "'yes'", "[true]")),
    *((key, "0") for key in AT_LEAST_ONE),
    *((key, value) for key in CHOICES for value in ("'no such'", "1", "true", "['x']")),
    ("command", "'claude -p'"),
    ("command", "[1]"),
    ("command", "[['x']]"),
    ("retry", "5"),
    ("retry", "{ first = 0 }"),
    ("retry", "{ longest = 1.5 }"),
    ("retry", "{ frist = 1 }"),
    ("env", "{ pass = 'PATH' }"),
    ("env", "{ set = { A = 1 } }"),
    ("env", "{ hide = [] }"),
    ("max_parallel_turns", "65"),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_is_refused_naming_file_and_key(path: Path, key: str, value: str) -> None:
    fault = refused(path, f"api_key = '{KEY}'\n{key} = {value}\n" if key != "api_key" else f"{key} = {value}\n")
    line = 1 if key == "api_key" else 2
    assert fault.message.startswith((f"{path}, line {line}: {key}: ", f"{path}, line {line}: {key}."))
    assert "agent-mailer config" in fault.fix


@pytest.mark.parametrize("key", [key for key in NUMBERS if key not in AT_LEAST_ONE])
def test_zero_means_something_where_it_is_allowed(path: Path, key: str) -> None:
    assert getattr(from_file(path, f"{key} = 0"), key) == 0


@pytest.mark.parametrize("key", SWITCHES)
def test_a_switch_is_true_or_false_wherever_it_is_said(path: Path, key: str) -> None:
    assert getattr(from_file(path, f"{key} = true"), key) is True
    variable = f"AGENT_MAILER_{key.upper()}"
    assert getattr(load(path, {variable: "false"}, {}).config, key) is False
    with pytest.raises(ConfigFault, match=f"{variable}: {key} must be true or false"):
        load(path, {variable: "1"}, {})
    assert "must be true or false" in refused(path, f"{key} = 1").message


@pytest.mark.parametrize("key", list(CHOICES))
def test_a_choice_names_the_others(path: Path, key: str) -> None:
    fault = refused(path, f"{key} = 'no such'")
    assert "no such" in fault.message
    assert f"one of: " in fault.message  # noqa: F541
    assert CHOICES[key] in fault.message.split("one of: ")[1]


@pytest.mark.parametrize("key", ["permission_mode", "runtime", "mailbox"])
def test_other_clients_write_an_empty_text_for_no_choice(path: Path, key: str) -> None:
    assert getattr(from_file(path, f"{key} = ''"), key) is None


BROKEN = {
    "torn": f"api_key = '{KEY}".encode(),
    "no value": f"api_key = {KEY}".encode(),
    "twice": f"api_key = '{KEY}'\napi_key = '{KEY}'".encode(),
    "not UTF-8": f"api_key = '{KEY}'\n".encode() + b"address = '\xff\xfe'",
    "NULs": f"api_key = '{KEY}'\n".encode() + b"\0" * 100,
    "binary": bytes(range(256)),
    "deep": b"a = " + b"[" * 100_000,
    "newline in a text": f"api_key = '{KEY}\n'".encode(),
    "merge": f"<<<<<<< HEAD\napi_key = '{KEY}'".encode(),
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_what_is_no_toml_is_refused_and_never_quoted(path: Path, name: str) -> None:
    path.write_bytes(BROKEN[name])
    with pytest.raises(ConfigFault) as caught:
        load(path, {}, {})
    assert str(path) in caught.value.message
    assert KEY not in caught.value.message + caught.value.fix
    assert path.read_bytes() == BROKEN[name]


def test_an_editor_may_have_put_a_byte_order_mark_before_it(path: Path) -> None:
    path.write_bytes("\ufeffmax_retries = 7\n".encode())
    assert load(path, {}, {}).config.max_retries == 7
    file = ConfigFile(path, Disk())
    file.set("max_starts", 9)
    file.save()
    assert load(path, {}, {}).config.max_retries == 7


def test_what_is_no_file_is_refused_and_never_waited_for(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(ConfigFault, match="cannot be read"):
        load(path, {}, {})
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigFault, match="cannot be read"):
        load(path, {}, {})


def test_a_linked_file_is_read(path: Path, tmp_path: Path) -> None:
    (tmp_path / "dotfiles.toml").write_text("address = 'a'")
    path.symlink_to(tmp_path / "dotfiles.toml")
    assert load(path, {}, {}).config.address == "a"


def test_unknown_keys_are_kept_apart(path: Path) -> None:
    path.write_text("other_command = 'x'\naddress = 'a'\n[strange]\nb = 1\n")
    loaded = load(path, {}, {})
    assert loaded.config.address == "a"
    assert loaded.unknown == ("other_command", "strange")


def test_who_wins_and_where_it_came_from(path: Path) -> None:
    path.write_text("address = 'file'\nagent_name = 'file'\nmax_retries = 5\nruntime = ''")
    identity = {"address": "md", "agent_name": "md", "agent_id": "md", "role": "ignored", "broker_url": ""}
    environ = {f"{ENV_PREFIX}ADDRESS": "env", f"{ENV_PREFIX}MAX_RETRIES": "7", f"{ENV_PREFIX}API_KEY": ""}
    loaded = load(path, environ, {"address": "flag", "runtime": None}, identity)
    config = loaded.config
    assert (config.address, config.agent_name, config.agent_id, config.max_retries) == ("flag", "file", "md", 7)
    assert {key: loaded.source(key) for key in ("address", "agent_name", "agent_id", "max_retries", "runtime")} == {
        "address": Source.FLAG,
        "agent_name": Source.FILE,
        "agent_id": Source.AGENT_MD,
        "max_retries": Source.ENVIRONMENT,
        "runtime": Source.DEFAULT,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MAX_RETRIES", "many"),
        ("MAX_RETRIES", "-1"),
        ("MAX_RETRIES", "1.5"),
        ("MAX_RETRIES", "true"),
        ("MAX_RETRIES", "9" * 5000),
        ("TURN_TIMEOUT", "0"),
        ("RUNTIME", "vim"),
        ("PERMISSION_MODE", "yolo"),
        ("COMMAND", "unclosed 'quote"),
        ("COMMAND", "ends in \\"),
    ],
)
def test_a_wrong_variable_is_named_with_what_mends_it(path: Path, name: str, text: str) -> None:
    variable = f"{ENV_PREFIX}{name}"
    with pytest.raises(ConfigFault) as caught:
        load(path, {variable: text, f"{ENV_PREFIX}API_KEY": KEY}, {})
    assert caught.value.message.startswith(f"{variable}: ")
    assert caught.value.fix == f"unset {variable}"
    assert KEY not in caught.value.message


def test_variables_that_are_no_keys_change_nothing(path: Path) -> None:
    environ = {f"{ENV_PREFIX}WORKDIR": "/x", f"{ENV_PREFIX}RETRY": "1", f"{ENV_PREFIX}ENV": "x", "ADDRESS": "x"}
    assert load(path, environ, {}).config == Config()


@pytest.mark.parametrize("kind", ["off", "landlock"])
def test_the_kind_of_sandbox_in_a_variable_leaves_the_rest_of_its_table_as_it_is(path: Path, kind: str) -> None:
    own: dict[str, object] = {
        "network": "off",
        "mailbox": "write",
        **dict.fromkeys(("read", "write", "hide", "domains", "command"), ("one", "two")),
    }
    assert {"kind", *own} == set(SandboxKeys.__struct_fields__)
    table = "".join(f"{name} = {[*said] if isinstance(said, tuple) else said!r}\n" for name, said in own.items())
    for said in ("", "kind = 'bwrap'\n"):
        path.write_text(f"[sandbox]\n{said}{table}")
        loaded = load(path, {f"{ENV_PREFIX}SANDBOX": kind}, {})
        assert msgspec.to_builtins(loaded.config.sandbox) == {**own, "kind": kind}
        assert loaded.source("sandbox") is Source.ENVIRONMENT
    path.write_text("")
    alone = load(path, {f"{ENV_PREFIX}SANDBOX": kind}, {}).config.sandbox
    assert msgspec.to_builtins(alone) == {**msgspec.to_builtins(SandboxKeys()), "kind": kind}


def test_a_command_in_a_variable_is_words(path: Path) -> None:
    environ = {f"{ENV_PREFIX}COMMAND": "claude -p 'two words'"}
    assert load(path, environ, {}).config.command == ("claude", "-p", "two words")


@pytest.mark.parametrize(
    ("flags", "named"), [({"runtime": "vim"}, "--runtime"), ({"max_parallel_turns": 0}, "--max-parallel-turns")]
)
def test_a_wrong_flag_is_named(path: Path, flags: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigFault) as caught:
        load(path, {}, flags)
    assert caught.value.message.startswith(f"{named}: ")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", MailboxKind.MAILDIR),
        ("broker_url = 'http://b'", MailboxKind.AMP),
        ("broker_url = 'http://b'\nmailbox = 'maildir'", MailboxKind.MAILDIR),
        ("mailbox = 'amp'", MailboxKind.AMP),
    ],
)
def test_which_mailbox(path: Path, text: str, kind: MailboxKind) -> None:
    assert from_file(path, text).mailbox_kind is kind


def test_checking_one_value() -> None:
    check_value("max_retries", 0)
    with pytest.raises(UsageFault) as caught:
        check_value("max_retries", -1)
    assert caught.value.message.startswith("max_retries: ")


@pytest.mark.parametrize(
    ("text", "found"),
    [("sub", "/w/sub"), ("../x", "/x"), ("/abs//y/../z", "/abs/z"), (".", "/w"), ("~/p", "HOME/p")],
)
def test_paths_are_relative_to_the_workdir(home: Path, text: str, found: str) -> None:
    assert str(expand(text, Path("/w"))) == found.replace("HOME", str(home))


@pytest.mark.parametrize("text", ["~nobody-of-that-name/x", "a\0b"])
def test_what_is_no_path_is_a_fault_of_the_configuration(text: str) -> None:
    with pytest.raises(ConfigFault, match="is no path"):
        expand(text, Path("/w"))


OLD_CLIENT = """\
agent_id = "0d5e"
agent_name = ""
address = "coder@ann.amp.linkyun.co"
broker_url = "http://localhost:9800"
api_key = "amk_1"
permission_mode = ""
poll_interval_idle = 60
poll_interval_active = 10
max_retries = 0
session_max_age_days = 7
session_max_turns = 50
runtime = ""
claude_command = ""
codex_command = "codex"
infiniti_command = "infiniti-agent"
project_dir = ""
"""


def test_a_file_of_the_existing_client_loads_as_it_is(path: Path) -> None:
    path.write_text(OLD_CLIENT)
    loaded = load(path, {}, {}, {"agent_name": "coder", "address": "other"})
    config = loaded.config
    assert (config.agent_name, config.address, config.claude_command) == ("coder", "coder@ann.amp.linkyun.co", "claude")
    assert (config.runtime, config.permission_mode, config.max_retries) == (None, None, 0)
    assert config.mailbox_kind is MailboxKind.AMP
    assert loaded.unknown == ()
    assert loaded.source("agent_name") is Source.AGENT_MD


@pytest.mark.parametrize("value", ["0", "-5", "true", "60.0", "1.5", "'60'", "99999999", "[1]"])
def test_an_interval_that_is_none_names_key_file_and_mend(path: Path, value: str) -> None:
    path.write_text(f"poll_interval_idle = {value}\n")
    with pytest.raises(ConfigFault) as raised:
        load(path, {}, {})
    assert str(path) in raised.value.message
    assert "poll_interval_idle: must be a whole number from 1 to 2592000, not " in raised.value.message
    assert raised.value.fix == "agent-mailer config set poll_interval_idle 60"


def test_a_list_in_json_that_is_none_is_no_command_of_that_name() -> None:
    assert parse_value("command", '["sh", "-c", "echo\\n"]') == ["sh", "-c", "echo\n"]
    assert parse_value("allow_from", "[ab]*@x.y c@x.y") == ["[ab]*@x.y", "c@x.y"]
    for text in ('["sh","-c","one\ntwo"]', '["sh", "-c"', '["sh", 3]'):
        with pytest.raises(UsageFault, match="command is a list in JSON, and this is not"):
            parse_value("command", text)


@pytest.mark.parametrize("key", sorted(SECRET_KEYS))
@pytest.mark.parametrize("value", [KEY, [KEY], (KEY, KEY)], ids=["a text", "a list", "a tuple"])
def test_a_secret_is_never_shown_whatever_it_is(key: str, value: object) -> None:
    table, _, name = key.rpartition(".")
    assert shown(key, value) == visible(key, value) == "(set, not shown)"
    if table:
        assert visible(table, {name: value, "timeout": 2}) == {name: "(set, not shown)", "timeout": 2}
        assert shown(table, {name: value, "timeout": 2}) == f"{name} = (set, not shown), timeout = 2"
    nothing: list[object] = ["", [], (), None]
    for empty in nothing:
        assert (shown(key, empty), visible(key, empty)) == ("-", None)


def test_what_was_changed_since_a_file_was_read_is_not_written_over(path: Path) -> None:
    path.write_text("max_starts = 3\n")
    file = ConfigFile(path, Disk())
    file.set("max_retries", 7)
    path.write_text("max_starts = 4\n")
    with pytest.raises(ConfigFault, match="changed by somebody else meanwhile"):
        file.save()
    assert path.read_text() == "max_starts = 4\n"


@pytest.mark.parametrize(
    "before", ['greeting = """\n[Hello]\n"""\n', "theirs = [\n  [1],\n  [2],\n]\n", "a = '''\n  [[b]]'''\n"]
)
@pytest.mark.parametrize("table", ["", "\n[env]\npass = ['X']\n"])
def test_a_new_key_stands_in_no_other_value_that_goes_over_several_lines(path: Path, before: str, table: str) -> None:
    path.write_text(before + table)
    kept = tomllib.loads(path.read_text())
    file = ConfigFile(path, Disk())
    file.set("max_starts", 9)
    file.save()
    assert tomllib.loads(path.read_text()) == {**kept, "max_starts": 9}
