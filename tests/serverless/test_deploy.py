"""What is in export/deploy, as far as it can be checked without an account, a container or a Raspberry Pi."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

DEPLOY = ROOT / "export" / "deploy"
TEMPLATE = DEPLOY / "template.yaml"


def test_cfn_lint_accepts_the_template() -> None:
    pytest.importorskip("cfnlint")
    command = [str(Path(sys.executable).parent / "cfn-lint"), "--include-checks", "I", "--", str(TEMPLATE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("architecture", ["arm64", "x86_64"])
def test_the_template_of_each_architecture(architecture: str) -> None:
    decode = pytest.importorskip("cfnlint.decode")
    template, matches = decode.decode(str(TEMPLATE))
    assert not matches
    parameters, resources = template["Parameters"], template["Resources"]
    assert architecture in parameters["Architecture"]["AllowedValues"]
    assert parameters["EnableUrl"]["Default"] == "false"
    assert resources["Url"]["Condition"] == "HasUrl"
    assert resources["Url"]["Properties"]["AuthType"] == "AWS_IAM"
    assert not [name for name, resource in resources.items() if resource["Type"] == "AWS::Lambda::Permission"]
    (policy,) = resources["Role"]["Properties"]["Policies"]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert "*" not in json.dumps(statement)
    assert "ManagedPolicyArns" not in resources["Role"]["Properties"]
    assert resources["Embed"]["Properties"]["Handler"] == "runtime.handlers.aws_lambda"


def test_the_images_use_what_is_in_the_package() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    stages = re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE)
    assert stages == ["lambda", "cloudrun"]
    for line in text.splitlines():
        words = line.split()
        if words and not line.startswith("#"):
            assert words[0] in {"ARG", "FROM", "COPY", "ENV", "RUN", "WORKDIR", "USER", "CMD"}
    commands = [
        json.loads(line.removeprefix("CMD ")) for line in text.splitlines() if line.startswith("CMD ")
    ]
    assert commands[0] == ["runtime.handlers.aws_lambda"]
    assert commands[1][1:] == ["--source=main.py", "--target=google_cloud"]


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    units = [tmp_path / name for name in ("jinabert-embed.service", "jinabert-embed.path")]
    for unit in units:
        text = (DEPLOY / unit.name).read_text(encoding="utf-8")
        unit.write_text(text.replace("/opt/jinabert/bin/python", sys.executable), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, units)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_units_command_writes_its_result_and_nothing_else(tmp_path: Path) -> None:
    text = (DEPLOY / "jinabert-embed.service").read_text(encoding="utf-8")
    (line,) = re.findall(r"^ExecStart=/opt/jinabert/bin/python (.*)$", text, re.MULTILINE)
    (tmp_path / "texts.txt").write_text("one\ntwo\n")
    command = [sys.executable, *line.split()]
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    for _ in range(2):  # again: the file changed
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["texts.txt", "vectors.npy"]
