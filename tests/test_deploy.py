"""The manifests that a user copies to deploy workers fit each other and the command line."""

from pathlib import Path
from typing import Any

import typer
import yaml
from pages import blocks

from redisjobs.cli.app import make


def test_keda_scales_the_deployment_of_the_docs_and_their_commands_are_right(project: Path) -> None:
    (block,) = blocks((project / "docs/how-to/deploy-workers.md").read_text("utf-8"), "yaml")
    workers = yaml.safe_load(block)
    exporter, scaled = yaml.safe_load_all((project / "examples/deploy/keda.yaml").read_text("utf-8"))
    commands: Any = typer.main.get_command(make())

    for deployment in (workers, exporter):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        program, name, *arguments = container["command"]
        given = commands.commands[name].make_context(program, arguments).params
        assert list(given["targets"]) == ["app:queue"]
        port = int((given.get("health") or given["listen"]).rpartition(":")[2])
        probes = [probe["httpGet"] for key, probe in container.items() if key.endswith("Probe")]
        assert {probe["port"] for probe in probes} <= {port}
        assert {probe["path"] for probe in probes} <= {"/livez", "/readyz"}
        assert [each["containerPort"] for each in container.get("ports", [])] in ([], [port])
    assert scaled["spec"]["scaleTargetRef"]["name"] == workers["metadata"]["name"]
    for trigger in scaled["spec"]["triggers"]:
        assert trigger["type"] == "prometheus"
        assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes texts only"
