"""Where each value comes from, what is refused and how, and that the documentation is complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.certificates import Authority, node_id
from warren import config
from warren.config import Config, resolve
from warren.daemon import main
from warren.errors import StartupError

DOCUMENT = Path(__file__).parents[2] / "docs/configuration.md"


def file_with(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "warrend.toml"
    path.write_text(text)
    return path


def refused(
    flags: dict[str, str | None] | None = None,
    env: dict[str, str] | None = None,
    file: Path | None = None,
) -> str:
    with pytest.raises(StartupError) as caught:
        resolve(flags or {}, env or {}, file)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults() -> None:
    resolved = resolve({}, {})
    assert resolved.config.data_dir == Path("/var/lib/warren")
    assert resolved.config.socket == Path("/run/warren/warren.sock")
    assert resolved.config.listen_addr == "0.0.0.0:2377"
    assert resolved.config.metrics_addr == "127.0.0.1:9090"
    assert set(resolved.sources.values()) == {"default"}


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = file_with(tmp_path, 'node_name = "f"\nlog_level = "warn"\nsocket_group = "f"\n')
    env = {"WARREN_NODE_NAME": "e", "WARREN_LOG_LEVEL": "error"}
    resolved = resolve({"node_name": "a"}, env, path)
    assert resolved.config.node_name == "a"
    assert resolved.config.log_level == "error"
    assert resolved.config.socket_group == "f"
    assert resolved.sources["node_name"] == "flag --node-name"
    assert resolved.sources["log_level"] == "environment WARREN_LOG_LEVEL"
    assert resolved.sources["socket_group"] == f"file {path}"
    assert resolved.sources["data_dir"] == "default"


def test_every_key_in_every_place(tmp_path: Path) -> None:
    samples = {
        "data_dir": "/d", "socket": "/s", "socket_group": "g", "listen_addr": "[::1]:1",
        "advertise_addr": "h:2", "peer_addr": "127.0.0.1:2", "tls_ca": "/ca", "tls_cert": "/cert",
        "tls_key": "/key", "metrics_addr": "127.0.0.1:0",
        "metrics_buckets": "fine", "log_level": "debug",
        "log_format": "json", "node_name": "n", "labels": "zone=eu,disk=ssd",
        "taints": "gpu=yes:no-schedule,old:prefer-no-schedule", "devices": "gpu=2:A100,fpga=1",
        "volumes": "data=/srv/data,logs=/srv/logs:ro",
        "reserved_cpus": "0.5", "reserved_memory": "512m", "reserved_disk": "10g",
        "capacity_cpus": "4", "capacity_memory": "8g", "capacity_disk": "1t",
        "containerd_address": "/c", "containerd_namespace": "ns", "log_max_bytes": "4096",
        "log_max_files": "1", "wal_segment_bytes": "1048576", "worker_concurrency": "2",
    }  # fmt: skip
    assert tuple(samples) == config.KEYS
    by_flag = resolve(samples, {}).config
    by_env = resolve({}, {config.env_name(key): text for key, text in samples.items()}).config
    numbers = {key for key, text in samples.items() if text.isdigit()} - {"capacity_cpus"}
    lists = {"taints", "devices", "volumes"}
    typed = {key: text.split(",") if key in lists else text for key, text in samples.items()}
    lines = [
        f"{key} = {value if key in numbers else json.dumps(value)}"
        for key, value in typed.items()
        if key != "labels"
    ]
    lines.append('labels = { zone = "eu", disk = "ssd" }')
    by_file = resolve({}, {}, file_with(tmp_path, "\n".join(lines))).config
    assert by_flag == by_env == by_file
    assert by_flag.labels == {"zone": "eu", "disk": "ssd"}
    assert by_flag.worker_concurrency == 2
    assert by_flag.taints == ["gpu=yes:no-schedule", "old:prefer-no-schedule"]
    assert by_flag.devices == ["gpu=2:A100", "fpga=1"]
    assert by_flag.volumes == ["data=/srv/data", "logs=/srv/logs:ro"]


def test_an_unknown_key_names_the_nearest(tmp_path: Path) -> None:
    text = refused(file=file_with(tmp_path, 'data_dri = "/x"'))
    assert "unknown key `data_dri`" in text
    assert "did you mean `data_dir`?" in text
    assert "did you mean `node_name`?" in refused(file=file_with(tmp_path, 'node-name = "x"'))
    assert "known are: data_dir, " in refused(file=file_with(tmp_path, "qqqqqq = 1"))


@pytest.mark.parametrize(
    ("key", "text", "expects"),
    [
        ("data_dir", "relative", "an absolute path"),
        ("data_dir", "", "an absolute path"),
        ("socket", "/a\0b", "an absolute path"),
        ("metrics_addr", "9090", "host:port"),
        ("metrics_addr", "localhost:99999", "host:port"),
        ("metrics_addr", "::1:90", "host:port"),
        ("metrics_addr", "", "host:port"),
        ("log_level", "loud", "one of debug, info, warn, error"),
        ("node_name", "Not_A_Label", "a DNS label"),
        ("node_name", "a" * 64, "a DNS label"),
        ("worker_concurrency", "0", "a whole number from 1 to 128"),
        ("worker_concurrency", "many", "a whole number from 1 to 128"),
        ("log_max_bytes", "1.5", "a whole number"),
        ("labels", "zone", "name=value"),
        ("taints", "gpu=yes", "key=value:no-schedule"),
        ("taints", "gpu:never", "key=value:no-schedule"),
        ("devices", "gpu", "kind=count"),
        ("devices", "gpu=0", "kind=count"),
        ("volumes", "data", "name=/path"),
        ("volumes", "data=srv", "name=/path"),
        ("volumes", "no name=/srv", "name=/path"),
        ("reserved_cpus", "half", "like 0.5"),
        ("reserved_memory", "lots", "like 512m"),
        ("containerd_namespace", "a/b", "letters, digits"),
    ],
)
def test_what_does_not_fit_names_key_source_and_expectation(
    key: str, text: str, expects: str
) -> None:
    for sentence, source in (
        (refused(flags={key: text}), f"flag {config.flag_name(key)}"),
        (refused(env={config.env_name(key): text}), f"environment {config.env_name(key)}"),
    ):
        assert sentence.startswith(f"{key} = ")
        assert source in sentence
        assert expects in sentence


def test_the_file_is_typed(tmp_path: Path) -> None:
    assert "worker_concurrency = '8'" in refused(
        file=file_with(tmp_path, 'worker_concurrency = "8"')
    )
    assert "data_dir = 5" in refused(file=file_with(tmp_path, "data_dir = 5"))
    assert "labels = " in refused(file=file_with(tmp_path, "labels = { a = 1 }"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert "does not exist" in refused(file=tmp_path / "none")
    assert "does not exist" in refused(env={"WARREN_CONFIG": f"{tmp_path}/none"})
    assert "cannot read" in refused(file=tmp_path)
    assert "not valid TOML" in refused(file=file_with(tmp_path, "a = ["))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    assert "not valid TOML" in refused(file=tmp_path / "bytes")


def test_the_advertised_address() -> None:
    assert config.advertised(Config(advertise_addr="h:1")) == "h:1"
    assert config.advertised(Config(listen_addr="10.0.0.9:5")) == "10.0.0.9:5"
    host, _, port = config.advertised(Config(listen_addr="0.0.0.0:77")).rpartition(":")
    assert port == "77"
    assert host not in ("", "0.0.0.0")


def test_check_config(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WARREN_LABELS", "zone=eu")
    assert main(["--check-config", "--data-dir", "/x", "--format", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["data_dir"] == {"value": "/x", "source": "flag --data-dir"}
    assert shown["labels"] == {"value": {"zone": "eu"}, "source": "environment WARREN_LABELS"}
    assert tuple(shown) == config.KEYS
    assert main(["--check-config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["KEY", "VALUE", "SOURCE"]
    assert len(lines) == 1 + len(config.KEYS)
    assert main(["--check-config", "--config", str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("warrend: configuration file ")


def test_the_document_names_every_key_and_default() -> None:
    rows = {}
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells[1:]
    assert tuple(rows) == config.KEYS
    for key, (default, meaning) in rows.items():
        described, expects = config.described(key)
        assert meaning == f"{described}: {expects}"
        if key not in ("node_name", "labels", "taints", "devices", "volumes"):
            value = getattr(Config(), key)
            assert default == (f"`{value}`" if value != "" else "empty")


def test_certificates_are_named_together_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config.tls_files(Config()) is None
    with pytest.raises(StartupError, match="tls_ca and tls_key not set") as caught:
        config.tls_files(Config(tls_cert="/cert"))
    assert caught.value.exit_code == 2

    files = Authority(tmp_path).worker(node_id(1))
    named = {"--tls-ca": files.ca, "--tls-cert": files.cert, "--tls-key": files.key}
    arguments = ["--check-config", *(f"{flag}={path}" for flag, path in named.items())]
    assert main(arguments) == 0
    assert main([*arguments, "--tls-key=/none"]) == 1
    assert "cannot read tls_key /none" in capsys.readouterr().err


def test_peers_are_told_the_host_of_the_api() -> None:
    settings = Config(advertise_addr="[fe80::1]:2377", peer_addr="0.0.0.0:7")
    assert config.advertised_peer(settings) == "[fe80::1]:7"
