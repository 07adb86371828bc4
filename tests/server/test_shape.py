"""Bounds on a request's lists, and URLs of images by policy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devstral_proxy.config import load
from devstral_proxy.errors import BadRequest, render
from devstral_proxy.server.shape import check_images, check_shape, image_policy, refuse_image_url

BOUNDS = load(max_messages=3, max_tools=2)


@pytest.mark.parametrize(
    "request_",
    [{}, {"messages": [1] * 3, "tools": [1] * 2}, {"input": "a long text"}, {"messages": None, "tools": {}}],
)
def test_what_is_within_the_bounds_passes(request_: dict[str, Any]) -> None:
    check_shape(request_, BOUNDS)


@pytest.mark.parametrize(("name", "most"), [("messages", 3), ("input", 3), ("tools", 2), ("functions", 2)])
def test_what_is_over_a_bound_is_refused(name: str, most: int) -> None:
    check_shape({name: [{}] * 1000}, load())
    with pytest.raises(BadRequest) as caught:
        check_shape({name: [{}] * (most + 1)}, BOUNDS)
    assert render(caught.value)["error"] == {
        "message": f"Invalid '{name}': array too long. Expected an array with maximum length {most}, "
        f"but got an array with length {most + 1} instead.",
        "type": "invalid_request_error",
        "param": name,
        "code": "array_above_max_length",
    }


def nested(levels: int, kind: str) -> dict[str, Any]:
    """A request of so many levels."""
    value: Any = {} if kind == "object" else []
    for _ in range(levels - 2):
        value = {"a": value} if kind == "object" else [value]
    return {"messages": [], "metadata": value}


@pytest.mark.parametrize("kind", ["object", "array"])
@pytest.mark.parametrize("most", [16, 50, 199])
def test_levels_are_counted(most: int, kind: str) -> None:
    bounds = load(max_json_depth=most)
    check_shape(nested(most, kind), bounds)
    check_shape({"messages": [{"content": "[" * 1000}] * 1000}, bounds)
    with pytest.raises(BadRequest, match=f"^The request is nested over {most} levels deep") as caught:
        check_shape(nested(most + 1, kind), bounds)
    where = {"object": "metadata.a.a.a", "array": "metadata[0][0][0]"}[kind]
    assert (caught.value.status, caught.value.param) == (400, where)


def test_no_levels_are_counted_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("devstral_proxy.server.shape.deep_path")
    check_shape(nested(300, "object"), load())


TAKEN = [
    "data:image/png;base64,AAAA",
    "DATA:image/png;base64,AAAA",
    "http://example.com/a.png",
    "https://example.com",
    "HTTPS://EXAMPLE.COM:8443/a.png?x=http://127.0.0.1/#@10.0.0.1",
    "https://example.com./a.png",
    "https://1.1.1.1/a.png",
    "http://93.184.216.34:80/a.png",
    "http://[2606:2800:220:1:248:1893:25c8:1946]/a.png",
    "https://10.example.com/a.png",
    "https://xn--bcher-kva.example/a.png",
    "https://my_bucket.s3.amazonaws.com/a b.png",
    "https://localhost.example.com/",
    "https://internal.example.com/",
]
REFUSED = [
    # not private by accident
    "http://127.0.0.1/a.png",
    "http://127.0.0.1:8000/v1/models",
    "http://127.8.8.8/",
    "http://10.1.2.3/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://0.0.0.0/",
    "http://0/",
    "http://255.255.255.255/",
    "http://224.0.0.1/",
    "http://240.0.0.1/",
    "http://198.18.0.1/",
    "http://192.0.2.1/",
    # metadata of clouds
    "http://169.254.169.254/latest/meta-data/",
    "http://100.100.100.200/",
    "http://192.0.0.192/",
    "http://168.63.129.16/",
    "http://[fd00:ec2::254]/",
    "http://metadata.google.internal/",
    "http://metadata/",
    # other spellings of 127.0.0.1, and of public addresses that are no plain form
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0X7F.1/",
    "http://127.0.0.0x1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://127.0.0.01/",
    "http://127.0.0.1./",
    "http://127.0.0.1../",
    "http://1.2.3.4.5/",
    "http://256.1.1.1/",
    "http://134744072/",
    "http://99999999999999999999/",
    "http://example.0x/",
    # IPv6
    "http://[::1]/",
    "http://[::]/",
    "http://[0:0:0:0:0:0:0:1]:80/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:8.8.8.8]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b:1::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://[2001:db8::1]/",
    "http://[fe80::1]/",
    "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    "http://[ff02::1]/",
    "http://[:::1]/",
    "http://[::1/",
    "http://[v1.fe80::1]/",
    # names
    "http://localhost/",
    "http://LOCALHOST:8000/",
    "http://localhost./",
    "http://foo.localhost/",
    "http://localhost.localdomain/",
    "http://gpu-host/",
    "http://gpu-host.local/",
    "http://vault.service.internal./",
    "http://nas.lan/",
    "http://router.home.arpa/",
    "http://redis.default.svc/",
    "http://redis.default.svc.cluster.local/",
    "http://./",
    "http://.../",
    # two parsers, two hosts
    "http://example.com@127.0.0.1/",
    "http://127.0.0.1@example.com/",
    "http://user:pass@example.com/",
    "http://example.com\\@127.0.0.1/",
    "http://127.0.0.1\\.example.com/",
    "http:\\\\127.0.0.1/",
    "http:/127.0.0.1/",
    "http:127.0.0.1/",
    "http:///127.0.0.1/",
    "http://",
    "http:///",
    "//127.0.0.1/",
    "http://127.0.0.1%2f.example.com/",
    "http://%31%32%37.0.0.1/",
    "http://exa\tmple.com/",
    "http://example.com\n/",
    "http://example.com /",
    " http://example.com/",
    "\x00http://example.com/",
    " data:image/png;base64,AAAA",
    "http://\uff11\uff12\uff17.0.0.1/",
    "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
    "http://127\u30020\u30020\u30021/",
    "http://127.0.0.\u0661/",
    "http://example.com:80:80/",
    "http://example.com:port/",
    "http://example.com:\u0661/",
    "http\u017f://example.com/",
    # other schemes
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "ftp://example.com/a.png",
    "gopher://example.com/",
    "jar:http://example.com!/",
    "blob:http://example.com/",
    "data",
    "/etc/passwd",
    "",
]


@pytest.mark.parametrize("url", TAKEN)
def test_public_urls_pass(url: str) -> None:
    assert refuse_image_url(url) is None


@pytest.mark.parametrize("url", REFUSED)
def test_others_do_not(url: str) -> None:
    reason = refuse_image_url(url)
    assert reason is not None
    assert reason.startswith("its URL ")


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{}", "0x{:x}", "0{:o}"]))
def test_a_number_is_never_a_host(number: int, form: str) -> None:
    assert refuse_image_url(f"http://{form.format(number)}/") is not None


@given(st.ip_addresses(v=4))
def test_what_is_let_through_is_public_for_python_too(address: Any) -> None:
    if refuse_image_url(f"http://{address}/") is None:
        assert address.is_global
        assert not address.is_multicast


@given(st.ip_addresses(v=6))
def test_what_is_let_through_of_ipv6_too(address: Any) -> None:
    if refuse_image_url(f"http://[{address}]/") is None:
        assert address.is_global
        assert address.ipv4_mapped is None


@given(st.text(max_size=60), st.sampled_from(["", "http://", "https://[", "http://127.0.0.1", "data"]))
def test_any_text_gets_an_answer(text: str, before: str) -> None:
    refuse_image_url(before + text)


def image(url: Any, **more: Any) -> dict[str, Any]:
    return {
        "role": "user",
        "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": url, **more}],
    }


BAD = "http://127.0.0.1/seCret"
GOOD = "data:image/png;base64,AAAA"
FOUND: list[tuple[Any, str]] = [
    ([image({"url": BAD})], "image 1"),
    ([{"role": "user", "content": "hi"}, image({"url": GOOD}), image({"url": BAD})], "image 2"),
    ([image(BAD)], "image 1"),
    ([{"role": "user", "content": [{"image_url": BAD}]}], "image 1"),
    ([{"role": "user", "content": [{"type": "input_image", "image_url": BAD}]}], "image 1"),
    ([{"role": "tool", "content": [{"type": "image_url", "image_url": {"url": BAD, "detail": "low"}}]}], "image 1"),
    ([{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": BAD}}]}], "audio 1"),
    ([{"role": "user", "content": [{"type": "video_url", "video_url": {"url": BAD}}]}], "video 1"),
]


@pytest.mark.parametrize(("messages", "where"), FOUND)
def test_images_are_found(messages: Any, where: str) -> None:
    with pytest.raises(BadRequest, match=f"^{where} of the messages: its URL has an address") as caught:
        check_images(messages, refuse_image_url)
    assert caught.value.param == "messages"
    assert "seCret" not in caught.value.message


@pytest.mark.parametrize(
    "messages",
    [
        None,
        "text",
        [],
        [None, 1, "x", {"content": None}, {"content": BAD}, {"content": [None, 1, BAD]}],
        [{"role": "user", "content": [{"type": "text", "text": BAD, "image_url": 1}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 5}}]}],
        [image({"url": GOOD}), image({"url": "https://example.com/a.png"})],
    ],
)
def test_what_holds_no_such_url_passes(messages: Any) -> None:
    check_images(messages, refuse_image_url)


def test_policies() -> None:
    assert image_policy(load(image_urls="any")) is None
    assert image_policy(load()) is refuse_image_url
    data = image_policy(load(image_urls="DATA"))
    assert data is not None
    assert data(GOOD) is None
    assert data("https://example.com/a.png") == "only data: URLs are taken here"
