// What plain pages cannot do: the reader's time, keys, drafts, and a page that stays true. All works without it.
"use strict";
const all = (what, root = document) => [...root.querySelectorAll(what)];
const one = (what, root = document) => root.querySelector(what);
const page = document.body;

function localTimes(root) {
  const today = new Date().toDateString();
  for (const time of all("time[datetime]", root)) {
    const then = new Date(time.dateTime);
    if (isNaN(then)) continue;
    const near = then.toDateString() === today;
    const how = near ? { hour: "2-digit", minute: "2-digit" } : { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" };
    if (!near && then.getFullYear() === new Date().getFullYear()) delete how.year;
    time.textContent = then.toLocaleString(document.documentElement.lang, how);
    time.title = then.toLocaleString(document.documentElement.lang, { dateStyle: "full", timeStyle: "long" });
  }
}

// Drafts: of each user and form, in this browser, until the broker has taken the mail.
const draftName = (name) => `agent-mailer:${page.dataset.user}:${name}`;
for (const sent of all("[data-sent]")) localStorage.removeItem(draftName(sent.dataset.sent));
const drafted = new WeakSet();
function keepDraft(form) {
  if (drafted.has(form)) return;
  drafted.add(form);
  const name = draftName(form.dataset.draft);
  const fields = all("textarea, input[name=to]:not([type=hidden]), input[name=subject]:not([type=hidden])", form);
  const state = one("[data-draft-state]", form); const say = () => { if (state) state.textContent = state.dataset.words; };
  try {
    const kept = JSON.parse(localStorage.getItem(name) || "{}");
    for (const field of fields) if (kept[field.name] && (!field.value || field.name === "body" && !field.defaultValue)) { field.value = kept[field.name]; say(); }
  } catch { localStorage.removeItem(name); }
  form.addEventListener("input", () => {
    const kept = Object.fromEntries(fields.filter((field) => field.value).map((field) => [field.name, field.value]));
    try { if (Object.keys(kept).length) localStorage.setItem(name, JSON.stringify(kept)); else localStorage.removeItem(name); say(); } catch { /* no room: the text is on the page */ }
  });
  form.addEventListener("submit", () => { for (const button of all("button", form)) setTimeout(() => { button.disabled = true; setTimeout(() => { button.disabled = false; }, 4000); }); });
  form.addEventListener("paste", (event) => {
    const picked = one("input[type=file]", form);
    if (!picked || !event.clipboardData.files.length) return;
    const files = new DataTransfer();
    for (const file of [...picked.files, ...event.clipboardData.files]) files.items.add(file);
    picked.files = files.files; event.preventDefault();
  });
}
all("form[data-draft]").forEach(keepDraft);

// Keys. A row's own are pressed for the row that has the focus, else for the page.
const rows = () => all("[data-row]");
const current = () => document.activeElement.closest("[data-row]");
function step(by) {
  const list = rows(), at = list.indexOf(current());
  const next = list[at < 0 ? (by > 0 ? 0 : list.length - 1) : Math.min(list.length - 1, Math.max(0, at + by))];
  const target = next && (one("a.open", next) || one("a, button", next));
  if (target) { target.focus(); next.scrollIntoView({ block: "nearest" }); }
}
function press(target) { if (target.matches("input, textarea, select")) { target.focus(); target.scrollIntoView({ block: "center" }); } else target.click(); }
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") for (const open of all("details.menu[open], details.sure[open]")) { open.open = false; one("summary", open).focus(); }
  if (page.hasAttribute("data-no-keys") || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog[open]")) return;
  if (event.key === "j" || event.key === "k") { step(event.key === "j" ? 1 : -1); event.preventDefault(); return; }
  if (event.key === "c") { location.href = "/console/compose"; return; }
  const name = CSS.escape(event.key), row = current();
  const target = (row && one(`[data-row-key="${name}"]`, row)) || one(`[data-key="${name}"]`);
  if (event.key.length === 1 && target) { event.preventDefault(); press(target); }
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-opens], [data-copies], [data-inserts]");
  for (const open of all("details.menu[open]")) if (!open.contains(event.target)) open.open = false;
  if (!button) return;
  if (button.dataset.opens) document.getElementById(button.dataset.opens).showModal();
  if (button.dataset.copies) navigator.clipboard.writeText(one(button.dataset.copies).textContent).then(() => { button.textContent = button.dataset.done; });
  if (button.dataset.inserts) {
    const text = one("textarea[name=body]");
    text.setRangeText(button.dataset.inserts, text.selectionStart, text.selectionEnd, "end");
    text.focus(); text.dispatchEvent(new Event("input", { bubbles: true }));
  }
});

// What a page would ask to be pressed as soon as it is looked at.
for (const form of all("form[data-once]")) if (!document.hidden) fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), headers: { "HX-Request": "true" } }).then((answer) => { if (answer.ok) form.hidden = true; });

// Live: the server says that something changed, at most once a second; the page asks for its part, and morphs it.
const live = one("[data-live]"), bar = one("#offline"), foot = one("[data-live-state]");
let stale = false, busy = false, heard = false, closed = false, lost = null, ended = "", source = null, poll = null, silence = null, beat = 0;
async function refresh() {
  if (document.hidden || busy) { stale = true; return; }
  stale = false; busy = true;
  try {
    const answer = await fetch(live.dataset.live, { headers: { "HX-Request": "true" }, signal: AbortSignal.timeout(20000) });
    if (answer.status === 401 || answer.status === 404) { ended = answer.status === 401 ? bar.dataset.ended : bar.dataset.gone; tell(); source?.close(); clearTimeout(silence); clearInterval(poll); return; }
    if (!answer.ok) throw new Error(answer.status);
    const part = new DOMParser().parseFromString(await answer.text(), "text/html");
    const before = live.textContent.trim(), title = one("title", part), fresh = one("#live", part);
    if (title) document.title = title.textContent;
    const nav = one("nav.main", part);
    if (nav) await htmx.swap({ target: one("nav.main"), text: nav.innerHTML, swap: "innerMorph" });
    localTimes(fresh);
    const open = all("details[open]", live);
    keepTyped(fresh); await htmx.swap({ target: live, text: fresh.innerHTML, swap: "innerMorph" });
    for (const detail of open) detail.open = true;
    all("form[data-draft]", live).forEach(keepDraft);
    if (live.textContent.trim() !== before) { const said = one("#said"); said.textContent = ""; said.textContent = said.dataset.new; }
    if (heard) healed(); else if (foot) foot.textContent = foot.dataset.asOf.replace("{time}", clock(new Date()));
  } catch { trouble(); } finally { busy = false; if (stale && !document.hidden) setTimeout(refresh, 1000); }
}
// Who types into a row that is over meanwhile keeps it, with a word of that.
function keepTyped(fresh) {
  for (const row of all(".need[id]", live)) {
    if (!all("textarea, input:not([type=hidden])", row).some((field) => field.value) || named(row, fresh)) continue;
    const kept = row.cloneNode(true), before = row.previousElementSibling;
    one(".over", kept).hidden = false;
    const beside = before && named(before, fresh);
    if (beside) beside.after(kept); else (one("ul.needs", fresh) || fresh.appendChild(row.parentElement.cloneNode(false))).prepend(kept);
  }
}
function named(row, root) { return one(`[id="${CSS.escape(row.id)}"]`, root); }
function clock(moment) { return moment.toLocaleTimeString(document.documentElement.lang, { hour: "2-digit", minute: "2-digit" }); }
function tell() { bar.textContent = ended || bar.dataset.words.replace("{time}", clock(lost)); bar.hidden = false; }
function trouble() { if (!lost) { lost = new Date(); if (foot) foot.textContent = ""; } tell(); polls(); }
// From the beginning: a proxy that holds a stream back neither fails nor says hello.
function polls() { if (!poll && !ended) poll = setInterval(() => { if (!heard) trouble(); refresh(); }, 15000); }
function healed() { clearInterval(poll); poll = lost = null; bar.hidden = true; if (foot) foot.textContent = foot.dataset.liveWords; }
function follow() {
  if (ended) return;
  heard = false;
  polls();
  source = new EventSource(`/console/live?made_at=${page.dataset.madeAt}`);
  source.addEventListener("hello", (event) => { heard = true; closed = false; beat = event.data * 2500; listen(); if (lost) refresh(); else healed(); });
  source.addEventListener("changed", () => { listen(); refresh(); });
  source.addEventListener("ping", listen);
  source.onerror = () => {
    heard = false;
    clearTimeout(silence);
    trouble();
    if (source.readyState !== EventSource.CLOSED) return;
    setTimeout(follow, 3000);
    if (!closed) { closed = true; refresh(); } // Once: it may be the end of the session. Else the page is left to its poll.
  };
}
// A connection that died without a word is known by its silence.
function listen() { clearTimeout(silence); silence = setTimeout(() => { source.close(); trouble(); follow(); }, beat); }
if (live) {
  follow();
  document.addEventListener("visibilitychange", () => { if (stale && !document.hidden) refresh(); });
  addEventListener("pagehide", () => { source?.close(); clearTimeout(silence); });
  addEventListener("pageshow", (event) => { if (event.persisted) { follow(); refresh(); } });
}
localTimes(document);
