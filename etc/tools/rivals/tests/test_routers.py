from pathlib import Path

import psutil
import pytest

from etc.tools.rivals import install, loads, routers
from etc.tools.rivals.frames import MODEL
from etc.tools.rivals.measure import measure


def test_the_upstream_may_be_several_processes_on_one_port() -> None:
    with routers.upstream(processes=2) as (_, pids):
        assert all(psutil.pid_exists(pid) for pid in pids)
    assert len(set(pids)) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_without_a_router_the_upstream_is_asked() -> None:
    with routers.direct("http://127.0.0.1:1") as router:
        assert (router.name, router.url, router.roots) == ("direct", "http://127.0.0.1:1", ())


def test_the_configurations_are_filled_in(tmp_path: Path) -> None:
    nginx = routers.NGINX.format(folder=tmp_path, upstream="127.0.0.1:9", port=8)
    assert "upstream engine { server 127.0.0.1:9;" in nginx
    assert nginx.count("{") == nginx.count("}")
    litellm = routers.LITELLM.format(model=MODEL, upstream="http://127.0.0.1:9", key="k")
    assert f'model: hosted_vllm/{MODEL}, api_base: "http://127.0.0.1:9/v1"' in litellm


@pytest.mark.slow
def test_berth_is_measured_as_a_whole_appliance() -> None:
    with routers.upstream() as (url, pids), routers.berth_with(url) as router:
        one = measure(router, loads.requests(0.5), pids)
    assert one.result.failures == {}
    assert one.result.requests > 0
    assert 0 < one.usage.router <= one.usage.whole + 1e-6
    assert 0 < max(one.pss_bytes) < one.whole_pss_bytes
    assert "BERTH_API_KEYS=KEY" in router.command
    assert router.key not in router.command
    assert (install.HOME / "logs/berth-1.log").read_text()
