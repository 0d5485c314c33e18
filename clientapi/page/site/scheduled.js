// The tab of people who schedule messages: delayed events of the user's, whichever program has scheduled them.

import { $, el, guarded, moment, plural, replace, say, span } from "./dom.js";
import { at, call, client, joinedRooms, serverNow, unique } from "./api.js";

const list = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events";
const refreshEvery = 5000;

let rooms = [];
let limits = {};
let timers = [];
let transaction = unique(); // kept until the server has answered, so that a repeat schedules nothing twice
let drawn = "";

export async function show() {
	timers = [setInterval(tick, 500), setInterval(poll, refreshEvery)];
	await Promise.all([loadRooms(), loadLimits(), refresh()]);
}

export function hide() {
	timers.forEach(clearInterval);
	timers = [];
}

export function forget() {
	rooms = [];
	drawn = "";
	$("schedule-form").reset();
	for (const id of ["waiting", "ended"]) $(id).replaceChildren();
	$("schedule-form").room.replaceChildren();
}

async function loadRooms() {
	rooms = await joinedRooms();
	const select = $("schedule-form").room;
	const before = select.value;
	select.replaceChildren(...rooms.map((room) => new Option(room.name, room.id)));
	if (rooms.some((room) => room.id === before)) select.value = before;
	if (rooms.length === 0) say("You are in no room yet. Join one with any Matrix client first.");
	drawn = ""; // rows have names of rooms
	await refresh();
}

async function loadLimits() {
	const { capabilities } = await call("GET", client("capabilities"));
	limits = capabilities["m.delayed_events"] ?? {};
	$("limits").textContent = limits.max_delay_ms
		? `At most ${span(limits.max_delay_ms)} ahead, and ${plural(limits.max_scheduled, "message")} at a time.`
		: "The administrator has switched delayed events off.";
}

function delayOf(form) {
	if (form.when.value === "in") return Math.round(form.amount.valueAsNumber * Number(form.unit.value));
	return new Date(form.at.value).getTime() - Date.now();
}

$("schedule-form").addEventListener("submit", (event) => {
	event.preventDefault();
	const form = event.target;
	guarded(form.querySelector("button.main"), async () => {
		const delay = delayOf(form);
		if (!(delay >= 1)) throw new Error("Choose a time in the future.");
		const path = client(`rooms/${at(form.room.value)}/delayed_event/m.room.message/${transaction}`);
		await call("PUT", path, { body: { delay_ms: delay, content: { msgtype: "m.text", body: form.text.value } } });
		transaction = unique();
		form.text.value = "";
		say(`Scheduled: it will be sent in ${span(delay)}.`);
		await refresh();
	});
});
for (const name of ["amount", "unit", "at"]) {
	$("schedule-form")[name].addEventListener("input", (event) => {
		event.target.form.when.value = name === "at" ? "at" : "in";
	});
}
$("schedule-form").addEventListener("input", () => { transaction = unique(); });

// poll asks again while somebody looks. What fails now may succeed the next time.
function poll() {
	if (!document.hidden) refresh().catch(() => {});
}

async function refresh() {
	const [waiting, ended] = await Promise.all([
		call("GET", list),
		call("GET", list, { query: { status: "finalised", dir: "b", limit: 20 } }),
	]);
	const data = JSON.stringify([waiting, ended]);
	if (data === drawn) return;
	drawn = data;
	draw("waiting", waiting.delayed_events.map(waitingRow));
	draw("ended", ended.delayed_events.map(endedRow));
	tick();
}

function draw(id, rows) {
	$(`${id}-none`).hidden = rows.length > 0;
	replace($(id), ...rows);
}

function what(event) {
	const text = event.type === "m.room.message" ? event.content.body ?? "" : `${event.type} ${event.state_key ?? ""}`;
	const room = rooms.find((each) => each.id === event.room_id)?.name ?? event.room_id;
	return [text, el("small", {}, `in ${room}`)];
}

function waitingRow(event) {
	const due = event.delayed_since_ts + event.delay_ms;
	return el("li", {},
		el("div", { className: "what" }, ...what(event)),
		el("span", { className: "due", "data-due": due, title: moment(due) }),
		el("div", { className: "buttons" },
			actionButton(event, "send", "Send now", "Sent."),
			actionButton(event, "cancel", "Cancel", "Cancelled: it will not be sent.")));
}

let numbers = new Map(); // of the rows: what a row is found again by must not hold the delay_id

function numberOf(event) {
	if (!numbers.has(event.delay_id)) numbers.set(event.delay_id, numbers.size);
	return numbers.get(event.delay_id);
}

function actionButton(event, action, label, done) {
	return el("button", {
		"data-key": `${action} ${numberOf(event)}`,
		onclick: (click) => guarded(click.target, async () => {
			try {
				await call("POST", `/_matrix/client/v1/delayed_events/${at(event.delay_id)}/${action}`, { body: {} });
				say(done);
			} finally {
				await refresh(); // also if it was too late: the list tells
			}
		}),
	}, label);
}

function endedRow(event) {
	const { finalised } = event;
	const [className, outcome] = finalised.event_id ? ["good", "Sent"] : finalised.error ? ["wrong", "Failed"] : ["", "Cancelled"];
	return el("li", {},
		el("div", { className: "what" }, ...what(event), finalised.error ? el("small", {}, finalised.error.error ?? "") : null),
		el("span", { className }, outcome),
		el("span", { className: "note" }, moment(finalised.finalised_ts)));
}

function tick() {
	for (const each of document.querySelectorAll("[data-due]")) {
		const left = Number(each.dataset.due) - serverNow();
		each.textContent = left > 0 ? `in ${span(Math.max(left, 1000))}` : "now";
	}
}
