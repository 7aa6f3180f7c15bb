"""The configurations of proxies in docs/web.md, with the real programs: TLS, addresses, headers, ids in paths."""

from __future__ import annotations

import contextlib
import re
import shutil
import ssl
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trustme

from support.daemon import connect, free_port
from support.programs import SEARCHED, require, require_root
from support.public import public_directory
from support.wait import wait_until
from support.web_process import ANNA, NAME, OPERATOR, WebProcess

PAGE = Path(__file__).resolve().parents[2] / "docs" / "web.md"
SOCKET = "/run/policyd-rate-limit-web/web.sock"
CERTIFICATES = f"/etc/letsencrypt/live/{NAME}"

NGINX = """
user www-data;
worker_processes 1;
pid {root}/nginx.pid;
error_log {root}/proxy.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {root}/body; proxy_temp_path {root}/proxy; fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
{block}
}}
"""
APACHE = """
ServerRoot {root}
PidFile {root}/apache.pid
ErrorLog {root}/proxy.log
User www-data
Group www-data
ServerName {name}
Listen {port}
{modules}
{block}
"""
MODULES = ("mpm_event", "authz_core", "ssl", "socache_shmcb", "proxy", "proxy_http", "headers")
CADDY = """
{{
    admin off
    auto_https disable_redirects
    log {{
        output file {root}/proxy.log
    }}
}}
{block}
"""
PROXIES = ("nginx", "apache", "caddy")
PROGRAMS = {"nginx": "nginx", "apache": "apache2", "caddy": "caddy"}


def block_of(language: str) -> str:
    """The configuration in the documentation."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def configured(proxy: str, root: Path, socket: str, port: int) -> list[str]:
    """The command that starts ``proxy`` on ``port``, with its configuration in ``root``."""
    program = str(require(PROGRAMS[proxy]))
    block = block_of(proxy).replace(SOCKET, socket).replace(CERTIFICATES, str(root))
    file = root / f"{proxy}.conf"
    if proxy == "nginx":
        block = re.sub(r"^.*listen \[::\].*\n", "", block, flags=re.MULTILINE).replace("443", f"127.0.0.1:{port}")
        file.write_text(NGINX.format(root=root, block=block))
        return [program, "-c", str(file), "-p", str(root), "-e", str(root / "proxy.log"), "-g", "daemon off;"]
    if proxy == "apache":
        modules = Path("/usr/lib/apache2/modules")
        loaded = "\n".join(f"LoadModule {name}_module {modules}/mod_{name}.so" for name in MODULES)
        block = block.replace("*:443", f"127.0.0.1:{port}")
        file.write_text(APACHE.format(root=root, name=NAME, port=f"127.0.0.1:{port}", modules=loaded, block=block))
        return [program, "-f", str(file), "-DFOREGROUND"]
    tls = f"    bind 127.0.0.1\n    tls {root}/fullchain.pem {root}/privkey.pem\n"
    begin = f"{NAME} {{\n"
    assert block.startswith(begin)
    file.write_text(CADDY.format(root=root, block=f"https://{NAME}:{port} {{\n{tls}{block.removeprefix(begin)}"))
    return [program, "run", "--adapter", "caddyfile", "--config", str(file)]


class Proxied:
    """The page behind a proxy: what browsers and programs reach."""

    def __init__(self, web: WebProcess, port: int, authority: trustme.CA) -> None:
        self.web = web
        self._base = f"https://127.0.0.1:{port}"
        self._context = ssl.create_default_context()
        authority.configure_trust(self._context)

    @contextlib.contextmanager
    def client(self, **headers: str) -> Iterator[httpx.Client]:
        """One that asks for the name of the site."""
        with httpx.Client(verify=self._context, base_url=self._base, headers={"host": NAME, **headers}) as made:
            made.event_hooks["request"].append(_name_the_site)
            yield made


def _name_the_site(request: httpx.Request) -> None:
    request.extensions["sni_hostname"] = NAME


@pytest.fixture(scope="module", params=PROXIES)
def proxied(request: pytest.FixtureRequest) -> Iterator[Proxied]:
    """Debian's proxies; the first is there wherever these tests run."""
    require_root()
    if request.param != PROXIES[0] and shutil.which(PROGRAMS[request.param], path=SEARCHED) is None:
        pytest.skip(f"{request.param} is not installed")
    authority = trustme.CA()
    certificate = authority.issue_cert(NAME)
    with public_directory() as root:
        certificate.cert_chain_pems[0].write_to_path(root / "fullchain.pem")
        certificate.private_key_pem.write_to_path(root / "privkey.pem")
        port = free_port()
        group = "root" if request.param == "caddy" else "www-data"
        with WebProcess(root / "web", web_group=group, web_user_header="X-Remote-User") as web:
            assert isinstance(web, WebProcess)
            command = configured(request.param, root, str(web.address), port)
            with (root / "output").open("wb") as output:
                process = subprocess.Popen(command, stdout=output, stderr=output, env={"HOME": str(root)})
            try:
                wait_until(lambda: process.poll() is not None or _listens(port), "the proxy listens")
                assert process.poll() is None, (root / "output").read_text()
                yield Proxied(web, port, authority)
            finally:
                process.terminate()
                process.wait(20)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        connect(("127.0.0.1", port)).close()
        return True
    return False


def test_a_login(proxied: Proxied) -> None:
    origin = f"https://{NAME}"
    with proxied.client(origin=origin, **{"x-forwarded-for": "192.0.2.66", "x-remote-user": "anna"}) as browser:
        assert browser.get("/").status_code == 303, "the proxy takes away who somebody says they are"
        wrong = browser.post("/login", data={"name": "anna", "password": "wrong"})
        assert wrong.status_code == 403
        proxied.web.logged("wrong password for anna from 127.0.0.1")
        right = browser.post("/login", data={"name": "anna", "password": ANNA})
        assert (right.status_code, right.headers["location"]) == (303, "/"), right.text
        assert "Secure" in right.headers["set-cookie"]
        answer = browser.get("/")
        assert answer.status_code == 200
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")
        assert answer.headers["strict-transport-security"]
    assert "192.0.2.66" not in proxied.web.log_text()


def test_programs(proxied: Proxied) -> None:
    with proxied.client(authorization=f"Bearer {OPERATOR}") as program:
        for name in ("user:a/b", "user:%2e%2e", "user:a?b", "alice@example.org", "user:ä"):
            quoted = "".join(f"%{byte:02X}" for byte in name.encode())
            answer = program.get(f"/api/v1/status/{quoted}")
            assert answer.json()["keys"][0]["key"] in (name, f"user:{name}"), name
        assert program.post("/api/v1/block", json={"id": "alice", "seconds": 60}).status_code == 200
        long = program.post("/api/v1/block", content=b"x" * 70_000, headers={"content-type": "application/json"})
        assert long.status_code == 413


def test_the_page_has_no_other_proxies() -> None:
    languages = set(re.findall(r"^```(\S+)$", textwrap.dedent(PAGE.read_text()), re.MULTILINE))
    assert languages - {"sh", "yaml", "ini", "dovecot-2.3", "dovecot-2.4"} == set(PROXIES)
