"""The page as people use it: every view, in light and dark, narrow and wide, by admins and readers."""

import re
import tarfile
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.page.conftest import Page, context_of, sign_in
from tests.page.scene import ADMIN_KEY, USER_KEY, VIEWS, Scene

TABS = 12
MOVES = "new MutationObserver(done).observe(document.body, {subtree: true, characterData: true})"


def expected(complaints: list[str], status: str) -> None:
    """Nothing else was complained about: browsers log each error of a request."""
    assert [text for text in complaints if status not in text] == []
    complaints.clear()


def show(page: Page, view: str) -> None:
    page.evaluate(f"location.hash = '#/{view}'")
    page.get_by_role("heading", level=1, name=view, exact=False).wait_for(state="attached")


def row(page: Page, name: str) -> Any:
    return page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=re.compile(rf"^{name}( |$)")))


def violations(page: Page, axe: str) -> list[str]:
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found]


@pytest.mark.parametrize("look", [("light", 320), ("light", 1280), ("dark", 320), ("dark", 1280)])
def test_every_view_is_accessible_and_fits(
    browser: Any, scene: Scene, axe: str, complaints: list[str], look: tuple[str, int]
) -> None:
    scheme, width = look
    with context_of(browser, complaints, color_scheme=scheme, viewport={"width": width, "height": 700}) as context:
        page = context.new_page()
        page.goto(f"{scene.url}/ui/")
        page.get_by_label("API key").wait_for()
        assert violations(page, axe) == []
        sign_in(page)
        page.get_by_text("● live").wait_for()
        for view in VIEWS:
            show(page, view)
            page.get_by_text("Waiting for data").wait_for(state="detached")
            assert violations(page, axe) == [], view
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view


def test_a_wrong_key_is_rejected_and_a_reader_changes_nothing(
    context: Any, scene: Scene, complaints: list[str]
) -> None:
    page = context.new_page()
    page.goto(f"{scene.url}/ui/")
    sign_in(page, "wrong")
    page.get_by_role("alert").get_by_text("BERTH_API_KEYS").wait_for()
    page.goto(f"{scene.url}/ui/#/usage")
    sign_in(page, USER_KEY)
    page.get_by_text("The key key-1 in").wait_for()  # its own usage
    assert page.get_by_role("region", name="Changes").count() == 0
    assert "Logs" not in page.get_by_role("navigation").inner_text().split()
    show(page, "system")
    page.get_by_role("heading", name="Plan").first.wait_for()
    assert page.get_by_role("region", name="Configuration").count() == 0
    for heading in ("Migrations", "Benchmarks", "Capture"):
        assert page.get_by_role("heading", name=heading).count() == 0
    show(page, "overview")
    page.get_by_text("served by coder-sim").wait_for()
    assert page.get_by_role("button", name="Sleep coder").count() == 0
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key").wait_for()
    expected(complaints, "401")


def test_a_model_is_put_to_sleep_and_woken(admin: Page) -> None:
    admin.get_by_role("button", name="Sleep coder").click()
    dialog = admin.get_by_role("dialog", name="Sleep coder")
    dialog.get_by_text("ready → asleep").wait_for()
    dialog.get_by_role("button", name="Sleep", exact=True).click()
    row(admin, "coder-sim").get_by_text("asleep").first.wait_for()
    admin.get_by_role("status").get_by_text("Sleep coder: done").wait_for()
    admin.get_by_role("button", name="Wake coder").click()
    admin.get_by_role("dialog").get_by_role("button", name="Wake", exact=True).click()
    row(admin, "coder-sim").get_by_text("ready").first.wait_for()


def test_a_model_is_scaled(admin: Page) -> None:
    for count, status in (("1", "unloaded"), ("2", "ready")):
        admin.get_by_role("button", name="Scale chat").click()
        dialog = admin.get_by_role("dialog", name="Scale chat")
        dialog.get_by_label("Replicas to be loaded").fill(count)
        dialog.get_by_text(f"→ {status}").wait_for()
        dialog.get_by_role("button", name="Scale", exact=True).click()
        row(admin, "chat-sim-2").get_by_text(status).first.wait_for()


def test_a_dialog_closes_with_escape_and_keeps_the_focus(admin: Page) -> None:
    button = admin.get_by_role("button", name="Restart coder")
    button.focus()
    admin.keyboard.press("Enter")
    admin.get_by_role("dialog").wait_for()
    admin.keyboard.press("Escape")
    admin.get_by_role("dialog").wait_for(state="detached")
    admin.wait_for_timeout(1500)  # it is drawn again meanwhile
    assert button.evaluate("(own) => own === document.activeElement")


def test_a_pinned_model_offers_no_sleep(admin: Page) -> None:
    admin.get_by_role("button", name="Pin coder").click()
    admin.get_by_role("dialog").get_by_role("button", name="Pin", exact=True).click()
    admin.get_by_role("button", name="Unpin coder").wait_for()
    assert admin.get_by_role("button", name="Sleep coder").count() == 0
    admin.get_by_role("button", name="Unpin coder").click()
    admin.get_by_role("dialog").get_by_role("button", name="Unpin", exact=True).click()
    admin.get_by_role("button", name="Pin coder", exact=True).wait_for()


def test_an_event_counts_more_than_an_older_answer(admin: Page) -> None:
    held: list[Any] = []
    admin.route("**/status", lambda route: held.append((route, route.fetch())))
    admin.get_by_role("button", name="Pin coder", exact=True).click()
    with admin.expect_request("**/status"):
        confirm(admin, "Pin")
    admin.get_by_role("button", name="Unpin coder").wait_for()  # by an event
    for route, answer in held:
        document = answer.json()
        for model in document["models"]:
            model["pin"] = False
        route.fulfill(json=document)
    admin.unroute("**/status")
    admin.wait_for_timeout(1000)
    admin.get_by_role("button", name="Unpin coder").click()
    confirm(admin, "Unpin")
    admin.get_by_role("button", name="Pin coder", exact=True).wait_for()


def test_two_models_answer_at_the_same_time(admin: Page) -> None:
    show(admin, "playground")
    admin.get_by_label("Compare with").select_option("coder")
    admin.get_by_label("Message", exact=True).fill("Hello")
    admin.keyboard.press("Enter")
    for model in ("chat", "coder"):
        answer = admin.get_by_role("region", name=f"Answers of {model}")
        answer.get_by_text("the fox would be gone.").wait_for()
        answer.get_by_text("tokens/s").wait_for()
    admin.get_by_text("As curl").click()
    assert '"messages":[{"role":"user","content":"Hello"}]' in admin.get_by_label("The request as curl").inner_text()


def test_a_response_can_be_stopped(admin: Page) -> None:
    show(admin, "playground")
    admin.get_by_label("Message", exact=True).fill("Hello")
    admin.get_by_role("button", name="Send").click()
    admin.get_by_text("The night").wait_for()
    admin.get_by_role("button", name="Stop").click()
    admin.get_by_text("stopped").wait_for()
    admin.get_by_role("button", name="Send").wait_for()


@pytest.mark.parametrize("client", ["curl", "Claude Code", "Codex", "Ollama's clients"])
def test_each_api_is_tested_from_the_page(admin: Page, client: str) -> None:
    show(admin, "connect")
    admin.get_by_role("button", name=client, exact=True).click()
    admin.get_by_role("button", name="Test from here").click()
    admin.get_by_role("status").get_by_text("harbour").wait_for()


def test_a_model_of_another_task_has_its_own_examples(admin: Page) -> None:
    show(admin, "connect")
    admin.get_by_label("Model").select_option("embed")
    assert admin.get_by_role("group", name="Clients").get_by_role("button").count() == 1
    admin.get_by_role("button", name="Test from here").click()
    admin.get_by_role("status").get_by_text("256 dimensions").wait_for()


def test_an_engine_that_is_killed_is_seen_and_its_stream_continues(admin: Page, kill: Callable[[str], None]) -> None:
    watcher = admin.context.new_page()
    watcher.goto(admin.url)
    watcher.get_by_text("● live").wait_for()
    show(admin, "playground")
    admin.get_by_label("Message", exact=True).fill("Hello")
    admin.get_by_role("button", name="Send").click()
    admin.get_by_text("The night train").wait_for()
    show(watcher, "requests")
    line = watcher.get_by_role("region", name="Running requests").get_by_role("row").nth(1)
    serving = re.search(r"chat-sim(-2)?", line.inner_text())
    assert serving
    show(watcher, "overview")
    kill(serving[0])
    row(watcher, serving[0]).get_by_text(re.compile("waits to restart|loading|unhealthy")).first.wait_for()
    admin.get_by_text("the fox would be gone.").wait_for()
    show(watcher, "requests")
    watcher.get_by_text("continued at token").first.wait_for()
    watcher.get_by_label("Show").select_option("continued")
    watcher.get_by_role("region", name="Requests that are over").get_by_role("button").first.click()
    watcher.get_by_text("Request id").wait_for()
    show(watcher, "overview")
    row(watcher, serving[0]).get_by_text("● ready").wait_for()


def test_a_log_is_followed_and_filtered(admin: Page) -> None:
    admin.evaluate("location.hash = '#/logs?coder-sim'")
    log = admin.get_by_role("log")
    log.get_by_text("Application startup complete").wait_for()
    admin.get_by_label("Filter").fill("shards: +50%")
    log.get_by_text("50% Completed").wait_for()
    assert "startup" not in log.inner_text()


def test_a_box_with_gpus_is_shown_without_live_events_too(context: Any, scene: Scene, complaints: list[str]) -> None:
    def with_gpus(route: Any) -> None:
        document = route.fetch().json()
        fields: dict[str, Any] = {
            "memory_used_bytes": 100 << 30,
            "memory_total_bytes": 141 << 30,
            "utilization_percent": 93,
        }
        fields |= {"power_watts": 412.4, "temperature_celsius": 61, "slowed": "heat", "memory_foreign_bytes": 2 << 30}
        mine = {"replica": "chat-sim", "weights": 15 << 30, "kv": 80 << 30, "rest": 3 << 30}
        fields["memory_by_engine"] = [mine, {**mine, "replica": ""}]
        document["gpus"] = [{"index": 0, "name": "H200", "uuid": "GPU-0", **fields}]
        document["models"][0]["replicas"][0] |= {"gpus": [0], "status": "starting", "reason": "a `quoted` reason"}
        document["models"][0]["replicas"][0]["progress"] = {"phase": "load", "percent": 62.4}
        document["models"][0]["replicas"][0] |= {"expected_s": 90.0, "ready_at": time.time() + 42}
        route.fulfill(json=document)

    context.route("**/events?**", lambda route: route.fulfill(status=404))
    context.route("**/status", with_gpus)
    page = context.new_page()
    page.goto(f"{scene.url}/ui/")
    sign_in(page)
    page.get_by_text("● every 5 s").wait_for()
    gpu = page.get_by_role("region", name="GPUs").get_by_role("row").nth(1)
    parts = "chat-sim: weights 15 GiB, KV cache 80 GiB, graphs and rest 3.0 GiB another model: 98 GiB"
    memory = f"100 GiB of 141 GiB {parts} other programs: 2.0 GiB slowed by heat free: 41 GiB"
    assert " ".join(gpu.inner_text().split()) == f"0 H200 {memory} 93 % 412 W 61 °C"
    assert gpu.get_by_role("meter").get_attribute("aria-label") == "Memory of GPU 0"
    line = row(page, "chat-sim")
    assert line.get_by_role("progressbar").get_attribute("value") == "62.4"
    assert re.search(r"load 62 % about 4\d s left", " ".join(line.inner_text().split()))
    assert line.locator("code").inner_text() == "quoted"
    show(page, "requests")
    page.get_by_text("does not send any now").wait_for()
    expected(complaints, "404")


def confirm(page: Page, name: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=name, exact=True).click()
    page.get_by_role("dialog").wait_for(state="detached")


def migrate(admin: Page, axe: str, steps: str) -> None:
    admin.get_by_role("button", name="Migrate mover").click()
    dialog = admin.get_by_role("dialog", name="Migrate mover")
    dialog.get_by_text("both run at the same time, which fits").wait_for()
    dialog.get_by_label("Percent of the conversations").fill("0,200")
    dialog.get_by_role("alert").wait_for()
    assert dialog.get_by_role("button", name="Migrate", exact=True).is_disabled()
    dialog.get_by_label("Percent of the conversations").fill(steps)
    dialog.get_by_text("mover-sim-2: standby → ready").wait_for()
    assert violations(admin, axe) == []
    confirm(admin, "Migrate")


def test_a_migration_is_started_paused_and_promoted(admin: Page, axe: str, complaints: list[str]) -> None:
    migrate(admin, axe, "50,100")
    row(admin, "mover").get_by_text("mover-sim-2 gets 50 %").wait_for(timeout=60_000)
    admin.get_by_role("link", name="Details").click()
    pane = admin.get_by_role("region", name="Migration of mover")
    pane.get_by_text("canary, step 1 of 2").wait_for()
    assert pane.get_by_role("progressbar", name="Share of mover-sim-2").get_attribute("value") == "50"
    assert violations(admin, axe) == []
    admin.set_viewport_size({"width": 320, "height": 700})
    assert admin.evaluate("document.documentElement.scrollWidth") <= 320
    pane.get_by_role("button", name="Pause").click()
    pane.get_by_text("paused: by").wait_for()
    pane.get_by_role("button", name="Resume").click()
    pane.get_by_role("button", name="Pause").wait_for()
    pane.get_by_role("button", name="Promote").click()
    admin.get_by_role("dialog").get_by_text("The new one serves all").wait_for()
    confirm(admin, "Promote")
    pane.get_by_text("settling").wait_for(timeout=60_000)
    revisions = admin.get_by_role("region", name="Revisions")
    revisions.get_by_role("row").filter(has_text="current").get_by_role("rowheader", name="mover 2").wait_for()
    pane.get_by_role("button", name="Abort").click()
    confirm(admin, "Abort")
    ended = admin.get_by_role("region", name="Operations").get_by_role("row").filter(has_text="mover-sim → mover-sim-2")
    ended.get_by_text("rolled back: aborted by").wait_for(timeout=60_000)
    revisions.get_by_role("row").filter(has_text="rejected").get_by_role("rowheader", name="mover 2").wait_for()
    expected(complaints, "40")  # of the steps that are none


def test_the_view_system_asks_before_it_rolls_back_and_says_why_it_cannot(admin: Page, complaints: list[str]) -> None:
    """Berth knows better than what the page shows: here of a revision that there is not."""
    admin.route("**/admin/revisions", with_earlier_revision)
    show(admin, "system")
    admin.get_by_role("button", name="Roll mover back to 7").click()
    dialog = admin.get_by_role("dialog", name="Migrate mover back to revision 7")
    dialog.get_by_role("alert").get_by_text("no such revision").wait_for()
    assert dialog.get_by_role("button", name="Migrate", exact=True).is_disabled()
    expected(complaints, "409")


def with_earlier_revision(route: Any) -> None:
    one = {"number": 7, "at": time.time(), "by": "migrate", "engines": "x", "state": "promoted", "reason": ""}
    route.fulfill(json={"problem": "", "models": {"mover": [{**one, "operation": "", "serves": False}]}})


def test_a_benchmark_is_shown_with_its_verdict_and_report(admin: Page) -> None:
    show(admin, "system")
    table = admin.get_by_role("region", name="Benchmarks")
    table.get_by_text(re.compile(r"mover-sim-2: ● faster 1\.15 times \(1\.1\d+ to 1\.1\d+\)")).wait_for()
    table.get_by_text("chosen: mover-sim-2").wait_for()
    with admin.context.expect_page() as opened:
        table.get_by_role("link", name="Report 1").click()
    opened.value.get_by_role("heading", name="mover: bench 1").wait_for()
    assert opened.value.locator("svg").count() > 2
    assert opened.value.evaluate("getComputedStyle(document.querySelector('td')).borderStyle") == "solid"


def test_a_benchmark_is_started_watched_and_cancelled(admin: Page, axe: str, complaints: list[str]) -> None:
    admin.get_by_role("button", name="Benchmark coder").click()
    dialog = admin.get_by_role("dialog", name="Benchmark coder")
    dialog.get_by_text("It serves no clients meanwhile").wait_for()
    dialog.get_by_label("Only these engines").fill("vllm")
    dialog.get_by_label("Workload").fill("file:x")
    dialog.get_by_text("No request is running.").wait_for()
    assert violations(admin, axe) == []
    dialog.get_by_role("button", name="Benchmark", exact=True).click()
    dialog.get_by_role("alert").get_by_text("Only the command line reads files").wait_for()
    expected(complaints, "400")
    dialog.get_by_label("Workload").fill("32/8")
    confirm(admin, "Benchmark")
    running = admin.get_by_role("listitem").filter(has_text="Benchmark coder:")
    running.get_by_text("coder-sim: ").wait_for()
    running.get_by_role("button", name="Cancel").click()
    running.wait_for(state="detached")
    row(admin, "coder").get_by_text("served by").wait_for()


def test_requests_are_captured_viewed_and_downloaded(admin: Page, axe: str) -> None:
    show(admin, "system")
    admin.get_by_label("Requests of").select_option("coder")
    admin.get_by_role("button", name="Capture", exact=True).click()
    admin.get_by_text(re.compile("until .*: all of coder")).wait_for()
    view = admin.get_by_role("region", name="Captured requests").get_by_role("button", name="View").first
    ends = time.monotonic() + 60
    while not view.count() and time.monotonic() < ends:  # until both workers know that they capture
        assert admin.evaluate(ASKS) == 200
        admin.wait_for_timeout(500)
    view.click()
    dialog = admin.get_by_role("dialog")
    assert "a captured question" in dialog.get_by_label("Request", exact=True).inner_text()
    assert "POST /v1/chat/completions" in dialog.get_by_label("To coder-sim").inner_text()
    assert violations(admin, axe) == []
    with admin.expect_download() as download:
        dialog.get_by_role("button", name="Download").click()
    assert "a captured question" in download.value.path().read_text()
    admin.get_by_role("button", name="Stop").click()
    admin.get_by_role("button", name="Capture", exact=True).wait_for()


ASKS = """fetch('/v1/chat/completions', {
  method: 'POST', headers: {'content-type': 'application/json'},
  body: JSON.stringify({model: 'coder', max_tokens: 3, messages: [{role: 'user', content: 'a captured question'}]}),
}).then((one) => one.status)"""


def test_a_support_report_is_downloaded(admin: Page) -> None:
    show(admin, "system")
    with admin.expect_download(timeout=60_000) as download:
        admin.get_by_role("button", name="Download a support report").click()
    assert download.value.suggested_filename.endswith(".tar.gz")
    with tarfile.open(download.value.path()) as archive:
        names = {one.name.partition("/")[2] for one in archive}
    assert {"README.txt", "plan.json", "status.txt", "metrics.txt", "logs/coder-sim.log"} <= names


def test_ranks_sleep_and_adapters_are_shown(context: Any, scene: Scene, complaints: list[str]) -> None:
    def changed(route: Any) -> None:
        document = route.fetch().json()
        chat, coder, *_others = document["models"]
        chat["adapters"] = [{"name": "tone", "source": "", "rank": None, "added": True}]
        chat["replicas"][0]["adapter_errors"] = {"tone": "its rank is 64"}
        rank = {"rank": 1, "box": "10.0.0.2", "status": "starting", "generation": 3, "reason": "waits for memory"}
        chat["replicas"][0]["ranks"] = [rank, {**rank, "rank": 2, "status": "", "reason": ""}]
        chat["canary"] = {"replica": "chat-sim-2", "share": 0.05}
        asleep = {"status": "asleep", "kept_asleep": {"0": 3 << 29}, "cannot_sleep": "no RAM", "expected_s": 12.4}
        coder["replicas"][0] |= {**asleep, "progress": None, "no_room": "chat holds GPU 0"}
        route.fulfill(json=document)

    context.route("**/events?**", lambda route: route.fulfill(status=404))
    context.route("**/status", changed)
    page = context.new_page()
    page.goto(f"{scene.url}/ui/")
    sign_in(page)
    chat = row(page, "chat")
    chat.get_by_text("adapters: tone").wait_for()
    chat.get_by_text("chat-sim-2 gets 5 %").wait_for()
    ranks = " ".join(row(page, "chat-sim").inner_text().split())
    assert "tone: its rank is 64 rank 1 on 10.0.0.2: ◐ loading waits for memory rank 2 on 10.0.0.2: ○ unknown" in ranks
    asleep = " ".join(row(page, "coder-sim").inner_text().split())
    notes = "keeps 1.5 GiB of GPU 0 does not sleep: no RAM chat holds GPU 0 ready within about 12 s"
    assert notes in asleep
    expected(complaints, "404")


def test_usage_is_shown_by_key_and_downloaded(admin: Page) -> None:
    show(admin, "playground")
    admin.get_by_label("Most tokens").fill("3")
    admin.get_by_label("Message", exact=True).fill("Hello")
    admin.get_by_role("button", name="Send").click()
    admin.get_by_text("3 tokens").wait_for()
    show(admin, "usage")
    admin.get_by_role("region", name="Keys").get_by_role("rowheader", name="key-1").wait_for()
    admin.get_by_role("region", name="Usage by key and model").get_by_role("cell", name="chat").first.wait_for()
    admin.get_by_role("combobox", name="By").select_option("model")
    admin.get_by_role("region", name="Usage by model").get_by_role("rowheader", name="chat").wait_for()
    admin.get_by_role("region", name="Changes").get_by_role("cell", name="boot").first.wait_for()
    with admin.expect_download() as download:
        admin.get_by_role("button", name="Download CSV").click()
    assert "model,requests,errors,prompt,cached,completion\nchat," in download.value.path().read_text()


def test_the_configuration_is_shown_with_its_origin(admin: Page) -> None:
    show(admin, "system")
    table = admin.get_by_role("region", name="Configuration")
    table.get_by_role("row").filter(has_text="BERTH_ADMIN_KEY").filter(has_text="***").wait_for()
    first, last = table.get_by_role("row").nth(1).inner_text(), table.get_by_role("row").last.inner_text()
    assert (first.split()[-1], last.split()[-1]) == ("environment", "default")


def test_keys_move_between_views(admin: Page) -> None:
    admin.keyboard.press("g")
    admin.keyboard.press("r")
    admin.get_by_role("heading", name="Requests").wait_for()
    admin.keyboard.press("/")
    assert admin.evaluate("document.activeElement.type") == "search"
    admin.keyboard.press("g")  # into the filter
    assert admin.get_by_label("Filter").input_value() == "g"
    admin.evaluate("document.activeElement.blur()")
    admin.keyboard.press("?")
    admin.get_by_role("dialog", name="Keys").wait_for()


def test_all_works_over_plain_http_from_another_machine(context: Any, scene: Scene) -> None:
    if not scene.lan_url:
        pytest.skip("this machine has no address in a network")
    page = context.new_page()
    page.goto(f"{scene.lan_url}/ui/")
    assert page.evaluate("isSecureContext") is False
    sign_in(page, ADMIN_KEY)
    page.get_by_text("● live").wait_for()
    show(page, "connect")
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    page.get_by_label("Address").fill("")
    page.get_by_label("Address").focus()
    page.keyboard.press("Control+V")
    assert f"{scene.lan_url}/v1/chat/completions" in page.get_by_label("Address").input_value()
    page.get_by_role("button", name="Test from here").click()
    page.get_by_role("status").get_by_text("harbour").wait_for()
    show(page, "overview")
    page.get_by_role("button", name="Pin coder").click()
    page.get_by_role("dialog").get_by_text("Pin").first.wait_for()


def test_many_tabs_have_one_stream_and_all_move(context: Any, scene: Scene) -> None:
    streams: set[Any] = set()
    context.on("request", lambda one: streams.add(one) if "/events" in one.url else None)
    for ended in ("requestfinished", "requestfailed"):
        context.on(ended, lambda one: streams.discard(one))  # noqa: PLW0108 - Playwright marks its handlers
    pages = [context.new_page() for _ in range(TABS)]
    pages[0].goto(f"{scene.url}/ui/")
    sign_in(pages[0])
    for page in pages[1:]:
        page.goto(f"{scene.url}/ui/")
    for page in pages:
        page.get_by_text("● live").wait_for()
    assert len(streams) == 1
    assert pages[3].evaluate("fetch('/status').then((answer) => answer.status)") == 200  # no stream is in its way
    streams.clear()  # that of the closed tab is not reported as ended
    pages[-1].close()
    ends = time.monotonic() + 60
    while not streams and time.monotonic() < ends:  # until another tab has noticed
        pages[0].wait_for_timeout(100)
    for page in pages[:-1]:
        page.evaluate(f"new Promise((done) => {MOVES}).then(() => null)")
        page.get_by_text("● live").wait_for()
    assert len(streams) == 1
