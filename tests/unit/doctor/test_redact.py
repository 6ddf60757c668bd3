"""What is taken out, what stays, and that nothing makes it slow or breaks JSON."""

from __future__ import annotations

import json
import random
import string

import pytest

from warren.doctor.redact import (
    KNOWN_MAX,
    Redactor,
    arguments_of,
    is_secret_name,
    without_arguments,
    without_values,
)

SECRET = "hunter2-hunter2"
BODY = SECRET.replace("-", "")
KEY = f"-----BEGIN EC PRIVATE KEY-----\n{BODY}\nAbCd==\n-----END EC PRIVATE KEY-----"


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f"db_password: {SECRET}",
        f'{{"apiKey":"{SECRET}"}}',
        f'"client_secret" : "{SECRET} with blanks {SECRET}"',
        f"PGPASSWORD={SECRET} psql",
        f"--token={SECRET}",
        f"x-api-key: {SECRET}",
        f"STRIPE_KEY={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"bearer {SECRET}",
        f"postgres://web:{SECRET}@db/app",
        f"redis://:{SECRET}@cache:6379",
        f"MYSQL_PWD='{SECRET}'",
        f'{{\\"token\\":\\"{SECRET}\\"}}',
        KEY.replace("AbCd", BODY),
        f"-----BEGIN PRIVATE KEY-----\\n{BODY}\\n",
        f"eyJ{SECRET}.{SECRET}.{SECRET}",
        f"psql --password {SECRET} -h db",
        f"deploy --token '{SECRET}'",
        f'deploy --api-key \\"{SECRET}\\"',
        f'ran ["redis-server","--requirepass","{SECRET}"]',
        f"ran ['deploy', '--token', '{SECRET}']",
        f'{{\\"args\\":[\\"--token\\",\\"{SECRET}\\"]}}',
        f"redis-server --requirepass {SECRET}",
        f"redis-cli -a {SECRET} ping",
        f"Authorization: token {SECRET}",
        f"curl -H 'Authorization: AWS4 Credential=a, Signature={SECRET}' https://host",
        f'{{"Proxy-Authorization": "Digest a=b, response={SECRET}"}}',
        f"postgres://u:p@{SECRET}@db/app",
        f"postgres://u:p/{SECRET}@db/app",
        f"curl -u admin:{SECRET} https://host",
        f"curl -uadmin:{SECRET} https://host",
        f"curl --user 'admin:{SECRET}' https://host",
        f"sshpass -p {SECRET} ssh host",
        f"sshpass -p{SECRET} ssh host",
        f"mysql -u root -p{SECRET} app",
        f"ghp_{BODY}{BODY}",
        f"github_pat_{BODY}_{BODY}",
        f"glpat-{BODY}{BODY}",
        f"AKIA{BODY.upper()}23",
        f'{{"tokens":["{SECRET}"]}}',
        f'{{"api_keys" : {{"a": "{SECRET}"}}}}',
        f'{{\\"tokens\\":[\\"{SECRET}\\"]}}',
    ],
)
def test_what_looks_like_a_secret_goes(text: str) -> None:
    found = Redactor().text(f"before {text} after")
    assert SECRET not in found
    assert BODY not in found
    assert BODY.upper() not in found
    assert "[redacted]" in found
    assert found.startswith("before ")
    assert Redactor().text(found) == found


@pytest.mark.parametrize(
    "text",
    [
        "warren_secrets_total 3",
        'warren_containers_total{state="running"} 2',
        "author: somebody, bypass=1",
        "taint key=gpu:no-schedule",
        "listening on http://127.0.0.1:9090/metrics",
        "user@host",
        "tokens are read anew",
        "docker run --user 1000:1000 web",
        "mkdir -p /srv/www",
        "pulled reg:5000/web@sha256:0123456789abcdef",
        "http://10.0.0.1:2377/nodes says m1@eu",
        "connect --no-password --zone eu",
        'ran ["connect","--no-password","--zone","eu"]',
    ],
)
def test_what_is_none_stays(text: str) -> None:
    assert Redactor().text(text) == text


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("DB_PASSWORD", True),
        ("apiKey", True),
        ("accessToken", True),
        ("SSH_KEY", True),
        ("db.pass", True),
        ("MYSQL_PWD", True),
        ("userPwd", True),
        ("PWD", False),
        ("OLDPWD", False),
        ("key", False),
        ("author", False),
        ("compass", False),
        ("monkey", False),
        ("zone", False),
    ],
)
def test_names(name: str, secret: bool) -> None:
    assert is_secret_name(name) is secret


def test_of_variables_the_names_stay() -> None:
    assert without_values(["A=b=c", "EMPTY=", "BARE"]) == [
        "A=[redacted]",
        "EMPTY=[redacted]",
        "BARE",
    ]


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        (["redis-server", "--requirepass", SECRET], ["redis-server", "--requirepass", None]),
        (["/bin/sh", "-c", f"serve --token {SECRET}"], ["/bin/sh", "-c", None]),
        (["serve", f"--db-password={SECRET}", "-p", "80"],
         ["serve", "--db-password=[redacted]", "-p", None]),
        (["mysql", f"-p{SECRET}", f"-user={SECRET}"], ["mysql", None, None]),
        # What stands first is a word of the image's own program.
        (["--token", SECRET], ["--token", None]),
        ([f"serve --token {SECRET}"], [None]),
        ([f"TOKEN={SECRET}"], [None]),
        ([f"ghp_{BODY}{BODY}"], [None]),
        (["sleep", "--", SECRET, ""], ["sleep", "--", None, ""]),
        ([], []),
    ],
)  # fmt: skip
def test_of_a_command_the_program_and_names_of_flags_stay(
    command: list[str], shown: list[str | None]
) -> None:
    assert without_arguments(command) == ["[redacted]" if word is None else word for word in shown]
    # What is not shown is looked for elsewhere.
    words = [word for word, seen in zip(command, shown, strict=True) if seen != word]
    assert arguments_of(command) == [
        word.partition("=")[2] if word.startswith("--") else word for word in words
    ]


def test_what_is_known_goes_wherever_it_stands() -> None:
    value = 'blue "horse"\nbattery'
    redactor = Redactor([value, "blue", "blue horseman"])
    told = {"why": f"it said {value}!", "n": 7}
    assert json.loads(redactor.json(told)) == {"why": "it said [redacted]!", "n": 7}
    assert value not in redactor.text(f"a {value} b")
    line = json.dumps({"message": value, "level": "info"})
    assert "battery" not in redactor.lines(line)
    # Shorter than is looked for.
    assert redactor.text("a blue sky") == "a blue sky"
    assert redactor.text("blue horseman") == "[redacted]"


def test_numbers_stay_numbers() -> None:
    redactor = Redactor(["1234567"])
    told = {"pin": "1234567", "size_bytes": 1234567}
    assert json.loads(redactor.json(told)) == {"pin": "[redacted]", "size_bytes": 1234567}


def test_nested_data_by_name_and_by_flag() -> None:
    told = {
        "labels": {"api_key": SECRET, "zone": "eu"},
        "command": ["serve", "--db-password", SECRET, f"--token={SECRET}", "--port", "80"],
        # The daemon's own setting, which is a path.
        "tls_key": {"value": "/etc/warren/key.pem"},
        "tokens": [SECRET, {"inner": SECRET}],
        "credentials": {"web": SECRET, "uses": 3},
        "passwords": [],
        "words": ["docker", "--add-tokens", "eu"],
    }
    found = json.loads(Redactor().json(told))
    assert SECRET not in json.dumps(found)
    assert found["labels"]["zone"] == "eu"
    assert found["command"] == ["serve", "--db-password", "[redacted]", "--token=[redacted]",
                                "--port", "80"]  # fmt: skip
    assert found["tls_key"]["value"] == "/etc/warren/key.pem"
    assert found["tokens"] == found["credentials"] == "[redacted]"
    assert found["passwords"] == []
    assert found["words"] == ["docker", "--add-tokens", "[redacted]"]


def test_a_log_of_json_stays_one() -> None:
    lines = [
        json.dumps({"level": "info", "message": f"got token={SECRET}", "count": 3}),
        json.dumps({"level": "info", "tokens": 5, "password": SECRET}),
        f"{{ not json password={SECRET}",
    ]
    found = Redactor().lines("\n".join(lines)).splitlines()
    assert SECRET not in "".join(found)
    assert json.loads(found[0])["count"] == 3
    assert json.loads(found[1])["tokens"] == 5
    assert len(found) == 3


def test_a_key_over_several_lines_of_a_log_goes() -> None:
    found = Redactor().lines(f"reading\n{KEY}\ndone\n")
    assert found == "reading\n[redacted]\ndone\n"


def test_only_so_many_values_are_looked_for_and_that_is_told() -> None:
    redactor = Redactor(f"value-{number:06}" for number in range(KNOWN_MAX + 3))
    assert redactor.left_out == 3
    assert redactor.text("value-000000") == "[redacted]"


def test_any_text_comes_through() -> None:
    dice = random.Random(11)
    letters = string.ascii_letters + string.digits + "=:\"'\\{}[],;&@/.- \n" + "paswordtkn" * 3
    for _ in range(300):
        text = "".join(dice.choices(letters, k=dice.randrange(400)))
        planted = f"{text}\npassword={SECRET}\n{text}"
        assert SECRET not in Redactor().lines(planted)
        assert json.loads(Redactor().json({"text": text, text: 1}))


@pytest.mark.parametrize(
    "unit",
    [
        *("password", "a", "=", '"', "://", "-----BEGIN PRIVATE KEY-----", "\\", "eyJa.", "a-key."),
        *("{", "a://b:", "a://b:@", "-", "--", "--a", " -u", " -ua:", "token:[", "token: {"),
        *("--token ", "mysql -", "sshpass ", "curl -u a", "authorization:", "ghp_", "AKIA"),
        *("password ", "-token"),
    ],
)
def test_hostile_text_ends(unit: str) -> None:
    # What grows with the square would take hours, and the suite's limit ends it.
    Redactor().lines(unit * (1_000_000 // len(unit)))
