"""The images and the unit in `deploy/`: they parse, and are as confined as they say."""

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from cnnres_infer import __version__
from cnnres_infer.cli.app import app
from cnnres_infer.service.contracts.monai import Monai

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "cnnres-infer-listen.service"


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with their arguments, lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    parts = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(name, " ".join(rest.split())) for name, rest in parts]


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def test_the_image_runs_without_rights_and_is_built_without_a_network() -> None:
    found = instructions(DEPLOY / "Dockerfile")
    names = [name for name, _ in found]
    user = dict(found)["USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number, so that Kubernetes can check it"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    for name, rest in found:
        if name == "RUN" and "pip" in rest:
            assert "--network=none" in rest
            assert "--no-index" in rest
    assert json.loads(dict(found)["ENTRYPOINT"]) == ["cnnres-infer"]
    assert json.loads(dict(found)["CMD"]) == ["app"]
    assert "EXPOSE" not in names
    # Mercure would run it as root.
    assert "monai" not in " ".join(rest for _, rest in found)


def test_the_image_for_monai_is_the_same_with_its_manifests() -> None:
    found = instructions(DEPLOY / "monai" / "Dockerfile")
    assert found[0] == ("FROM", "cnnres-infer")
    assert "USER" not in dict(found)
    assert any("/etc/monai/" in rest for name, rest in found if name == "COPY")
    manifest = DEPLOY / "monai" / "app.json"
    content = json.loads(manifest.read_text())
    assert content["command"] == "cnnres-infer app"
    for name in ("app.json", "pkg.json"):
        assert json.loads((DEPLOY / "monai" / name).read_text())["version"] == __version__
    contract = Monai.of({}, manifest)
    assert contract is not None
    assert f"{contract.source}/" == content["environment"]["HOLOSCAN_INPUT_PATH"]
    assert f"{contract._target}/" == content["environment"]["HOLOSCAN_OUTPUT_PATH"]
    environment = " ".join(rest for name, rest in found if name == "ENV")
    for name, value in content["environment"].items():
        assert f"{name}={value}" in environment


def test_the_unit_is_confined() -> None:
    service = dict(unit()["Service"])
    for name, value in {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "CapabilityBoundingSet": "",
        "IPAddressDeny": "any",
        "IPAddressAllow": "localhost",
        "UMask": "0077",
        "Restart": "always",
    }.items():
        assert service[name] == value


def test_the_unit_uses_options_that_exist() -> None:
    group = typer.main.get_command(app)
    listen = group.commands["listen"]  # type: ignore[attr-defined]
    known = {name for parameter in listen.params for name in parameter.opts}
    text = UNIT.read_text()
    (command,) = re.findall(r"^ExecStart=(.+)$", text.replace("\\\n", ""), re.MULTILINE)
    examples = re.findall(r'^#\s+Environment="LISTEN=(.+)"$', text, re.MULTILINE)
    words = shlex.split(" ".join((command, *examples)))
    assert words[1] == "listen"
    assert {word for word in words if word.startswith("--")} <= known


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    # The program need not be installed here.
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.M))
    run = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert UNIT.name not in run.stderr
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=20", copy],
        capture_output=True,
        text=True,
        check=False,
    )
    if "--offline" not in rated.stderr:
        assert rated.returncode == 0, rated.stdout
