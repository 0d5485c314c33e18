// The tab of administrators. It uses /_dendrite/admin/futures; without those rights it shows nothing.

import { $, el, guarded, moment, plural, replace, say, span } from "./dom.js";
import { call } from "./api.js";
import { bars, histogram, line } from "./charts.js";

const path = "/_dendrite/admin/futures";
const every = 2000;
const samples = 150; // of heartbeats: five minutes
const pageSize = 1000;
const mostPages = 10;

let visible = false;
let timer = 0;
let rates = [];
let last = null; // the sample before
let previewed = null; // the filter whose preview is shown

export async function show() {
	visible = true;
	if (!await update() || !visible) return;
	timer = setInterval(poll, every);
	await count();
}

// poll asks again while somebody looks. What fails now may succeed the next time.
function poll() {
	if (!document.hidden) update().catch(() => {});
}

export function hide() {
	visible = false;
	clearInterval(timer);
	rates = [];
	last = null;
}

export function forget() {
	for (const id of ["now", "heartbeats", "outcomes", "reasons", "lateness", "delivery", "by-room", "by-user", "found"]) $(id).replaceChildren();
	for (const id of ["since", "counted", "cancel-result"]) $(id).textContent = "";
	$("cancel-form").reset();
	unpreview();
}

// update reports false if this is nobody who may know.
async function update() {
	let statistics;
	try {
		statistics = await call("GET", `${path}/statistics`);
	} catch (error) {
		if (error.status === 403) error.message = "This tab is for administrators, and this account is not one. (create-account -admin makes one.)";
		if (error.status === 404) error.message = "The admin API cannot be reached here: the reverse proxy does not pass /_dendrite/admin.";
		say(error.message, true);
		if (error.status === 403 || error.status === 404) return false;
		throw error;
	}
	draw(statistics);
	return true;
}

function draw(s) {
	figures({ Scheduled: s.counts.scheduled, "On their way": s.counts.sending, Rooms: s.counts.rooms, Users: s.counts.users, Overdue: s.overdue_ms ? span(s.overdue_ms) : "none" });
	heartbeats(s.refreshed);
	$("since").textContent = `Since ${moment(s.since_ts)}: ${plural(s.scheduled, "future")} and delayed events accepted, ${plural(s.refreshed, "heartbeat")}, ${plural(s.retries, "repeated attempt")} to send.`;
	bars($("outcomes"), "What became of them", [
		["sent", s.ended.sent], ["cancelled", s.ended.cancelled], ["ended by newer state", s.ended.invalidated],
		["discarded with their group", s.ended.discarded], ["failed", s.ended.failed],
	].map(([label, value]) => ({ label, value: value ?? 0 })));
	bars($("reasons"), "Why some failed", Object.entries(s.failed).filter(([, n]) => n > 0)
		.map(([reason, value]) => ({ label: reason.replaceAll("_", " "), value })), "None has failed.");
	histogram($("lateness"), "Lateness: from the deadline until the event is stored", s.lateness);
	histogram($("delivery"), "Delivery: from the deadline until it is in its room", s.delivery);
}

function figures(values) {
	replace($("now"), ...Object.entries(values).map(([name, value]) =>
		el("div", {}, el("dt", {}, name), el("dd", {}, typeof value === "number" ? value.toLocaleString() : value))));
}

function heartbeats(total) {
	const now = performance.now();
	if (last) rates = [...rates, Math.max(0, total - last.total) * 1000 / (now - last.now)].slice(-samples);
	last = { total, now };
	const rate = rates.at(-1) ?? 0;
	line($("heartbeats"), `${decimal(rate)} a second now, ${decimal(Math.max(0, ...rates))} at most while you watch`, rates, samples);
}

const decimal = (n) => n.toLocaleString(undefined, { maximumFractionDigits: n < 10 ? 1 : 0 });

// count reads what waits, in pages, up to a limit, and sums it up by room and by user.
async function count() {
	const byRoom = new Map(), byUser = new Map();
	let from, seen = 0, total = 0;
	for (let page = 0; page < mostPages; page++) {
		const answer = await call("GET", path, { query: from ? { limit: pageSize, from } : { limit: pageSize } });
		for (const future of answer.futures) {
			byRoom.set(future.room_id, (byRoom.get(future.room_id) ?? 0) + 1);
			byUser.set(future.user_id, (byUser.get(future.user_id) ?? 0) + 1);
		}
		seen += answer.futures.length;
		total = answer.counts.scheduled + answer.counts.sending;
		from = answer.next;
		if (!from) break;
	}
	$("counted").textContent = from ? `Of the ${seen.toLocaleString()} oldest; ${total.toLocaleString()} wait in all.` : `All ${seen.toLocaleString()}.`;
	top($("by-room"), "By room", byRoom, "room_id");
	top($("by-user"), "By user", byUser, "user_id");
}

function top(figure, caption, counts, field) {
	const rows = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 10);
	bars(figure, caption, rows.map(([label, value]) => ({
		label, value,
		action: el("button", { className: "plain", "data-key": label, "aria-label": `Cancel those of ${label}`, onclick: () => choose(field, label) }, "Cancel…"),
	})), "Nothing waits.");
}

function choose(field, value) {
	const form = $("cancel-form");
	form.reset();
	form.elements[field].value = value;
	unpreview();
	form.preview.focus();
	form.scrollIntoView({ block: "center" });
}

function filterOf(form) {
	return Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value !== ""));
}

function unpreview() {
	previewed = null;
	$("cancel-form").confirm.hidden = true;
	$("cancel-result").textContent = "";
}

$("cancel-form").addEventListener("input", unpreview);
$("cancel-form").addEventListener("submit", (event) => {
	event.preventDefault();
	const form = event.target;
	guarded(form.preview, async () => {
		unpreview();
		const filter = filterOf(form);
		if (!filter.user_id && !filter.room_id && !filter.id) throw new Error("Name a room, a user or a number.");
		const answer = await call("DELETE", path, { query: { ...filter, dry_run: true } });
		const n = answer.would_cancel;
		previewed = filter;
		say("");
		$("cancel-result").textContent = n === 0 ? "Nothing matches: nothing would be cancelled." : `${plural(n, "event")} would be cancelled. Nothing has been cancelled yet.`;
		form.confirm.textContent = `Cancel ${n === 1 ? "it" : `these ${n.toLocaleString()}`}`;
		form.confirm.hidden = n === 0;
	});
});
$("cancel-form").confirm.addEventListener("click", (event) => guarded(event.target, async () => {
	const answer = await call("DELETE", path, { query: previewed });
	unpreview();
	$("cancel-result").textContent = `${plural(answer.cancelled, "event")} cancelled.`;
	await Promise.all([update(), count()]);
}));

$("recount").addEventListener("click", (event) => guarded(event.target, count));

$("lookup-form").addEventListener("submit", (event) => {
	event.preventDefault();
	guarded(event.target.querySelector("button"), async () => {
		const { futures } = await call("GET", path, { query: { state: event.target.state.value, dir: "b", limit: 50 } });
		drawFound(futures);
	});
});

function drawFound(futures) {
	if (futures.length === 0) {
		replace($("found"), el("p", { className: "note" }, "None."));
		return;
	}
	const columns = ["Number", "When", "State", "Event", "Room", "User"];
	replace($("found"), el("table", {},
		el("thead", {}, el("tr", {}, ...columns.map((name) => el("th", { scope: "col" }, name)))),
		el("tbody", {}, ...futures.map(foundRow))));
}

function foundRow(f) {
	const number = f.state !== "scheduled" ? f.id
		: el("button", { className: "plain", "aria-label": `Cancel number ${f.id}`, onclick: () => choose("id", f.id) }, `${f.id}, cancel…`);
	const when = moment(f.finished_ts ?? f.deadline_ts ?? f.created_ts);
	const state = f.error ? `${f.state}: ${f.error}` : f.state;
	const type = f.state_key === undefined ? f.type : `${f.type} ${f.state_key}`;
	return el("tr", {},
		...[number, when, state].map((content) => el("td", {}, content)),
		...[type, f.room_id, f.user_id].map((content) => el("td", { className: "id" }, content)));
}
