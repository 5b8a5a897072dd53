"""No text that reaches a person holds a key, a token or a password, however it is spelt."""

import base64
import html
import json
from urllib.parse import quote, quote_plus

import pytest
from pydantic import SecretStr

from diffgraph.errors import ServiceUnavailable
from diffgraph.secrets import (
    MASK,
    keep_environment,
    keep_password,
    keep_secret,
    masked,
    masked_body,
)
from diffgraph.settings import Settings

TOKEN = "Abc+123/xyz-TOP&secret~é"


def basic(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


SPELLINGS = {
    "plain": TOKEN,
    "lower case": TOKEN.lower(),
    "percent": quote(TOKEN, safe=""),
    "percent in small letters": quote(TOKEN, safe="").lower(),
    "percent, every letter": "".join(f"%{byte:02X}" for byte in TOKEN.encode()),
    "percent twice": quote(quote(TOKEN, safe=""), safe=""),
    "form": quote_plus(TOKEN),
    "JSON": json.dumps(TOKEN)[1:-1],
    "JSON with slashes escaped": json.dumps(TOKEN)[1:-1].replace("/", "\\/"),
    "HTML": html.escape(TOKEN),
    "HTML by numbers": "".join(f"&#{ord(letter)};" for letter in TOKEN),
    "base64": basic(TOKEN),
    "base64 behind a name": basic(f"me:{TOKEN}"),
    "base64 behind a longer name": basic(f"you:{TOKEN}"),
    "base64 before a password": basic(f"{TOKEN}:x"),
    "base64 for addresses": base64.urlsafe_b64encode(TOKEN.encode()).decode(),
    "hexadecimal": TOKEN.encode().hex(),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_a_known_secret_is_masked_in_every_spelling(spelling: str) -> None:
    keep_secret(SecretStr(TOKEN))
    for text in (spelling, f"it said {spelling}.", f"a{spelling}b"):
        told = masked(text)
        assert spelling[3:-3] not in told
        assert MASK in told
        body = masked_body(text.encode())
        assert spelling.encode()[3:-3] not in body


def test_what_is_no_secret_stays_as_it_is() -> None:
    keep_secret("a-secret-token")
    text = "https://hub.example/api/v1/models?cursor=12: it answers 503; 7 of 9, é"
    assert masked(text) == text
    assert masked_body(text.encode()) == text.encode()
    keep_secret("s")  # too short: every text would be full of holes
    assert masked(text) == text


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("postgresql://me:pass@word@db:5432/runs is down", "pass"),
        ("https://storage.example/a?X-Amz-Signature=0123abc&b=1", "0123abc"),
        ("https://hub.example/a?b=1&api_key=0123abc", "0123abc"),
        ("headers: {'Authorization': 'Basic bWU6cGFzcw=='}", "bWU6cGFzcw"),
        ("authorization: Bearer abcdefgh123", "abcdefgh123"),
        ("sk-ant-api03-abcdefgh is wrong", "api03-abcdefgh"),
        ("no such token: hf_abcdefghijklmnop", "abcdefghijklmnop"),
    ],
)
def test_what_looks_like_a_secret_is_masked_though_nobody_told_of_it(
    text: str, secret: str
) -> None:
    assert secret not in masked(text)
    assert MASK in masked(text)


def test_an_error_masks_its_own_text_when_it_is_made() -> None:
    keep_secret(TOKEN)
    error = ServiceUnavailable(f"https://hub.example: 503 {TOKEN}")
    assert str(error) == f"https://hub.example: 503 {MASK}"
    assert TOKEN not in repr(error)


def test_every_key_and_password_in_the_settings_is_kept_secret() -> None:
    Settings(
        anthropic_api_key=SecretStr("key-of-anthropic"),
        civitai_token=SecretStr("token-of-civitai"),
        huggingface_token=SecretStr("token-of-hugging"),
        mlflow_tracking_uri="https://me:p%40ss-word@mlflow.example",
    )
    told = masked("key-of-anthropic token-of-civitai token-of-hugging p%40ss-word p@ss-word")
    assert told == " ".join([MASK] * 5)


@pytest.mark.parametrize("address", ["http://[::1", "", None, "sqlite:////home/mlflow.db"])
def test_an_address_without_a_password_holds_no_secret(address: str | None) -> None:
    keep_password(address)
    assert masked("home mlflow") == "home mlflow"


@pytest.mark.parametrize("end", ["", "…", "... and more"])
def test_what_is_left_of_a_secret_where_a_text_was_cut_is_masked(end: str) -> None:
    keep_secret("a-secret-token-of-many-letters")
    assert masked(f"it answers: A-secret-tok{end}") == f"it answers: {MASK}{end}"


def test_a_key_in_another_library_s_variable_is_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_LIBRARY_API_KEY", "abcdefghijk")
    monkeypatch.setenv("SOME_KEY", "/home/me/key.pem")
    monkeypatch.setenv("SOME_PROXY", "http://me:hunter2@127.0.0.1:1")
    Settings()
    told = masked("abcdefghijk in /home/me/key.pem; no host me:hunter2@127.0.0.1")
    assert told == f"{MASK} in /home/me/key.pem; no host me:{MASK}@127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTPS_PROXY", "http://7c1f0e9ab25d48e6@proxy.example:8080"),
        ("GIT_URL", "https://x-access:7c1f0e9ab25d48e6@git.example/a.git"),
        ("PREFECT_CLIENT_CUSTOM_HEADERS", '{"X-Api-Key": "7c1f0e9ab25d48e6"}'),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer 7c1f0e9ab25d48e6,a=b"),
        ("database_password", "7c1f0e9ab25d48e6"),
        ("DEPLOY_PAT", "7c1f0e9ab25d48e6"),
    ],
)
def test_what_other_libraries_take_from_variables_is_masked(monkeypatch, name, value) -> None:
    monkeypatch.setenv(name, value)
    keep_environment()
    assert masked("it said 7c1f0e9ab25d48e6.") == f"it said {MASK}."


def test_names_of_users_and_words_of_headers_are_no_secrets(monkeypatch) -> None:
    monkeypatch.setenv("DATABASE_ADDRESS", "postgres://postgres-reader@db.example/runs")
    monkeypatch.setenv("CLIENT_HEADERS", "content-type=application/json")
    keep_environment()
    assert masked("postgres-reader asks for application/json") == (
        "postgres-reader asks for application/json"
    )


def test_passwords_that_requests_take_from_netrc_are_masked(monkeypatch, tmp_path) -> None:
    file = tmp_path / "netrc"
    file.write_text("machine mlflow.example login me password Secret-of-netrc\n")
    file.chmod(0o600)
    monkeypatch.setenv("NETRC", str(file))
    keep_environment()
    assert masked("no: Secret-of-netrc") == f"no: {MASK}"
    file.write_text("machine without end")
    keep_environment()  # what others cannot read either is no error of ours
